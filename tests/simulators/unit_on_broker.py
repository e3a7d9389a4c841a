# SPDX-License-Identifier: Apache-2.0
"""A unit without a camera that talks to a broker: real outbox, real uplink, a clock that can skip ahead."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from agent.clock import Bounds, ClockState, SystemClock
from agent.mqtt.records import BrokerSettings
from agent.uplink.health import HealthReporter
from agent.uplink.mailbox import Mailbox
from agent.uplink.session import Uplink, UplinkNotice, UplinkSettings
from tests.simulators.broker import wait_until
from tests.simulators.signing_unit import SigningUnit, match_draft

SESSION_KINDS = {"connected", "disconnected", "unreachable"}  # of notices: whether there is one


class SkippingClock(SystemClock):
    """The machine's clocks, synchronised, plus what was skipped."""

    def __init__(self, state: ClockState = "synced") -> None:
        self.skipped_s = 0.0
        self._state = state

    def monotonic_ns(self) -> int:
        return super().monotonic_ns() + round(self.skipped_s * 1e9)

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.skipped_s)

    def state(self) -> ClockState:
        return self._state


class UnitOnBroker:
    """``unit`` holds the outbox; ``start`` connects. Reconnects within 0.2 s, so that tests are quick."""

    def __init__(self, folder: Path, broker: BrokerSettings, name: str = "door-1", **options: Any) -> None:
        self.clock: SkippingClock = options.pop("clock", None) or SkippingClock()
        self.unit = SigningUnit(folder / f"{name}.db", name, self.clock, **options.pop("limits", {}))  # type: ignore[arg-type]  # it only reads it
        self.outbox = self.unit.outbox
        self.notices: list[UplinkNotice] = []
        self.requests: list[tuple[str, bytes]] = []
        self.settings = UplinkSettings(
            replace(broker, connect_timeout_s=2.0),
            site="hq",
            unit=name,
            reconnect_s=Bounds(0.05, 0.1, 0.2),
        )
        self._options = options
        self.uplink = self._make()

    def _make(self) -> Uplink:
        options: dict[str, Any] = {
            "info": lambda: b'{"info":1}',
            "on_request": self._answer,
            "random": lambda n: b"\x80" * n,
            **self._options,
        }
        self.mailbox = Mailbox()
        given = {"outbox": self.outbox, "mailbox": self.mailbox, "clock": self.clock, **options}
        return Uplink(self.settings, on_notice=self.notices.append, **given)

    def _answer(self, verb: str, payload: bytes) -> bytes | None:
        self.requests.append((verb, payload))
        return b"done"

    def start(self, *, connected: bool = True) -> None:
        self.uplink.start()
        if connected:
            wait_until(lambda: self.connected)

    def report_health(self) -> None:
        """Say how it is, as in service, from the next connection on."""
        self.uplink.health = HealthReporter(
            source=self.unit.source,
            boot=self.outbox.boot,
            signer=self.unit.key,
            clock=self.clock,
            outbox=self.outbox,
            frames=lambda: 0,
            recognition=lambda: "running",
            temperature=lambda: None,
            disk_free=lambda: 1,
        ).build

    def say(self, count: int = 1, draft: Any = None) -> list[int]:
        seqs = [self.outbox.append(draft or match_draft(self.clock)) for _ in range(count)]  # type: ignore[arg-type]
        self.mailbox.wake()
        return seqs

    @property
    def connected(self) -> bool:
        """Whether the last that was told of the session is that there is one."""
        return next((kind == "connected" for kind in reversed(self.kinds()) if kind in SESSION_KINDS), False)

    def kinds(self) -> list[str]:
        return [notice.kind for notice in self.notices]

    def told(self, words: str) -> bool:
        return any(words in notice.message for notice in self.notices)
