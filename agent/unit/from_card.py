# SPDX-License-Identifier: Apache-2.0
"""The configuration of a unit that starts from a card: one text for all units of a site, and who this one is.

Who it is comes from the invitation, later from the configuration in force: so an installer writes one file for all
cards, and corrects it on the card of a unit that has joined long ago.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

import msgspec

from agent.config.load import check_secrecy, checked
from agent.config.schema import Config
from agent.errors import ConfigError
from agent.parse.strict_json import dumps
from agent.parse.strict_yaml import parse_document
from agent.protocol.invitation import Invitation

OWN: Final = "# Above: config.yaml of the card. Change it there, and restart. Below: which unit this is.\n"


class Place(msgspec.Struct, frozen=True):
    """Which unit of which site this is, and where its broker is."""

    site: str
    unit: str
    host: str
    port: int

    @classmethod
    def invited(cls, invitation: Invitation) -> Self:
        return cls(invitation.site, invitation.unit, invitation.host, invitation.port)

    @classmethod
    def in_force(cls, config: Config) -> Self:
        return cls(config.unit.site, config.unit.id, config.broker.host, config.broker.port)


def compose(card: bytes, file: Path, place: Place, mode: int) -> tuple[bytes, Config]:
    """The text of the card's ``file``, then the sections ``unit`` and ``broker`` as far as it has none; and both read.

    Lines keep their numbers, so that what is wrong is found on the card. Raises ConfigError for a
    configuration that is wrong, is another unit's, or holds a password where ``mode``, of the file that is written,
    lets everybody read it.
    """
    data = parse_document(card, file).data
    own = {
        "unit": {"site": place.site, "id": place.unit, "name": place.unit},
        "broker": {"host": place.host, "port": place.port},
    }
    added = "".join(f"{name}: {dumps(section)}\n" for name, section in own.items() if name not in data)
    whole = card.rstrip() + f"\n{OWN}{added}".encode()
    config = checked(parse_document(whole, file))
    check_secrecy(file, config, mode)
    if (config.unit.site, config.unit.id) != (place.site, place.unit):
        raise ConfigError(
            f"{file} is for {config.unit.id} of site {config.unit.site}, and this unit is {place.unit} of site"
            f" {place.site}: leave the section unit out, it comes with the invitation"
        )
    return whole, config
