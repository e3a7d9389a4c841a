# SPDX-License-Identifier: Apache-2.0
"""What moves in a scene and is nobody: rain, an insect, a flag, lamps that flicker. Pure functions of time and seed."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.camera.base import Luma, Rgb
from agent.camera.scene.script import Code, Disturbance, Flag, Flicker, Insect, Rain

DROP_HEIGHT, DROP_WIDTH, DROP_LIGHT = 40, 2, 40  # pixels and grey levels of a drop near the camera, smeared by its fall
CODE_QUIET, CODE_FINE = 4, 16  # modules of white around a code (ISO/IEC 18004); points drawn for each module
CODE_DARK, CODE_LIGHT = 45, 225  # grey levels of print and paper
FOLDS_HZ: Final = 1.5  # folds that run through a flag in a second
FOLD_PIXELS: Final = 60.0  # from fold to fold
FOLD_SHADE: Final = 0.35  # of the colour's light, at the deepest


def behind(frame: Rgb, disturbances: Sequence[Disturbance], time: float) -> None:
    """Draw into ``frame`` what is farther away than everybody."""
    for one in disturbances:
        if isinstance(one, Flag):
            _flag(frame, one, time)


def before(frame: Rgb, disturbances: Sequence[Disturbance], time: float, rng: np.random.Generator) -> None:
    """Draw into ``frame`` what is nearer than everybody, and alter its light."""
    for one in disturbances:
        match one:
            case Code() if one.appears <= time < one.leaves:
                _code(frame, one)
            case Rain():
                _rain(frame, one, rng)
            case Insect():
                _insect(frame, one, time)
            case Flicker():
                _flicker(frame, one, time)


def _flag(frame: Rgb, flag: Flag, time: float) -> None:
    x0, y0, x1, y1 = flag.box
    region = frame[y0:y1, x0:x1]
    phase = 2 * math.pi * (np.arange(region.shape[1]) / FOLD_PIXELS - FOLDS_HZ * time)
    light = (1 - FOLD_SHADE * (1 + np.sin(phase)) / 2)[None, :, None]
    colour = np.array([int(flag.colour[i : i + 2], 16) for i in (1, 3, 5)])
    region[:] = (colour * light).astype(np.uint8)


def _code(frame: Rgb, code: Code) -> None:
    shown = _printed(code.rows, code.module)
    part = frame[code.y : code.y + len(shown), code.x : code.x + len(shown)]
    part[:] = shown[: part.shape[0], : part.shape[1], None]


@functools.lru_cache(maxsize=2)  # a scene shows one at a time
def _printed(rows: tuple[str, ...], module: float) -> Luma:
    """Each pixel is the mean of what it covers, as a lens in focus gives it."""
    modules = np.pad(np.array([[int(one) for one in row] for row in rows], np.uint8), CODE_QUIET)
    paper = Image.fromarray(np.where(modules == 1, CODE_DARK, CODE_LIGHT).astype(np.uint8))
    fine = paper.resize((paper.width * CODE_FINE, paper.height * CODE_FINE), Image.Resampling.NEAREST)
    side = max(1, round(paper.width * module))
    return np.asarray(fine.resize((side, side), Image.Resampling.BOX))


def _rain(frame: Rgb, rain: Rain, rng: np.random.Generator) -> None:
    height, width = frame.shape[:2]
    places = zip(rng.integers(0, width, rain.drops), rng.integers(-DROP_HEIGHT, height, rain.drops), strict=True)
    for x, y in places:
        drop = frame[max(y, 0) : y + DROP_HEIGHT, x : x + DROP_WIDTH]
        drop[:] = np.minimum(drop.astype(np.int16) + DROP_LIGHT, 255).astype(np.uint8)


def _insect(frame: Rgb, insect: Insect, time: float) -> None:
    """A blot that circles on a path which never quite repeats."""
    height, width = frame.shape[:2]
    x = round(width * (0.5 + 0.45 * math.sin(1.7 * time) * math.cos(0.6 * time)))
    y = round(height * (0.5 + 0.45 * math.sin(2.3 * time + 1)))
    half = insect.size // 2
    frame[max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1] = 24


def _flicker(frame: Rgb, flicker: Flicker, time: float) -> None:
    """Lamps on mains current, seen by a shutter that rolls: bands of light that wander from frame to frame."""
    rows: NDArray[np.float64] = np.arange(frame.shape[0]) / frame.shape[0]
    light = 1 + flicker.depth * np.sin(2 * math.pi * (flicker.bands * rows + flicker.hertz * time))
    np.clip(frame * light[:, None, None], 0, 255, out=frame, casting="unsafe")
