# SPDX-License-Identifier: Apache-2.0
"""A subscriber on a thread of its own that verifies everything and keeps the books: who said what, when, how often."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Self

from agent.clock import Clock, SystemClock
from agent.errors import BrokerError
from agent.keys import load_public_key
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import BrokerSettings
from agent.site.records import SiteFiles
from agent.subscribe.files import TrustFile
from agent.subscribe.subscriber import Refusal, Subscriber
from agent.subscribe.verify import Loss, VerifiedEvent

JOIN_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Received:
    """One message as it came: ``at_s`` on the monotonic clock."""

    outcome: VerifiedEvent | Refusal
    at_s: float


class Listener:
    """Receives from entering to leaving; ``durable``, so that a broker's restart loses it nothing.

    One that is not durable has a session of its own that nobody had before: nothing waits in it at the start, and
    the broker forgets it at the end.
    """

    def __init__(
        self, broker: BrokerSettings, *, site: str, trust: TrustFile, clock: Clock | None = None, durable: bool = True
    ) -> None:
        self._subscriber = Subscriber(
            broker,
            site=site,
            trust=trust,
            clock=clock or SystemClock(),
            durable=durable,
            client_id=None if durable else f"rig-{secrets.token_hex(8)}",
        )
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
        self._lock = threading.Lock()
        self._received: list[Received] = []

    @classmethod
    def of_program(cls, site: SiteFiles, program: str, *, name: str, port: int, clock: Clock | None = None) -> Self:
        """For a program of a site on this machine, whose broker listens on loopback."""
        keys = site.client(program)
        credentials = Credentials.in_folder(keys)
        trust = TrustFile(site.trust, load_public_key(site.site_jwk))
        return cls(BrokerSettings("127.0.0.1", credentials, port=port), site=name, trust=trust, clock=clock)

    def __enter__(self) -> Self:
        self._subscriber.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._subscriber.stop()
        self._thread.join(JOIN_TIMEOUT_S)
        self._subscriber.__exit__(None, None, None)

    def received(self) -> list[Received]:
        """Everything so far, in the order of arrival."""
        with self._lock:
            return list(self._received)

    def events(self, unit: str) -> list[VerifiedEvent]:
        """The verified events of a unit, in the order of arrival."""
        outcomes = (one.outcome for one in self.received())
        return [one for one in outcomes if isinstance(one, VerifiedEvent) and one.unit == unit]

    def refusals(self) -> Counter[str]:
        """How many messages were refused, by reason."""
        return Counter(one.outcome.reason for one in self.received() if isinstance(one.outcome, Refusal))

    def wait_for(self, unit: str, seq: int, timeout_s: float) -> bool:
        """Until event ``seq`` of ``unit`` has come; False when it did not in time."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if any(one.event.data.seq >= seq for one in self.events(unit)):
                return True
            time.sleep(0.05)
        return False

    def _run(self) -> None:
        try:
            for outcome in self._subscriber:
                if isinstance(outcome, Loss):  # of a subscriber that asks for what it missed: this one does not
                    continue
                with self._lock:
                    self._received.append(Received(outcome, time.monotonic()))
        except BrokerError:
            return
