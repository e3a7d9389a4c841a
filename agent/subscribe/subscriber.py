# SPDX-License-Identifier: Apache-2.0
"""The loop of a subscriber: connect, receive, verify, remember, hand over, acknowledge; reconnect by itself."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import msgspec

from agent.clock import Bounds, Clock, full_jitter
from agent.errors import BrokerError, VerificationError, printable
from agent.mqtt.connection import SESSION_EXPIRY_S, Connection
from agent.mqtt.lasting import Lasting
from agent.mqtt.records import BrokerSettings, Incoming
from agent.mqtt.refusals import ConnectionLostError
from agent.protocol import topics
from agent.protocol.health import Health
from agent.subscribe.absence import Absence
from agent.subscribe.board import Board
from agent.subscribe.chain import QUARANTINING, Gap
from agent.subscribe.clocks import Clocks
from agent.subscribe.files import Kept, StateFile, TrustFile
from agent.subscribe.heads import Heads
from agent.subscribe.replay import PACE_S, VALIDITY_S, Replays, oldest
from agent.subscribe.silence import Silence
from agent.subscribe.verify import CLOCK_SKEW_S, FRESH_WINDOW_S, Loss, VerifiedEvent, Verifier

POLL_S = 0.5  # how late a request to stop may be noticed
RECONNECT_S = Bounds(1.0, 2.0, 60.0)  # waits between two attempts
TURNS_S = Bounds(1.0, 2.0, 15.0)  # the same after short sessions, in case two share a certificate and take turns
STABLE_S = 20.0  # longer than any of these: whoever shares the certificate would have come back by then
BATCH = 128  # messages for one commit: four times what the broker sends unanswered
QUARANTINE = (
    "QUARANTINE of {where} ({reason}): two devices may speak under one key. Look at the unit; then revoke it at the"
    " site, or let it speak again with 'postern subscribe --release UNIT'"
)
AGAIN = "connected again"
NOBODY_ASKS = "the broker lets nobody ask for missed events: carry the site's access list to it again"
MAX_TOLD = 1000  # different things told once
DURABLE_S = 7 * 24 * 3600  # how long a broker is asked to keep events for a durable subscriber that is away


class Refusal(msgspec.Struct, frozen=True):
    """A message that was not believed; ``reason`` is one that ``agent.subscribe.verify`` lists, or ``retained``."""

    reason: str
    topic: str
    message: str


Handed = VerifiedEvent | Loss | Refusal


class Subscriber:
    """One thread iterates over it or its ``batches``: ``VerifiedEvent``, ``Loss`` or ``Refusal``, as they arrive.

    With ``state``, what a batch of messages changed is on disk before its first event is handed over, and the broker
    hears that it was taken after the last one was. After a crash every event is handed over: once, or marked as
    ``repeat`` when it may have been before. Without it, that holds for lost connections alone.

    What units say of themselves in ``health`` is compared with what came: ``on_notice`` hears how many events were
    withheld, and ``withheld`` says it. With ``replays``, units are asked for what is missing or withheld: it comes as
    late events, or as a ``Loss`` where the unit keeps it no more.
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
        replays: Replays | None = None,
        client_id: str | None = None,
        fresh_window_s: int = FRESH_WINDOW_S,
        skew_s: int = CLOCK_SKEW_S,
        random: Callable[[int], bytes] = secrets.token_bytes,
        on_notice: Callable[[str], None] = lambda _: None,
        on_health: Callable[[str, Health], None] = lambda _unit, _report: None,
        on_turn: Callable[[], None] = lambda: None,
        on_keys: Callable[[bytes], None] | None = None,
    ) -> None:
        """Read certificates, trust and state; KeyStoreError, VerificationError or StorageError says what is wrong.

        ``durable`` asks the broker to keep events while this subscriber is away; ``client_id`` names its session
        there, by default as its certificate does; ``fresh_window_s`` and ``skew_s`` say what is fresh; ``on_notice``
        hears of lost and found connections, quarantined keys and withheld events, ``on_health`` of each newer
        verified report of a unit; ``on_turn`` is called about twice a second, between two batches; ``on_keys`` takes
        epoch keys that the site sealed to this program, where it may resolve.
        """
        self._broker, self._clock, self._random, self._on_notice = broker, clock, random, on_notice
        self._filters, self._health_filter = topics.event_filters(site), topics.health_filter(site)
        self._board = Board(
            site=site,
            trust=trust,
            credentials=broker.credentials,
            clock=clock,
            on_notice=on_notice,
            tell_once=self._tell_once,
            on_keys=on_keys,
        )
        self._state, self._durable = state, durable
        self._replays, self._answers = replays, topics.replay_filter(site)
        self._tails: dict[str, int] = {}  # the last number of each unit that does not wait there, says its health
        self._told: set[str] = set()
        self._asked_ns = clock.monotonic_ns()
        self._client_id = client_id or self._board.name
        self._on_health, self._on_turn = on_health, on_turn
        self._connection: Connection | None = None
        self._stopping = threading.Event()
        self._absence = Absence(clock, state.written_s() if state else None)
        self._silence = Silence(clock)
        self._clocks = Clocks(clock, behind_s=fresh_window_s + skew_s, ahead_s=skew_s)
        self._lasting, self._link = Lasting(clock, STABLE_S), ""  # and what was told of the connection last
        kept = state.load() if state else Kept()
        try:
            self._board.compare(kept.newest)
        except BaseException:
            self._close_state()
            raise
        self._newest = kept.newest
        self.verifier = Verifier(self._board.trusted, state=kept.chains, fresh_window_s=fresh_window_s, skew_s=skew_s)
        self._heads = Heads(kept.heads)
        self._waiting: deque[tuple[int, Handed]] = deque(kept.events)  # with its number, 0: none
        # Numbers of events: the one that the consumer holds; the last that it is done with; the last so written down.
        self._in_hand = self._handed = self._settled = 0
        self._unanswered: list[Incoming] = []
        self._told_at_the_start = False

    def __enter__(self) -> Self:
        """Connect; raises BrokerError when the broker cannot be reached or refuses."""
        try:
            self._connection = self._connect()
        except BaseException:
            self._close_state()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._handed = max(self._handed, self._in_hand)
            if self._state is not None:
                self._state.settle(self._handed, sure=kind is None)
            if self._state is not None or (kind is None and not self._waiting):
                self._acknowledge()
        finally:
            self._close_state()
            if self._connection is not None:
                self._connection.close(keep_session=self._durable)

    def stop(self) -> None:
        """End the iteration soon; may be called from any thread."""
        self._stopping.set()

    def withheld(self) -> dict[str, int]:
        """How many events of each unit it signed, says its health, that are neither here nor waiting there."""
        return self._heads.withheld()

    def __iter__(self) -> Iterator[Handed]:
        for _ in self._turns():
            while self._waiting and not self._stopping.is_set():
                # Whoever asks for the next is done with the one before.
                self._handed = max(self._handed, self._in_hand)
                number, outcome = self._waiting.popleft()
                self._in_hand = max(number, self._in_hand)
                yield outcome

    def batches(self) -> Iterator[list[Handed]]:
        """As iteration, but all that came together at once: whoever asks for the next is done with all of it."""
        for _ in self._turns():
            if self._waiting:
                batch, self._waiting = self._waiting, deque()
                self._in_hand = max(self._in_hand, *(number for number, _ in batch))
                yield [outcome for _, outcome in batch]

    def _turns(self) -> Iterator[None]:
        """Receive and judge; between two turns, what waits is for the consumer."""
        self._tell_at_the_start()
        while not self._stopping.is_set():
            yield
            if self._stopping.is_set():
                break
            self._handed = max(self._handed, self._in_hand)
            self._on_turn()
            try:
                if self._connection is None:
                    self._connection = self._connect()
                    self._tell_of_the_link("" if self._lasting.is_suspicious else AGAIN)
                self._acknowledge()
                self._ask(self._connection)
                received = self._receive(self._connection)
            except BrokerError as error:
                self._tell_of_the_link(self._lasting.ended(error))
                self._absence.begins()
                if self._connection is not None:
                    self._connection.abandon()
                    self._connection = None
                self._unanswered = []  # they come again
                self._lasting.failures += 1
                bounds = TURNS_S if self._lasting.is_suspicious else RECONNECT_S
                self._stopping.wait(full_jitter(self._lasting.failures, bounds, self._random))
                continue
            if self._lasting.look():
                self._tell_of_the_link(AGAIN)
            if not self._lasting.is_suspicious:
                self._lasting.failures = 0
            if (newer := self._board.newer()) is not None:
                self.verifier.update_trust(newer)
            for told in self._silence.look(self.verifier.trust.units_in_service()):
                self._on_notice(told)
            self.verifier.check_list(self._clock.now())  # else all would be refused, acknowledged and lost
            self._take(received)
            self._unanswered = received  # not before: whatever ends this, what is not written down comes again

    def _receive(self, connection: Connection) -> list[Incoming]:
        """Read a batch: what there is, so that one commit serves it all."""
        received: list[Incoming] = []
        while len(received) < BATCH:
            try:
                polled = connection.poll(0 if received else self._replays.wait_s(POLL_S) if self._replays else POLL_S)
            except BrokerError:
                if not received:
                    raise
                break  # what came is judged first; the next poll says it again
            if any(not ack.accepted for ack in polled.acks):
                self._tell_once(NOBODY_ASKS)
            for topic, told in polled.refused.items():
                self._refused(topic, told)
            if not polled.messages:
                break
            received += polled.messages
        return received

    def _refused(self, topic: str, told: str) -> None:
        """Go on without a subscription that the broker refuses, but for the events themselves: BrokerError."""
        if topic in self._filters:
            raise BrokerError(told)
        lacks = {self._health_filter: "notices events that are withheld", **self._board.topics}
        self._on_notice(f"{told}; until then nobody here {lacks.get(topic, 'asks for events that are missing')}")

    def _acknowledge(self) -> None:
        """Answer what was handed over, in the order of arrival."""
        if self._connection is not None:
            self._connection.acknowledge(self._unanswered)
        self._unanswered = []

    def _take(self, messages: list[Incoming]) -> None:
        """Judge a batch, and write down what it changed."""
        outcomes: list[Handed] = []
        for are_events, group in itertools.groupby(messages, _is_event):
            if are_events:  # all that follow one another at once
                outcomes += self._verify([(message.topic, message.payload) for message in group])
            else:
                outcomes += [outcome for message in group for outcome in self._check(message)]
        outcomes += self.verifier.take_given_up()
        events = [outcome for outcome in outcomes if not isinstance(outcome, Refusal)]
        numbers: Iterator[int] = iter(())
        if self._state is not None:
            chains, heads = self.verifier.take_changed(), self._heads.take_changed()
            newest = self._board.newest if self._board.newest != self._newest else None
            if chains or heads or newest or self._handed > self._settled:
                commit = self._state.commit
                numbers = iter(commit(chains=chains, heads=heads, events=events, newest=newest, handed=self._handed))
                self._settled, self._newest = self._handed, newest or self._newest
        for outcome in outcomes:
            self._waiting.append((0 if isinstance(outcome, Refusal) else next(numbers, 0), outcome))

    def _check(self, message: Incoming) -> list[Handed]:
        # Without a payload nothing was said: so 'postern doctor' tries what a broker lets a unit do.
        if self._board.hear(message) or not message.payload:
            return []
        if message.retained:
            return [Refusal("retained", printable(message.topic), "an event is never retained: somebody replays it")]
        if message.topic.endswith("/response/outbox/replay"):
            return self._check_answer(message)
        if not message.topic.endswith("/health"):
            return self._verify([(message.topic, message.payload)])
        try:
            said = (message.topic, message.payload, self._clock.now(), self._silence.listening_s())
            unit, report, withheld = self.verifier.check_health(*said)
        except VerificationError as error:
            return [self._refusal(message.topic, error)]
        if self._heads.is_newer(unit, report):  # one that a broker repeats says how nobody is now
            self._tails[unit] = report.head.seq - report.queue_depth
            self._on_health(unit, report)
            told = self._silence.heard(unit) + self._clocks.heard(unit, report)
            for text in told + self._heads.note(unit, report, withheld):
                self._on_notice(text)
        return []

    def _verify(self, said: Sequence[tuple[str, bytes]]) -> list[Handed]:
        found = zip(said, self.verifier.check_all(said, self._clock.now()), strict=True)
        return [self._refusal(topic, one) if isinstance(one, VerificationError) else one for (topic, _), one in found]

    def _check_answer(self, message: Incoming) -> list[Handed]:
        """Take what a unit says again; what came meanwhile by itself is nothing new."""
        try:
            found = self._replays and self._replays.take(message.topic, message.payload, self.verifier.trust)
        except VerificationError as error:
            self._tell_once(f"{error} ({error.reason})")
            return []
        if not found:
            return []
        judged = self._verify(found.events)
        outcomes = [one for one in judged if not (isinstance(one, Refusal) and one.reason in ("duplicate", "replayed"))]
        given_up = ((gap, self.verifier.give_up(found.unit, gap)) for gap in found.gone)
        outcomes += [Loss(found.unit, gap, count) for gap, count in given_up if count]
        if self._replays:
            self._replays.judge(found.unit, closed=not all(isinstance(outcome, Refusal) for outcome in outcomes))
        return outcomes

    def _refusal(self, topic: str, error: VerificationError) -> Refusal:
        if error.reason in QUARANTINING:
            self._on_notice(QUARANTINE.format(where=printable(topic), reason=f"{error.reason}: {error}"))
        return Refusal(error.reason, printable(topic), str(error))

    def _ask(self, connection: Connection) -> None:
        """Ask units in service for what is missing; of a tail, what is beyond the last event that came."""
        now_ns = self._clock.monotonic_ns()
        if self._replays is None or now_ns - self._asked_ns < PACE_S * 1e9:
            return
        self._asked_ns = now_ns
        tails = []
        for unit, last in self._tails.items():
            if 0 < (heard := self.verifier.heard(unit)) < last:
                tails.append((unit, Gap(heard + 1, last)))
        serving = self.verifier.trust.units_in_service()
        gaps = {unit: gap for unit, gap in oldest(self.verifier.all_missing(), tails).items() if unit in serving}
        for topic, payload in self._replays.questions(gaps):
            connection.publish(topic, payload, expiry_s=VALIDITY_S)

    def _tell_of_the_link(self, text: str) -> None:
        """Say what is news of the connection: a broker that is away for a day is one sentence."""
        if text and text != self._link:
            self._link = text
            self._on_notice(text)

    def _tell_once(self, text: str) -> None:
        if text not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(text)
            self._on_notice(text)

    def _connect(self) -> Connection:
        connection = Connection(
            self._broker,
            client_id=self._client_id,
            clock=self._clock,
            common_name=self._board.name,
            session_expiry_s=DURABLE_S if self._durable else SESSION_EXPIRY_S,
            manual_ack=True,
            clean_start=bool(self._replays and self._absence.is_long and self.verifier.knows_all(self._clock.now())),
        )
        retained = self._board.topics
        wanted = [*self._filters, self._health_filter, *([self._answers] if self._replays else []), *retained]
        try:
            connection.open()
            for topic in wanted:
                try:
                    connection.subscribe(topic, retained=topic in retained)
                except ConnectionLostError:
                    raise
                except BrokerError as error:
                    self._refused(topic, str(error))
        except BaseException:
            connection.abandon()
            raise
        self._absence.ends()
        self._silence.connected()
        self._lasting.began()
        return connection

    def _tell_at_the_start(self) -> None:
        if self._told_at_the_start:
            return
        self._told_at_the_start = True
        self._board.warn()
        if self._state is not None and self._state.put_back is not None:
            self._on_notice(self._state.put_back)
        for unit, reason in sorted(self.verifier.quarantined().items()):
            self._on_notice(QUARANTINE.format(where=f"unit {unit}", reason=reason))

    def _close_state(self) -> None:
        if self._state is not None:
            self._state.close()


def _is_event(message: Incoming) -> bool:
    """Whether it is judged as an event and nothing else, whatever it is."""
    levels = message.topic.split("/")
    return len(levels) == 5 and levels[3] in ("event", "backlog") and bool(message.payload) and not message.retained
