# SPDX-License-Identifier: Apache-2.0
"""Settings that a site sends its units: tried, kept where the unit is well on them, taken back by itself where not."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config.load import load_config
from agent.config.site_settings import LOCAL, Settings, overlaid, problems_with
from agent.config.told import read_told, told_file
from agent.errors import ConfigError, RefusedError, VerificationError
from agent.site import configuration
from agent.site.delegation import delegate
from agent.unit.configuring import PICTURE_S, STARTS, STEADY_S, TRIAL_S
from tests.simulators.configured import Configured, zone_of

WIDE = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]


@pytest.fixture
def site(tmp_path: Path) -> Configured:
    return Configured(tmp_path)


def test_settings_are_tried_and_kept_once_the_unit_is_well_on_them(site: Configured) -> None:
    site.unit.begin()
    assert site.state == "none"
    assert site.send({"activation": {"dwell_ms": 900}}, door_1={"camera": {"rotate": 180}}) == "trying"
    assert site.unit.asked.is_set(), "a reload, no new process"
    config = site.unit.begin()
    assert zone_of(config)["dwell_ms"] == 900
    assert config.camera.rotate == 180  # type: ignore[union-attr]
    site.live(STEADY_S)
    assert site.state == "trying"
    site.live(1)
    assert site.state == "applied"
    assert site.logged == [{"what": "site", "serial": 1, "state": state} for state in ("trying", "applied")]
    assert zone_of(load_config(site.file))["dwell_ms"] == 900, "every command at the unit sees what it runs on"
    site.live(2 * TRIAL_S, pictures=False)
    assert site.state == "applied", "what was kept is not taken back for a camera that is lost later"


@pytest.mark.parametrize(
    ("missing", "word"), [("pictures", "no picture of the camera"), ("broker", "no session with the broker")]
)
def test_a_unit_that_is_not_well_in_time_takes_them_back_and_says_why(
    site: Configured, missing: str, word: str
) -> None:
    site.frames = 100
    site.unit.begin()
    site.send({"camera": {"width": 320}})
    assert site.unit.begin().camera.width == 320  # type: ignore[union-attr]
    site.unit.asked.clear()
    site.connected = missing != "broker"
    site.live(TRIAL_S - 1, pictures=missing != "pictures")
    assert site.state == "trying"
    assert not site.unit.asked.is_set()
    site.live(1, pictures=missing != "pictures")
    assert site.state == "rolled_back"
    assert site.why == f"there was {word} {TRIAL_S} seconds after the change"
    assert site.logged[-1] == {"what": "site", "serial": 1, "state": "rolled_back"}
    assert site.unit.asked.is_set()
    assert site.unit.begin().camera.width == 1280  # type: ignore[union-attr]


@pytest.mark.parametrize("missing", ["pictures", "broker"])
def test_a_unit_is_well_on_them_only_in_a_row(site: Configured, missing: str) -> None:
    """One whose camera or session comes and goes has not shown that it works."""
    site.frames = 100
    site.unit.begin()
    site.send({"camera": {"width": 320}})
    site.unit.begin()
    for _ in range(3):
        site.connected = True
        site.live(STEADY_S - PICTURE_S - 2)
        site.connected = missing != "broker"
        site.live(PICTURE_S + 2, pictures=missing != "pictures")
        assert site.state == "trying"
    site.connected = True
    site.live(STEADY_S + 2)
    assert site.state == "applied"


def test_what_was_in_force_before_comes_back_not_the_file_alone(site: Configured) -> None:
    site.unit.begin()
    site.send({"activation": {"dwell_ms": 900}})
    site.unit.begin()
    site.live(STEADY_S + 2)
    site.send({"activation": {"dwell_ms": 950}})
    site.unit.begin()
    site.live(TRIAL_S + 1, pictures=False)
    assert site.state == "rolled_back"
    assert zone_of(site.unit.begin())["dwell_ms"] == 900


def test_a_camera_that_was_lost_before_is_not_asked_for_after(site: Configured) -> None:
    site.unit.begin()
    site.send({"detection": {"look": "every_frame"}})
    site.unit.begin()
    site.live(STEADY_S + 2, pictures=False)
    assert site.state == "applied"


def test_a_start_that_fails_and_a_process_that_dies_again_and_again_take_them_back(site: Configured) -> None:
    site.unit.begin()
    site.send({"models": {"threads": 2}})
    assert site.unit.begin().models.threads == 2
    assert site.unit.failed("the camera does not open", state="rolled_back")
    assert site.why == "the camera does not open"
    assert site.unit.begin().models.threads == 1
    assert not site.unit.failed("another reason", state="rolled_back"), "nothing is on trial"
    site.send({"models": {"threads": 3}})
    for _ in range(STARTS):
        assert site.start().begin().models.threads == 3
    assert site.start().begin().models.threads == 1, "killed each time before it was well"
    assert site.why == f"the unit ended {STARTS} times before it was well"


def test_a_refusal_names_the_line_of_the_sites_file_and_changes_nothing(
    site: Configured, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "postern")
    site.unit.begin()
    site.send({"activation": {"dwell_ms": 900}})
    site.unit.begin()
    site.live(STEADY_S + 2)
    site.unit.asked.clear()
    for given_, where in (
        ({"activation": {"dwell_ms": 400}}, "site.yaml:4: activation.dwell_ms: the unit's own file says 600"),
        ({"activation": {"window_s": 10}}, "site.yaml:4: activation.window_s: this unit has no such setting"),
        ({"events": {"presence": True}}, "site.yaml:4: events.presence: the unit's own file says false"),
    ):
        with pytest.raises(RefusedError) as refused:
            site.send(given_)
        assert str(refused.value).startswith(where)
        assert refused.value.reason == "bad_configuration"
        assert site.state == "refused"
        assert site.why.startswith(where)
        assert zone_of(site.unit.begin())["dwell_ms"] == 900
    assert not site.unit.asked.is_set()
    assert site.said == ["trying", "applied", "refused", "refused", "refused"]
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == [
        f"configuration {serial} of the site {becomes}"
        for serial, becomes in ((1, "is on trial"), (1, "is kept"), *((serial, "is refused") for serial in (2, 3, 4)))
    ], "the unit's own journal says it, too"


def test_an_older_one_and_one_for_another_unit_site_or_time_is_refused(site: Configured, tmp_path: Path) -> None:
    site.unit.begin()
    site.apply({"activation": {"dwell_ms": 700}})
    old = site.signed()
    site.send({"activation": {"dwell_ms": 900}})
    site.unit.begin()
    site.live(STEADY_S + 2)
    site.office.enrol("door-2")
    others = configuration.sign_for(site.site, "door-2", clock=site.clock)
    (tmp_path / "annex").mkdir()
    annex = Configured(tmp_path / "annex")
    annex.apply({"activation": {"dwell_ms": 700}})
    late = site.signed()
    for token, reason in (
        (old, "replayed"),
        (others, "wrong_unit"),
        (annex.signed(), "wrong_key"),
        (old[:-4] + "AAAA", "bad_signature"),
        ("", "malformed"),
    ):
        with pytest.raises(VerificationError) as refused:
            site.unit.take(token)
        assert refused.value.reason == reason
    site.clock.advance(32 * 86_400)
    with pytest.raises(VerificationError) as refused:
        site.unit.take(late)
    assert refused.value.reason == "expired"
    assert site.state == "applied"
    assert site.unit.take(site.signed()) == {"configuration": "applied", "serial": 2}, "the same once more is done"


def test_a_thief_of_the_service_uses_up_no_serial(site: Configured) -> None:
    """A newer mandate ends what a stolen one numbered."""
    site.unit.begin()
    highest = msgspec.json.encode(configuration.Applied(serial=2**53 - 1, all={"models": {"threads": 2}}))
    site.office.files.configuration.write_bytes(highest)
    site.unit.take(site.signed())
    site.unit.begin()
    site.live(STEADY_S + 2)
    stolen = site.signed()
    site.office.files.configuration.unlink()
    delegate(site.site, replace=True, clock=site.clock)
    site.apply({"models": {"threads": 1}})
    assert site.unit.take(site.signed())["serial"] == 1
    site.unit.begin()
    site.live(STEADY_S + 2)
    with pytest.raises(VerificationError) as refused:
        site.unit.take(stolen)
    assert refused.value.reason in ("superseded", "replayed")


@pytest.mark.parametrize(
    ("wanted", "place"),
    [
        ({"camera": {"width": 1920, "height": 1080}}, "camera.width: the unit's own file says 1280"),
        ({"events": {"presence_hold_s": 5}}, "events.presence_hold_s: the unit's own file says 60"),
    ],
)
def test_from_afar_nobody_is_seen_from_further_away_or_followed_more_precisely(
    site: Configured, wanted: dict[str, Any], place: str
) -> None:
    """In a larger picture somebody further away has as many pixels as a face needs."""
    site.unit.begin()
    with pytest.raises(RefusedError, match=place):
        site.send(wanted)
    assert site.unit.begin() == site.local()


def test_two_are_not_tried_at_once(site: Configured) -> None:
    site.unit.begin()
    site.send({"models": {"threads": 2}})
    with pytest.raises(RefusedError) as refused:
        site.send({"models": {"threads": 3}})
    assert refused.value.reason == "busy"
    assert str(refused.value) == f"configuration 1 is on trial here, for {TRIAL_S} seconds at most: send this then"


def test_the_file_at_the_unit_has_the_last_word(site: Configured) -> None:
    """Where it became stricter, or both together are no configuration any more, what it says counts and is told."""
    site.unit.begin()
    site.send({"activation": {"dwell_ms": 900}})
    site.unit.begin()
    site.live(STEADY_S + 2)
    zone = {"kind": "zone", "name": "door", "polygon": WIDE, "dwell_ms": 1200}
    site.write(activation=zone)
    assert zone_of(site.start().begin())["dwell_ms"] == 1200
    assert site.state == "refused"
    assert "the unit's own file says 1200" in site.why
    site.write(activation={"kind": "button", "name": "door"})
    assert load_config(site.file).activation == site.start().begin().activation == site.local().activation


def test_nothing_that_lies_in_the_units_folder_is_believed_blindly(site: Configured) -> None:
    """Neither damage, nor another user's file, nor a hand-made one that says more than a site may."""
    site.unit.begin()
    site.send({"models": {"threads": 2}})
    path = told_file(site.local())
    whole = path.read_bytes()
    for content in (b"", b"{}", whole[:-3], whole.replace(b'"models"', b'"keys"'), b"\xff" * 100, b"[" * 5000):
        path.write_bytes(content)
        assert site.start().begin() == site.local()
    path.write_bytes(whole)
    path.chmod(0o644)
    assert read_told(site.local()) is None
    path.chmod(0o600)
    assert site.start().begin().models.threads == 2


