# SPDX-License-Identifier: Apache-2.0
"""What a door's camera takes, simulated: a person or an attack before a background, and the camera itself.

A person and the picture that an attack shows are composed alike, and the same camera takes both: what tells them apart
is the medium alone. Grounds of people have frames, doors and bright panes too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from tools.lib.train.cutouts import SIDE, Portrait
from tools.lib.train.media import Shown, grey_of, present, tint
from tools.lib.train.naturals import Portraits

CANVAS = 192  # pixels of a side: a face and four times as much around it
FAR, NEAR = (34.0, 47.0), (52.0, 100.0)  # face sizes: all of the wide crop fits in, or the picture's edge cuts it
LIGHT = np.linspace(0, 1, 256, dtype=np.float32) ** 2  # of stored values
BANK = np.random.default_rng(1).standard_normal((640, 640, 3), np.float32)
SHARP = 0.45  # how bad a lens has to be to blur at all
WHOLE = 0.5  # of people, and of what attacks show, are a photo as it was taken


class Take(NamedTuple):
    """A simulated frame: RGB uint8 (CANVAS, CANVAS, 3), and its face's box x0, y0, x1, y1."""

    image: np.ndarray
    box: np.ndarray


def person(portraits: Portraits, grounds: Sequence[np.ndarray], rng: np.random.Generator, *, near: bool) -> Take:
    """Somebody before a background, as light would have them: no camera yet."""
    if rng.random() < WHOLE:
        return _whole(portraits.pick(rng), rng)
    portrait = portraits.pick(rng)
    while portrait.matte is None:
        portrait = portraits.pick(rng)
    size = rng.uniform(*(NEAR if near else FAR))
    return _composed(portrait, ground(grounds, rng), size, rng)


def attack(
    portraits: Portraits,
    grounds: Sequence[np.ndarray],
    species: str,
    rng: np.random.Generator,
    *,
    near: bool,
    shown: Take | None = None,
) -> Take:
    """An attack of ``species`` before a background, or before whoever holds it; it shows ``shown``, or anybody."""
    inner = shown or person(portraits, grounds, rng, near=rng.random() < 0.5)
    x0, y0, x1, y1 = inner.box
    scale = float(np.sqrt((x1 - x0) * (y1 - y0)))
    held = Shown(camera(inner.image, rng, mild=True), ((x0 + x1) / 2, (y0 + y1) / 2), scale)
    size = rng.uniform(*(NEAR if near else FAR))
    middle = _middle(rng)
    behind = ground(grounds, rng)
    if rng.random() < 0.5:
        behind = _holder(portraits, behind, middle, size, rng)
    image = present(held, behind, middle, size, species, rng)
    half = np.array([x1 - x0, y1 - y0]) / scale * size / 2
    return Take(image, np.array([*(middle - half), *(middle + half)], np.float32))


