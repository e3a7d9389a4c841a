# SPDX-License-Identifier: Apache-2.0
"""Random faults against running units, one after the other: what a year in the field does, in an hour."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable

from agent.errors import StorageError
from agent.outbox.numbers import Head
from tools.lib.demo.brokers import DemoBroker
from tools.lib.rig.process import UnitProcess
from tools.lib.rig.proxy import FaultyProxy

PAUSE_S = (1.0, 5.0)  # shortest and longest time between two faults
FAULT_S = (0.3, 3.0)  # shortest and longest fault; an uplink's window for live events has 60 s
SLOW_S = (0.02, 0.2)  # delay per chunk of a slow link
TORN_BYTES = 1500  # of a write that a power cut ended


class Chaos:
    """Faults for a unit that is never killed (``steady``) and for one that is (``mortal``)."""

    def __init__(
        self,
        *,
        broker: DemoBroker,
        steady: tuple[UnitProcess, FaultyProxy],
        mortal: tuple[UnitProcess, FaultyProxy],
        seed: int,
    ) -> None:
        self._broker = broker
        self._mortal = mortal[0]
        self._units = (steady, mortal)
        self._dice = random.Random(seed)
        self._stop = threading.Event()
        self.done: Counter[str] = Counter()
        self.heads: list[Head] = []  # what the mortal unit had signed at each of its deaths
        self.starved = 0  # times the mortal unit ended because its disk was full while it started
        self.surprises: list[str] = []  # a unit that ended by itself
        self._faults: dict[str, Callable[[], None]] = {
            "kill": self._kill,
            "power cut": self._power_cut,
            "broker restart": self._restart_broker,
            "link cut": self._cut,
            "link refused": lambda: self._link("refuse"),
            "link half-open": lambda: self._link("silent"),
            "answers lost": lambda: self._link("deaf"),
            "link slow": self._slow,
            "disk full": self._fill_disk,
        }

    def run(self, seconds: float, *, look: Callable[[], None]) -> None:
        """Faults for ``seconds``; ``look`` is called about once a second."""
        left = seconds
        names = list(self._faults)
        while left > 0:
            name = self._dice.choice(names)
            self._faults[name]()
            self.done[name] += 1
            pause = self._dice.uniform(*PAUSE_S)
            left -= pause + self._spent
            self._spent = 0.0
            while pause > 0:
                look()
                self._stop.wait(min(pause, 1.0))
                pause -= 1.0
            self._look_after()

    _spent = 0.0  # seconds that the fault at hand took

    def _for_a_while(self) -> None:
        seconds = self._dice.uniform(*FAULT_S)
        self._spent += seconds
        self._stop.wait(seconds)

    def _any(self) -> tuple[UnitProcess, FaultyProxy]:
        return self._dice.choice(self._units)

    def _look_after(self) -> None:
        """Nothing but a full disk while it starts may end a unit."""
        for unit, _ in self._units:
            if not unit.running:
                self.surprises.append(unit.log[-1] if unit.log else "ended without a word")
                unit.start()

    def _kill(self) -> None:
        self._mortal.kill()
        self.heads.append(self._mortal.head())
        self._mortal.start()

    def _power_cut(self) -> None:
        self._mortal.kill()
        self.heads.append(self._mortal.head())
        self._mortal.tear(self._dice.randbytes(TORN_BYTES))
        self._mortal.start()

    def _restart_broker(self) -> None:
        self._broker.stop()
        self._for_a_while()
        self._broker.start()

    def _cut(self) -> None:
        _, proxy = self._any()
        proxy.cut()

    def _link(self, fault: str) -> None:
        _, proxy = self._any()
        setattr(proxy, fault, True)
        if fault == "refuse":
            proxy.cut()
        self._for_a_while()
        proxy.heal()

    def _slow(self) -> None:
        _, proxy = self._any()
        proxy.delay_s = self._dice.uniform(*SLOW_S)
        self._for_a_while()
        proxy.heal()

    def _fill_disk(self) -> None:
        unit, _ = self._any()
        unit.fill_disk(full=True)
        self._for_a_while()
        unit.fill_disk(full=False)
        # A unit that cannot open its stores ends with advice, as it should, and systemd starts it again. Only the
        # mortal one may be starting now; one that runs waits for space.
        if unit is self._mortal and not unit.running and unit.wait(0) == StorageError.exit_status:
            self.starved += 1
            unit.start()
