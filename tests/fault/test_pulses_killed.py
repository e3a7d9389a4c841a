# SPDX-License-Identifier: Apache-2.0
"""Kill -9 and power cuts around pulses: no output is left on, and nobody gets two pulses for one right.

POSTERN_EXHAUSTIVE=1 kills a thousand times and cuts the power after every write.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from agent.clock import SimulatedClock
from agent.door.rights import Rights, TokenUse
from tests.simulators.power import crashes, record
from tools.lib.rig.pulse_kills import run

EXHAUSTIVE = os.environ.get("POSTERN_EXHAUSTIVE") == "1"
KILLS = 1000 if EXHAUSTIVE else 40
HOUR_S = 3600


def token_of(owner: str) -> TokenUse:
    """One token each; with it alone, and no waiting, somebody has one right."""
    return TokenUse(owner[-12:].encode(), SimulatedClock().now() + timedelta(days=30))


RIGHTS: dict[str, tuple[int, Callable[[str], TokenUse | None]]] = {
    "cooldown": (HOUR_S, lambda _: None),
    "token": (0, token_of),
}

# A mark is what the world has seen: the pulse comes right after ``take``.
LIFE = """
import sys
from pathlib import Path
from agent.clock import SimulatedClock
from agent.door.rights import Rights
from tests.fault.test_pulses_killed import RIGHTS
from tests.simulators.power import mark

cooldown_s, token = RIGHTS[sys.argv[2]]

with Rights(Path(sys.argv[1]) / "rights.db", SimulatedClock()) as rights:
    for number in range(14):
        owner = f"sha256:{number % 5:064x}"
        if number % 6 == 5:
            mark(f"erasing {owner}")
            rights.erase(owner)
            mark(f"erased {owner}")
        else:
            mark(f"taking {owner}")
            if rights.take("portion", owner, cooldown_s, token(owner)):
                mark(f"pulse {owner}")
"""


@pytest.mark.timeout(60 + 2 * KILLS)
def test_a_killed_unit_leaves_no_output_on_and_gives_nobody_two_pulses(tmp_path: Path) -> None:
    did, wrong, on_s = run(tmp_path, KILLS, seed=7)
    print(f"lines were on for {1000 * max(on_s):.0f} ms at most after a death")
    assert wrong == []  # a line that is on for longer than a second after a death is among them
    assert did["killed"] == KILLS
    assert did["pulses"] > KILLS / 2, "the workers open nothing"
    assert did["in a pulse"] > KILLS / 2, "the deaths fall between the pulses"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", RIGHTS)
def test_after_a_power_cut_at_any_write_no_right_is_used_twice_and_nobody_erased_is_left(work: Path, kind: str) -> None:
    cooldown_s, token = RIGHTS[kind]
    living, crashed = work / "living", work / "crashed"
    living.mkdir()
    steps = record(["-c", LIFE, str(living), kind], living, work)
    assert len([step for step in steps if step.op == "write"]) > 30, "the record shows no writes"
    tried = 0
    for crash in crashes(steps, seed=3, every=1 if EXHAUSTIVE else 5, torn=3 if EXHAUSTIVE else 1):
        crash.restore(crashed)
        used: set[str] = set()
        erased: set[str] = set()
        for event, owner in (text.split(" ") for text in crash.marks):
            if event == "taking":  # somebody of that name is there again
                erased.discard(owner)
            elif event == "pulse":
                used.add(owner)
            else:  # from the moment at which it is asked for
                used.discard(owner)
                if event == "erased":
                    erased.add(owner)
        on_disk = b"".join(file.read_bytes() for file in crashed.rglob("*") if file.is_file())
        if "rights.db" in crash.files:
            with Rights(crashed / "rights.db", SimulatedClock()) as rights:
                for owner in sorted(used):
                    assert not rights.take("portion", owner, cooldown_s, token(owner)), (
                        f"step {crash.step}, {crash.kind}: two pulses"
                    )
        assert not [one for one in erased if one.encode() in on_disk], f"step {crash.step}, {crash.kind}: left"
        tried += 1
    assert tried > 20
