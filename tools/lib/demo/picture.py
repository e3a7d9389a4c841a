# SPDX-License-Identifier: Apache-2.0
"""A page that shows what happened at the demo's door: what the detector found, who could act, who was matched when.

The people on it were drawn; it is made from the scene, and not by the unit, which gives no picture away. Detector,
tracks and gate are the unit's own, on the same frames; nobody is embedded for it.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from agent.camera.base import Rgb
from agent.camera.open import open_camera
from agent.camera.scene.render import SceneRenderer
from agent.camera.scene.script import load_script
from agent.clock import SimulatedClock
from agent.config.load import load_config
from agent.config.schema import Config, ZoneActivation
from agent.detect.detector import load_detector
from agent.detect.track import Track, Tracker
from agent.unit.at_the_door import make_gate

EVERY_S = 1.5  # between pictures: each of the three people is on five of them
WIDTH = 400  # pixels of a picture on the page
ZONE, FOUND, ADMITTED = (90, 160, 255), (255, 190, 60), (70, 220, 110)


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture, and how many faces were found and admitted on it."""

    at_s: float
    jpeg: bytes
    found: int
    admitted: int


def write_page(path: Path, config: Path, scene: Path, said: list[tuple[float, str]], verdict: str) -> None:
    """Write the page of what ``said`` tells, seconds after the start. Raises OSError, and PosternError as a start."""
    path.write_text(_page(list(shots(load_config(config), scene)), said, verdict), encoding="utf-8")


def shots(config: Config, scene: Path) -> Iterator[Shot]:
    """Play the scene and give a picture every ``EVERY_S``."""
    script = load_script(scene)
    renderer, clock = SceneRenderer(script), SimulatedClock()
    detector, tracker, gate = (
        load_detector(config.models.manifest, config.models.detector),
        Tracker(),
        make_gate(config),
    )
    step = max(1, round(EVERY_S * script.frames_per_second))
    with open_camera(config.camera, lores_size=detector.input_size, clock=clock) as camera:
        for number, frame in enumerate(camera.frames()):
            with frame:
                size = {"frame_width": frame.main.width, "frame_height": frame.main.height}
                tracks = tracker.update(detector.detect(frame), frame.timestamp_ns)
                admitted = gate.admit(tracks, **size, timestamp_ns=frame.timestamp_ns)
                if number % step == step // 2:
                    jpeg = _drawn(renderer.frame(number), tracks, admitted, config)
                    yield Shot(renderer.time(number), jpeg, len(tracks), len(admitted))


def _drawn(picture: Rgb, tracks: list[Track], admitted: list[Track], config: Config) -> bytes:
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    if isinstance(config.activation, ZoneActivation):
        corners = [(x * image.width, y * image.height) for x, y in config.activation.polygon]
        draw.polygon(corners, outline=ZONE, width=4)
    for track in tracks:
        draw.rectangle(track.face.box, outline=ADMITTED if track in admitted else FOUND, width=6)
    out = io.BytesIO()
    image.resize((WIDTH, round(WIDTH * image.height / image.width))).save(out, "JPEG", quality=80)
    return out.getvalue()


def _page(pictures: list[Shot], said: list[tuple[float, str]], verdict: str) -> str:
    cells = "".join(
        f'<figure><img alt="" src="data:image/jpeg;base64,{base64.b64encode(one.jpeg).decode()}">'
        f"<figcaption>{one.at_s:.1f} s: {_words(one)}</figcaption></figure>"
        for one in pictures
    )
    rows = "".join(f"<tr><td>{after_s:.0f} s</td><td>{html.escape(text)}</td></tr>" for after_s, text in said)
    return f"""<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Postern: what happened at the demo's door</title>
<style>
body {{ font: 16px/1.4 sans-serif; margin: 2em; max-width: 1300px; background: #fff; color: #222 }}
main {{ display: flex; flex-wrap: wrap; gap: 12px }}
figure {{ margin: 0; width: {WIDTH}px }} figcaption {{ font-size: 14px }}
td {{ padding: 2px 1em 2px 0 }}
</style>
<h1>What happened at the demo's door</h1>
<p>{html.escape(verdict)}</p>
<p>Blue: the zone. Orange: a face that the detector found. Green: it stands in the zone, near and frontal, and has
done so for a moment; only then may it be embedded. The people are drawn; a unit gives no picture of anybody away.</p>
<main>{cells}</main>
<h2>What a subscriber verified</h2>
<p>Seconds after the unit said that it started. Who it was only the holder of the site's key can tell. Of whoever was
never asked nothing came: no event, no counter, no log line.</p>
<table>{rows}</table>
</html>
"""


def _words(shot: Shot) -> str:
    if not shot.found:
        return "nobody in view"
    return "may be recognised" if shot.admitted else "found, not in the zone or not facing it for long enough"
