# SPDX-License-Identifier: Apache-2.0
"""The brokers that the site kit writes for: each spells the same rules in a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from agent.site import mosquitto, rabbitmq
from agent.site.acl import Rules
from agent.site.records import BrokerKind


class Kind(msgspec.Struct, frozen=True):
    """``spell`` writes the rules, ``by_name`` splits what it wrote; ``configuration`` gives files beside them."""

    spell: Callable[[Rules], str]
    by_name: Callable[[str], Mapping[str, str]]
    configuration: Callable[[], Mapping[str, str]]


KINDS: Final[Mapping[BrokerKind, Kind]] = {
    "mosquitto": Kind(mosquitto.spell, mosquitto.by_name, mosquitto.configuration),
    "rabbitmq": Kind(rabbitmq.spell, rabbitmq.by_name, rabbitmq.configuration),
}
