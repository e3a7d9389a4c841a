# SPDX-License-Identifier: Apache-2.0
"""The subscriber of a fleet: verifies everything, asks units for what is missing, and notes what came when."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Self

from agent.clock import SystemClock
from agent.keys import load_public_key
from agent.mqtt.records import BrokerSettings
from agent.subscribe.files import StateFile, TrustFile
from agent.subscribe.replay import Replays
from agent.subscribe.subscriber import Refusal, Subscriber
from agent.subscribe.verify import Loss, VerifiedEvent
from tools.lib.fleet.site import PROGRAM, SITE, FleetSite

JOIN_S = 5.0


class Audit:
    """Listens from entering to leaving, with a durable session and a memory of its own."""

    def __init__(self, fleet: FleetSite, host: str, port: int, *, state: Path) -> None:
        keys, clock = fleet.files.client(PROGRAM), SystemClock()
        self._subscriber = Subscriber(
            BrokerSettings(host, fleet.program(), port=port),
            site=SITE,
            trust=TrustFile(fleet.files.trust, load_public_key(fleet.files.site_jwk)),
            clock=clock,
            state=StateFile(state),
            durable=True,
            replays=Replays.from_folder(keys, site=SITE, clock=clock, random=secrets.token_bytes),
        )
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self.events: dict[str, list[VerifiedEvent]] = {}
        self.arrived: dict[tuple[str, int], float] = {}  # monotonic, of the first time
        self.refused: Counter[str] = Counter()
        self.cpu_s = 0.0

    def __enter__(self) -> Self:
        self._subscriber.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._subscriber.stop()
        self._thread.join(JOIN_S)

    def _run(self) -> None:
        with_cpu = time.thread_time()
        for outcome in self._subscriber:
            if isinstance(outcome, Refusal):
                self.refused[outcome.reason] += 1
            elif not isinstance(outcome, Loss):
                self.arrived.setdefault((outcome.unit, outcome.event.data.seq), time.monotonic())
                self.events.setdefault(outcome.unit, []).append(outcome)
        self.cpu_s = time.thread_time() - with_cpu
        self._subscriber.__exit__(None, None, None)