@pytest.fixture(scope="module")
def premises(tmp_path_factory: pytest.TempPathFactory) -> Configured:
    return Configured(tmp_path_factory.mktemp("premises"))


KEYS = ("activation", "camera", "events", "liveness", "keys", "polygon", "dwell_ms", "min_face_px", "presence", "width")
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-5, 10_000), st.floats(0, 1), st.text(max_size=5))
SHAPES = st.recursive(
    VALUES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)),
    max_leaves=12,
)
GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "activation": st.fixed_dictionaries(
            {},
            optional={
                "dwell_ms": st.integers(200, 10_000),
                "min_face_px": st.integers(32, 2000),
                "max_turn_degrees": st.floats(5, 60),
                "window_s": st.integers(1, 60),
            },
        ),
        "events": st.fixed_dictionaries(
            {}, optional={"presence": st.booleans(), "time_resolution_s": st.integers(1, 99)}
        ),
        "liveness": st.just("require"),
    },
)


def test_none_of_several_settings_keeps_another_from_being_set(premises: Configured) -> None:
    given = {
        "liveness": "require",
        "activation": {"dwell_ms": 9000, "max_turn_degrees": 5.0},
        "detection": {"look": "every_frame"},
        "models": {"threads": 1},
        "events": {"time_resolution_s": 3600},
        "broker": {"health_interval_s": 300},
    }
    whole = overlaid(premises.local(), msgspec.convert(given, Settings))
    assert (zone_of(whole)["dwell_ms"], zone_of(whole)["max_turn_degrees"]) == (9000, 5.0)
    assert (whole.liveness, whole.detection.look, whole.models.threads) == ("require", "every_frame", 1)
    assert (whole.events.time_resolution_s, whole.broker.health_interval_s) == (3600, 300)


