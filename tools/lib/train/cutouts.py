# SPDX-License-Identifier: Apache-2.0
"""Portraits turned into faces to paste: matte, occlusion, light, pose, and labels that follow every warp.

Labels come from YuNet on the clean portrait and are carried through the same geometry, which is better
than asking a detector about the degraded picture.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from tools.lib.train.augment import depth, occlude
from tools.lib.train.teacher import TEMPLATE

SIDE = 224  # pixels of a portrait
_STEP = 2  # portrait pixels per node of a pose map
_UNIT = 71.5  # template pixels per unit of depth coordinates, as in augment
_NODES = np.mgrid[0:SIDE:_STEP, 0:SIDE:_STEP].astype(np.float32)[::-1]
_PIXELS = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)[::-1]
_OUTLINE = np.stack(
    [np.cos(np.linspace(0, 2 * np.pi, 16, endpoint=False)), np.sin(np.linspace(0, 2 * np.pi, 16, endpoint=False))], 1
)
BOX_SIZE = 93.0  # template pixels of a typical face box
EDGE = 36  # pixels over which the border of a tight photo may fade


class Portrait(NamedTuple):
    """RGB uint8 (224,224,3), head matte uint8 (224,224) or None, box x, y, w, h and landmarks (5,2), float32 pixels.

    ``known``: the landmarks are the teacher's, not typical ones; ``tight``: the picture's border cuts the head.
    """

    image: np.ndarray
    matte: np.ndarray | None
    box: np.ndarray
    landmarks: np.ndarray
    known: bool = True
    tight: bool = False


class Cutout(NamedTuple):
    """What lands in the scene: RGB float32 (h,w,3), alpha float32 (h,w), its corner, box (4,) and landmarks (5,2)."""

    image: np.ndarray
    alpha: np.ndarray
    corner: tuple[int, int]
    box: np.ndarray
    landmarks: np.ndarray


def head_matte(rgb: np.ndarray, box: np.ndarray) -> np.ndarray:
    """GrabCut (Rother et al. 2004) at half size, started from the face box: hair, ears, neck, shoulders."""
    half = cv2.resize(rgb, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)
    x, y, w, h = box / 2
    middle = (int(x + w / 2), int(y + h / 2))
    mask = np.full(half.shape[:2], cv2.GC_PR_BGD, np.uint8)
    cv2.ellipse(mask, middle, (int(w * 0.85), int(h * 0.8)), 0, 0, 360, cv2.GC_PR_FGD, -1)
    cv2.rectangle(mask, (int(x - w * 0.2), int(y + h)), (int(x + w * 1.2), SIDE // 2), cv2.GC_PR_FGD, -1)
    mask[:4], mask[:40, :5], mask[:40, -5:] = cv2.GC_BGD, cv2.GC_BGD, cv2.GC_BGD
    cv2.ellipse(mask, middle, (int(w * 0.45), int(h * 0.45)), 0, 0, 360, cv2.GC_FGD, -1)
    cv2.setRNGSeed(1)
    cv2.grabCut(half, mask, None, np.zeros((1, 65)), np.zeros((1, 65)), 2, cv2.GC_INIT_WITH_MASK)
    head = ((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)).astype(np.uint8) * 255
    head = cv2.morphologyEx(head, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return cv2.resize(cv2.GaussianBlur(head, (0, 0), 1.0), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)


def _to_template(portrait: Portrait) -> np.ndarray:
    """Similarity from the portrait to the template, by landmarks, or by the box where they say nothing."""
    x, y, w, h = portrait.box
    matrix = cv2.estimateAffinePartial2D(portrait.landmarks, TEMPLATE, method=cv2.LMEDS)[0] if portrait.known else None
    usual = BOX_SIZE / float(np.sqrt(w * h))
    if matrix is None or not 0.6 < float(np.hypot(*matrix[0, :2])) / usual < 1.6:  # a profile: the points are in a line
        matrix = np.array([[usual, 0, 56 - usual * (x + w / 2)], [0, usual, 62 - usual * (y + h / 2)]])
    return matrix.astype(np.float32)


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def _pose_map(matrix: np.ndarray, rng: np.random.Generator, *, mild: bool) -> np.ndarray | None:
    """Where each node of the posed portrait comes from, float32 (112,112,2): head pose and elastic shape.

    ``mild`` for photos of people in poses of their own; None where all stays in its place.
    """
    x, y = _NODES
    if mild and rng.random() < 0.6:
        return None
    if rng.random() < (0.35 if mild else 0.8):
        spread = (34, 15) if rng.random() < 0.6 and not mild else (12, 7)
        yaw, pitch = np.clip(rng.normal(0, 1, 2) * spread, [-62, -34], [62, 36]) * np.pi / 180
        tx = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
        ty = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
        u0, v0 = (tx - 56) / _UNIT, (ty - 56) / _UNIT
        u, v = u0, v0
        for _ in range(2):
            z = depth(u, v)
            u, v = (u0 - z * np.sin(yaw)) / np.cos(yaw), (v0 - z * np.sin(pitch)) / np.cos(pitch)
        u, v = (u + 0.35 * np.sin(yaw)) * _UNIT + 56, (v + 0.35 * np.sin(pitch)) * _UNIT + 56
        back = cv2.invertAffineTransform(matrix)
        x = back[0, 0] * u + back[0, 1] * v + back[0, 2]
        y = back[1, 0] * u + back[1, 1] * v + back[1, 2]
    out = np.stack([x, y], -1).astype(np.float32)
    if rng.random() < 0.7:
        nodes = int(rng.integers(4, 8))
        coarse = rng.normal(0, (2.5 if mild else 5.0) * rng.random(), (nodes, nodes, 2)).astype(np.float32)
        out += cv2.resize(coarse, out.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return out


def _forward(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Where portrait points land in the posed portrait: nearest of every second node, then two Newton steps."""
    coarse = pose[::2, ::2]
    flat, at = coarse.reshape(-1, 2), points.astype(np.float32)
    distance = (flat**2).sum(1) - 2 * at @ flat.T  # and what does not depend on the node
    found = np.stack(np.divmod(distance.argmin(1), coarse.shape[1]), 1)[:, ::-1] * 2.0  # column, row
    for _ in range(2):
        column, row = np.rint(found).astype(int).clip(1, np.array(pose.shape[1::-1]) - 2).T
        dx = (pose[row, column + 1] - pose[row, column - 1]) / 2
        dy = (pose[row + 1, column] - pose[row - 1, column]) / 2
        rest = points - pose[row, column]
        det = dx[:, 0] * dy[:, 1] - dx[:, 1] * dy[:, 0]
        det = np.where(np.abs(det) < 0.8, 0.8, det)
        across = (dy[:, 1] * rest[:, 0] - dy[:, 0] * rest[:, 1]) / det
        down = (dx[:, 0] * rest[:, 1] - dx[:, 1] * rest[:, 0]) / det
        found = np.stack([column, row], 1) + np.stack([across, down], 1).clip(-3, 3)
    return found * _STEP


