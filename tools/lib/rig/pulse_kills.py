# SPDX-License-Identifier: Apache-2.0
"""Kill -9 in the middle of pulses: no output is left on, and nobody gets two pulses for one right.

A worker opens the door of a unit as the service does (rights on disk, rules, outputs, a keeper that holds the lines) on
the lines of a board that lives in this process, and matches people; it is killed at a random moment of each of its
lives. The board leaves a line on that nobody switches off, and pulses are much longer than lives. Every person has a
line of their own here, so that each pulse says whose it was. A right is good for one pulse in a week: in the whole run
no line may have two. How long lines were on after a death is measured.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import yaml

from agent.clock import SystemClock
from agent.config.load import load_config
from agent.config.schema import Config
from agent.door.lines import Input, InputSpec, Lines, OutputLine, OutputSpec
from agent.door.rights import Rights
from agent.door.verification import Verification
from agent.errors import DeviceLostError
from agent.match.records import Match
from agent.protocol.subject import SubjectId
from agent.unit.at_the_door import Door, make_gate, rights_path
from tools.lib.bench.timing import percentile
from tools.lib.demo.site import ROOT
from tools.lib.rig import kill_run
from tools.lib.rig.board import Board, BoardOfAUnit, serve
from tools.lib.rig.nursery import BY_ITSELF, ENDS, KILLED, STARVED, TOO_LATE, Nursery, nurse, say

BOARD = "board"
PROGRAM = ("-m", "tools.lib.rig.pulse_kills", "--nursery")
PULSE_MS = 30_000  # longer than anybody waits here: what ends a pulse is the keeper, and no clock
SPARE = 1 << 30  # lines from here on are nobody's; a worker takes one so that its keeper is there
MAX_ON_S = 1.0  # after a death; milliseconds on a machine that is not starved
MAX_LIFE_S = 0.06  # from the first word of a worker, or the first light of its life, to its death
IN_A_PULSE = 0.8  # of those that begin to live; the rest dies whenever it is, as while a right is written
PEOPLE_A_LIFE = 2  # so that most whom a worker meets have used their right in an earlier life
PATIENCE_S = 5.0  # until a line that is still on is told
MAX_AGAIN = 20  # workers of a run that are begun anew: on a starved machine a keeper does not answer in time
WEEK_S = 7 * 24 * 3600


def write_config(folder: Path) -> Path:
    """The example configuration with one output and one rule, everything below ``folder``."""
    data = yaml.safe_load((ROOT / "deploy" / "config.example.yaml").read_text())
    for section, key, name in (
        ("gallery", "path", "gallery.db"),
        ("outbox", "path", "outbox.db"),
        ("keys", "folder", ""),
    ):
        data[section][key] = str(folder / name)
    data["outputs"] = [{"name": "bolt", "kind": "gpio", "chip": "/dev/gpiochip0", "line": 0, "pulse_ms": PULSE_MS}]
    words = "unchecked: a photograph opens it"
    data["rules"] = [{"name": "portion", "liveness": words, "cooldown_s": WEEK_S, "then": ["bolt"]}]
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


class LineOfSomebody:
    """``Lines`` whose one output is the line of the person who is matched at this moment."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.person = 0

    def open_input(self, spec: InputSpec) -> Input:
        return self._lines.open_input(spec)

    def open_key(self, device: Path, key: str) -> Input:
        return self._lines.open_key(device, key)

    def open_output(self, spec: OutputSpec) -> OutputLine:
        self._lines.open_output(OutputSpec(spec.chip, SPARE + os.getpid(), active_low=False))
        return _Somebody(self, self._lines, spec)


class _Somebody:
    def __init__(self, owner: LineOfSomebody, lines: Lines, spec: OutputSpec) -> None:
        self._owner, self._lines, self._spec = owner, lines, spec
        self._line: OutputLine | None = None

    def set(self, *, on: bool) -> None:
        self.close()
        if on:
            self._line = self._lines.open_output(
                OutputSpec(self._spec.chip, self._owner.person, self._spec.active_low, self._spec.longest_ms)
            )
            self._line.set(on=True)

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
        self._line = None


def live(folder: Path, config: Config, people: int) -> None:
    """Match one after the other, until it is killed; ends as ``STARVED`` where its door could not be opened in time."""
    clock = SystemClock()
    lines, dice = LineOfSomebody(BoardOfAUnit(folder / BOARD)), random.Random(secrets.randbits(64))
    problem = logging.getLogger("pulses").error
    with Rights(rights_path(config), clock) as rights:
        gate, verification = make_gate(config), Verification(clock, lambda *_: None)
        try:
            door = Door(config, gate, rights, lines, clock=clock, verification=verification, on_problem=problem)
        except DeviceLostError:  # nothing but time is wanting: the board gives every line to whoever asks
            sys.exit(STARVED)
        say("lives")
        while True:
            lines.person = dice.randrange(people)
            subject = SubjectId(lines.person.to_bytes(16, "big"))
            door.matched(Match(subject, gate.zone, clock.monotonic_ns()))
            door.outputs.tick()
            time.sleep(0.002)


