# SPDX-License-Identifier: Apache-2.0
"""What one Mosquitto holds, as it is deployed: its queues, packets, deliveries, sessions, and what a kill costs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agent.clock import SystemClock
from agent.errors import RefusedError
from agent.mqtt.connection import Connection
from agent.mqtt.records import BrokerSettings
from agent.mqtt.refusals import ConnectionLostError
from agent.subscribe.subscriber import DURABLE_S
from tools.lib.demo.brokers import DemoBroker
from tools.lib.fleet.run import LOOPBACK, cpu_of
from tools.lib.fleet.site import PROGRAM, SITE, FleetSite
from tools.lib.rig.process import usage_of

EVENT_BYTES = 1100  # of a signed match, as a unit of a fleet says it
WINDOW = 200  # publishes without an answer at once; paho itself sends fewer
ANSWER_S = 20.0
QUIET_S = 1.0  # after which nothing more comes
LARGEST = 40_000  # bytes, beyond what is deployed
MAX_SESSIONS = 400  # of this process: select() takes no file beyond 1024


@dataclass(frozen=True, slots=True)
class Queue:
    """A session that is away: how many messages were said and taken, and kept for it; which of them, and at what cost.

    ``delivered_a_second`` is of one core of the broker: by its CPU time, not by how fast the subscriber reads.
    """

    said: int
    taken: int
    kept: int
    kept_are_the_oldest: bool
    memory_mib: float
    delivered_a_second: float


@dataclass(frozen=True, slots=True)
class Limits:
    """``unanswered``: messages that it sends before the first acknowledgement, to a client that takes 32 at once.

    ``kept_over_…``: of what waited.
    """

    queue: Queue
    live_a_second: float
    unanswered: int
    largest_payload_bytes: int
    larger_is_answered: str
    waited: int
    kept_over_stop: int
    kept_over_kill: int
    kept_over_kill_after_s: dict[str, int]
    sessions: int
    session_kib: float
    session_cpu_ms: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class _Bench:
    """A Mosquitto of its own, units of the site, and the program that listens."""

    def __init__(self, fleet: FleetSite, broker: DemoBroker) -> None:
        self._fleet, self._broker, self._clock = fleet, broker, SystemClock()
        self.topic = f"postern/{SITE}/{fleet.names()[0]}/event/match"

    @property
    def pid(self) -> int:
        if self._broker.pid is None:
            raise RefusedError("Mosquitto is gone: its log says why")
        return self._broker.pid

    def cpu_s(self) -> float:
        return cpu_of(self.pid) or 0.0

    def memory_kib(self) -> int:
        return usage_of(self.pid).resident_kib

    def restart(self, *, killed: bool) -> None:
        if killed:
            self._broker.crash()
        else:
            self._broker.stop()
            self._broker.start()

    def unit(self, name: str) -> Connection:
        settings = BrokerSettings(LOOPBACK, self._fleet.credentials(name), port=self._broker.port)
        connection = Connection(settings, client_id=name, clock=self._clock)
        connection.open()
        return connection

    @contextmanager
    def auditor(self, *, keep: bool, manual: bool = False) -> Iterator[Connection]:
        """The durable session of the one program; ``keep`` leaves it at the broker."""
        settings = BrokerSettings(LOOPBACK, self._fleet.program(), port=self._broker.port)
        connection = Connection(
            settings, client_id=PROGRAM, clock=self._clock, session_expiry_s=DURABLE_S, manual_ack=manual
        )
        connection.open()
        connection.subscribe(f"postern/{SITE}/+/event/+")
        try:
            yield connection
        finally:
            connection.close(keep_session=keep)

    def leave(self) -> None:
        """Have a session that is away, and nothing in it."""
        with self.auditor(keep=False):
            pass
        with self.auditor(keep=True):
            pass

    def say(self, count: int, first: int = 0) -> int:
        """Publish numbered messages as fast as the broker answers; how many it took."""
        speaker = self.unit(self._fleet.names()[0])
        taken, said, answered = 0, 0, 0
        while answered < count:
            while said < count and said - answered < WINDOW:
                speaker.publish(self.topic, _numbered(first + said))
                said += 1
            acks = speaker.poll(ANSWER_S).acks
            answered += len(acks)
            taken += sum(ack.accepted for ack in acks)
        speaker.close()
        return taken

    def hear(self) -> list[int]:
        """The numbers of what waits for the session that was away."""
        with self.auditor(keep=False) as listener:
            return self.heard(listener)

    def heard(self, listener: Connection, most: int | None = None) -> list[int]:
        found: list[int] = []
        end = time.monotonic() + QUIET_S
        while time.monotonic() < end and (most is None or len(found) < most):
            if messages := listener.poll(0.1).messages:
                found += [int(message.payload.split(maxsplit=1)[0]) for message in messages]
                end = time.monotonic() + QUIET_S
        return found


def measure(folder: Path, *, sessions: int, said: int, waited: int, saved_after_s: tuple[float, ...]) -> Limits:
    """Measure everything, in some minutes; RefusedError where there is no Mosquitto, or too many sessions are asked."""
    if not 1 <= sessions <= MAX_SESSIONS:
        raise RefusedError(f"--sessions is from 1 to {MAX_SESSIONS}")
    fleet = FleetSite(folder / "fleet")
    fleet.join(sessions, LOOPBACK)
    with DemoBroker(fleet.files, folder / "broker") as broker:
        if broker.protocol != "5":
            raise RefusedError("there is no Mosquitto to measure: apt-get install mosquitto")
        bench = _Bench(fleet, broker)
        queue = _queue(bench, said)
        live = _live(bench, waited)
        unanswered = _unanswered(bench)
        largest, answer = _packet(bench)
        session_kib, session_cpu_s = _sessions(bench, fleet.names())
        over_stop = _over(bench, waited, killed=False)
        over_kill = _over(bench, waited, killed=True)
        later = {f"{pause_s:g}": _over(bench, waited, killed=True, pause_s=pause_s) for pause_s in saved_after_s}
    return Limits(
        queue=queue,
        live_a_second=live,
        unanswered=unanswered,
        largest_payload_bytes=largest,
        larger_is_answered=answer,
        waited=waited,
        kept_over_stop=over_stop,
        kept_over_kill=over_kill,
        kept_over_kill_after_s=later,
        sessions=sessions,
        session_kib=session_kib,
        session_cpu_ms=session_cpu_s * 1000,
    )


def _queue(bench: _Bench, said: int) -> Queue:
    bench.leave()
    before_kib = bench.memory_kib()
    taken = bench.say(said)
    memory_mib = (bench.memory_kib() - before_kib) / 1024
    began_s = bench.cpu_s()
    numbers = bench.hear()
    spent_s = bench.cpu_s() - began_s
    oldest = numbers == list(range(len(numbers)))
    return Queue(said, taken, len(numbers), oldest, memory_mib, len(numbers) / max(spent_s, 0.01))


def _live(bench: _Bench, count: int) -> float:
    """Messages a second that one core takes from a unit and delivers at once."""
    with bench.auditor(keep=False) as listener:
        speaker, began_s, answered, got = bench.unit("unit-0001"), bench.cpu_s(), 0, 0
        for number in range(count):
            speaker.publish(bench.topic, _numbered(number))
        end = time.monotonic() + ANSWER_S
        while (answered < count or got < count) and time.monotonic() < end:
            answered += len(speaker.poll(0.0).acks)
            got += len(listener.poll(0.0).messages)
        speaker.close()
    return got / max(bench.cpu_s() - began_s, 0.01)


def _unanswered(bench: _Bench) -> int:
    with bench.auditor(keep=False, manual=True) as listener:
        bench.say(500)
        return len(bench.heard(listener))


def _packet(bench: _Bench) -> tuple[int, str]:
    """The largest payload that it takes, and what becomes of a larger one."""
    taken, refused, answer = 1, LARGEST, ""
    while refused - taken > 1:
        size = (taken + refused) // 2
        speaker = bench.unit("unit-0001")
        speaker.publish(bench.topic, bytes(size))
        try:
            while not (acks := speaker.poll(ANSWER_S).acks):
                pass
            told = "" if acks[0].accepted else f"reason {acks[0].reason:#x}"
        except ConnectionLostError as error:
            reason = re.search(r"reason (0x[0-9a-f]+)", str(error))
            told = f"the connection ends (reason {reason[1] if reason else 'unknown'})"
        speaker.abandon()
        taken, refused, answer = (size, refused, answer) if not told else (taken, size, told)
    return taken, answer


def _over(bench: _Bench, count: int, *, killed: bool, pause_s: float = 0.0) -> int:
    """How many of the messages that waited are there after the broker's end; the session itself was saved before."""
    bench.leave()
    bench.restart(killed=False)
    bench.say(count)
    time.sleep(pause_s)
    bench.restart(killed=killed)
    return len(bench.hear())


def _sessions(bench: _Bench, names: list[str]) -> tuple[float, float]:
    """KiB and CPU seconds of each."""
    before_kib, began_s = bench.memory_kib(), bench.cpu_s()
    units = [bench.unit(name) for name in names]
    used = (bench.memory_kib() - before_kib) / len(names), (bench.cpu_s() - began_s) / len(names)
    for unit in units:
        unit.close()
    return used


def _numbered(number: int) -> bytes:
    return b"%d " % number + bytes(EVENT_BYTES)