def _shade(image: np.ndarray, matrix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Directional light by the generic depth's slopes."""
    tx = (matrix[0, 0] * _PIXELS[0] + matrix[0, 1] * _PIXELS[1] + matrix[0, 2] - 56) / _UNIT
    ty = (matrix[1, 0] * _PIXELS[0] + matrix[1, 1] * _PIXELS[1] + matrix[1, 2] - 56) / _UNIT
    light = rng.normal(0, 1, 3) * [1, 0.7, 0.3]
    light[2] = abs(light[2]) + 0.35
    light /= np.linalg.norm(light)
    surface = cv2.GaussianBlur(depth(tx, ty), (0, 0), 4)
    scale = 1 / (matrix[0, 0] / _UNIT)
    gx = cv2.Sobel(surface, cv2.CV_32F, 1, 0) / 8 * scale
    gy = cv2.Sobel(surface, cv2.CV_32F, 0, 1) / 8 * scale
    shade = np.maximum((light[2] - light[0] * gx - light[1] * gy) / np.sqrt(1 + gx**2 + gy**2), 0)
    share = rng.random() * 0.85
    return image * (1 - share + share * 1.35 * shade).astype(np.float32)[..., None]


def _cover(image: np.ndarray, matrix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Masks, glasses, hats and boxes of ``augment.occlude``, or a beard, carried from the template to the portrait."""
    if rng.random() < 0.3:
        layer = np.zeros((112, 112), np.uint8)
        jaw = np.array([[20, 66], [34, 78], [56, 74], [78, 78], [92, 66], [84, 104], [56, 120], [28, 104]])
        cv2.fillPoly(layer, [jaw + rng.integers(-4, 5, 2)], 255)
        if rng.random() < 0.7:
            cv2.ellipse(layer, (56, 92), (15, 6), 0, 0, 360, 0, -1)
        noise = rng.random((112, 112), dtype=np.float32) * 0.5 + 0.5
        alpha = cv2.GaussianBlur(layer.astype(np.float32) / 255, (0, 0), 2.5) * noise * rng.uniform(0.4, 0.95)
        colour = np.full(
            (112, 112, 3),
            rng.uniform(10, 70) * rng.uniform(0.7, 1.2, 3) if rng.random() < 0.7 else rng.uniform(120, 220),
            np.float32,
        )
    else:
        seed = int(rng.integers(2**32))
        black, white = np.zeros((112, 112, 3), np.uint8), np.full((112, 112, 3), 255, np.uint8)
        occlude(black, np.random.default_rng(seed))
        occlude(white, np.random.default_rng(seed))
        alpha = 1 - (white.astype(np.float32) - black).mean(-1) / 255
        colour = black.astype(np.float32) / np.maximum(alpha, 1e-3)[..., None]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    alpha = cv2.warpAffine(alpha, matrix, (SIDE, SIDE), flags=flags)[..., None]
    colour = cv2.warpAffine(colour, matrix, (SIDE, SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return image * (1 - alpha) + colour * alpha


def _hand(image: np.ndarray, portrait: Portrait, rng: np.random.Generator) -> None:
    """Draw a skin-coloured blob with fingers over part of the face, in place."""
    x, y, w, h = portrait.box
    skin = image[tuple(int(np.clip(v, 0, SIDE - 1)) for v in (y + 0.35 * h, x + 0.25 * w))] * rng.uniform(0.7, 1.15)
    at = np.array([x + w * rng.choice([0.0, 0.15, 0.85, 1.0]), y + h * rng.uniform(0.35, 1.1)])
    angle = rng.uniform(0, np.pi)
    for finger in range(int(rng.integers(2, 5))):
        end = at + np.array([np.cos(angle), -np.sin(angle)]) * rng.uniform(25, 60)
        tone = tuple(float(v) for v in skin * rng.uniform(0.85, 1.1))
        cv2.line(image, tuple(at.astype(int)), tuple(end.astype(int)), tone, int(rng.integers(9, 16)), cv2.LINE_8)
        at = at + np.array([0, 11.0 + finger])


def dress(portrait: Portrait, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Occlusion and light on the upright portrait: float32 RGB and the similarity to the template."""
    matrix = _to_template(portrait)
    image = portrait.image.astype(np.float32)
    draw = rng.random()
    if draw < 0.3:
        image = _cover(image, matrix, rng)
    elif draw < 0.36:
        image = np.ascontiguousarray(image)
        _hand(image, portrait, rng)
    if rng.random() < 0.5:
        image = _shade(image, matrix, rng)
    if rng.random() < 0.08:  # one side in the dark
        across = (_PIXELS[0] - portrait.box[0]) / portrait.box[2] - rng.uniform(0.3, 0.7)
        side = 1 / (1 + np.exp(across * rng.choice([-1, 1]) * rng.uniform(4, 30)))
        image = image * (1 - rng.uniform(0.4, 0.85) * side)[..., None].astype(np.float32)
    image = image * np.exp(rng.normal(0, 0.08, 3) + rng.normal(0, 0.2)).astype(np.float32)
    if rng.random() < 0.15:
        image += 0.7 * (image - cv2.GaussianBlur(image, (0, 0), 2.0))
    return np.clip(image, 0, 255), matrix


def alpha_of(portrait: Portrait, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Float32 (224,224) in [0, 1]: the head, a soft ellipse, a rectangle, or the whole portrait."""
    x, y, w, h = portrait.box
    if kind == "whole":
        alpha = np.ones((SIDE, SIDE), np.float32)
        if portrait.tight and rng.random() < 0.55:
            for _ in range(4):
                _fade(alpha, int(rng.integers(2, EDGE)))
                alpha = np.ascontiguousarray(np.rot90(alpha))
        return alpha
    if kind == "head" and portrait.matte is not None:
        alpha = (portrait.matte / 255).astype(np.float32)
        _fade(alpha, 12)
        if portrait.tight:
            for turns in (1, 2, 3):
                _fade(np.rot90(alpha, turns), int(rng.integers(4, 20)))
        return alpha
    alpha = np.zeros((SIDE, SIDE), np.float32)
    if kind in ("ellipse", "head"):
        axes = (int(w * rng.uniform(0.52, 0.75)), int(h * rng.uniform(0.52, 0.68)))
        cv2.ellipse(alpha, (int(x + w / 2), int(y + h / 2)), axes, 0, 0, 360, 1.0, -1)
        return cv2.GaussianBlur(alpha, (0, 0), rng.uniform(1, 8))
    margin = rng.uniform(0.04, 0.5, 4) * [w, h, w, h]
    alpha[max(0, int(y - margin[1])) : int(y + h + margin[3]), max(0, int(x - margin[0])) : int(x + w + margin[2])] = 1
    return cv2.GaussianBlur(alpha, (0, 0), rng.uniform(0.5, 4)) if rng.random() < 0.5 else alpha


def _fade(alpha: np.ndarray, rows: int) -> None:
    """Let the lowest ``rows`` run out, in place."""
    alpha[-rows:] *= np.linspace(1, 0, rows, dtype=np.float32)[:, None]


def suited(kind: str, portrait: Portrait, rng: np.random.Generator) -> str:
    """Return the way to paste ``portrait`` when ``kind`` was asked for: what a tight photo lacks cannot be cut out."""
    if portrait.tight and (portrait.matte is None or rng.random() < 0.4):
        return str(rng.choice(["whole", "ellipse", "rectangle"], p=[0.55, 0.35, 0.10]))
    return kind


def place(
    portrait: Portrait,
    frame: tuple[int, int],
    at: tuple[float, float],
    size: float,
    kind: str,
    rng: np.random.Generator,
) -> Cutout | None:
    """Render the portrait with its face centre at ``at`` and a face of ``size`` (root of the box area), scene pixels.

    ``frame`` is the scene's width and height; None when nothing of the patch is inside it.
    """
    image, matrix = dress(portrait, rng)
    pose = _pose_map(matrix, rng, mild=portrait.tight)
    x, y, w, h = portrait.box
    middle = np.array([x + w / 2, y + h / 2])
    scale = size / np.sqrt(w * h)
    roll = np.clip(rng.normal(0, 9) if rng.random() < 0.7 else rng.normal(0, 20), -40, 40) * np.pi / 180
    # cameras squeeze 16:9 into 4:3 for the small stream: sqrt(3/4) = 0.87
    aspect = rng.uniform(0.85, 1.0) if rng.random() < 0.25 else np.exp(rng.normal(0, 0.05))
    linear = scale * np.array(
        [[np.cos(roll) * aspect, -np.sin(roll) / aspect], [np.sin(roll) * aspect, np.cos(roll) / aspect]]
    )
    placed = np.concatenate([linear, (np.array(at) - linear @ middle)[:, None]], 1)
    points = np.concatenate([portrait.landmarks, middle + _OUTLINE * [w / 2, h / 2]])
    moved = _apply(placed, points if pose is None else _forward(pose, points))
    low, high = moved[5:].min(0), moved[5:].max(0)
    corners = _apply(placed, np.array([[0, 0], [SIDE, 0], [0, SIDE], [SIDE, SIDE]], np.float64))
    left, top = np.maximum(np.floor(corners.min(0)).astype(int) - 2, 0)
    right, bottom = np.minimum(np.ceil(corners.max(0)).astype(int) + 3, frame)
    if right <= left or bottom <= top:
        return None
    back = cv2.invertAffineTransform(placed)
    to_node = back.copy()
    to_node[:, 2] += back[:, :2] @ [left, top]
    where = (int(right - left), int(bottom - top))
    shrink = 1 if scale > 0.6 else 2 if scale > 0.3 else 4 if scale > 0.15 else 8
    rgba = np.dstack([image, alpha_of(portrait, kind, rng) * 255]).clip(0, 255).astype(np.uint8)
    if shrink > 1:
        rgba = cv2.resize(rgba, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    if pose is None:
        direct = to_node / shrink
        direct[:, 2] += 0.5 / shrink - 0.5
        patch = cv2.warpAffine(rgba, direct, where, flags=flags, borderMode=cv2.BORDER_CONSTANT).astype(np.float32)
    else:
        sample = cv2.warpAffine(pose, to_node / _STEP, where, flags=flags, borderValue=(-1e4, -1e4))
        sample = (sample + 0.5) / shrink - 0.5
        patch = cv2.remap(rgba, sample, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT).astype(np.float32)
    box = np.array([*low, *(high - low)], np.float32)
    return Cutout(patch[..., :3], patch[..., 3] / 255, (int(left), int(top)), box, moved[:5].astype(np.float32))
