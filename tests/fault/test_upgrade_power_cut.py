# SPDX-License-Identifier: Apache-2.0
"""The power fails while a unit goes back to the package it had: once that is over, the pin and the sentence are whole.

A kill keeps what was written, and a power cut does not: without its pin the release that was not well comes again.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.simulators.power import crashes, record

LIFE = """
import sys
from pathlib import Path
from tests.fault.test_upgrade_taken_back import Machine
from tests.simulators.power import mark

machine = Machine(Path(sys.argv[1]))
machine.install("0.2.0")
machine.breaks("0.2.0")
mark("installed")
machine.judge()
assert machine.version == "0.1.0"
mark("judged")
"""
STATE, PIN = "root/var/lib/postern-upgrade", "root/etc/apt/preferences.d/postern-went-back"

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("dpkg-deb") is None or os.geteuid() != 0, reason="needs dpkg, and root for --root"),
]


def test_where_a_trial_is_over_the_pin_is_on_the_disk(work: Path) -> None:
    living = work / "living"
    living.mkdir()
    steps = record(["-c", LIFE, str(living)], living, work)
    ours = [one for one in steps if one.op in ("mark", "sync") or one.a.startswith((STATE, str(Path(PIN).parent)))]
    over = 0
    for crash in crashes(ours, seed=5, torn=4):
        if "installed" in crash.marks and f"{STATE}/trial" not in crash.files:
            where = f"step {crash.step}, {crash.kind}"
            assert crash.files.get(PIN) == b"Package: postern\nPin: version 0.2.0\nPin-Priority: -1\n", where
            assert b"release 0.2.0 was not well" in crash.files[f"{STATE}/went-back"], where
            over += 1
    assert over
