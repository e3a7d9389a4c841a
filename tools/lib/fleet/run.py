# SPDX-License-Identifier: Apache-2.0
"""A fleet speaks against a broker while things go wrong; then what was signed is held against what was verified."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import RefusedError
from agent.outbox.numbers import Head
from tools.lib.fleet.audit import Audit
from tools.lib.fleet.books import Undelivered, find
from tools.lib.fleet.brokers import OwnBroker, own_broker
from tools.lib.fleet.report import Report, overtaken, percentiles
from tools.lib.fleet.site import FleetSite
from tools.lib.rig.ledger import Balance, balance
from tools.lib.rig.process import head_of
from tools.lib.rig.proxy import FaultyProxy

PER_PROCESS = 25  # units, each with a thread
END_S = 90.0
SETTLE_S = 60.0  # without an event: longer than the first pauses of whoever asks again
MAX_SETTLE_S = 300.0
FAULT_EVERY_S = 5.0
DOWN_S = 1.0  # a broker that was killed
LOOPBACK = "127.0.0.1"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Group:
    """Units in one process; ``link`` stands between them and the broker where links are to be cut."""

    command: list[str]
    link: FaultyProxy | None
    process: subprocess.Popen[str] | None = None
    cpu_s: float = 0.0  # of processes that were killed

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait_until_it_speaks(self) -> None:
        """What is measured begins then: on a busy machine, units take longer to start than lies between two faults."""
        self._told()

    def kill(self) -> None:
        """As ``kill -9`` or a power cut: what was signed is in the outboxes."""
        if self.process is not None:
            self.cpu_s += cpu_of(self.process.pid) or 0.0
            self.process.kill()
            self.process.communicate()

    def quieten(self) -> dict[str, Head]:
        """Let the units deliver what they have, and say nothing new; where their chains end."""
        if self.process is not None and self.process.stdin and self.process.stdout:
            self.process.stdin.write("stop\n")
            self.process.stdin.flush()
            told = json.loads(self._told())
            self.cpu_s += told["cpu_s"]
            return {name: Head(*head) for name, head in told["heads"].items()}
        return {}

    def _told(self) -> str:
        """The next line of the process; RefusedError where it has ended."""
        told = self.process.stdout.readline() if self.process is not None and self.process.stdout else ""
        if not told:
            raise RefusedError("a process with units ended by itself: look above")
        return told

    def finish(self) -> None:
        """End the units, which answer until then."""
        if self.process is not None:
            self.process.communicate("end\n", timeout=END_S)
            self.process = None


@dataclass(slots=True)
class Plan:
    """How a fleet is run; ``faults`` are of ``kill``, and with a broker of its own ``cut`` and ``broker``.

    ``broker`` is one that is there, ``pids`` are its processes where they run on this machine.
    """

    rate: float
    seconds: float
    faults: Sequence[str] = ()
    broker: tuple[str, int] | None = None
    pids: Sequence[int] = ()
    done: Counter[str] = field(default_factory=Counter)
    speaking: threading.Event = field(default_factory=threading.Event)  # set once every unit speaks


def run(fleet: FleetSite, plan: Plan) -> Report:
    """Run it; RefusedError where the fleet or its broker is not there."""
    names = fleet.names()
    with ExitStack() as stack:
        broker = None if plan.broker else stack.enter_context(own_broker(fleet.files))
        host, port = plan.broker or (LOOPBACK, broker.port if broker else 0)
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="postern-fleet-"))) / "seen.db"
        audit = stack.enter_context(Audit(fleet, host, port, state=state))
        groups = [_group(fleet, part, plan, host, port, stack, share=len(part) / len(names)) for part in _parts(names)]
        before = {name: head_of(fleet.unit(name) / "outbox.db").seq for name in names}
        spent = _Spent(broker.pids if broker else lambda: list(plan.pids))
        for group in groups:
            group.start()
            stack.callback(group.kill)
        for group in groups:
            group.wait_until_it_speaks()
        plan.speaking.set()
        began = time.monotonic()
        _live(plan, groups, broker, spent)
        heads = {name: head for group in groups for name, head in group.quieten().items()}
        seconds = time.monotonic() - began
        _settle(lambda: len(audit.arrived), sum(head.seq - before[name] for name, head in heads.items()))
        cpu_s = spent.total()
        for group in groups:
            group.finish()
    books = {name: balance([head], audit.events.get(name, []), after=before[name]) for name, head in heads.items()}
    where = {
        name: find(
            fleet.unit(name) / "outbox.db",
            (seq for seq in range(before[name] + 1, head.seq + 1) if (name, seq) not in audit.arrived),
        )
        for name, head in heads.items()
    }
    units_s = sum(one.cpu_s for one in groups)
    return _report(fleet, plan, audit, books, where, seconds=seconds, units_s=units_s, broker_s=cpu_s)


def cpu_of(pid: int) -> float | None:
    """CPU seconds of a process so far; None when it is not one of this machine."""
    with suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS
    return None


class _Spent:
    """CPU seconds of a broker's processes, also of those that are killed and started again."""

    def __init__(self, pids: Callable[[], Sequence[int]]) -> None:
        self._pids = pids
        self._ended = 0.0  # of processes that were killed
        self._base = {pid: cpu_of(pid) for pid in pids()}

    def over(self, crash: Callable[[], None]) -> None:
        """Let some of them end and others begin."""
        used = self._used()
        crash()
        now = set(self._pids())
        self._ended += sum(spent or 0.0 for pid, spent in used.items() if pid not in now)
        self._base = {pid: self._base.get(pid, 0.0) for pid in now}

    def total(self) -> float | None:
        """None where they are not of this machine."""
        used = [spent for spent in self._used().values() if spent is not None]
        return self._ended + sum(used) if used and len(used) == len(self._base) else None

    def _used(self) -> dict[int, float | None]:
        now = {pid: cpu_of(pid) for pid in self._base}
        return {
            pid: None if now[pid] is None or base is None else (now[pid] or 0.0) - base
            for pid, base in self._base.items()
        }


