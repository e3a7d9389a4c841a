# SPDX-License-Identifier: Apache-2.0
"""The clips that are played: made from scene scripts by ``tools/scene-to-video``, the same bytes each time."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[3]
DEMO = ROOT / "tools" / "scenes" / "demo.yaml"
SCENE_TO_VIDEO = ROOT / "tools" / "lib" / "scene_to_video.py"
FRAMES_PER_SECOND = 15
VISIT_S = 1.6  # one person at the door: long enough for the dwell time and three crops
TURN_S = 0.1
# A subject seen again within ten seconds is the same visit and makes no second event: eight take longer.
VISITORS = 8
IDLE_S = 4.0  # of an empty door: as raw pictures it has 83 MB


def demo_clip(folder: Path, seconds: float) -> Path:
    """The demo's scene: three people come one after another, two of them are enrolled."""
    script = yaml.safe_load(DEMO.read_text())
    script["frames_per_second"] = FRAMES_PER_SECOND
    script["duration"] = seconds
    script["people"] = [one for one in script["people"] if one["appears"] < seconds]
    return _made(folder, "demo", script)


def visits_clip(folder: Path, visitors: Sequence[str]) -> Path:
    """Enrolled people take turns before the camera, each for as long as a match needs."""
    people = []
    for number, who in enumerate(visitors):
        at = number * VISIT_S
        path = [{"at": at, "x": 640, "y": 310, "face": 200}]
        people.append({"who": who, "appears": at, "leaves": at + VISIT_S - TURN_S, "path": path})
    script = {
        "size": [1280, 720],
        "frames_per_second": FRAMES_PER_SECOND,
        "duration": len(visitors) * VISIT_S,
        "seed": 2,
        "background": {"kind": "room", "variant": 11},
        "people": people,
    }
    return _made(folder, "visits", script)


def idle_clip(folder: Path) -> Path:
    """A door at which nobody is, with a camera's noise, as network cameras send it."""
    script = {
        "size": [1280, 720],
        "frames_per_second": FRAMES_PER_SECOND,
        "duration": IDLE_S,
        "seed": 2,
        "background": {"kind": "room", "variant": 11},
    }
    return _made(folder, "idle", script)


def uncompressed(clip: Path) -> Path:
    """The same pictures as a CSI or USB camera gives them: nothing is left to decode."""
    import av  # noqa: PLC0415 - the bench extra

    target = clip.with_suffix(".raw.nut")
    if target.exists():
        return target
    partial = target.with_suffix(".partial.nut")
    with av.open(str(clip)) as source, av.open(str(partial), "w") as container:
        stream = container.add_stream("rawvideo", rate=FRAMES_PER_SECOND)
        pictures: Iterator[Any] = source.decode(video=0)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(picture))
    return partial.replace(target)


def frame_count(seconds: float) -> int:
    """Frames of a clip."""
    return round(seconds * FRAMES_PER_SECOND)


def frame_of(clip: Path, number: int) -> NDArray[np.uint8]:
    """One picture of a clip, (h, w, 3) RGB."""
    import av  # noqa: PLC0415 - the bench extra

    with av.open(str(clip)) as container:
        pictures: Iterator[Any] = container.decode(video=0)
        for index, picture in enumerate(pictures):
            if index == number:
                rgb: NDArray[np.uint8] = picture.to_ndarray(format="rgb24")
                return rgb
    raise SystemExit(f"tools/bench: {clip} has no picture {number}; delete it, it will be made again")


def _made(folder: Path, name: str, script: dict[str, Any]) -> Path:
    text = yaml.safe_dump(script, sort_keys=False)
    made_of = text.encode() + SCENE_TO_VIDEO.read_bytes()
    target = folder / f"{name}-{hashlib.sha256(made_of).hexdigest()[:12]}.mp4"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    source, partial = target.with_suffix(".yaml"), target.with_suffix(".partial.mp4")
    source.write_text(text)
    print(f"making {target.name}", file=sys.stderr)
    command = [sys.executable, "-m", "tools.lib.scene_to_video", str(source.resolve()), str(partial.resolve())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise SystemExit(f"tools/bench: {done.stderr.strip()}")
    return partial.replace(target)
