# SPDX-License-Identifier: Apache-2.0
"""The uplink: one thread that keeps a session with the broker and empties the outbox into it.

A row leaves the outbox when the broker's PUBACK says that it was taken, never before. Nothing here
waits for anything but the network and the outbox; the pipeline only appends rows and wakes it by its mailbox.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import msgspec

from agent.clock import Bounds, Clock, full_jitter, uniform
from agent.errors import BrokerError, KeyStoreError, StorageError, printable
from agent.mqtt.lasting import Lasting
from agent.mqtt.link import Connect, Link, connection
from agent.mqtt.records import Ack, BrokerSettings, Incoming, Will
from agent.mqtt.refusals import NOBODY, PUBACK_REASONS, SESSION_TAKEN_OVER, ConnectionLostError
from agent.outbox.queue import Outbox
from agent.protocol.event import CONTENT_TYPE
from agent.protocol.topics import Topics
from agent.uplink.discovery import Discovery
from agent.uplink.drain import IN_FLIGHT, Drain, Parked, Send
from agent.uplink.mailbox import Mailbox

ONLINE, OFFLINE = b"online", b"offline"  # Home Assistant's defaults
TICK_S = 1.0  # the longest wait: rows that came back from being parked need no better
RECONNECT_S = Bounds(1.0, 2.0, 60.0)  # waits between two attempts
STABLE_S = 20.0  # a session this old proves the broker well: the next reconnect starts with the shortest wait
FLUSH_S = 0.8  # of the two seconds for a clean stop, what the last events may take
FAREWELL_S = 0.4  # and what ``offline`` may take
SAY_AGAIN_S = 300  # what is retained: a broker may retain nothing, or not for who listens at another of its nodes
BIRTH_SPREAD_S = 5.0  # a fleet does not answer Home Assistant's birth message all at once
OTHERS_IN_FLIGHT = 4  # availability, info, health and discovery, sent together after connecting
PAGE_ROWS = 2 * IN_FLIGHT  # rows read at a time: a full window beside those still in flight
MAX_PAGES = 32  # read per round when the first ones are all held: about a thousand rows, some milliseconds
RESCAN_S = 5  # the shortest hold of a leaf: an earlier look at the held ones would find nothing new
WAKES_READ = 1024  # wake-ups taken at once
RESPONSE_EXPIRY_S = 60  # who asked has gone by then

NoticeKind = Literal["connected", "disconnected", "unreachable", "credentials", "refused", "parked", "storage", "fault"]


class UplinkNotice(msgspec.Struct, frozen=True):
    """Something a human or the health document should know; never personal data, never foreign text unbounded."""

    kind: NoticeKind
    message: str


class UplinkSettings(msgspec.Struct, frozen=True):
    """Times in seconds."""

    broker: BrokerSettings
    site: str
    unit: str
    live_window_s: int = 60
    health_interval_s: int = 60
    reconnect_s: Bounds = RECONNECT_S


@dataclass(eq=False)
class Uplink:
    """See the module. All public methods may be called from any thread.

    All callables given here run on the uplink's thread and must return soon. ``unwanted`` are topics whose retained
    message an earlier configuration made and this one does not mean: they are cleared once a session.
    """

    settings: UplinkSettings
    _: KW_ONLY
    outbox: Outbox
    mailbox: Mailbox
    clock: Clock
    random: Callable[[int], bytes]
    info: Callable[[], bytes]
    on_request: Callable[[str, bytes], bytes | None]
    on_notice: Callable[[UplinkNotice], None]
    health: Callable[[], bytes] | None = None
    discovery: Discovery | None = None
    unwanted: tuple[str, ...] = ()
    connect: Connect = connection

    def __post_init__(self) -> None:
        """Connect nothing yet."""
        self._topics = Topics(self.settings.site, self.settings.unit)
        self._wakes = self.mailbox.open()
        self._head_start_s = 0.0
        self._last_notice: UplinkNotice | None = None
        self._drain = Drain(live_window_s=self.settings.live_window_s, random=self.random)
        self._rows: dict[int, int] = {}  # packet id -> seq
        self._others: dict[int, str] = {}  # packet id -> topic, for messages that are not rows
        self._lasting = Lasting(self.clock, STABLE_S)
        self.connected = False  # for whoever asks from another thread
        self._scanned = 0  # rows up to here belong to held leaves
        self._rescan_ns = 0
        self._due: dict[str, int] = {}  # what is due, by name -> monotonic ns
        self._stopping, self._may_begin = threading.Event(), threading.Event()
        self._turns = self._all_turns()
        self.thread = threading.Thread(target=self._run, name="postern-uplink", daemon=True)

    def start(self, head_start_s: float = 0.0) -> None:
        """Connect once ``proceed`` is called, and ``head_start_s`` later at the latest."""
        self._head_start_s = head_start_s
        self.thread.start()

    def proceed(self) -> None:
        """What is more urgent than the broker is done: the first picture after a start."""
        self._may_begin.set()

    def turn(self) -> None:
        """What the thread does between two waits, for a rig that owns the clock and calls this instead of ``start``."""
        next(self._turns, None)

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Flush, say ``offline`` and end; False when the network did not allow it in time.

        What was not delivered stays in the outbox. A connection attempt in progress is left to end by
        itself: it then touches nothing any more.
        """
        self._stopping.set()
        self._may_begin.set()
        self.mailbox.wake()
        if self.thread.is_alive():
            self.thread.join(timeout_s)
        if self.thread.is_alive():
            return False
        deque(self._turns, maxlen=0)  # of whoever took the turns: flush and say goodbye
        self._close_mailbox()
        return True

    def _run(self) -> None:
        self._may_begin.wait(self._head_start_s)
        try:
            for wait_s in self._turns:
                if wait_s > 0:
                    self._stopping.wait(wait_s)
        finally:
            self._close_mailbox()

    def _close_mailbox(self) -> None:
        self.mailbox.close()
        self._wakes.close()

    def _all_turns(self) -> Iterator[float]:
        """Everything, turn by turn; each yields how many seconds may pass before the next."""
        while not self._stopping.is_set():
            connection = self._new_connection()
            blame = NOBODY
            try:
                yield from self._serve(connection)
            except ConnectionLostError as error:
                blame = error.reason
                self._notify("disconnected", self._lasting.ended(error))
            except KeyStoreError as error:
                self._notify("credentials", str(error))
            except StorageError as error:
                self._notify("storage", str(error))
            except BrokerError as error:
                self._notify("unreachable", str(error))
            except Exception as error:  # noqa: BLE001  # an uplink that dies in silence is the worst failure
                self._notify("fault", _fault("the uplink", error))
            self.connected = False
            connection.abandon()
            self._forget_flight(blame)
            yield from self._wait_to_reconnect(blame)

    def _new_connection(self) -> Link:
        return self.connect(
            self.settings.broker,
            client_id=self.settings.unit,
            common_name=self.settings.unit,
            clock=self.clock,
            will=Will(self._topics.availability, OFFLINE),
            resumes=True,  # a reload or restart takes a second: what is asked meanwhile waits at the broker
        )

    def _serve(self, connection: Link) -> Iterator[float]:
        connection.open()
        if self._stopping.is_set():
            connection.close()
            return
        self._subscribe(connection)
        if connection.receive_maximum is not None:
            self._drain.limit(connection.receive_maximum - OTHERS_IN_FLIGHT)
        self._notify("connected", f"connected to the broker {self.settings.broker.host}:{self.settings.broker.port}")
        began_ns = self.clock.monotonic_ns()
        self._lasting.began()
        self.connected = True
        for topic in self.unwanted:
            self._send(connection, topic, b"", retain=True)
        self._due = dict.fromkeys(("availability", "info", "health", "discovery"), began_ns)
        self.mailbox.drop_reports()
        while not self._stopping.is_set():
            now_ns = self.clock.monotonic_ns()
            self._lasting.look()
            self._publish_due(connection, now_ns)
            self._publish_reports(connection)
            self._fill(connection, now_ns)
            self._exchange(connection, self._patience_s(now_ns))
            yield 0.0
        self._farewell(connection)

    def _subscribe(self, connection: Link) -> None:
        filters = [self._topics.requests]
        if self.discovery is not None:
            filters.append(self.discovery.birth_topic)
        for topic in filters:
            try:
                connection.subscribe(topic)
            except ConnectionLostError:
                raise
            except BrokerError as error:  # events matter more than commands: go on without
                self._notify("refused", str(error))

    def _publish_due(self, connection: Link, now_ns: int) -> None:
        if self.mailbox.take_info_changed():
            self._due["info"] = now_ns
        for name in [name for name, at_ns in self._due.items() if at_ns <= now_ns]:
            self._due[name] = now_ns + SAY_AGAIN_S * 1_000_000_000
            if name == "availability":
                self._send(connection, self._topics.availability, ONLINE, retain=True)
            elif name == "info" and (document := self._make(name, self.info)):
                self._send(connection, self._topics.info, document, retain=True)
            elif name == "discovery" and self.discovery is not None:
                self._send(connection, self.discovery.topic, self.discovery.payload, retain=True)
            elif name == "health" and self.health is not None:
                interval_s = self.settings.health_interval_s
                if document := self._make(name, self.health):
                    self._send(connection, self._topics.health, document, expiry_s=2 * interval_s)
                self._due["health"] = now_ns + interval_s * 1_000_000_000

    def _publish_reports(self, connection: Link) -> None:
        while len(self._others) < OTHERS_IN_FLIGHT and (left := self.mailbox.take_report()) is not None:
            verb, payload = left
            self._send(connection, self._topics.response(verb), payload, expiry_s=RESPONSE_EXPIRY_S)

    def _make(self, name: str, build: Callable[[], bytes]) -> bytes | None:
        """Build a document; one that cannot be built must not keep events from being delivered."""
        try:
            return build()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is about this document alone
            self._notify("fault", _fault(f"the {name} document", error))
            return None

    def _fill(self, connection: Link, now_ns: int) -> None:
        """Top the window up; not for every single answer, because each look at the outbox has a price."""
        if self._drain.flying and 2 * self._drain.room(now_ns) < self._drain.window:
            return
        if now_ns >= self._rescan_ns:
            self._scanned = 0
            self._rescan_ns = now_ns + RESCAN_S * 1_000_000_000
        after = self._scanned
        for _ in range(MAX_PAGES):
            rows = self.outbox.pending(PAGE_ROWS, after=after)
            for send in self._drain.select(rows, now_ns):
                self._publish_row(connection, send)
            if len(rows) < PAGE_ROWS or not self._drain.room(now_ns):
                return
            after = rows[-1].seq  # rows of held leaves fill this page: look behind it
            if not self._drain.flying:
                self._scanned = after

    def _publish_row(self, connection: Link, send: Send) -> None:
        topic = self._topics.event(send.kind) if send.live else self._topics.backlog(send.kind)
        if connection.fits(topic, send.payload):
            mid = connection.publish(topic, send.payload, expiry_s=send.expiry_s, content_type=CONTENT_TYPE)
            self._rows[mid] = send.seq
        else:
            self._park(self._drain.too_large(send))

    def _exchange(self, connection: Link, timeout_s: float) -> None:
        polled = connection.poll(timeout_s, self._wakes)
        for told in polled.refused.values():
            self._notify("refused", told)
        with contextlib.suppress(BlockingIOError):
            while len(self._wakes.recv(WAKES_READ)) == WAKES_READ:
                pass
        now_ns = self.clock.monotonic_ns()
        taken = [self._rows.pop(ack.mid) for ack in polled.acks if ack.accepted and ack.mid in self._rows]
        if taken:
            self.outbox.acked(*taken)
        for seq in taken:
            self._drain.accepted(seq)
        for ack in polled.acks:
            self._answered(ack, now_ns)
        for message in polled.messages:
            self._received(connection, message, now_ns)

    def _answered(self, ack: Ack, now_ns: int) -> None:
        """Handle an answer that is not a row's success."""
        reason = PUBACK_REASONS.get(ack.reason, f"0x{ack.reason:02x}")
        seq = self._rows.pop(ack.mid, None)
        if seq is not None:
            parked = self._drain.refused(seq, ack.reason, now_ns)
            if parked is not None:
                self._park(parked)
            else:
                self._notify("refused", f"the broker takes no events at the moment ({reason}): raise its limits")
            return
        topic = self._others.pop(ack.mid, None)
        if (
            topic is not None and topic not in self.unwanted and not ack.accepted
        ):  # what may not be written is not there
            self._notify(
                "refused",
                f"the broker refuses {topic} ({reason}): carry the site's acl there, unless this unit was revoked",
            )

    def _received(self, connection: Link, message: Incoming, now_ns: int) -> None:
        if message.retained:  # neither a command nor a birth may be a memory
            return
        if self.discovery is not None and message.topic == self.discovery.birth_topic:
            if message.payload == ONLINE:
                spread_ns = round(uniform(self.random) * BIRTH_SPREAD_S * 1e9)
                self._due["discovery"] = self._due["availability"] = now_ns + spread_ns
            return
        verb = self._topics.verb(message.topic)
        answer = self.on_request(verb, message.payload) if verb is not None else None
        if verb is not None and answer is not None:
            self._send(connection, self._topics.response(verb), answer, expiry_s=RESPONSE_EXPIRY_S)

    def _send(
        self, connection: Link, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int | None = None
    ) -> None:
        self._others[connection.publish(topic, payload, retain=retain, expiry_s=expiry_s)] = topic

    def _park(self, parked: Parked) -> None:
        if parked.row is not None:
            self.outbox.parked(parked.row, parked.reason)
        advice = {
            "not_authorised": "allow the topic in the broker's ACL",
            "packet_too_large": "raise max_packet_size in the broker's settings",
        }.get(parked.reason, "look at the broker's log")
        self._notify("parked", f"the broker does not take {parked.leaf} ({parked.reason}): {advice}; the events wait")

    def _farewell(self, connection: Link) -> None:
        """Deliver what is left, say offline, close; all within the bounds of a clean stop."""
        end_ns = self.clock.monotonic_ns() + round(FLUSH_S * 1e9)
        while (now_ns := self.clock.monotonic_ns()) < end_ns:
            self._fill(connection, now_ns)
            if not self._drain.flying:
                break
            self._exchange(connection, 0.1)
        self._others.clear()
        self._send(connection, self._topics.availability, OFFLINE, retain=True)
        end_ns = self.clock.monotonic_ns() + round(FAREWELL_S * 1e9)
        while self._others and self.clock.monotonic_ns() < end_ns:
            self._exchange(connection, 0.1)
        connection.close()

    def _forget_flight(self, reason: int) -> None:
        self._rows.clear()
        self._others.clear()
        for parked in self._drain.disconnected(reason, self.clock.monotonic_ns()):
            with contextlib.suppress(StorageError):  # reported by the next look at the outbox
                self._park(parked)

    def _wait_to_reconnect(self, reason: int) -> Iterator[float]:
        self._lasting.failures += 1
        if reason == SESSION_TAKEN_OVER:  # two clients with one identity must not chase each other hotly
            self._lasting.failures = max(self._lasting.failures, 5)
        wait_s = full_jitter(self._lasting.failures, self.settings.reconnect_s, self.random)
        end_ns = self.clock.monotonic_ns() + round(wait_s * 1e9)
        while not self._stopping.is_set() and (left_ns := end_ns - self.clock.monotonic_ns()) > 0:
            yield min(left_ns / 1e9, TICK_S)

    def _patience_s(self, now_ns: int) -> float:
        due_ns = min(self._due.values(), default=now_ns + round(TICK_S * 1e9))
        return max(0.0, min(TICK_S, self._drain.wait_s(now_ns), (due_ns - now_ns) / 1e9))

    def _notify(self, kind: NoticeKind, message: str) -> None:
        notice = UplinkNotice(kind, message)
        if notice != self._last_notice:  # a broker that is away for a day is one notice
            self._last_notice = notice
            with contextlib.suppress(Exception):  # a notice that cannot be told must not stop events
                self.on_notice(notice)


def _fault(what: str, error: Exception) -> str:
    return f"{what} failed ({printable(f'{type(error).__name__}: {error}')}): report this; the rest goes on"
