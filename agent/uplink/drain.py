# SPDX-License-Identifier: Apache-2.0
"""What to send next and what a broker's answer means: the state machine between outbox and broker, without I/O.

Rows leave in the order of ``seq``. A leaf that the broker's ACL refuses is held with growing back-off, then
tried with one row. A row that makes the broker hang up is found by sending suspects alone, and parked. A row
that later ones have overtaken travels on the backlog leaf: on the live one its ``seq`` would look replayed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import msgspec

from agent.clock import Bounds, full_jitter
from agent.mqtt import refusals
from agent.outbox.queue import Row

IN_FLIGHT = 16  # rows unacknowledged at once: a full round trip is hidden, a loss resends little
POISON_STRIKES = 3  # a row alone in flight at this many hang-ups is the cause
SUSPECT_STRIKES = 2  # from here on a row travels alone, so that the innocent are not blamed
LEAF_HOLD_S = Bounds(5.0, 10.0, 900.0)  # pauses of a leaf that the broker's ACL refuses
PAUSE_S = Bounds(1.0, 2.0, 60.0)  # the same for everything, when the broker is short of something
MAX_STRIKES = 1024  # rows with strikes remembered; far above what a few windows can hold


class Send(msgspec.Struct, frozen=True):
    """One row on its way; ``expiry_s`` is None on the backlog, which never expires."""

    seq: int
    kind: str
    live: bool
    payload: bytes
    expiry_s: int | None
    retried: bool

    @property
    def leaf(self) -> str:
        return f"{'event' if self.live else 'backlog'}/{self.kind}"


class Parked(msgspec.Struct, frozen=True):
    """What has to wait: ``row``, or the whole ``leaf`` when ``row`` is None; ``reason`` is a word for machines."""

    leaf: str
    reason: str
    row: int | None = None


class _Hold(msgspec.Struct):
    until_ns: int = 0
    failures: int = 0


class Drain:
    """See the module. One thread calls it; the monotonic time is passed in."""

    def __init__(self, *, live_window_s: int, random: Callable[[int], bytes], in_flight: int = IN_FLIGHT) -> None:
        self._live_window_s = live_window_s
        self._random = random
        self._in_flight = in_flight
        self._flight: dict[int, Send] = {}
        self._strikes: dict[int, int] = {}
        self._leaves: dict[str, _Hold] = {}
        self._pause = _Hold()
        self._highest_accepted = 0
        self._suspect_waits = False  # the next row has to travel alone

    @property
    def flying(self) -> int:
        """Rows sent and not answered."""
        return len(self._flight)

    @property
    def window(self) -> int:
        """How many rows may be in flight at once."""
        return self._in_flight

    def limit(self, in_flight: int) -> None:
        """Take the broker's word for how many messages it handles at once (MQTT 5, 3.2.2.3.3)."""
        self._in_flight = max(1, min(IN_FLIGHT, in_flight))

    def room(self, now_ns: int) -> int:
        """How many rows may be sent now."""
        self._suspect_waits = self._suspect_waits and bool(self._flight)
        if now_ns < self._pause.until_ns or self._suspect_waits:
            return 0
        if any(self._is_suspect(send) for send in self._flight.values()):
            return 0
        return self._in_flight - len(self._flight)

    def select(self, rows: Iterable[Row], now_ns: int) -> list[Send]:
        """Pick rows to send now and count them as in flight; ``rows`` come by rising seq."""
        room = self.room(now_ns)
        chosen: list[Send] = []
        for row in rows:
            if len(chosen) >= room:
                break
            if row.seq in self._flight:
                continue
            send = self._address(row, now_ns)
            if self.is_held(send.leaf, now_ns):
                continue
            suspect = self._is_suspect(send)
            if suspect and self._flight:
                self._suspect_waits = True
                break
            self._flight[send.seq] = send
            chosen.append(send)
            if suspect:
                break
        return chosen

    def is_held(self, leaf: str, now_ns: int) -> bool:
        """Whether the leaf waits for its back-off to end."""
        hold = self._leaves.get(leaf)
        return hold is not None and now_ns < hold.until_ns

    def accepted(self, seq: int) -> None:
        send = self._flight.pop(seq, None)
        self._strikes.pop(seq, None)
        self._pause = _Hold()
        self._highest_accepted = max(self._highest_accepted, seq)
        if send is not None:
            self._leaves.pop(send.leaf, None)

    def refused(self, seq: int, code: int, now_ns: int) -> Parked | None:
        """Handle a PUBACK with a failure reason; what has to wait, or None when only the pace has to change.

        A refused leaf keeps its rows in order: they are not parked one by one.
        """
        send = self._flight.pop(seq, None)
        if send is None:
            return None
        reason = refusals.PUBACK_REASONS.get(code, f"reason_0x{code:02x}")
        if code in (refusals.NOT_AUTHORISED, refusals.TOPIC_NAME_INVALID):
            self._hold(send.leaf, now_ns)
            return Parked(send.leaf, reason)
        if code == refusals.PAYLOAD_FORMAT_INVALID:
            return self._park(send, reason)
        if code in refusals.MAYBE_THIS_ROW and self._strike(seq) >= POISON_STRIKES:
            return self._park(send, reason)
        if now_ns >= self._pause.until_ns:  # the rest of a window that was refused together is one refusal
            failures = self._pause.failures + 1
            self._pause = _Hold(now_ns + self._pause_ns(failures, PAUSE_S), failures)
        return None

    def too_large(self, send: Send) -> Parked:
        """Park a row that the broker announced it would not take."""
        self._flight.pop(send.seq, None)
        return self._park(send, "packet_too_large")

    def disconnected(self, reason: int, now_ns: int) -> list[Parked]:
        """Take everything in flight back; park a row that was alone when the broker hung up once too often."""
        flight, self._flight = self._flight, {}
        if reason in refusals.BLAMELESS:
            return []
        strikes = [self._strike(seq) for seq in flight]
        if len(flight) != 1:
            return []
        (send,) = flight.values()
        if strikes[0] < POISON_STRIKES and not send.retried and send.leaf not in self._leaves:
            return []
        self._hold(send.leaf, now_ns)
        return [self._park(send, "connection_closed")]

    def wait_s(self, now_ns: int) -> float:
        """Seconds until a hold ends that may free a row; infinity when there is none."""
        untils = [hold.until_ns for hold in (self._pause, *self._leaves.values())]
        return min(((until - now_ns) / 1e9 for until in untils if until > now_ns), default=math.inf)

    def _address(self, row: Row, now_ns: int) -> Send:
        age_s = row.age_s(now_ns)
        live = age_s is not None and age_s < self._live_window_s and row.seq > self._highest_accepted
        expiry_s = math.ceil(self._live_window_s - max(age_s, 0)) if live and age_s is not None else None
        return Send(row.seq, row.kind, live, row.payload, expiry_s, row.attempts > 0)

    def _is_suspect(self, send: Send) -> bool:
        return send.retried or send.leaf in self._leaves or self._strikes.get(send.seq, 0) >= SUSPECT_STRIKES

    def _hold(self, leaf: str, now_ns: int) -> None:
        hold = self._leaves.setdefault(leaf, _Hold())
        if now_ns >= hold.until_ns:
            hold.failures += 1
            hold.until_ns = now_ns + self._pause_ns(hold.failures, LEAF_HOLD_S)

    def _park(self, send: Send, reason: str) -> Parked:
        self._strikes.pop(send.seq, None)
        return Parked(send.leaf, reason, send.seq)

    def _strike(self, seq: int) -> int:
        if len(self._strikes) >= MAX_STRIKES:
            self._strikes.clear()  # rows that were erased meanwhile
        self._strikes[seq] = self._strikes.get(seq, 0) + 1
        return self._strikes[seq]

    def _pause_ns(self, failures: int, bounds: Bounds) -> int:
        return round(full_jitter(failures, bounds, self._random) * 1e9)
