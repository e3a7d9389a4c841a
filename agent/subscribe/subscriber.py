# SPDX-License-Identifier: Apache-2.0
"""The loop of a subscriber: connect, receive, verify, remember, hand over; reconnect by itself."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from agent.backoff import Bounds, full_jitter
from agent.clock import Clock
from agent.errors import BrokerError, VerificationError, printable
from agent.mqtt.connection import SESSION_EXPIRY_S, BrokerSettings, Connection, Incoming
from agent.mqtt.credentials import load_identity
from agent.protocol.topics import event_filters
from agent.subscribe.files import StateFile, TrustFile
from agent.subscribe.verify import VerifiedEvent, Verifier

POLL_S = 0.5  # how late a request to stop may be noticed
TRUST_CHECK_S = 5  # how late a new list of units may be noticed
RECONNECT_S = Bounds(1.0, 2.0, 60.0)  # waits between two attempts
DURABLE_S = 7 * 24 * 3600  # how long a broker is asked to keep events for a durable subscriber that is away


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that was not believed; ``reason`` is one that ``agent.subscribe.verify`` lists, or ``retained``."""

    reason: str
    topic: str
    message: str


class Subscriber:
    """Iterate over it: ``VerifiedEvent`` or ``Refusal``, in the order of arrival. One thread iterates.

    With ``state``, what was accepted is on disk before it is handed over: after a crash an event may have
    been lost to the consumer, and is reported by nobody, but none is ever handed over twice.
    """

    def __init__(
        self,
        broker: BrokerSettings,
        *,
        site: str,
        trust: TrustFile,
        clock: Clock,
        state: StateFile | None = None,
        durable: bool = False,
        client_id: str | None = None,
        random: Callable[[int], bytes] = secrets.token_bytes,
        on_notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Read certificates, trust and state; KeyStoreError, VerificationError or StorageError says what is wrong.

        ``durable`` asks the broker to keep events while this subscriber is away; ``client_id`` names its session
        there, by default as its certificate does; ``on_notice`` hears of lost and found connections.
        """
        self._broker, self._clock, self._random, self._on_notice = broker, clock, random, on_notice
        self._filters = event_filters(site)
        trusted = trust.load()
        if trusted.site != site:
            raise VerificationError(
                "wrong_site", f"the list of units is of site {trusted.site}, not {site}: give its own"
            )
        self._trust, self._state, self._durable = trust, state, durable
        self._name = load_identity(broker.credentials, clock).common_name
        self._client_id = client_id or self._name
        self.verifier = Verifier(trusted, state=state.load() if state else None)
        self._connection: Connection | None = None
        self._trust_checked_ns = clock.monotonic_ns()
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        """Connect; raises BrokerError when the broker cannot be reached or refuses."""
        self._connection = self._connect()
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close(keep_session=self._durable)

    def stop(self) -> None:
        """End the iteration soon; may be called from any thread."""
        self._stopping.set()

    def __iter__(self) -> Iterator[VerifiedEvent | Refusal]:
        failures = 0
        while not self._stopping.is_set():
            try:
                if self._connection is None:
                    self._connection = self._connect()
                    self._on_notice("connected again")
                messages = self._connection.poll(POLL_S).messages
            except BrokerError as error:
                self._on_notice(str(error))
                if self._connection is not None:
                    self._connection.abandon()
                    self._connection = None
                failures += 1
                self._stopping.wait(full_jitter(failures, RECONNECT_S, self._random))
                continue
            failures = 0
            self._refresh_trust()
            yield from self._judge(messages)

    def _judge(self, messages: list[Incoming]) -> list[VerifiedEvent | Refusal]:
        outcomes = [self._check(message) for message in messages]
        if self._state is not None and any(isinstance(outcome, VerifiedEvent) for outcome in outcomes):
            self._state.save(self.verifier.export())
        return outcomes

    def _check(self, message: Incoming) -> VerifiedEvent | Refusal:
        if message.retained:
            return Refusal("retained", printable(message.topic), "an event is never retained: somebody replays it")
        try:
            return self.verifier.check(message.topic, message.payload, self._clock.now())
        except VerificationError as error:
            return Refusal(error.reason, printable(message.topic), str(error))

    def _connect(self) -> Connection:
        connection = Connection(
            self._broker,
            client_id=self._client_id,
            clock=self._clock,
            common_name=self._name,
            session_expiry_s=DURABLE_S if self._durable else SESSION_EXPIRY_S,
        )
        try:
            connection.open()
            connection.subscribe(*self._filters)
        except BaseException:
            connection.abandon()
            raise
        return connection

    def _refresh_trust(self) -> None:
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._trust_checked_ns < TRUST_CHECK_S * 1_000_000_000:
            return
        self._trust_checked_ns = now_ns
        newer = self._trust.load_if_changed()
        if newer is not None:
            self.verifier.update_trust(newer)
            self._on_notice(f"the site's list of units was read again (serial {newer.serial})")
