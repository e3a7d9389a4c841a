# SPDX-License-Identifier: Apache-2.0
"""An invitation's code before the unit's own camera: near and far, askew, dim, half hidden, of another unit."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from agent.camera.base import Frame, RgbPicture
from agent.cli import main
from agent.cli.site_service import Code
from agent.clock import SimulatedClock
from agent.config.camera import SceneCamera
from agent.door.codes import QrCodes
from agent.errors import RefusedError, RetryError
from agent.protocol.invitation import PREFIX, Invitation, read_invitation
from agent.site import joining
from agent.unit.scanned import look_for_one, scan
from tests.unit.test_console_desk import config
from tools.lib.lifetime.days import Fleet

SIZE = (1280, 720)
SECOND_NS = 1_000_000_000


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), 1)
    return joining.invite(fleet.folder, "door-7", clock=fleet.clock)


def held(
    text: str,
    *,
    high: float = 0.6,
    turned: float = 0,
    tilted: float = 0,
    light: float = 1,
    blur: float = 0,
    hidden: float = 0,
) -> RgbPicture:
    """A picture of paper with the code, ``high`` of its height; degrees in the plane and out of it; the part hidden."""
    rng = np.random.default_rng(1)
    code = Image.open(io.BytesIO(Code(text).png())).convert("RGB")
    if hidden:  # a hand over its right edge
        ImageDraw.Draw(code).rectangle(((1 - hidden) * code.width, 0, code.width, code.height), fill=(196, 150, 128))
    side = round(high * SIZE[1])
    code = code.resize((side, side), Image.Resampling.LANCZOS)
    if tilted:  # seen from the side: the far edge is shorter, the whole narrower
        narrow, short = np.cos(np.radians(tilted)), 1 - 0.3 * np.sin(np.radians(tilted))
        wide, top = side / narrow, side * (1 - short) / 2
        code = code.transform(
            (side, side),
            Image.Transform.QUAD,
            (0, 0, 0, side, wide, side + top / short, wide, -top / short),
            Image.Resampling.BICUBIC,
            fillcolor=(150, 150, 150),
        )
    room = Image.new("RGB", SIZE, (110, 105, 100))
    code = code.rotate(turned, Image.Resampling.BICUBIC, expand=True, fillcolor=(110, 105, 100))
    room.paste(code, ((SIZE[0] - code.width) // 2, (SIZE[1] - code.height) // 2))
    room = ImageEnhance.Brightness(room.filter(ImageFilter.GaussianBlur(blur))).enhance(light)
    noisy = np.asarray(room).astype(np.int16) + rng.normal(0, 4, (SIZE[1], SIZE[0], 3)).astype(np.int16)
    return RgbPicture(np.clip(noisy, 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"high": 0.5},
        {"high": 0.95},
        {"turned": 12},
        {"turned": -40},
        {"turned": 180},
        {"tilted": 25, "high": 0.8},
        {"light": 0.25},
        {"light": 2.2},
        {"blur": 1.0, "high": 0.8},
        {"hidden": 0.02, "high": 0.8},
    ],
)
def test_a_code_is_read_as_people_hold_it(text: str, how: dict[str, float]) -> None:
    assert QrCodes().read(held(text, **how)) == [text.encode()]


@pytest.mark.parametrize("how", [{"high": 0.2}, {"hidden": 0.3}, {"blur": 6}, {"light": 0.01}, {"tilted": 75}])
def test_what_cannot_be_read_is_no_invitation_and_no_wrong_one(text: str, how: dict[str, float]) -> None:
    assert QrCodes().read(held(text, **how)) == []


class Shown:
    """A camera of four pictures a second before which somebody stands."""

    def __init__(self, pictures: Sequence[RgbPicture], clock: SimulatedClock) -> None:
        self._pictures, self._clock, self.open = pictures, clock, 0

    def frames(self) -> Iterator[Frame]:
        for number, picture in enumerate(self._pictures):
            self._clock.advance(0.25)
            self.open += 1
            yield Frame(number, self._clock.monotonic_ns(), np.zeros((240, 320, 3), np.uint8), picture, self._release)

    def _release(self) -> None:
        self.open -= 1


def look(pictures: Sequence[RgbPicture], told: list[str], patience_s: float = 60) -> Invitation:
    clock = SimulatedClock()
    camera = Shown(pictures, clock)
    try:
        return scan(camera, QrCodes().read, clock, patience_s=patience_s, tell=told.append)  # type: ignore[arg-type]
    finally:
        assert camera.open == 0, "each frame is given back"


def test_somebody_comes_with_a_ticket_then_brings_the_invitation_nearer_until_it_is_read(text: str) -> None:
    told: list[str] = []
    ticket = [held("HTTPS://EXAMPLE.ORG/TICKET", high=0.4)] * 3
    coming = [held(text, high=high, turned=5, blur=0.6) for high in (0.15, 0.3, 0.7)]
    assert look([held(text, high=0.1), *ticket, *coming], told) == read_invitation(text)
    assert told == ["a code is in view, and it is no invitation: show the one that 'postern site invite' made"]


def test_nobody_waits_for_ever_and_is_told_how_to_hold_it(text: str) -> None:
    with pytest.raises(RetryError, match="so near that it fills two thirds of the picture's height"):
        look([held(text, hidden=0.4)] * 9, [], patience_s=1)
    with pytest.raises(RefusedError, match="the invitation is damaged"):
        look([held(PREFIX + "AAAA", high=0.4)], [])


def scene(text: str, folder: Path) -> SceneCamera:
    """A scene in which the code is held up after a second."""
    rows = ["".join("1" if dark else "0" for dark in row) for row in Code(text).modules()]
    code = {"kind": "code", "rows": rows, "x": 300, "y": 30, "module": 4.5, "appears": 1}
    path = folder / "scene.yaml"
    path.write_text(yaml.safe_dump({"size": list(SIZE), "duration": 4, "noise": 3.0, "disturbances": [code]}))
    return SceneCamera(path)


def test_an_invitation_of_another_unit_site_or_broker_is_refused_before_anybody_is_asked(
    text: str, tmp_path: Path
) -> None:
    invitation, told = read_invitation(text), list[str]()

    def show(**unit: str) -> Invitation:
        mine = config(tmp_path)
        named = msgspec.structs.replace(mine.unit, **{"id": "door-7", "site": invitation.site, **unit})
        host = "elsewhere.example.org" if "name" in unit else invitation.host
        broker = msgspec.structs.replace(mine.broker, host=host, port=invitation.port)
        mine = msgspec.structs.replace(mine, unit=named, broker=broker, camera=scene(text, tmp_path))
        return look_for_one(mine, SimulatedClock(), tell=told.append)

    assert show() == invitation
    assert told == ["hold the invitation's code before the camera", "read: the invitation of door-7, site hq"]
    with pytest.raises(RefusedError) as refusal:
        show(name="Door of another broker")
    assert refusal.value.reason == "other_broker"
    assert str(refusal.value) == (
        f"the invitation names the broker {invitation.host}:{invitation.port}, the configuration"
        f" elsewhere.example.org:{invitation.port}: correct the section broker, then show it again"
    )
    for unit, mine in (({"id": "door-8"}, "door-8 of site hq"), ({"site": "elsewhere"}, "door-7 of site elsewhere")):
        with pytest.raises(RefusedError) as refusal:
            show(**unit)
        assert refusal.value.reason == "other_unit"
        assert str(refusal.value) == (
            f"the invitation is for door-7 of site hq, the configuration for {mine}: show this unit's own, or correct"
            " the section unit"
        )


def test_a_file_and_the_camera_are_one_or_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["door-7.invite", "--camera"]):
        with pytest.raises(SystemExit):
            main(["unit", "join", *words])
        assert "Traceback" not in capsys.readouterr().err