def ground(grounds: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A part of a natural photo, uint8 (CANVAS, CANVAS, 3), often out of focus, sometimes with a frame or a pane."""
    photo = grounds[int(rng.integers(len(grounds)))]
    height, width = photo.shape[:2]
    side = int(min(height, width) * rng.uniform(0.4, 1.0))
    x, y = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    part = cv2.resize(photo[y : y + side, x : x + side], (CANVAS, CANVAS), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        part = part[:, ::-1]
    if rng.random() < 0.5:
        part = cv2.GaussianBlur(part, (0, 0), rng.uniform(0.8, 5))
    part = part.astype(np.float32) * math.exp(rng.normal(0, 0.3))
    if rng.random() < 0.35:
        for _ in range(int(rng.integers(1, 4))):
            _rectangle(part, rng)
    return np.clip(part, 0, 255).astype(np.uint8)


def _rectangle(part: np.ndarray, rng: np.random.Generator) -> None:
    """A door, a pane, a poster or a screen behind people: straight edges are no attack by themselves. In place."""
    at, side = rng.uniform(-0.3, 1.0, 2) * CANVAS, rng.uniform(0.15, 1.2, 2) * CANVAS
    turn = rng.normal(0, 4) if rng.random() < 0.8 else rng.normal(0, 20)
    corners = cv2.boxPoints(((float(at[0] + side[0] / 2), float(at[1] + side[1] / 2)), side.tolist(), float(turn)))
    inside, rim = (tuple(float(v) for v in rng.uniform(5, 250) * tint(0.1, rng)) for _ in range(2))
    if rng.random() < 0.5:
        cv2.fillPoly(part, [corners.astype(np.int32)], inside, cv2.LINE_AA)
    cv2.polylines(part, [corners.astype(np.int32)], True, rim, int(rng.integers(1, 14)), cv2.LINE_AA)  # noqa: FBT003


def _middle(rng: np.random.Generator) -> np.ndarray:
    return CANVAS / 2 + np.clip(rng.normal(0, 0.04, 2), -0.1, 0.1) * CANVAS


def _whole(portrait: Portrait, rng: np.random.Generator) -> Take:
    """A photo as it was taken, cropped by chance, to the canvas."""
    x, y, w, h = portrait.box
    room = np.array([x, y, SIDE - x - w, SIDE - y - h]).clip(0)
    left, top, right, bottom = (room * rng.uniform(0, 0.5, 4) * (rng.random() < 0.5)).astype(int)
    image = np.asarray(portrait.image)[top : SIDE - bottom, left : SIDE - right]
    if rng.random() < 0.5:
        image, x, left = image[:, ::-1], SIDE - x - w, right
    factor = CANVAS / np.array([image.shape[1], image.shape[0]])
    corner = (np.array([x, y]) - [left, top]) * factor
    whole = cv2.resize(np.ascontiguousarray(image), (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC)
    return Take(whole, np.array([*corner, *(corner + [w, h] * factor)], np.float32))


def _composed(portrait: Portrait, behind: np.ndarray, size: float, rng: np.random.Generator) -> Take:
    x, y, w, h = portrait.box
    middle = _middle(rng)
    scale, roll = size / np.sqrt(w * h), np.clip(rng.normal(0, 5), -20, 20) * np.pi / 180
    mirror = -1 if rng.random() < 0.5 else 1
    linear = scale * np.array([[np.cos(roll) * mirror, -np.sin(roll)], [np.sin(roll) * mirror, np.cos(roll)]])
    matrix = np.concatenate([linear, (middle - linear @ [x + w / 2, y + h / 2])[:, None]], 1)
    image = np.array(portrait.image)
    if scale < 0.6:
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / scale)
    image[-1:] = cv2.GaussianBlur(image[-1:], (0, 0), SIDE / 8)  # clothes go on below the photo, without stripes
    where = (CANVAS, CANVAS)
    moved = cv2.warpAffine(image, matrix, where, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(portrait.matte, matrix, where, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    soft = alpha.astype(np.float32) / 255 * _bust(middle, size, rng)
    if rng.random() < 0.5:
        soft = cv2.GaussianBlur(soft, (0, 0), rng.uniform(0.3, 1.5))
    light = tint(0.06, rng) * np.float32(math.exp(rng.normal(0, 0.2)))
    out = behind * (1 - soft[..., None]) + np.clip(moved * light, 0, 255) * soft[..., None]
    half = np.array([w, h]) * scale / 2
    return Take(np.clip(out, 0, 255).astype(np.uint8), np.array([*(middle - half), *(middle + half)], np.float32))


def _bust(middle: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """Where head and shoulders may be, float32 in [0, 1]: what the photo's edge cut off goes on below, not above."""
    mask = np.zeros((CANVAS, CANVAS), np.float32)
    x, y = (int(v) for v in middle)
    cv2.ellipse(mask, (x, y), (int(size * 0.95), int(size * 1.05)), 0, 0, 360, 1.0, -1)
    wide, neck = size * rng.uniform(1.15, 1.6), y + size * rng.uniform(0.6, 0.8)
    cv2.ellipse(mask, (x, int(neck + size * 0.75)), (int(wide), int(size * 0.75)), 0, 180, 360, 1.0, -1)
    cv2.rectangle(mask, (int(x - wide), int(neck + size * 0.75)), (int(x + wide), CANVAS), 1.0, -1)
    return cv2.GaussianBlur(mask, (0, 0), max(1.0, size * 0.03))


def _holder(
    portraits: Portraits, behind: np.ndarray, middle: np.ndarray, size: float, rng: np.random.Generator
) -> np.ndarray:
    """``behind`` with somebody in it who stands a little aside of the face that is shown, or whom it covers."""
    other = portraits.pick(rng)
    for _ in range(20):
        if other.matte is not None:
            break
        other = portraits.pick(rng)
    if other.matte is None:
        return behind
    own = size * rng.uniform(0.6, 1.3)
    take = _composed(other, behind, own, rng)
    shift = middle - CANVAS / 2 + rng.normal(0, 0.6, 2) * size
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
    return cv2.warpAffine(take.image, matrix, (CANVAS, CANVAS), borderMode=cv2.BORDER_REFLECT)


def camera(image: np.ndarray, rng: np.random.Generator, *, mild: bool = False) -> np.ndarray:
    """uint8 RGB as a camera gives it: light, white balance, lens, noise, tone, sharpening, JPEG; some cameras are bad.

    ``mild`` for the camera that took what an attack shows: attackers take good pictures.
    """
    bad = 0.3 if mild else rng.uniform(0.3, 1.0) if rng.random() < 0.7 else rng.uniform(1.0, 2.0)
    light = LIGHT[image]
    light *= math.exp(rng.normal(0, 0.2 * bad)) * tint(0.05 * bad, rng)
    if rng.random() < 0.15 * bad:
        light = _vignette(light, rng)
    if bad > SHARP:
        light = cv2.GaussianBlur(light, (0, 0), 0.25 + rng.uniform(0, 0.6) * bad)
    if rng.random() < 0.08 * bad:
        light = _smear(light, rng)
    noise = math.exp(rng.uniform(math.log(0.001), math.log(0.01))) * bad
    light += _noise(light.shape, rng) * noise * np.sqrt(light + 0.02)
    x = np.sqrt(np.clip(light, 0, 1))
    contrast = 255 * math.exp(rng.normal(0, 0.08 * bad))
    x = (x - 0.46) * contrast + (118 + rng.normal(0, 6 * bad))
    grey = grey_of(x)
    x = grey + (x - grey) * math.exp(rng.normal(0, 0.12 * bad))
    if rng.random() < 0.3:
        x += rng.uniform(0.1, 0.5) * bad * (x - cv2.GaussianBlur(x, (0, 0), 1.0))
    taken = np.clip(x, 0, 255).astype(np.uint8)
    if not mild and rng.random() < 0.15 * bad:  # a small face in a large picture
        share, size = rng.uniform(0.5, 0.9), taken.shape[1::-1]
        taken = cv2.resize(taken, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
        taken = cv2.resize(taken, size, interpolation=cv2.INTER_LINEAR)
    if not mild and rng.random() < 0.03:
        taken = np.repeat(grey_of(taken.astype(np.float32)).astype(np.uint8), 3, -1)  # by infrared light at night
    coded = cv2.imencode(".jpg", taken, [cv2.IMWRITE_JPEG_QUALITY, int(97 - rng.uniform(0, 20) * bad)])[1]
    return cv2.imdecode(coded, cv2.IMREAD_COLOR)


def _noise(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Unit noise, float32: a part of a bank, turned and mirrored by chance."""
    y, x = rng.integers(0, BANK.shape[0] - shape[0]), rng.integers(0, BANK.shape[1] - shape[1])
    part = BANK[y : y + shape[0], x : x + shape[1]][:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    return np.roll(part, int(rng.integers(3)), -1)


def _vignette(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) ** 2 for side in light.shape[:2])
    return light * (1 - rng.uniform(0, 0.15) * (x + y[:, None]))[..., None]


def _smear(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    kernel = np.zeros((9, 9), np.float32)
    end = rng.uniform(-4, 4, 2)
    cv2.line(kernel, (4, 4), (int(4 + end[0]), int(4 + end[1])), 1.0)
    return cv2.filter2D(light, -1, kernel / kernel.sum())