@settings(deadline=None)  # they write files, on a machine that may be busy
@given(st.one_of(SHAPES, GIVEN))
def test_no_settings_of_any_shape_loosen_a_unit_or_reach_what_is_its_own(premises: Configured, value: Any) -> None:
    local = premises.local()
    try:
        wanted = msgspec.convert(value, Settings)
    except msgspec.ValidationError:
        return
    whole = overlaid(local, wanted)
    before, after = zone_of(local), zone_of(whole)
    assert after["dwell_ms"] >= before["dwell_ms"]
    assert after["min_face_px"] >= before["min_face_px"]
    assert after["max_turn_degrees"] <= before["max_turn_degrees"]
    assert whole.events.presence <= local.events.presence
    assert whole.events.time_resolution_s >= local.events.time_resolution_s
    for name in ("profile", "purpose", "unit", "notice", "keys", "gallery", "match", "audit", "outbox", "rules"):
        assert getattr(whole, name) == getattr(local, name)
    assert (whole.broker.host, whole.broker.port, whole.broker.tls) == ("broker.example.org", 8883, local.broker.tls)
    assert overlaid(whole, wanted) == whole, "twice is as once"
    assert isinstance(problems_with(local, wanted), list)


@settings(deadline=None)  # they write files, on a machine that may be busy
@given(st.one_of(st.binary(max_size=200).map(lambda content: content.decode("latin-1")), st.text(max_size=200)))
def test_no_text_as_a_configuration_brings_a_unit_down(premises: Configured, content: str) -> None:
    with pytest.raises(VerificationError):
        premises.unit.take(content)
    assert premises.state == "none"


