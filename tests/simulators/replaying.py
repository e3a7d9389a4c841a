# SPDX-License-Identifier: Apache-2.0
"""A unit on a broker that answers ``outbox/replay`` as the product does: real commands over a real outbox."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from agent.keys import SigningKey
from agent.protocol.command import Command
from agent.unit.verbs import replay
from agent.uplink.answers import Answers
from agent.uplink.commands import CommandCounter, Commands, Outcome
from tests.simulators.broker import RealBroker
from tests.simulators.unit_on_broker import UnitOnBroker


class AskedUnit(UnitOnBroker):
    """Obeys ``site_key``; what came of each command is in ``outcomes``."""

    def __init__(self, folder: Path, broker: RealBroker, site_key: SigningKey, name: str, **options: Any) -> None:
        self.outcomes: list[Outcome] = []
        limits = {key: options.pop(key) for key in ("keep_days", "max_rows") if key in options}
        settings = broker.settings(broker.authority.issue(name))
        super().__init__(folder, settings, name, limits=limits, **options)
        self.commands = Commands(
            site="hq",
            unit=name,
            key=site_key.public,
            counter=CommandCounter(folder / f"{name}.commands.json"),
            answers=Answers("hq", name, self.unit.key),
            clock=self.clock,
            random=secrets.token_bytes,
            on_outcome=self.outcomes.append,
        )
        self.commands.bind({"outbox/replay": self._replay})

    def _replay(self, command: Command) -> Any:
        return replay(self.outbox, command)

    def _answer(self, verb: str, payload: bytes) -> bytes | None:
        return self.commands.handle(verb, payload)
