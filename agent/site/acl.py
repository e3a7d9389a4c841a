# SPDX-License-Identifier: Apache-2.0
"""Who may say and hear what at the broker, whatever the broker is: ``mosquitto`` and ``rabbitmq`` spell it for theirs.

Names come from certificates. What is not written here is forbidden. Revoked names are left out, which together with
the revocation list shuts them out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import msgspec

from agent.protocol.command import CONFIGURE, RENEW
from agent.protocol.names import BOARD_ROOT, JOINING_ROOT, TOPIC_ROOT
from agent.protocol.program import Role

Access = Literal["read", "write"]

_UNIT: tuple[tuple[Access, str], ...] = (
    ("write", "{base}/{name}/availability"),
    ("write", "{base}/{name}/info"),
    ("write", "{base}/{name}/health"),
    ("write", "{base}/{name}/event/+"),
    ("write", "{base}/{name}/backlog/+"),
    ("write", "{base}/{name}/response/#"),
    ("read", "{base}/{name}/request/#"),
    # Home Assistant: the unit's own discovery message, and when to send it again.
    ("write", "homeassistant/device/postern-{site}/{name}/config"),
    ("read", "homeassistant/status"),
)
_ROLES: dict[Role, tuple[tuple[Access, str], ...]] = {
    "auditor": (
        ("read", "{base}/+/event/+"),
        ("read", "{base}/+/backlog/+"),
        ("read", "{base}/+/availability"),
        ("read", "{base}/+/info"),
        ("read", "{base}/+/health"),
        # What it missed: a question that changes nothing, signed by the program's own key under the site's grant.
        ("write", "{base}/+/request/outbox/replay"),
        ("read", "{base}/+/response/outbox/replay"),
        ("read", BOARD_ROOT + "/{site}/trust"),
        ("read", BOARD_ROOT + "/{site}/trust/+"),
        ("read", BOARD_ROOT + "/{site}/epoch-keys/{name}"),  # sealed to it, where it may resolve
    ),
    # Live events, never the backlog: no automation may act on the past.
    "home-assistant": (
        ("read", "{base}/+/event/+"),
        ("read", "{base}/+/availability"),
        ("read", "{base}/+/health"),
        ("read", "homeassistant/#"),
        ("read", "postern-people/{site}/#"),
        ("write", "homeassistant/status"),
    ),
    # The bridge's other hand: tells Home Assistant of people. It hears no event.
    "announcer": (
        ("write", "homeassistant/device/postern-people-{site}/+/config"),
        ("write", "postern-people/{site}/#"),
        ("read", "homeassistant/status"),
    ),
    # Commands are signed besides: this role alone opens nothing.
    "operator": (
        ("write", "{base}/+/request/#"),
        ("read", "{base}/+/response/#"),
        ("read", "{base}/+/availability"),
        ("read", "{base}/+/info"),
        ("read", "{base}/+/health"),
    ),
    # The site's service renews and configures units, and lets them join. It hears no event.
    "service": (
        *(("write", "{base}/+/request/" + verb) for verb in (RENEW, CONFIGURE)),
        *(("read", "{base}/+/response/" + verb) for verb in (RENEW, CONFIGURE)),
        ("read", "{base}/+/availability"),
        ("read", "{base}/+/info"),
        ("read", "{base}/+/health"),
        ("read", JOINING_ROOT + "/{site}/+/request"),
        ("write", JOINING_ROOT + "/{site}/+/answer"),
        # The same at RabbitMQ, for which a dot in a name is a level.
        ("read", JOINING_ROOT + "/{site}/+/join/request"),
        ("write", JOINING_ROOT + "/{site}/+/join/answer"),
        ("write", BOARD_ROOT + "/{site}/trust"),
        ("write", BOARD_ROOT + "/{site}/trust/+"),
        # By this a folder that was put back from a backup hears what was signed after that.
        ("read", BOARD_ROOT + "/{site}/trust"),
        ("read", BOARD_ROOT + "/{site}/trust/+"),
        ("write", BOARD_ROOT + "/{site}/certificate/+"),
        ("write", BOARD_ROOT + "/{site}/epoch-keys/+"),
    ),
}
# Of every program but the service.
_OWN_CERTIFICATE: tuple[Access, str] = ("read", BOARD_ROOT + "/{site}/certificate/{name}")
# Who has no more than an invitation, by the name in its certificate, which is no unit's.
JOINING: tuple[tuple[Access, str], ...] = (
    ("write", JOINING_ROOT + "/{site}/{name}/request"),
    ("read", JOINING_ROOT + "/{site}/{name}/answer"),
)


# Of a unit that was revoked: whoever runs the site says that it is gone, for it cannot say so itself any more.
_OF_REVOKED: tuple[tuple[Access, str], ...] = (
    ("write", "{base}/{unit}/availability"),
    ("write", "{base}/{unit}/info"),
    ("write", "homeassistant/device/postern-{site}/{unit}/config"),
)


class Right(NamedTuple):
    """A topic filter, and whether it may be heard or said."""

    access: Access
    topic: str


class Entry(msgspec.Struct, frozen=True):
    """What one name may."""

    name: str
    rights: tuple[Right, ...]


class Rules(msgspec.Struct, frozen=True):
    """Everything that a broker of the site is to hold its clients to; ``joining`` are names in open invitations."""

    site: str
    units: tuple[Entry, ...]
    programs: tuple[Entry, ...]
    joining: tuple[Entry, ...]

    @classmethod
    def of(
        cls,
        site: str,
        units: Iterable[str],
        programs: Iterable[tuple[str, Role]],
        *,
        revoked: Iterable[str] = (),
        joining: Iterable[str] = (),
    ) -> Rules:
        """``units`` and ``programs`` may connect; of the ``revoked`` units operators clear what is left."""
        gone = tuple(revoked)
        return cls(
            site,
            tuple(unit_entry(site, unit) for unit in units),
            tuple(program_entry(site, name, role, gone) for name, role in programs),
            tuple(_entry(site, name, JOINING) for name in joining),
        )


def unit_entry(site: str, unit: str) -> Entry:
    return _entry(site, unit, _UNIT)


def program_entry(site: str, name: str, role: Role, revoked: Iterable[str] = ()) -> Entry:
    lines = [*_ROLES[role], *(() if role == "service" else (_OWN_CERTIFICATE,))]
    if role == "operator":
        lines += [(access, topic.replace("{unit}", unit)) for unit in revoked for access, topic in _OF_REVOKED]
    return _entry(site, name, lines)


def _entry(site: str, name: str, lines: Iterable[tuple[Access, str]]) -> Entry:
    base = f"{TOPIC_ROOT}/{site}"
    return Entry(name, tuple(Right(access, topic.format(base=base, site=site, name=name)) for access, topic in lines))
