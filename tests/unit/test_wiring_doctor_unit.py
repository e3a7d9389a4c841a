# SPDX-License-Identifier: Apache-2.0
"""What the doctor finds at a whole unit: its models, its people, its camera, its keys; each line as it is told."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.clock import SimulatedClock
from agent.config.load import load_config
from agent.config.schema import Config
from agent.disk.process_lock import ProcessLock
from agent.keys import UnitKey, load_public_key
from agent.unit.doctor import CALM, CAMERA_FRAMES, SLOW_CAMERA, Finding, examine
from tests.simulators.quiet_unit import Premises
from tests.simulators.signing_unit import START

SCENE = {"size": [640, 360], "duration": 4, "frames_per_second": 10}


class Home:
    """A unit whose service is stopped, and its configuration, which can be changed."""

    def __init__(self, folder: Path) -> None:
        self.premises, self.clock = Premises(folder), SimulatedClock(START)
        self.folder = folder
        self.show(SCENE)
        self._content = yaml.safe_load(self.premises.config.read_text())

    def show(self, scene: dict[str, Any]) -> None:
        (self.folder / "scene.yaml").write_text(yaml.safe_dump(scene))

    def config(self, **sections: Any) -> Config:
        self.premises.config.write_text(yaml.safe_dump(self._content | sections))
        return load_config(self.premises.config)

    def found(self, check: str, **sections: Any) -> list[tuple[str, str]]:
        return [(one.state, one.text) for one in examine(check, self.config(**sections), self.clock)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def home(shared: Home) -> Home:
    shared.premises.restore()
    shared.show(SCENE)
    shared.clock = SimulatedClock(START)
    return shared


def test_models_and_policy_are_told_each_with_what_it_is(home: Home) -> None:
    detector, embedder, policy, missed = home.found("models")
    assert detector == ("ok", "detector detector-320x240, 320x240, answers as listed")
    assert embedder == ("ok", "embedder embedder, answers as listed")
    assert policy[1].startswith("policy sha256:")
    assert "in a gallery of 1 at measured thresholds" in missed[1], "one person is enrolled"
    parts = ["challenge", "passive"]
    third = home.found("models", liveness="require", liveness_parts=parts)[2]
    assert third == ("ok", "liveness network liveness, answers as listed")


def test_who_is_enrolled_is_counted_and_a_damaged_reference_is_told_with_what_to_do(home: Home) -> None:
    assert home.found("gallery") == [("ok", "1 people enrolled")]
    lock = ProcessLock(home.config().gallery.path)
    assert home.found("gallery") == [("ok", "in use by the running unit")]
    lock.release()
    with closing(sqlite3.connect(home.config().gallery.path)) as database, database:
        database.execute("UPDATE subjects SET template = zeroblob(length(template))")
    assert home.found("gallery") == [
        ("fault", "1 of 1 references are damaged and match nobody: restore them, or enrol these people again")
    ]
    with closing(sqlite3.connect(home.config().gallery.path)) as database, database:
        database.execute("UPDATE subjects SET model = 'sha256:' || ?", ("f" * 64,))
    assert home.found("models")[-1] == (
        "advice",
        "1 references are of another model than this unit's and match nobody: enrol these people again",
    )


def test_a_camera_is_told_with_its_size_its_rate_and_what_the_detector_has_to_look_at(home: Home) -> None:
    camera, looked, pixels = home.found("camera")
    assert camera == ("ok", "scene, 640x360, 10.0 frames/s")
    assert looked == ("ok", f"the detector had to look at 3 of {CAMERA_FRAMES} frames")
    assert pixels == ("ok", "the smallest accepted face has 40 pixels in the detector's input")
    home.show({**SCENE, "duration": 0.1})
    assert home.found("camera") == [("fault", "scene gave 1 frames: it must give a steady stream")]
    assert (CAMERA_FRAMES, CALM, SLOW_CAMERA) == (30, 0.5, 0.7)


def test_keys_and_certificate_are_told_by_name_week_and_end(home: Home) -> None:
    keys = home.config().keys.folder
    assert home.found("keys") == [
        ("ok", f"signing key {UnitKey.load(keys / 'unit.key').kid}"),
        ("ok", f"site key {load_public_key(keys / 'site.jwk').kid}"),
        ("ok", "epoch keys for 2026-W47, 2026-W48, 2026-W49"),
    ]
    assert home.found("certificate") == [("ok", "door-1, valid until 2027-11-22")]
    home.clock.advance(7 * 86_400)
    assert home.found("keys")[2] == (
        "advice",
        "no epoch key for 2026-W50 yet: install the next ones before 2026-W48 is over",
    )
    home.clock.advance(14 * 86_400)
    assert home.found("keys")[2] == (
        "fault",
        "no epoch key for audience 'access' in 2026-W50: issue keys at the site, install them",
    )
    home.clock.advance((365 - 21 - 29) * 86_400)
    assert home.found("certificate") == [("advice", "door-1, valid until 2027-11-22: 29 days left, have it renewed")]


def test_tokens_are_told_with_all_that_a_unit_lacks_for_them(home: Home) -> None:
    activation = {"kind": "button", "name": "door", "window_s": 30, "inputs": [{"kind": "token"}]}
    found = home.found("tokens", activation=activation, liveness="require")
    assert [state for state, _ in found] == ["fault"] * len(found)
    assert found[0][1].startswith("this unit has no key of tokens: ")
    assert found[1][1].startswith("this unit has no list of tokens: ")
    assert len(found) == 2
    assert Finding("tokens", *found[0]) == next(
        iter(examine("tokens", home.config(activation=activation, liveness="require"), home.clock))
    )
