# SPDX-License-Identifier: Apache-2.0
"""Whether somebody passed by cannot be told from anything that leaves the unit, lies on its disk, or stands in its log.

A whole unit plays a scene with nobody in it, one with people who pass through, stop outside the zone or stay far off,
and one with people who act but are not enrolled. Clock and chance are the same in all three, so every message, every
write and every line has to be, to the byte. POSTERN_FRAMES is how many frames each has (default 200; the long form
10000).

Of people who act and match nobody there is a probe in memory for seconds. That it is overwritten is shown here for the
unit's end, and by ``unit/test_pipeline.py`` and ``unit/test_match_probe.py`` for everything else.

What this cannot show, because clock and temperature are simulated: a unit that works harder gets warmer, which
``temperature_c`` of the health messages tells in whole degrees; one that cannot keep up with its camera while it looks
at faces drops frames, which ``fps_milli`` tells; and its answer to a command may come some milliseconds later.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config.load import load_config
from tests.simulators import quiet_unit
from tests.simulators.power import Step, record
from tests.simulators.quiet_unit import Premises, faces_in

FRAMES = int(os.environ.get("POSTERN_FRAMES", "200"))
FPS, SECONDS = 8, 20
pytestmark = pytest.mark.timeout(300 + FRAMES)

PASSERS_BY = [
    # through the zone without stopping
    {"who": "person-03", "appears": 0, "leaves": 1.5, "path": [(0, -60, 170, 120), (1.5, 700, 170, 120)], "yaw": 20},
    {"who": "person-04", "appears": 7, "leaves": 8.2, "path": [(7, 700, 180, 130), (8.2, -60, 180, 130)], "yaw": 0},
    # in the zone, facing the camera, too far away
    {"who": "person-05", "appears": 2, "leaves": 19, "path": [(2, 320, 120, 60), (19, 330, 120, 62)], "yaw": 0},
    # near, facing the camera, on either side of the zone
    {"who": "person-06", "appears": 9, "leaves": 19, "path": [(9, 90, 190, 130), (19, 92, 190, 130)], "yaw": 0},
    {"who": "person-07", "appears": 10, "leaves": 19, "path": [(10, 560, 200, 125), (19, 562, 200, 125)], "yaw": 0},
]
ACTING = [{"who": "person-08", "appears": 1, "leaves": 15, "path": [(1, 320, 180, 130), (15, 322, 182, 130)], "yaw": 0}]


@dataclass(frozen=True)
class Played:
    report: dict[str, Any]
    steps: list[Step]

    def disk(self) -> list[tuple[str, str, str, int]]:
        """Every write, in order and size; names of temporary files are random."""
        names = [re.sub(r"\.[a-z0-9_]{8}$", ".tmp", step.a) for step in self.steps]
        return [(step.op, name, step.b[:0] if step.op == "rename" else step.b, len(step.data)) for step, name in
                zip(self.steps, names, strict=True)]  # fmt: skip


def write_scene(path: Path, people: list[dict[str, Any]]) -> Path:
    def person(one: dict[str, Any]) -> dict[str, Any]:
        keys = [{"at": at, "x": x, "y": y, "face": face} for at, x, y, face in one["path"]]
        rest = {name: one[name] for name in ("who", "appears", "leaves")}
        return {**rest, "path": keys, "pose": [{"at": 0, "yaw": one["yaw"]}]}

    script = {
        "size": [640, 360],
        "frames_per_second": FPS,
        "duration": SECONDS,
        "seed": 5,
        "background": {"kind": "room", "variant": 11},
        "people": [person(one) for one in people],
    }
    path.write_text(yaml.safe_dump(script))
    return path


@pytest.fixture(scope="module")
def premises(tmp_path_factory: pytest.TempPathFactory) -> Premises:
    return Premises(tmp_path_factory.mktemp("quiet"))


def play(premises: Premises, name: str, people: list[dict[str, Any]]) -> Played:
    premises.restore()
    folder = premises.unit.parent
    scene, report, work = write_scene(folder / f"{name}.yaml", people), folder / f"{name}.json", folder / name
    work.mkdir()
    words = ["-m", "tests.simulators.quiet_unit", str(premises.config), str(scene), str(FRAMES), str(report)]
    steps = record(words, premises.unit, work, timeout_s=300 + FRAMES)
    return Played(json.loads(report.read_text()), steps)


@pytest.fixture(scope="module")
def alone(premises: Premises) -> Played:
    return play(premises, "nobody", [])


@pytest.fixture(scope="module")
def passed_by(premises: Premises) -> Played:
    return play(premises, "passers-by", PASSERS_BY)


def test_people_without_an_act_are_detected_and_never_embedded(premises: Premises, passed_by: Played) -> None:
    scene = premises.unit.parent / "passers-by.yaml"
    assert faces_in(load_config(premises.config), scene, every=4) > 40, "there was somebody to see"
    assert passed_by.report["frames"] == FRAMES
    assert passed_by.report["embeddings"] == 0
    assert passed_by.report["probes_held"] == [0, 0]


def test_network_disk_and_log_are_the_same_whether_or_not_people_pass_by(alone: Played, passed_by: Played) -> None:
    check_same(alone, passed_by)
    seconds = FRAMES / FPS
    health = [topic for topic, _, _ in alone.report["network"] if topic.endswith("/health")]
    assert abs(len(health) - seconds / 10) <= 2, "the unit was on the network all the time"
    assert len(alone.steps) > 20


def test_people_who_act_and_are_not_enrolled_leave_no_trace_either(premises: Premises, alone: Played) -> None:
    acted = play(premises, "acting", ACTING)
    assert acted.report["embeddings"] > 0, "they were compared, so the count counts"
    assert acted.report["probes_held"] == [1, 0], "in memory while they stood there"
    check_same(alone, acted)


def test_a_probe_that_is_being_gathered_is_overwritten_when_the_unit_stops(premises: Premises) -> None:
    premises.restore()
    scene = write_scene(premises.unit.parent / "stopped.yaml", ACTING)
    two_crops_in = FPS * ACTING[0]["appears"] + 9  # frames: 0.6 s of dwell, then a crop every second one
    report = quiet_unit.play(load_config(premises.config), scene, two_crops_in)
    assert 0 < report["embeddings"] < 3
    assert report["probes_held"] == [1, 0]


def check_same(one: Played, other: Played) -> None:
    assert one.report["network"] == other.report["network"]
    assert one.report["log"] == other.report["log"]
    assert one.disk() == other.disk()
