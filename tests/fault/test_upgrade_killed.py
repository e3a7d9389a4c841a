# SPDX-License-Identifier: Apache-2.0
"""An upgrade, and the way back, killed before each system call that changes anything: the old package or the new one.

``tests/simulators/kill_at.c`` counts those calls over apt's hook, dpkg and the judgement, and ends them all before one.
Then the machine starts, and judges what is open. POSTERN_EXHAUSTIVE=1 tries every call.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fault.test_upgrade_taken_back import UPGRADE, Machine

SOURCE = Path(__file__).parents[1] / "simulators" / "kill_at.c"
EXHAUSTIVE = os.environ.get("POSTERN_EXHAUSTIVE") == "1"
TRIED = 8  # of some hundreds, evenly, where not all are
KILLED = 137

pytestmark = [
    pytest.mark.timeout(3600 if EXHAUSTIVE else 600),
    pytest.mark.skipif(shutil.which("dpkg-deb") is None or os.geteuid() != 0, reason="needs dpkg, and root for --root"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler (cc)"),
]


class Killed:
    """A machine with 0.1.0, and the upgrade to 0.2.0 as apt does it, as often as one likes from the beginning."""

    def __init__(self, folder: Path) -> None:
        self.program, self._counted = folder / "kill_at", folder / "counted"
        subprocess.run(["cc", "-O1", "-o", self.program, SOURCE], check=True)
        self.machine = Machine(folder / "machine")
        self._package = self.machine.package("0.2.0")
        self._saved = folder / "saved"
        shutil.copytree(self.machine.folder, self._saved, symlinks=True)

    def again(self) -> None:
        shutil.rmtree(self.machine.folder)
        shutil.copytree(self._saved, self.machine.folder, symlinks=True)

    def upgrade(self, number: int) -> tuple[int, int]:
        """Killed before the ``number``-th change (0: never): exit status, and how many changes there were."""
        script = (
            f"echo {self._package} | {UPGRADE} keep && dpkg --root={self.machine.root} -i {self._package}"
            f" && {UPGRADE} judge"
        )
        done = self.machine.run(self.program, str(number), self._counted, "sh", "-c", script)
        if done.returncode == 125:
            pytest.skip("this machine lets nobody trace")
        return done.returncode, int(self._counted.read_text())


@pytest.mark.parametrize("well", [True, False], ids=["well", "broken"])
def test_a_kill_before_any_change_of_an_upgrade_leaves_the_package_of_before_or_of_after(
    tmp_path: Path, *, well: bool
) -> None:
    killed = Killed(tmp_path)
    machine = killed.machine

    def begin() -> None:
        killed.again()
        if not well:
            machine.breaks("0.2.0")

    begin()
    status, points = killed.upgrade(0)
    assert (status, machine.version, machine.trial) == (0, "0.2.0" if well else "0.1.0", False)
    found = set()
    tried = range(1, points + 1, 1 if EXHAUSTIVE else max(points // TRIED, 1))
    for number in tried:
        begin()
        assert killed.upgrade(number)[0] == KILLED, number
        machine.judge()
        assert not machine.trial, number
        assert machine.version in ({"0.1.0", "0.2.0"} if well else {"0.1.0"}), number
        assert well or not machine.pin or "release 0.2.0 was not well" in machine.said, number
        found.add(machine.version)
        machine.judge()
    print(f"{points} changes, killed before {len(tried)} of them")
    assert found == ({"0.1.0", "0.2.0"} if well else {"0.1.0"})
