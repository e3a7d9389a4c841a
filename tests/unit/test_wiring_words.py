# SPDX-License-Identifier: Apache-2.0
"""The small parts of a unit: what each says, whole, and where its bounds are."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from agent.clock import Clock, SimulatedClock, SystemClock
from agent.config.schema import Config
from agent.detect.view import GOOD_INPUT_PX, LEAST_INPUT_PX
from agent.disk.files import PUBLIC_MODE, SECRET_MODE
from agent.disk.process_lock import ProcessLock
from agent.errors import BrokerError, CameraLostError, ConfigError, RefusedError, VerificationError
from agent.pipeline import Stages
from agent.timing import StageTimes
from agent.unit.doctor import Finding
from agent.unit.from_card import Place, compose
from agent.unit.from_site import _read
from agent.unit.held import is_held
from agent.unit.in_child import MAX_FINDINGS_BYTES, examine_in_child
from agent.unit.log import Problems, tell_times, tell_uplink
from agent.unit.looking import foreseen, resolution
from agent.unit.mandate import take_mandate
from agent.unit.named_models import check_named_models
from agent.uplink.session import UplinkNotice
from tests.simulators.config import CARD, configured, example, parse_config

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "models" / "manifest.yaml"
PLACE = Place("hq", "door-7", "broker.example", 8884)
FILE = Path("/boot/firmware/config.yaml")
UNKNOWN_SIZE = "the size of this camera's pictures is not known before it is open: postern doctor tells"


def test_a_problem_is_told_once_a_minute_and_another_at_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = SimulatedClock()
    tell = Problems(clock)
    for wait_s, error in (
        (0.0, BrokerError("no broker: look at its address")),
        (60.0, BrokerError("no broker: look at its address")),  # not yet
        (0.001, BrokerError("no broker: look at its address")),
        (0.0, CameraLostError("no broker: look at its address")),  # of another kind
        (0.0, BrokerError("the broker refuses %s")),  # of another text
        (1.0, CameraLostError("no broker: look at its address")),  # its own minute
        (59.0, BrokerError("no broker: look at its address")),  # the text before was another
    ):
        clock.advance(wait_s)
        tell(error)
    told = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    same = ("postern", "ERROR", "no broker: look at its address")
    assert told == [same, same, same, ("postern", "ERROR", "the broker refuses %s"), same]


def test_what_the_uplink_tells_is_a_warning_but_that_it_is_connected(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        tell_uplink(UplinkNotice("connected", "100 % of it"))
        tell_uplink(UplinkNotice("lost", "the broker is away"))
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("INFO", "100 % of it"),
        ("WARNING", "the broker is away"),
    ]


def test_what_a_demonstration_cost_is_told_frame_by_frame_and_stage_by_stage(caplog: pytest.LogCaptureFixture) -> None:
    times = StageTimes(("detect", "embed"))
    with times.measure("detect"):
        pass
    parts = {"change": SimpleNamespace(looked=5, skipped=7), "cadence": SimpleNamespace(spared=2), "times": times}
    with caplog.at_level(logging.INFO):
        tell_times(14, 2.04, cast("Stages", SimpleNamespace(**parts)))
    one = times.summaries()["detect"]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "14 frames in 2.0 s"),
        ("INFO", "the detector looked at 5 frames"),
        ("INFO", "nothing had changed in 7, and of nobody another look was due in 2"),
        ("INFO", f"stage detect: 1 times, p50 {one.p50_us} us, p95 {one.p95_us} us"),
    ]


def test_each_end_of_a_check_of_the_doctor_is_one_finding_more() -> None:
    def killed(*_: object) -> Iterator[tuple[str, str]]:
        yield "ok", "so far"
        faulthandler.disable()
        os.kill(os.getpid(), signal.SIGILL)

    def stuck(*_: object) -> Iterator[tuple[str, str]]:
        yield "advice", "first"
        signal.pause()

    def silent(*_: object) -> Iterator[tuple[str, str]]:
        yield "ok", "so far"
        os._exit(3)

    def endless(*_: object) -> Iterator[tuple[str, str]]:
        for number in range(3 * MAX_FINDINGS_BYTES // 100):
            yield "ok", f"{number:0100}"

    def fine(settings: Config, clock: Clock, *_: object) -> Iterator[tuple[str, str]]:
        yield "ok", f"{settings.unit.id} {clock.state()}"

    checks = {"disk": killed, "clock": stuck, "keys": silent, "memory": endless, "fine": fine}
    config = configured()

    def found(name: str, within_s: float = 20.0) -> list[Finding]:
        return list(examine_in_child(name, config, SystemClock(), within_s=within_s, checks=checks))

    assert found("fine") == [Finding("fine", "ok", f"{config.unit.id} {SystemClock().state()}")]
    why = "the check was killed by SIGILL: a library does not fit this processor, install it again"
    assert found("disk") == [Finding("disk", "ok", "so far"), Finding("disk", "fault", why)]
    why = "the check did not end within 0.5 s: something does not answer"
    assert found("clock", 0.5) == [Finding("clock", "advice", "first"), Finding("clock", "fault", why)]
    why = "the check ended without a word: report it"
    assert found("keys") == [Finding("keys", "ok", "so far"), Finding("keys", "fault", why)]
    cut = found("memory")
    assert MAX_FINDINGS_BYTES <= sum(len(one.text) for one in cut) * 2 <= 4 * MAX_FINDINGS_BYTES, "a bound, and no more"
    assert cut[-1] == Finding("memory", "fault", why)


def test_what_a_camera_resolves_is_told_where_it_can_be_known(tmp_path: Path) -> None:
    models = {"manifest": str(MANIFEST), "detector": "detector-320x240", "embedder": "embedder"}
    v4l2 = {"source": "v4l2", "device": "/dev/video0", "width": 1280, "height": 720}
    zone = example()["activation"]
    assert foreseen(configured(camera={"source": "scene", "script": str(tmp_path)}, profile="demo")) == UNKNOWN_SIZE
    nowhere = str(tmp_path / "manifest.yaml")
    missing = configured(camera=v4l2, models=models | {"manifest": nowhere})
    assert foreseen(missing) == f"{nowhere} is not here, so the detector's input is not known"
    few = (
        "faces of 63 px have 15 pixels in the detector's input of 320x240, too few to be found at once (16 are needed,"
        " 24 are good): raise activation.min_face_px to 101, set detection.view to 'zone', or choose a detector with a"
        " larger input"
    )
    for view, least, said in (
        ("picture", 64, "the picture; the smallest accepted face has 16 pixels there"),
        ("picture", 63, few),
        ("zone", 64, "the zone; the smallest accepted face has 19 pixels there"),
    ):
        activation = zone | {"min_face_px": least}
        made = configured(camera=v4l2, models=models, activation=activation, detection={"view": view})
        assert foreseen(made) == said, (view, least)


def test_each_way_to_more_pixels_is_named_where_it_is_one() -> None:
    assert (LEAST_INPUT_PX, GOOD_INPUT_PX) == (16, 24)
    few = "too few to be found at once (16 are needed, 24 are good)"
    zone = example()["activation"] | {"min_face_px": 32}
    button = {"kind": "button", "name": "door", "min_face_px": 32}
    for sections, ways in (
        ({"activation": zone, "detection": {"view": "zone"}}, ", make the zone smaller"),
        ({"activation": zone, "detection": {"view": "picture"}}, ", set detection.view to 'zone'"),
        ({"activation": button}, ""),
    ):
        pixels, said = resolution(configured(**sections), (3840, 2160), (320, 240))
        wanted = -(-32 * 24 // max(int(pixels), 1))
        assert said == (
            f"faces of 32 px have {int(pixels)} pixels in the detector's input of 320x240, {few}: raise"
            f" activation.min_face_px to {wanted}{ways}, or choose a detector with a larger input"
        )


def test_a_card_says_what_is_everybodys_and_the_invitation_who_this_is() -> None:
    whole, config = compose(CARD.encode() + b"\n\n", FILE, PLACE, PUBLIC_MODE)
    assert whole.decode() == (
        CARD.rstrip()
        + "\n# Above: config.yaml of the card. Change it there, and restart. Below: which unit this is.\n"
        + 'unit: {"site": "hq", "id": "door-7", "name": "door-7"}\n'
        + 'broker: {"host": "broker.example", "port": 8884}\n'
    )
    assert (config.unit.site, config.unit.id, config.unit.name) == ("hq", "door-7", "door-7")
    assert (config.broker.host, config.broker.port) == ("broker.example", 8884)
    own = CARD + "unit: {site: hq, id: door-7, name: Back door}\nbroker: {host: other.example}\n"
    whole, config = compose(own.encode(), FILE, PLACE, PUBLIC_MODE)
    assert (config.unit.name, config.broker.host, config.broker.port) == ("Back door", "other.example", 8883)
    assert whole.decode().endswith("Below: which unit this is.\n"), "nothing is said twice"


@pytest.mark.parametrize(("site", "unit"), [("hq", "door-8"), ("lab", "door-7")])
def test_a_card_of_another_unit_or_site_is_refused(site: str, unit: str) -> None:
    card = CARD + f"unit: {{site: {site}, id: {unit}, name: x}}\n"
    with pytest.raises(ConfigError) as refused:
        compose(card.encode(), FILE, PLACE, PUBLIC_MODE)
    assert str(refused.value) == (
        f"{FILE} is for {unit} of site {site}, and this unit is door-7 of site hq: leave the section unit out, it"
        " comes with the invitation"
    )


def test_a_cards_password_is_refused_in_a_file_that_everybody_reads() -> None:
    card = "\n".join(line for line in CARD.splitlines() if not line.startswith("camera"))
    card += '\ncamera: {source: rtsp, url: "rtsp://me:secret@camera.example/one"}\n'
    assert compose(card.encode(), FILE, PLACE, SECRET_MODE)[1].camera is not None
    with pytest.raises(ConfigError, match=f"{FILE} holds the camera's password and can be read by everybody"):
        compose(card.encode(), FILE, PLACE, PUBLIC_MODE)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"issue": "c"},
        {"policy": "b"},
        {"configuration": "a", "policy": "b"},
        {"configuration": "a", "issue": "c"},
        {"configuration": "a", "policy": "b", "issue": "c"},
        {"configuration": 1},
        {"configuration": "a", "more": 1},
    ],
)
def test_what_the_site_sets_is_settings_or_a_policy_with_its_number(arguments: dict[str, Any]) -> None:
    with pytest.raises(RefusedError) as refused:
        _read(arguments)
    assert refused.value.reason == "bad_args"
    assert str(refused.value) == "give configuration, or policy with issue, as the site signed them"


def test_settings_alone_and_a_policy_with_its_number_are_taken() -> None:
    assert _read({"configuration": "a"}).configuration == "a"
    taken = _read({"policy": "b", "issue": "c"})
    assert (taken.configuration, taken.policy, taken.issue) == (None, "b", "c")


def test_whether_a_service_runs_is_seen_from_outside_and_no_where_nobody_can_tell(tmp_path: Path) -> None:
    config = configured(gallery={"path": str(tmp_path / "gallery.db")})
    assert not is_held(config)
    lock = ProcessLock(config.gallery.path)
    assert is_held(config)
    assert is_held(config), "asking does not take it away"
    lock.release()
    assert not is_held(config)
    assert not is_held(configured(gallery={"path": str(tmp_path / "nowhere" / "gallery.db")}))


def test_the_highest_mandate_counts_for_ever_and_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "mandate.json"
    take_mandate(path, 2)
    written = path.stat().st_ino
    take_mandate(path, 2)
    assert path.stat().st_ino == written
    with pytest.raises(VerificationError) as refused:
        take_mandate(path, 1)
    assert refused.value.reason == "superseded"
    take_mandate(path, 3)
    with pytest.raises(VerificationError):
        take_mandate(path, 2)
    assert path.read_text() == '{"number":3}'


def test_a_model_that_is_not_there_or_for_something_else_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"

    def checked(**models: str) -> bool:
        data = example() | {"models": models}
        file.write_text(yaml.safe_dump(data, sort_keys=False))
        return check_named_models(parse_config(file.read_bytes(), file), file)

    def line(key: str) -> int:
        return next(at for at, text in enumerate(file.read_text().splitlines(), 1) if text.startswith(f"  {key}:"))

    assert checked(manifest=str(MANIFEST), detector="detector-320x240", embedder="embedder")
    for key, models, said in (
        ("detector", {"detector": "embedder"}, "embedder is a model for 'embedder': name one for 'detector'"),
        ("embedder", {"embedder": "landmarks"}, "landmarks is a model for 'landmarks': name one for 'embedder'"),
        ("embedder", {"embedder": "nobody"}, "nobody"),
        ("manifest", {"manifest": str(tmp_path / "none.yaml")}, "none.yaml"),
    ):
        with pytest.raises(ConfigError) as refused:
            checked(**({"manifest": str(MANIFEST)} | models))
        assert str(refused.value).startswith(f"{file}:{line(key)}: models.{key}: "), key
        assert said in str(refused.value)