def _parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(names), PER_PROCESS):
        yield names[first : first + PER_PROCESS]


def _group(
    fleet: FleetSite, names: Sequence[str], plan: Plan, host: str, port: int, stack: ExitStack, *, share: float
) -> Group:
    link = stack.enter_context(FaultyProxy(port)) if "cut" in plan.faults else None
    place = (host, str(port)) if link is None else (LOOPBACK, str(link.port))
    rate = str(plan.rate * share)
    return Group([sys.executable, "-m", "tools.lib.fleet.worker", str(fleet.folder), *place, rate, *names], link)


def _live(plan: Plan, groups: list[Group], broker: OwnBroker | None, spent: _Spent) -> None:
    """Let them speak; every few seconds one fault, in turn."""
    end, turn = time.monotonic() + plan.seconds, 0
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(FAULT_EVERY_S, left))
        if not plan.faults or end - time.monotonic() < FAULT_EVERY_S:
            continue
        fault, turn, began = plan.faults[turn % len(plan.faults)], turn + 1, time.monotonic()
        plan.done[fault] += 1
        group = random.choice(groups)
        if fault == "kill":
            group.kill()
            group.start()
            group.wait_until_it_speaks()
        elif fault == "cut" and group.link is not None:
            group.link.cut()
        elif fault == "broker" and broker is not None:
            spent.over(broker.crash)
        end += time.monotonic() - began  # until what was killed is back, nobody speaks


def _settle(arrived: Callable[[], int], signed: int) -> None:
    """Wait for what is on its way or asked for again, as long as anything comes."""
    last, quiet = time.monotonic() + MAX_SETTLE_S, time.monotonic() + SETTLE_S
    before = arrived()
    while before < signed and time.monotonic() < min(last, quiet):
        time.sleep(0.1)
        if (now := arrived()) > before:
            before, quiet = now, time.monotonic() + SETTLE_S


def _report(
    fleet: FleetSite,
    plan: Plan,
    audit: Audit,
    books: dict[str, Balance],
    where: dict[str, Undelivered],
    *,
    seconds: float,
    units_s: float,
    broker_s: float | None,
) -> Report:
    refused = {reason: count for reason, count in audit.refused.items() if reason != "duplicate"}
    late = sum(one.late for events in audit.events.values() for one in events)
    return Report(
        units=len(books),
        seconds=seconds,
        signed=sum(one.signed for one in books.values()),
        delivered=sum(one.verified for one in books.values()),
        lost=sum(one.lost for one in books.values()) - sum(len(one.waiting) for one in where.values()),
        waiting={name: one.waiting for name, one in where.items() if one.waiting},
        kept={name: one.kept for name, one in where.items() if one.kept},
        altered=sum(one.altered for one in books.values()),
        repeated=audit.refused["duplicate"],
        refused=refused,
        late=late,
        overtaken=sum(overtaken((one.event.data.seq, one.late) for one in events) for events in audit.events.values()),
        latency_ms=percentiles(list(_latencies(fleet, audit))),
        units_cpu_s=units_s,
        subscriber_cpu_s=audit.cpu_s,
        broker_cpu_s=broker_s,
        faults=dict(plan.done),
    )


def _latencies(fleet: FleetSite, audit: Audit) -> Iterator[float]:
    """Milliseconds of each event that came; a line that a kill cut short is left out."""
    for name in fleet.names():
        file = fleet.unit(name) / "signed"
        for line in file.read_text().splitlines() if file.exists() else ():
            seq, _, signed = line.partition(" ")
            if signed and (arrived := audit.arrived.get((name, int(seq)))) is not None:
                yield (arrived - float(signed)) * 1000
