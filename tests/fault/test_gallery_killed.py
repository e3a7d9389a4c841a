# SPDX-License-Identifier: Apache-2.0
"""kill -9 at any moment, to a real process on a real file system. POSTERN_EXHAUSTIVE=1 kills a thousand times."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

from agent.clock import SimulatedClock
from tests.simulators.gallery_life import MODEL, open_store

KILLS = 1000 if os.environ.get("POSTERN_EXHAUSTIVE") == "1" else 4

# Says each subject before and after it is enrolled or erased, until it is killed: maybe in the middle of a line.
LIFE = """
import itertools, sys
import numpy as np
from pathlib import Path
from agent.clock import SimulatedClock
from tests.simulators.gallery_life import MODEL, captures, consent, open_store

clock, rng = SimulatedClock(), np.random.default_rng(int(sys.argv[2]))
store = open_store(Path(sys.argv[1]), clock)
held = [h.subject for h in store.list()]
for number in itertools.count():
    if number % 3 or not held:
        held.append(store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL))
        print("enrolled", held[-1].hex(), flush=True)
    else:
        print("begin", held[0].hex(), flush=True)
        store.erase(held[0])
        print("erased", held.pop(0).hex(), flush=True)
"""


def test_killed_at_any_moment_nothing_promised_is_lost_and_nothing_erased_comes_back(tmp_path: Path) -> None:
    rng = random.Random(5)
    held: set[str] = set()
    erased: set[str] = set()
    for number in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-c", LIFE, str(tmp_path), str(number)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        said = [process.stdout.readline()]  # it is under way
        try:
            process.wait(timeout=rng.uniform(0, 0.4))
        except subprocess.TimeoutExpired:
            process.kill()
        said += [line for line in process.stdout.readlines() if line.endswith("\n")]  # not what it did not get to say
        process.wait()
        process.stdout.close()
        assert process.returncode == -9
        asked: set[str] = set()
        for line in said:
            event, subject = line.split()
            {"enrolled": held, "begin": asked, "erased": erased}[event].add(subject)
        held -= erased
        with open_store(tmp_path, SimulatedClock()) as store:
            now = {h.subject.hex() for h in store.list()}
            assert held - asked <= now
            assert not now & erased
            assert set(store.references(MODEL).subjects) == {bytes.fromhex(s) for s in now}
        on_disk = b"".join(p.read_bytes() for p in tmp_path.iterdir())
        assert not [s for s in erased | (asked - now) if bytes.fromhex(s) in on_disk]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["gallery.db", "gallery.db.lock", "kek", "time.json"]
        held = now
