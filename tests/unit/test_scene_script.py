# SPDX-License-Identifier: Apache-2.0
"""The scene's script: everything wrong with it is said with file, line and key."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.camera.scene.people import PERSON_IDS
from agent.camera.scene.script import MAX_SCRIPT_BYTES, SceneScript, load_script, parse_script
from agent.errors import ConfigError
from tools.lib.enrolment_scene import enrolment_script

SCENES = sorted((Path(__file__).parents[2] / "tools" / "scenes").glob("*.yaml"))
FILE = Path("scene.yaml")
GOOD = b"""duration: 2
people:
  - who: person-01
    path:
      - {at: 0, x: 10, y: 20, face: 30}
      - {at: 1, x: 40, y: 20, face: 30}
"""


@pytest.mark.parametrize("path", SCENES, ids=lambda path: path.stem)
def test_every_scene_of_the_project_is_accepted(path: Path) -> None:
    script = load_script(path)
    assert script.frame_count > 1
    assert script.people


def test_there_are_scenes() -> None:
    assert {"demo", "enrol-one", "enrol-bad", "stranger", "crowd"} <= {path.stem for path in SCENES}


def test_defaults_make_a_short_script_enough() -> None:
    script = parse_script(GOOD, FILE)
    assert script.size == (1280, 720)
    assert script.frame_count == 24
    assert script.people[0].path[1].x == 40


@pytest.mark.parametrize(
    ("before", "after", "line", "text"),
    [
        (b"face: 30}\n      - {at: 1", b"face: 2}\n      - {at: 1", 5, "people[0].path[0].face"),
        (b"person-01", b"person-99", 3, "known: person-01 to person-32"),
        (b"who", b"name", 3, "people[0]: object contains unknown field `name`"),
        (b"at: 1", b"at: 0", 3, "order of time"),
        (b"duration: 2", b"duration: 0", 1, "duration"),
        (b"duration: 2", b"duration: .inf", 1, "finite"),
        (b"duration: 2", b"duration: 2\nduration: 3", 2, "duration"),
        (b"duration: 2", b"duration: 2\nbackground: {kind: plain, colour: red}", 2, "background.colour"),
        (b"duration: 2", b"duration: 2\nbackground: {kind: photo}", 2, "background"),
        (b"duration: 2", b"duration: 2\nsize: [1280]", 2, "size"),
        (b"duration: 2", b"duration: 2\nnoise: loud", 2, "noise"),
    ],
)
def test_a_wrong_script_is_refused_with_line_and_key(before: bytes, after: bytes, line: int, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_script(GOOD.replace(before, after, 1), FILE)
    assert str(refused.value).startswith(f"scene.yaml:{line}: ")
    assert text in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the scene"):
        load_script(tmp_path / "none.yaml")


def test_a_huge_script_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    path.write_bytes(b"# " + b"x" * MAX_SCRIPT_BYTES)
    with pytest.raises(ConfigError, match="at most"):
        load_script(path)


def test_an_enrolment_scene_exists_for_every_person() -> None:
    for person in PERSON_IDS:
        script = enrolment_script(person, size=(640, 480), frames_per_second=8, duration=2)
        assert script.people[0].who == person
        assert script.frame_count == 16
        assert max(key.at for key in script.people[0].pose) < 2


def test_a_made_script_survives_being_written_and_read() -> None:
    script = enrolment_script("person-07")
    assert parse_script(yaml.safe_dump(msgspec.to_builtins(script)).encode(), FILE) == script


def test_an_enrolment_scene_of_nobody_is_refused() -> None:
    with pytest.raises(ConfigError, match="no enrolment scene"):
        enrolment_script("person-00")


def assert_accepted_or_refused(content: bytes) -> None:
    refusal = None
    try:
        script = parse_script(content, FILE)
    except ConfigError as error:
        refusal = str(error)
    if refusal is None:
        assert isinstance(script, SceneScript)
    else:
        assert refusal.startswith("scene.yaml")


@given(st.binary(max_size=200))
@settings(max_examples=80, deadline=None)
def test_any_bytes_are_accepted_or_refused_in_one_sentence(content: bytes) -> None:
    assert_accepted_or_refused(content)


_plain = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(width=32) | st.text(max_size=12)
_keys = st.sampled_from(
    ["size", "duration", "people", "light", "seed", "background", "noise", "who", "path", "at", "x"]
)
_tree = st.recursive(
    _plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=4), max_leaves=12
)


@given(st.dictionaries(_keys, _tree, max_size=6))
@settings(max_examples=80, deadline=None)
def test_any_tree_of_known_keys_is_accepted_or_refused_in_one_sentence(tree: dict[str, object]) -> None:
    assert_accepted_or_refused(msgspec.yaml.encode(tree))


def test_a_blend_with_nobody_is_refused_by_name() -> None:
    blended = GOOD + b"    blend: {who: person-99}\n"
    with pytest.raises(ConfigError, match="no demo person of that name"):
        parse_script(blended, FILE)
    script = parse_script(blended.replace(b"person-99", b"person-02"), FILE)
    assert script.people[0].blend is not None
    assert script.people[0].blend.share == 0.5
