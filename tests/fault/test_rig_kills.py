# SPDX-License-Identifier: Apache-2.0
"""The runs that kill, themselves: on a starved machine they go on within a bound, and nothing of them outlives them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulators.broker import wait_until
from tools.lib.demo.site import CommandError
from tools.lib.rig import pulse_kills
from tools.lib.rig.nursery import BY_ITSELF, KILLED, TOO_LATE, Nursery

pytestmark = pytest.mark.timeout(240)

ROOT = Path(__file__).parents[2]
LOOK_S = 0.1  # a look at each process of the machine takes some of the time that the run needs
# A nursery whose workers are starved at some of their births, as if no keeper had answered in time.
STARVING = """
import sys
from pathlib import Path
from agent.config.load import load_config
from tools.lib.rig.nursery import STARVED, nurse
from tools.lib.rig.pulse_kills import live

late, folder = {late}, Path(sys.argv[1])
config = load_config(folder / "config.yaml")

def one(people):
    births = folder / "births"
    with births.open("a") as marks:
        marks.write("x")
    if births.stat().st_size in late:
        sys.exit(STARVED)
    live(folder, config, int(people))

nurse(one)
"""


def those_of(folder: Path) -> list[str]:
    """What runs with something of ``folder`` among its words: rig, nursery, workers, keepers."""
    found = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = one.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if os.fsencode(folder) in words:
            found.append(one.parent.name)
    return found


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("mode", ["pulses", "kills"])
def test_however_a_run_that_kills_is_ended_it_leaves_nothing_running_and_says_one_sentence(
    tmp_path: Path, mode: str, sent: signal.Signals
) -> None:
    rig = subprocess.Popen(
        [sys.executable, "-m", "tools.lib.guarded", "rig", mode, "--kills", "1000"],  # as tools/rig starts it
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # A worker there, and with pulses its keeper.
    wait_until(lambda: len(those_of(tmp_path)) >= (3 if mode == "pulses" else 2), 120, every_s=LOOK_S)
    rig.send_signal(sent)
    said, told = rig.communicate(timeout=60)
    if sent != signal.SIGKILL:
        assert (rig.returncode, said, told) == (130, "", "tools/rig: interrupted\n")
    wait_until(lambda: those_of(tmp_path) == [], every_s=LOOK_S)


def test_a_worker_that_is_starved_is_begun_anew_and_told(tmp_path: Path) -> None:
    program = ("-c", STARVING.format(late={1, 3, 4}))
    # By this seed none of the starved is killed before it has begun, which would be before it could say so.
    did, wrong, _ = pulse_kills.run(tmp_path, 4, seed=2, program=program)
    assert wrong == []
    assert (did[KILLED], did[TOO_LATE], did[BY_ITSELF]) == (4, 3, 0)


def test_a_machine_that_starves_every_worker_ends_the_run_which_says_so(tmp_path: Path) -> None:
    did, wrong, _ = pulse_kills.run(tmp_path, 100, seed=5, program=("-c", STARVING.format(late="range(10**6)")))
    assert did[TOO_LATE] == pulse_kills.MAX_AGAIN + 1
    assert wrong == [f"{did[KILLED]} of 100 workers were killed: run it again when this machine does less"]


@pytest.mark.parametrize("program", ["1 / 0", "import sys; sys.stdin.readline()"])
def test_a_nursery_that_ends_by_itself_is_one_sentence(program: str) -> None:
    def ask(workers: Nursery) -> None:
        workers.birth("1")
        workers.hear()

    with Nursery("-c", program) as workers, pytest.raises(CommandError, match="the nursery ended by itself"):
        ask(workers)


def test_a_worker_that_ends_by_itself_is_told_and_breaks_no_pipe() -> None:
    program = "import sys; from tools.lib.rig.nursery import nurse; nurse(lambda word: sys.exit(int(word)))"
    with Nursery("-c", program) as workers:
        for status, end in ((0, BY_ITSELF), (1, BY_ITSELF), (75, TOO_LATE)):
            workers.birth(str(status))
            assert workers.hear().startswith("born ")
            assert workers.hear() == end