def nursery(folder: Path) -> None:
    """Fork a worker for each line of standard input: how many people there are."""
    config = load_config(folder / "config.yaml")
    nurse(lambda people: live(folder, config, int(people)))


def run(
    folder: Path, kills: int, *, seed: int, program: Sequence[str] = PROGRAM
) -> tuple[Counter[str], list[str], list[float]]:
    """Kill ``kills`` workers of ``program`` in ``folder``.

    What happened, which promise broke, and how long lines were on after a death, in seconds.
    """
    write_config(folder)
    did: Counter[str] = Counter()
    wrong: list[str] = []
    on_s: list[float] = []
    dice, board = random.Random(seed), Board(time.monotonic)
    with serve(board, folder / BOARD), Nursery(*program, folder) as workers:
        while did[KILLED] < kills and did[TOO_LATE] + did[BY_ITSELF] <= MAX_AGAIN:
            how, killed_s = _kill_one(workers, PEOPLE_A_LIFE * (did[KILLED] + 1), dice, board)
            did[how] += 1
            while _lit(board) and time.monotonic() < killed_s + PATIENCE_S:
                time.sleep(0.001)
            if _lit(board):
                wrong.append(f"after kill {did[KILLED]} an output is left on")
            after_s = [one.off_s - killed_s for one in board.pulses if one.off_s is not None and one.off_s > killed_s]
            did["in a pulse"] += bool(after_s)
            on_s += after_s
    of_each = Counter(one.line for one in board.pulses)
    did["pulses"], did["people"] = len(board.pulses), len(of_each)
    wrong += [f"person {line} got {count} pulses for one right" for line, count in of_each.items() if count > 1]
    if did[BY_ITSELF]:
        wrong.append(f"{did[BY_ITSELF]} workers ended by themselves: their errors stand above")
    if did[KILLED] < kills:
        wrong.append(f"{did[KILLED]} of {kills} workers were killed: run it again when this machine does less")
    if (longest_s := max(on_s, default=0.0)) > MAX_ON_S:
        wrong.append(f"an output was on for {longest_s:.2f} s after a death")
    return did, wrong, on_s


def _lit(board: Board) -> bool:
    return any(one.off_s is None for one in board.pulses)


def _kill_one(workers: Nursery, people: int, dice: random.Random, board: Board) -> tuple[str, float]:
    """Kill one worker after some of its life; how it ended, and when it was killed."""
    workers.birth(str(people))
    worker, lives = 0, False
    unborn = dice.random() < 0.1  # some are killed before they have begun
    while not worker or not (lives or unborn):  # on a fast disk the worker speaks before its nurse
        word = workers.hear()
        if word in ENDS:
            return word, time.monotonic()
        lives = lives or word == "lives"
        worker = int(word.removeprefix("born ")) if word.startswith("born ") else worker
    deadline = time.monotonic() + (0.0 if unborn or dice.random() >= IN_A_PULSE else PATIENCE_S)
    while not _lit(board) and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(dice.random() * MAX_LIFE_S)
    killed_s = time.monotonic()
    with suppress(ProcessLookupError, FileNotFoundError):  # it ended by itself meanwhile, as its nurse will say
        keepers = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
        killed_s = time.monotonic()
        os.kill(worker, signal.SIGKILL)
        if dice.random() < 0.3:  # as the service manager does with what is left
            for keeper in keepers:
                os.kill(int(keeper), signal.SIGTERM)
    while (word := workers.hear()) not in ENDS:
        pass
    return word, killed_s


def main(words: Sequence[str] | None = None) -> int:
    """``tools/rig pulses``: exit status 0 only if no output was left on and nobody got two pulses."""

    def told(folder: Path, kills: int, seed: int) -> tuple[dict[str, int], list[str]]:
        did, wrong, on_s = run(folder, kills, seed=seed)
        did["on after a death, ms at most"] = round(1000 * max(on_s, default=0.0))
        did["on after a death, ms in 99 of 100"] = round(1000 * percentile(on_s, 0.99)) if on_s else 0
        return dict(sorted(did.items())), wrong

    well = "no output left on, nobody got two pulses for one right"
    return kill_run.main("pulses", __doc__, words, nursery=nursery, run=told, well=well)


if __name__ == "__main__":
    sys.exit(main())
