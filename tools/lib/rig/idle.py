# SPDX-License-Identifier: Apache-2.0
"""What a door costs while nobody stands there: frames a second with liveness, rules and outputs, and without.

A unit as a process, a real Mosquitto, a camera of 15 frames a second that sees an empty room; the two kinds in turns,
so that whatever else the machine does meets both. A benchmark and no test: it says what it measured, and the load.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from agent.camera.scene.script import SceneScript
from tools.lib.demo.site import ROOT
from tools.lib.rig.scenario import Enrolled, Scenario
from tools.lib.rig.service import Premises

RATE: Final = 15.0  # frames a second
EXAMPLE: Final = ROOT / "deploy" / "examples" / "office-door.yaml"
KINDS: Final[dict[str, dict[str, Any]]] = {
    "without": {},
    "with": {"example": EXAMPLE, "configuration": {"liveness_parts": ["challenge", "passive"]}},
}
_FRAMES = re.compile(r"(\d+) frames in ([0-9.]+) s$")
_STAGE = re.compile(r"stage frame: \d+ times, p50 (\d+) us, p95 (\d+) us$")


@dataclass(frozen=True, slots=True)
class Pace:
    """Of one run: frames, in how many seconds, and what a frame took, milliseconds."""

    frames: int
    seconds: float
    p50_ms: float
    p95_ms: float

    @property
    def rate(self) -> float:
        """Frames a second."""
        return self.frames / self.seconds


def pace(log: Sequence[str]) -> Pace | None:
    """What a unit that ended says of its frames; None where it said nothing."""
    frames = next((found for line in log if (found := _FRAMES.search(line))), None)
    stage = next((found for line in log if (found := _STAGE.search(line))), None)
    if frames is None or stage is None or not float(frames[2]):
        return None
    return Pace(int(frames[1]), float(frames[2]), int(stage[1]) / 1000, int(stage[2]) / 1000)


def empty_room(kind: str, seconds: float) -> Scenario:
    """Somebody is enrolled, and nobody comes."""
    return Scenario(
        promise="Nobody stands at the door, and nothing happens.",
        script=SceneScript(duration=seconds, frames_per_second=RATE),
        seconds=seconds,
        enrolled=(Enrolled(who="person-01"),),
        pulses=(),
        **KINDS[kind],
    )


def main(words: Sequence[str] | None = None) -> int:
    """``tools/rig idle``: exit status 1 if a unit ended before it could say what it did."""
    parser = argparse.ArgumentParser(prog="tools/rig idle", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run; default: %(default)g")
    parser.add_argument("--runs", type=int, default=3, help="of each kind; default: %(default)s")
    arguments = parser.parse_args(words)
    found: dict[str, list[Pace]] = {kind: [] for kind in KINDS}
    print(f"load before: {' '.join(f'{one:.1f}' for one in os.getloadavg())}")
    with tempfile.TemporaryDirectory(prefix="postern-idle-") as folder, Premises(Path(folder) / "premises") as premises:
        for number in range(arguments.runs):
            for kind in KINDS:
                run = premises.play(empty_room(kind, arguments.seconds))
                measured = None if isinstance(run, str) else pace(run.log or ())
                if measured is None:
                    print(f"{kind}: {run if isinstance(run, str) else run.ended or 'it said nothing of its frames'}")
                    return 1
                found[kind].append(measured)
                print(f"run {number + 1}, {kind} a door: {measured.frames} frames in {measured.seconds:.1f} s")
    for kind, runs in found.items():
        rates = [one.rate for one in runs]
        spread = f"{median(rates):.2f} frames/s ({min(rates):.2f} to {max(rates):.2f})"
        print(
            f"{kind:>7} liveness, rules and outputs: {spread}, "
            f"a frame {median(one.p50_ms for one in runs):.2f} ms, p95 {median(one.p95_ms for one in runs):.2f} ms"
        )
    print(f"load after: {' '.join(f'{one:.1f}' for one in os.getloadavg())}")
    return 0