@settings(deadline=None)  # they write files, on a machine that may be busy
@given(st.dictionaries(st.sampled_from(["site", "all", "units", "x"]), SHAPES, max_size=4))
def test_a_file_of_any_shape_is_taken_or_refused_with_its_lines(premises: Configured, content: dict[str, Any]) -> None:
    path = premises.folder / "any.yaml"
    path.write_text(yaml.safe_dump(content))
    told = ""
    try:
        configuration.check_file(premises.site, path)
    except ConfigError as error:
        told = str(error)
    assert all(line.startswith(f"{path}") for line in told.splitlines())


def test_every_mistake_in_the_sites_file_is_told_with_its_line(site: Configured) -> None:
    path = site.folder / "site.yaml"
    path.write_text(
        "site: hq\n"
        "all:\n"
        "  liveness: not_checked\n"
        "  keys: {folder: /tmp}\n"
        "  broker: {host: evil.example.org}\n"
        "  camera: {url: rtsp://192.0.2.1/, widht: 640}\n"
        "units:\n"
        "  door-1:\n"
        "    activation: {dwell_ms: 5}\n"
        "    rules: []\n"
        "  Door 2: {}\n"
        "  door-9:\n"
        "    activation: {dwell_ms: 5, polygon: [[0,0],[1,1],[1,0],[0,1]]}\n"
    )
    with pytest.raises(ConfigError) as refused:
        configuration.check_file(site.site, path)
    told = str(refused.value).replace(f"{path}:", "").splitlines()
    assert [line.partition(": ")[0] for line in told] == ["3", "4", "5", "6", "6", "9", "10", "11", "12", "13", "13"]
    assert sum(LOCAL in line for line in told) == 4
    assert sum("no unit of this name; there are: door-1" in line for line in told) == 2
    assert "nearest valid key is 'width'" in str(refused.value)
    path.write_text(
        "site: annex\nunits:\n  door-9: {}\n  door-1:\n    activation: {polygon: [[0,0],[1,1],[1,0],[0,1]]}\n"
    )
    with pytest.raises(ConfigError) as refused:
        configuration.apply_file(site.site, path)
    assert [line.split(":")[1] for line in str(refused.value).splitlines()] == ["1", "3", "5"]
    assert configuration.applied(site.office.files).serial == 0


def test_the_example_has_every_key_and_is_taken(site: Configured) -> None:
    example = Path(__file__).parents[2] / "deploy" / "site" / "fleet.example.yaml"
    site.office.enrol("door-3")
    _, read = configuration.check_file(site.site, example)
    given = {
        **msgspec.to_builtins(read.all),
        **{k: v for k, v in msgspec.to_builtins(read.units["door-3"]).items() if v},
    }
    for name in Settings.__struct_fields__:
        section = getattr(Settings(), name)
        keys = set(section.__struct_fields__) - {"window_s"} if isinstance(section, msgspec.Struct) else set()
        assert name in given
        assert not keys or keys == set(given[name]), name
