# SPDX-License-Identifier: Apache-2.0
"""What must hold between the sections of a configuration, and what the example promises."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import yaml

from agent.config.load import json_schema
from agent.config.schema import Config
from agent.door.liveness import UncheckedLiveness
from agent.door.passive import SIDE
from agent.errors import ConfigError, ModelError
from agent.inference.manifest import load_manifest
from agent.notices.notice import make_notice
from agent.unit.at_the_door import make_gate
from agent.unit.liveness import make_liveness
from tests.simulators.config import parse_config

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "deploy/config.example.yaml").read_text()
BASE: dict[str, Any] = yaml.safe_load(EXAMPLE)


def config(**changes: object) -> Config:
    """The example with some sections changed; a dictionary is merged into its section."""
    data = {key: dict(value) if isinstance(value, dict) else value for key, value in BASE.items()}
    for key, value in changes.items():
        if isinstance(value, dict) and "source" not in value and "kind" not in value:
            data[key] = {**(data.get(key) or {}), **value}
        else:
            data[key] = value
    return parse_config(yaml.safe_dump(data, sort_keys=False).encode(), Path("unit.yaml"))


def refused(reason: str, **changes: object) -> None:
    with pytest.raises(ConfigError, match=reason):
        config(**changes)


@pytest.mark.parametrize(("said", "degrees"), [(True, 180), (False, 0)])
def test_a_camera_that_the_release_before_turned_is_still_turned(said: bool, degrees: int) -> None:
    camera = {"source": "picamera2", "rotate180": said}
    assert getattr(config(camera=camera).camera, "rotate") == degrees  # noqa: B009 - not every camera has it
    refused("rotate180", camera={**camera, "rotate": 90})


RECORDED = [{"source": "file", "path": "a.mp4"}, {"source": "scene", "script": "a.yaml"}]


@pytest.mark.parametrize("camera", RECORDED)
def test_production_refuses_injected_pictures_and_says_why(camera: dict[str, str]) -> None:
    refused("unit.yaml:[0-9]+: camera: .*could pass for anybody; use a real camera, or 'profile: demo'", camera=camera)
    assert config(camera=camera, profile="demo").profile == "demo"


@pytest.mark.parametrize("pipeline", ["filesrc location=a.mp4 ! decodebin", "videotestsrc ! nvvidconv", "v4l2srcx ! a"])
def test_production_refuses_a_pipeline_that_does_not_begin_with_a_camera(pipeline: str) -> None:
    camera = {"source": "gstreamer", "pipeline": pipeline}
    refused("camera.pipeline: in production it must begin with a camera", camera=camera)
    assert config(camera=camera, profile="demo")


def test_production_takes_a_pipeline_that_begins_with_a_camera() -> None:
    assert config(camera={"source": "gstreamer", "pipeline": "v4l2src device=/dev/video0 ! nvvidconv"})


def test_a_rule_of_one_section_is_told_with_its_line() -> None:
    camera = {"source": "rtsp", "url": "http://192.0.2.1/"}
    refused("unit.yaml:[0-9]+: camera: give the camera's address as rtsp://", camera=camera)


def test_a_rule_of_a_section_waits_until_its_other_mistakes_are_mended() -> None:
    camera = {"source": "rtsp", "url": "http://192.0.2.1/", "bogus": 1}
    with pytest.raises(ConfigError) as refusal:
        config(camera=camera)
    (line,) = str(refusal.value).splitlines()
    assert "camera.bogus: unknown key" in line


def test_sealed_needs_the_consumers_key() -> None:
    refused("events.consumer_key: is missing", events={"subject": "sealed"})
    assert (
        config(events={"subject": "sealed", "consumer_key": "consumer.jwk"}).events.consumer_key
        == Path.cwd() / "consumer.jwk"
    )


def test_a_consumer_key_that_seals_nothing_is_refused() -> None:
    refused("nothing is sealed to this key", events={"consumer_key": "consumer.jwk"})


def zone(*corners: tuple[float, float]) -> dict[str, object]:
    return {"kind": "zone", "name": "door", "polygon": [list(corner) for corner in corners]}


def test_a_zone_whose_sides_cross_is_refused() -> None:
    refused("cross each other", activation=zone((0.1, 0.1), (0.9, 0.9), (0.9, 0.1), (0.1, 0.9)))


@pytest.mark.parametrize("corners", [[(0.1, 0.1), (0.5, 0.5), (0.9, 0.9)], [(0.1, 0.1), (0.11, 0.1), (0.1, 0.11)]])
def test_a_zone_without_room_for_a_face_is_refused(corners: list[tuple[float, float]]) -> None:
    refused("too small", activation=zone(*corners))


def test_two_stores_in_one_file_are_refused() -> None:
    refused("outbox.path: is the same file as gallery.path", gallery={"path": "/a.db"}, outbox={"path": "/a.db"})


def test_there_is_no_activation_without_an_act() -> None:
    refused("expected one of", activation={"kind": "always"})


def test_retention_beyond_three_years_is_refused() -> None:
    refused("gallery.retention_days: expected `int` <= 1095", gallery={"retention_days": 1096})


@pytest.mark.parametrize(
    "activation",
    [
        {"kind": "zone", "min_face_px": 32, "max_turn_degrees": 5, "dwell_ms": 200},
        {"kind": "zone", "min_face_px": 2000, "max_turn_degrees": 60, "dwell_ms": 10_000},
        {"kind": "button", "min_face_px": 32, "max_turn_degrees": 60, "window_s": 1},
        {"kind": "button", "min_face_px": 2000, "max_turn_degrees": 5, "window_s": 60},
    ],
)
def test_what_the_file_may_say_at_its_limits_the_gate_takes(activation: dict[str, Any]) -> None:
    small_zone = zone((0.5, 0.5), (0.55, 0.5), (0.5, 0.55)) if activation["kind"] == "zone" else {}
    assert make_gate(config(activation={**small_zone, "name": "door", **activation})).zone == "door"


# The example


def _alternatives() -> list[str]:
    """The commented blocks of the example: runs of lines that begin with '#' and no space."""
    blocks = re.findall(r"(?:^#[^ \n-].*\n|^#  .*\n)+", EXAMPLE, flags=re.MULTILINE)
    return [re.sub("^#", "", block, flags=re.MULTILINE) for block in blocks if re.match(r"#[a-z]+:\n", block)]


def test_the_example_loads() -> None:
    assert parse_config(EXAMPLE.encode(), Path("example.yaml")).profile == "production"


def test_every_alternative_of_the_example_loads() -> None:
    blocks = _alternatives()
    assert len(blocks) == 10
    for block in blocks:
        said = yaml.safe_load(block)
        config(profile="demo", **{"liveness": "require" if "rules" in said else "not_checked", **said})


def _schema_keys() -> set[tuple[str, str]]:
    """Every (struct, key) of the schema that the example can show."""
    return {
        (name, key) for name, definition in json_schema()["$defs"].items() for key in definition.get("properties", {})
    }


def _shown_keys() -> set[tuple[str, str]]:
    definitions = json_schema()["$defs"]
    shown: set[tuple[str, str]] = set()

    def walk(value: dict[str, Any], name: str) -> None:
        for key, inner in value.items():
            shown.add((name, key))
            schema = definitions[name]["properties"][key]
            for one in inner if isinstance(inner, list) else [inner]:
                if isinstance(one, dict):
                    of = schema["items"] if isinstance(inner, list) else schema
                    walk(
                        one, struct_of(one, of if "discriminator" in of else next(filter(None, of.get("anyOf", [of]))))
                    )

    def struct_of(value: dict[str, Any], schema: dict[str, Any]) -> str:
        if "discriminator" in schema:
            return str(
                schema["discriminator"]["mapping"][value["kind" if "kind" in value else "source"]].rpartition("/")[2]
            )
        return str(schema["$ref"].rpartition("/")[2])

    walk(BASE, "Config")
    for block in _alternatives():
        walk(yaml.safe_load(block), "Config")
    return shown


def test_every_key_of_the_schema_is_in_the_example() -> None:
    assert _shown_keys() == _schema_keys() - {("SceneInput", "kind")}, "a simulated button is for demos"


def test_the_example_shows_the_real_defaults() -> None:
    shown = config()
    least = {key: BASE[key] for key in ("profile", "purpose", "unit", "notice", "camera", "activation")}
    least["broker"] = {"host": BASE["broker"]["host"]}
    defaults = parse_config(yaml.safe_dump(least).encode(), Path("unit.yaml"))
    for section in ("models", "match", "gallery", "audit", "events", "outbox", "broker", "keys"):
        assert getattr(shown, section) == getattr(defaults, section), section


def test_each_limit_of_the_schema_has_a_meaning_for_people() -> None:
    for name, definition in json_schema()["$defs"].items():
        for key, value in definition.get("properties", {}).items():
            is_tag = len(value.get("enum", [])) == 1
            is_section = "$ref" in value or "discriminator" in value
            described = is_tag or is_section or "description" in value or "description" in str(value.get("anyOf"))
            assert described or key in ("loop", "realtime"), f"{name}.{key}"


def test_a_configuration_cannot_be_changed_after_it_was_checked() -> None:
    with pytest.raises(AttributeError):
        config().unit.id = "door-4"  # type: ignore[misc]
    assert msgspec.structs.replace(config().unit, id="door-4").id == "door-4"


def test_a_buttons_window_must_outlast_a_challenge() -> None:
    short, long = ({"kind": "button", "name": "door", "window_s": seconds} for seconds in (29, 30))
    refused("activation.window_s: liveness: require takes its time: set 30", activation=short, liveness="require")
    assert config(activation=long, liveness="require").liveness == "require"
    assert config(activation=short).liveness == "not_checked"


def test_liveness_that_nobody_could_pass_is_refused_before_the_unit_starts() -> None:
    """Without a landmark model there are no angles: that is not passed, and it is told."""
    blind = SimpleNamespace(landmarker=None)
    shown: list[str | None] = []
    required = config(liveness="require")
    with pytest.raises(ModelError) as refused_:
        make_liveness(required, blind, random=bytes, prompt=shown.append)  # type: ignore[arg-type]
    assert str(refused_.value) == (
        f"liveness: require needs a detector with a landmark model and {required.models.detector} has none: set"
        " models.detector to one that names its landmarks in the manifest"
    )
    off = make_liveness(config(), blind, random=bytes, prompt=shown.append)  # type: ignore[arg-type]
    assert isinstance(off, UncheckedLiveness)


def test_a_network_that_judges_no_liveness_is_refused_before_the_unit_starts() -> None:
    manifest = load_manifest(ROOT / "models" / "manifest.yaml")
    both = config(liveness="require", liveness_parts=["challenge", "passive"])
    detector = SimpleNamespace(landmarker=object())

    def made(pad: object) -> object:
        return make_liveness(both, detector, pad, random=bytes, prompt=lambda _: None)  # type: ignore[arg-type]

    def entry(width: int, height: int, task: str = "pad", threshold: float | None = 0.5) -> SimpleNamespace:
        shape = SimpleNamespace(width=width, height=height)
        return SimpleNamespace(entry=SimpleNamespace(name="other", task=task, input=shape, score_threshold=threshold))

    cuts = "liveness is judged by two cuts of 80x80 pixels: set models.pad"
    for pad, sentence in (
        (SimpleNamespace(entry=manifest.entry("landmarks")), f"model landmarks: {cuts}"),
        (entry(SIDE, SIDE), f"model other: {cuts}"),
        (entry(2 * SIDE, 2 * SIDE), f"model other: {cuts}"),
        (entry(SIDE, 2 * SIDE, task="detector"), f"model other: {cuts}"),
        (
            entry(SIDE, 2 * SIDE, threshold=None),
            "model other: the manifest states no score_threshold: list it with one",
        ),
    ):
        with pytest.raises(ModelError) as refusal:
            made(pad)
        assert str(refusal.value) == sentence
    assert made(entry(SIDE, 2 * SIDE))


def test_a_rule_that_waits_for_what_is_not_checked_is_refused() -> None:
    door = {
        "outputs": [{"name": "strike", "kind": "event"}],
        "rules": [{"name": "staff", "then": ["strike"]}],
    }
    refused(r"rules\[0\]: it would never open: it waits for liveness.*liveness: require", **door)
    assert config(liveness="require", **door).rules[0].liveness == "passed"
    said = {"rules": [{"name": "staff", "then": ["strike"], "liveness": "unchecked: a photograph opens it"}]}
    assert config(**(door | said)).liveness == "not_checked"


def test_no_other_part_stands_without_the_challenge() -> None:
    refused("liveness_parts: the other parts alone are too weak", liveness="require", liveness_parts=["passive"])
    refused("liveness_parts: nothing is checked: set 'liveness: require'", liveness_parts=["challenge", "passive"])
    twice = ["challenge", "challenge"]
    refused("liveness_parts: names a part twice", liveness="require", liveness_parts=twice)
    both = config(liveness="require", liveness_parts=["challenge", "passive"])
    assert both.liveness_parts == ("challenge", "passive")
    assert config(liveness="require").liveness_parts == ("challenge",)
    refused("liveness_parts: this camera measures no depth", liveness="require", liveness_parts=["challenge", "depth"])


def test_the_notice_tells_of_the_network_that_looks() -> None:
    said = "whether paper or a screen is shown"
    assert said not in make_notice(config(liveness="require"))
    assert said in make_notice(config(liveness="require", liveness_parts=["challenge", "passive"]))
