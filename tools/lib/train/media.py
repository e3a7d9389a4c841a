# SPDX-License-Identifier: Apache-2.0
"""Simulated presentation attacks: a picture on paper, photo paper, a tablet or a monitor, before what is behind it.

What somebody shows went through a camera of its own, then through the medium (colour, halftone, moiré, gamma, glare),
then is bent or flat, tilted, framed by paper or a bezel and held by hands. ``tools.lib.train.takes`` has the camera
that takes it once more. Nothing here was ever compared with a printed attack: the species rank ideas.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

SPECIES = ("print", "bent-print", "photo", "monitor", "tablet")
HELD_OUT = "tablet"  # no training sees it
PAPERS = {"print", "bent-print", "photo"}
FINGERS = (2, 5)  # on each side that is held


class Shown(NamedTuple):
    """The picture that an attack shows: RGB uint8 (h, w, 3); its face's middle and size (root of the box) in pixels."""

    image: np.ndarray
    middle: tuple[float, float]
    size: float


def present(
    shown: Shown, behind: np.ndarray, middle: np.ndarray, size: float, species: str, rng: np.random.Generator
) -> np.ndarray:
    """``behind`` (RGB uint8) with the attack before it, its face at ``middle`` and of ``size``; uint8.

    ``behind`` already has who holds it, if anybody is seen.
    """
    left, top, right, bottom = _part(shown, rng)
    sheet = on_medium(shown.image[top:bottom, left:right], species, shown.size, rng)
    frame = round(shown.size * _border(species, rng))
    face = (shown.middle[0] - left + frame, shown.middle[1] - top + frame)
    sheet = cv2.copyMakeBorder(sheet, *(frame,) * 4, cv2.BORDER_CONSTANT, value=_edge(species, rng))
    source = _map(behind.shape[:2], middle, size / shown.size, face, sheet.shape[:2], species, rng)
    cover = np.full(sheet.shape[:2], 255, np.uint8)
    taken = cv2.remap(sheet, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    alpha = cv2.remap(cover, source, None, cv2.INTER_LINEAR).astype(np.float32)[..., None] / 255
    light = _light(source, sheet.shape[:2], species, rng)
    scene = _shadow(behind, alpha, rng)
    out = scene * (1 - alpha) + np.minimum(taken * light, 255) * alpha
    if rng.random() < (0.7 if species != "monitor" else 0.05):
        _hands(out, source, sheet.shape[:2], size, rng)
    return out.astype(np.uint8)


def _part(shown: Shown, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Which part of the picture is shown: a tight cut around the head up to all of it."""
    height, width = shown.image.shape[:2]
    tight = rng.uniform(0.62, 2.6) if rng.random() < 0.8 else 9.0
    reach = shown.size * tight * rng.uniform(0.85, 1.15, 4)
    x, y = shown.middle
    return (
        int(max(0, x - reach[0])),
        int(max(0, y - reach[1] * 1.05)),
        int(min(width, x + reach[2])),
        int(min(height, y + reach[3] * 1.1)),
    )


def on_medium(image: np.ndarray, species: str, face: float, rng: np.random.Generator) -> np.ndarray:
    """What the medium makes of a picture's colours and fine structure; uint8."""
    if rng.random() < 0.6:  # shown coarser than it was taken
        image = cv2.GaussianBlur(image, (0, 0), float(face * rng.uniform(0.004, 0.025)))
    tones = np.linspace(0, 1, 256, dtype=np.float32)
    x = (255 * tones ** rng.uniform(0.78, 1.3))[image]
    if species in PAPERS:
        glossy = species == "photo"
        grey = grey_of(x)
        x = grey + (x - grey) * rng.uniform(0.75, 1.1) if glossy else grey + (x - grey) * rng.uniform(0.4, 1.0)
        if not glossy and rng.random() < 0.12:
            x = np.repeat(grey, 3, -1)
        black = rng.uniform(4, 25) if glossy else rng.uniform(15, 70)  # ink reflects
        white = rng.uniform(215, 255) if glossy else rng.uniform(180, 245)
        x = (x * ((white - black) / 255) + black) * tint(0.03, rng)
        x += _grain(x.shape, face, rng) * rng.uniform(0, 4 if glossy else 14)
    else:
        blue = np.array([0.96, 1.0, 1.06], np.float32)
        x = x * (rng.uniform(0.7, 1.25) * tint(0.07, rng) * blue) + rng.uniform(0, 25)
        if rng.random() < 0.65:
            x *= 1 + _moire(x.shape, rng) * rng.uniform(0.01, 0.12)
    return np.clip(x, 0, 255).astype(np.uint8)


def grey_of(x: np.ndarray) -> np.ndarray:
    """Mean of the colours, float32 (h, w, 1)."""
    return ((x[..., 0] + x[..., 1] + x[..., 2]) / 3)[..., None]


def tint(spread: float, rng: np.random.Generator) -> np.ndarray:
    """Factors near one of the three colours, float32 (3,)."""
    return np.exp(rng.normal(0, spread, 3)).astype(np.float32)


def _grain(shape: tuple[int, ...], face: float, rng: np.random.Generator) -> np.ndarray:
    """A halftone's rest after the lens: dots where they are coarse, else mottle."""
    height, width = shape[:2]
    if rng.random() < 0.5:
        pitch, angle = face * rng.uniform(0.012, 0.05) / (2 * math.pi), rng.uniform(0, math.pi)
        x, y = np.arange(width, dtype=np.float32) / pitch, np.arange(height, dtype=np.float32)[:, None] / pitch
        dots = np.cos(x * math.cos(angle) + y * math.sin(angle)) * np.cos(y * math.cos(angle) - x * math.sin(angle))
        return dots[..., None]
    step = max(1, round(face * rng.uniform(0.01, 0.04)))
    coarse = rng.normal(0, 1, (height // step + 2, width // step + 2, 3 if rng.random() < 0.5 else 1))
    wide = cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return wide.reshape(height, width, -1)


def _moire(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Slow waves where two grids meet, each colour of its own phase, bent by the lens."""
    height, width = shape[:2]
    x, y = np.linspace(-2, 2, width, dtype=np.float32), np.linspace(-2, 2, height, dtype=np.float32)[:, None]
    out = np.zeros((height, width, 3), np.float32)
    for _ in range(int(rng.integers(1, 3))):
        angle, waves = rng.uniform(0, math.pi), math.exp(rng.uniform(math.log(0.6), math.log(13)))
        bend = rng.uniform(-1.5, 1.5), rng.uniform(-1.5, 1.5)
        phase = 2 * math.pi * waves * (x * math.cos(angle) + y * math.sin(angle)) + bend[0] * x * x + bend[1] * y * y
        if rng.random() < 0.4:
            out += np.cos(phase)[..., None]
        else:
            for colour in range(3):
                out[..., colour] += np.cos(phase + rng.uniform(0, 2 * math.pi))
    return out


def _border(species: str, rng: np.random.Generator) -> float:
    """Width of paper or bezel around the picture, in face sizes."""
    if species in PAPERS:
        return 0.0 if rng.random() < 0.4 else rng.uniform(0.03, 0.4)
    return rng.uniform(0.05, 0.3) if species == "tablet" else rng.uniform(0.03, 0.2)


def _edge(species: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """Colour of the paper, or of the bezel: black, white, silver."""
    if species in PAPERS:
        return tuple(float(v) for v in rng.uniform(185, 250) * tint(0.02, rng))  # type: ignore[return-value]
    level = rng.uniform(4, 30) if rng.random() < 0.7 else rng.uniform(150, 240)
    return (level, level, level + rng.uniform(0, 6))


def _map(
    canvas: tuple[int, int],
    middle: np.ndarray,
    scale: float,
    face: tuple[float, float],
    sheet: tuple[int, int],
    species: str,
    rng: np.random.Generator,
) -> np.ndarray:
    """Where each point of the canvas lies on the sheet, float32 (h, w, 2): roll, tilt in perspective, and a bend."""
    height, width = canvas
    x = (np.arange(width, dtype=np.float32) - float(middle[0])) / scale
    y = (np.arange(height, dtype=np.float32)[:, None] - float(middle[1])) / scale
    u, v = _turned(x, y, float(np.clip(rng.normal(0, 6), -20, 20)) * math.pi / 180)
    reach = math.hypot(*sheet) * rng.uniform(1.8, 4)
    tilt = [float(np.clip(rng.normal(0, 12), -35, 35)) * math.pi / 180 for _ in range(2)]
    near = np.maximum(1 - u * (math.sin(tilt[0]) / reach) - v * (math.sin(tilt[1]) / reach), 0.3)
    u, v = u / (math.cos(tilt[0]) * near), v / (math.cos(tilt[1]) * near)
    if species == "bent-print":
        axis = rng.normal(0, 0.25) + (math.pi / 2 if rng.random() < 0.25 else 0)
        across, along = _turned(u, v, axis)
        radius, off = max(sheet) * rng.uniform(0.36, 1.2), rng.uniform(-0.4, 0.4)
        place = across / radius + off
        beyond = (np.abs(place) > 1) * np.float32(1e5)
        across = (
            radius * math.sqrt(1 - off * off) * (np.arcsin(np.clip(place, -0.999, 0.999)) - math.asin(off)) + beyond
        )
        u, v = _turned(across, along, -axis)
    elif species == "print" and rng.random() < 0.4:  # a sheet that is held is never quite flat
        wave, amount = rng.uniform(4, 12) / sheet[0], sheet[1] * rng.uniform(0, 0.02)
        u = u + amount * np.sin(wave * v + rng.uniform(0, 6))
    return np.dstack([u + np.float32(face[0]), v + np.float32(face[1])]).astype(np.float32)


def _turned(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def _light(source: np.ndarray, sheet: tuple[int, int], species: str, rng: np.random.Generator) -> np.ndarray:
    """Factor (h, w, 1) of light on the medium: a slope, a bend's shade, glare."""
    u, v = (source[..., 0] / sheet[1] - 0.5).clip(-1, 1), (source[..., 1] / sheet[0] - 0.5).clip(-1, 1)
    light = math.exp(rng.normal(0, 0.2)) * (1 + rng.normal(0, 0.25) * u + rng.normal(0, 0.25) * v)
    if species == "bent-print":
        light = light * (1 + rng.normal(0, 0.35) * u - rng.uniform(0, 0.8) * u * u)
    light = np.maximum(light, 0.1)
    if rng.random() < {"print": 0.08, "bent-print": 0.1, "photo": 0.55}.get(species, 0.5):
        spread = rng.uniform(0.04, 0.5)
        p, q = _turned(u - rng.uniform(-0.6, 0.6), v - rng.uniform(-0.6, 0.6), rng.uniform(0, math.pi))
        q = q * rng.uniform(1, 6)
        light = light + np.exp((p * p + q * q) * (-0.5 / spread**2)) * rng.uniform(0.1, 1.6)
    return light[..., None]


def _shadow(behind: np.ndarray, alpha: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``behind`` as float32, a little darker near the medium."""
    soft = cv2.GaussianBlur(np.roll(alpha[..., 0], rng.integers(-6, 9, 2), (0, 1)), (0, 0), rng.uniform(2, 9))
    return behind * (1 - rng.uniform(0, 0.4) * soft[..., None])


def _hands(out: np.ndarray, source: np.ndarray, sheet: tuple[int, int], size: float, rng: np.random.Generator) -> None:
    """Fingers over the rim of the sheet, in place."""
    inside = (source[..., 0] >= 0) & (source[..., 0] < sheet[1]) & (source[..., 1] >= 0) & (source[..., 1] < sheet[0])
    rows, columns = np.nonzero(inside)
    if not len(rows):
        return
    left, right, top, bottom = columns.min(), columns.max(), rows.min(), rows.max()
    skin = rng.uniform(60, 235) * np.array([1, rng.uniform(0.68, 0.84), rng.uniform(0.5, 0.75)])
    for side in (0, 1):
        if rng.random() < 0.25:
            continue
        x = float(left if side == 0 else right)
        at = np.array([x, rng.uniform(top + 0.3 * (bottom - top), bottom)])
        inward = 1 if side == 0 else -1
        thick = max(2, int(size * rng.uniform(0.1, 0.2)))
        for finger in range(int(rng.integers(*FINGERS))):
            end = at + np.array([inward * size * rng.uniform(0.1, 0.45), rng.uniform(-0.12, 0.12) * size])
            start = at - np.array([inward * size * 0.8, -0.15 * size])
            tone = tuple(float(v) for v in np.clip(skin * rng.uniform(0.8, 1.1), 0, 255))
            cv2.line(out, tuple(start.astype(int).tolist()), tuple(end.astype(int).tolist()), tone, thick, cv2.LINE_AA)
            at = at + np.array([0, thick * (1.05 + 0.02 * finger)])
