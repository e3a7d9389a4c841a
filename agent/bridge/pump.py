# SPDX-License-Identifier: Apache-2.0
"""One output's thread: reads what it did not have, hands it over, moves its place. What stops it stops no other."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from agent.bridge.outputs import Item, Output, Sent
from agent.bridge.people import Person
from agent.bridge.records import Body, Record
from agent.bridge.store import Store
from agent.clock import Bounds, Clock, full_jitter
from agent.errors import PosternError, printable

WAIT_S = 0.5  # how late a request to stop may be noticed
STUCK_NS = 120_000_000_000  # beyond every timeout of an output
STUCK = "it has not come back for two minutes and is waited for: look at what receives, then restart the bridge"
AGAIN_S = Bounds(1.0, 2.0, 300.0)  # pauses of an output that does not take records


@dataclass(eq=False)
class Pump:
    """``step`` is all that the thread does between two waits; a test may call it instead of ``start``."""

    name: str
    output: Output
    _: KW_ONLY
    store: Store
    clock: Clock
    random: Callable[[int], bytes]
    person: Callable[[Body], Person | None] | None  # who an event is about, for an output that may know
    on_notice: Callable[[str], None]
    on_state: Callable[[str, bool], None]  # whether it is failing

    def __post_init__(self) -> None:
        """Start nothing yet."""
        self._failures = 0
        self._told: str | None = None
        self._busy_ns: int | None = None  # since when the output has had the word
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"postern-{self.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Begin nothing more; ``stop`` waits for what is in hand."""
        self._stopping.set()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End soon, and close the output, also where the thread was never started."""
        self.end()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        elif self._thread.ident is None:
            self._close()

    def step(self, timeout_s: float = 0.0) -> float:
        """Hand over one batch; seconds to wait before the next."""
        try:
            records = self.store.upcoming(self.name, self.output.batch, timeout_s)
            self._busy_ns = self.clock.monotonic_ns()
            now_s = int(self.clock.now().timestamp())
            if records:
                sent = self.output.send([self._item(record) for record in records], now_s)
                if sent.through:
                    self.store.passed(self.name, sent.through, sent.dead, now_s)
                for record, reason in sent.dead:
                    self.on_notice(f"output {self.name}: {record.key} is a dead letter: {reason}")
            else:
                self.output.idle(now_s)
                sent = Sent()
        except PosternError as error:
            sent = Sent(problem=str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about this output alone
            sent = Sent(problem=f"it failed ({_where(error)}): report this")
        finally:
            self._busy_ns = None
        return self._judge(sent)

    def look(self) -> None:
        """Say of an output that it does not come back; called by another thread now and then."""
        busy_ns = self._busy_ns
        if busy_ns is None or self.clock.monotonic_ns() - busy_ns < STUCK_NS:
            return
        self.on_state(self.name, True)  # noqa: FBT003
        if self._told != STUCK:
            self._told = STUCK
            self.on_notice(f"output {self.name}: {STUCK}")

    def _run(self) -> None:
        while not self._stopping.is_set():
            if (wait_s := self.step(WAIT_S)) > 0:
                self._stopping.wait(wait_s)
        self._close()

    def _close(self) -> None:
        try:
            self.output.close()
        except Exception as error:  # noqa: BLE001 - it is over anyway
            self.on_notice(f"output {self.name} did not close: {printable(str(error))}")

    def _item(self, record: Record) -> Item:
        return Item(record, None if self.person is None else self.person(record.body))

    def _judge(self, sent: Sent) -> float:
        if self._stopping.is_set():  # what ends beneath it is no failure
            return 0.0
        if sent.problem is None:
            if self._told is not None:
                self.on_notice(f"output {self.name} works again")
            if self._failures:
                self.on_state(self.name, False)  # noqa: FBT003 - what it says of it
            self._failures, self._told = 0, None
            return 0.0
        self._failures = 1 if sent.through else self._failures + 1
        self.on_state(self.name, True)  # noqa: FBT003
        if sent.problem != self._told:  # one sentence, however long it lasts
            self._told = sent.problem
            self.on_notice(f"output {self.name}: {sent.problem}")
        return full_jitter(self._failures, AGAIN_S, self.random)


def _where(error: Exception) -> str:
    """What failed and where in this program; not the exception's own words, which may hold a secret or a person."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"
