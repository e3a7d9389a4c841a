# SPDX-License-Identifier: Apache-2.0
"""The power fails at any step of a unit's first boot: started again it ends by itself, as if nothing had been.

The script is the shipped one, and so are the conditions under which systemd starts it. ``postern`` and ``systemctl``
are played, as durable as they are: ``unit join`` and ``unit request`` keep what they made, a link of ``enable`` is a
name like any other. Boot partition and root are two disks, of which one may have kept what the other lost; the boot
partition is FAT, which keeps no order.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.simulators.power import Crash, crashes, record

CLOUD_INIT = Path(__file__).parents[2] / "deploy" / "cloud-init"
BOOTS = 3  # within which it is done
LIFE = """
import os, sys
from pathlib import Path
from tests.fault.test_first_boot_power_cut import start
from tests.simulators.power import mark

folder, name, programs = (Path(one) for one in sys.argv[1:])
(folder / "boot").mkdir()
(folder / "root").mkdir()
(folder / "boot" / name).write_text("good once")
(folder / "root" / "config.yaml").write_text("unit: {}")
os.sync()
mark("powered")
done = start(folder, programs)
assert done.returncode == 0, done.stderr
mark("done")
"""
PROGRAMS = {
    "timedatectl": "echo yes",
    "setpriv": 'shift 3; exec "$@"',
    "chown": "exit 0",
    "systemctl": ': >"$ROOT/enabled"',
    "postern": """
keep() { echo "$2" >"$ROOT/$1.new"; sync "$ROOT/$1.new"; mv "$ROOT/$1.new" "$ROOT/$1"; sync "$ROOT"; }
case "$1 $2" in
  "unit join") [ -s "$3" ] || exit 2
    keep joined joined ;;
  "unit request") [ -s "$4" ] || exit 2
    keep waiting "keys $$"
    echo "keys $$" ;;
esac""",
}


def start(folder: Path, programs: Path) -> subprocess.CompletedProcess[str]:
    """Run the first boot once, on the disks in ``folder``."""
    environment = {
        **os.environ,
        "PATH": f"{programs}:/usr/bin:/bin",
        "ROOT": str(folder / "root"),
        "POSTERN_BOOT": str(folder / "boot"),
        "POSTERN_CONFIG": str(folder / "root" / "config.yaml"),
    }
    return subprocess.run(
        ["sh", CLOUD_INIT / "first-boot"], env=environment, capture_output=True, text=True, timeout=30, check=False
    )


def is_due(boot: Path) -> bool:
    """Whether systemd starts it: the conditions of the unit's file, see systemd.unit(5)."""
    text = (CLOUD_INIT / "postern-first-boot.service").read_text()
    found = []
    for either, negated, pattern in re.findall(r"^ConditionPathExists(?:Glob)?=(\|?)(!?)(\S+)$", text, re.MULTILINE):
        place = pattern.replace("/boot/firmware", str(boot))
        head, _, rest = place.partition("{")
        names, _, tail = rest.partition("}")
        there = any(Path(head + name + tail).exists() for name in names.split(","))
        found.append((bool(either), there != bool(negated)))
    each = [holds for either, holds in found if not either]
    any_of = [holds for either, holds in found if either]
    return all(each) and (any(any_of) or not any_of)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("begins", "ends"), [("postern-invite", "postern-joined"), ("postern-token", "postern-request")]
)
def test_whatever_a_power_cut_left_of_a_first_boot_the_next_ones_complete_it(
    work: Path, begins: str, ends: str
) -> None:
    programs, living = work / "programs", work / "living"
    programs.mkdir()
    living.mkdir()
    for name, does in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)
    steps = record(["-c", LIFE, str(living), begins, str(programs)], living, work)
    tried = 0
    for crash in crashes(steps, seed=3, torn=8, machines=("boot", "root"), unordered=("boot",)):
        if "powered" in crash.marks:
            tried += 1
            complete(crash, work / "crashed", programs, ends)
    print(tried, "disks of", len(steps), "steps")
    assert tried > 5


def complete(crash: Crash, folder: Path, programs: Path, ends: str) -> None:
    """Start it anew, as often as its conditions hold."""
    where = f"step {crash.step}, {crash.kind}, {sorted(crash.files)}"
    crash.restore(folder)
    boot, root = folder / "boot", folder / "root"
    for _ in range(BOOTS):
        if not is_due(boot):
            break
        done = start(folder, programs)
        assert done.returncode == 0, f"{where}: {done.stderr}"
    assert not is_due(boot), where
    assert [path.name for path in boot.iterdir()] == [ends], where
    if ends == "postern-joined":
        assert (root / "joined").read_text() == "joined\n", where
        assert (root / "enabled").exists(), f"{where}: it joined, and is never started"
    else:
        request = (boot / ends).read_text()
        assert request == (root / "waiting").read_text(), f"{where}: the keys that the request names are gone"
