# SPDX-License-Identifier: Apache-2.0
"""The packaged service under a real systemd: however that ends a unit which hangs in a pulse, its line goes off."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.simulators.broker import wait_until
from tests.simulators.hanging_unit import LINE
from tests.simulators.manager import Manager, usable
from tools.lib.rig.board import Board, serve

pytestmark = [
    pytest.mark.skipif(not usable(), reason="needs root, systemd and control groups"),
    pytest.mark.timeout(300),
]

ROOT = Path(__file__).parents[2]
SERVICE = (ROOT / "deploy" / "postern.service").read_text()
# What decides how it ends; sandbox, user and program are not this test's. ExecStopPost is left out: 'door-off' would
# switch off what the keeper left on.
ENDS = re.compile(
    r"^(Type|NotifyAccess|KillMode|KillSignal|WatchdogSignal|SendSIGKILL|TimeoutStopSec)=.*$", re.MULTILINE
)
WATCHDOG_S = 3
MAX_ON_S = 10.0  # after the act; milliseconds on a machine that is not starved, TimeoutStopSec where nobody hears it
UNHEARD_S = 2.0


class Unit:
    """The service, hanging in a pulse on a board that leaves on what nobody switches off."""

    def __init__(self, manager: Manager, folder: Path, stack: ExitStack) -> None:
        self.manager, self._folder = manager, folder
        self.board = Board(time.monotonic)
        stack.enter_context(serve(self.board, folder / "board"))

    def start(self, **changes: str) -> None:
        """Start it; ``changes`` are settings of the service's file."""
        lines = [found[0] for found in ENDS.finditer(SERVICE)]
        program = f"{sys.executable} -m tests.simulators.hanging_unit {self._folder / 'board'}"
        lines += [f"ExecStart={program}", f"WorkingDirectory={ROOT}", "WatchdogSec=0"]
        lines += [f"{name}={value}" for name, value in changes.items()]
        text = "\n".join(["[Unit]", "DefaultDependencies=no", "[Service]", *lines])
        (self.manager.units / "postern.service").write_text(text + "\n")
        self.manager.systemctl("daemon-reload")
        self.manager.systemctl("start", "--no-block", "postern.service")
        wait_until(lambda: self.state() in ("active", "failed"))
        assert self.state() == "active", self.manager.systemctl("status", "postern.service")

    def state(self) -> str:
        return self.manager.systemctl("is-active", "postern.service")

    def on_s(self) -> float | None:
        """Since when the line is on."""
        return next((one.on_s for one in self.board.pulses if one.line == LINE and one.off_s is None), None)


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Unit]:
    with ExitStack() as stack:
        yield Unit(stack.enter_context(Manager(tmp_path)), tmp_path, stack)


@pytest.mark.parametrize(
    "act",
    [
        ("stop", "--no-block"),
        ("kill", "--kill-whom=main", "--signal=KILL"),
        ("kill", "--signal=ABRT"),
        ("kill", "--signal=TERM"),
    ],
    ids=" ".join,
)
def test_a_unit_that_hangs_in_a_pulse_leaves_no_line_on_when_it_is_ended(unit: Unit, act: tuple[str, ...]) -> None:
    unit.start()
    assert unit.on_s() is not None
    began = time.monotonic()
    unit.manager.systemctl(*act, "postern.service")
    wait_until(lambda: unit.on_s() is None)
    off_s = unit.board.pulses[0].off_s
    assert off_s is not None
    print(f"{' '.join(act)}: off after {off_s - began:.3f} s")
    assert off_s - began < MAX_ON_S


def test_a_unit_that_gives_no_sign_of_life_leaves_no_line_on(unit: Unit) -> None:
    """The watchdog's SIGABRT reaches the keeper, too, while the unit itself hangs on."""
    unit.start(WatchdogSec=str(WATCHDOG_S))
    began = unit.on_s()
    assert began is not None
    wait_until(lambda: unit.on_s() is None)
    off_s = unit.board.pulses[0].off_s
    assert off_s is not None
    assert off_s - began < WATCHDOG_S + 2 * MAX_ON_S
    assert unit.state() in ("deactivating", "active"), "it ended before the unit was killed"


def test_with_another_kill_mode_the_keeper_would_not_hear_of_a_stop(unit: Unit) -> None:
    """So that the tests above are about the file's setting."""
    unit.start(KillMode="mixed")
    unit.manager.systemctl("stop", "--no-block", "postern.service")
    wait_until(lambda: unit.state() == "deactivating")
    time.sleep(UNHEARD_S)  # the machine's time: systemd's is no clock that could be passed in
    assert unit.on_s() is not None
