# SPDX-License-Identifier: Apache-2.0
"""Views of aligned faces: pose, shape, light, morphs, occlusion, sensor and codec, all from one random generator.

Every warp is composed into one map from the 112x112 crop back to the stored picture, so pixels are
interpolated once. The depth of a face is a generic ellipsoid with a nose, good enough for +-40 degrees of yaw.
"""

from __future__ import annotations

import cv2
import numpy as np

from tools.lib.train.align_faces import MARGIN, SCALE

SIZE = 112
_GRID = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)[::-1]  # x, y
_UNIT = 71.5  # template pixels per unit of depth coordinates


def depth(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    body = np.sqrt(np.maximum(1 - (u / 0.78) ** 2 - ((v + 0.05) / 0.98) ** 2, 0))
    nose = np.exp(-((u / 0.13) ** 2 + ((v - 0.12) / 0.22) ** 2))
    return (0.62 * body + 0.16 * nose).astype(np.float32)


def _normals() -> np.ndarray:
    u, v = (_GRID - 56) / _UNIT
    gy, gx = np.gradient(cv2.GaussianBlur(depth(u, v), (0, 0), 2.5), 1 / _UNIT)
    nz = 1 / np.sqrt(1 + gx**2 + gy**2)
    return np.stack([-gx * nz, -gy * nz, nz]).astype(np.float32)


_NORMALS = _normals()


def view(face: np.ndarray, rng: np.random.Generator, *, warp: float) -> np.ndarray:
    """One float32 RGB 112x112 view of a stored crop; ``warp`` is the share of pose, shape and light changes."""
    angle, scale, aspect = rng.normal(0, 0.09), np.exp(rng.normal(0, 0.045)), np.exp(rng.normal(0, 0.04))
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    x, y = _GRID - 56 - rng.normal(0, 1.6, (2, 1, 1)).astype(np.float32)
    x, y = (cos * x + sin * y) * aspect, (-sin * x + cos * y) / aspect
    if rng.random() < 0.5:
        x = -x
    if rng.random() < warp:
        yaw, pitch = np.clip(rng.normal(0, 1, 2) * [18, 9], -42, 30) * np.pi / 180
        u0, v0 = x / _UNIT, y / _UNIT
        u, v = u0, v0
        for _ in range(2):  # fixed point of the projection: two rounds suffice for a smooth depth
            z = depth(u, v)
            u, v = (u0 - z * np.sin(yaw)) / np.cos(yaw), (v0 - z * np.sin(pitch)) / np.cos(pitch)
        x, y = (u + 0.35 * np.sin(yaw)) * _UNIT, (v + 0.35 * np.sin(pitch)) * _UNIT
    if rng.random() < 0.8 * warp:
        for axis in (x, y):
            coarse = rng.normal(0, 2.0 * rng.random(), (5, 5)).astype(np.float32)
            np.add(axis, cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC), out=axis)
    to_stored = SCALE * (56 + MARGIN)
    out = cv2.remap(
        face,
        (x * SCALE + to_stored).astype(np.float32),
        (y * SCALE + to_stored).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    ).astype(np.float32)
    if rng.random() < 0.7 * warp:
        light = rng.normal(0, 1, 3) * [1, 0.6, 0.3]
        light[2] = abs(light[2]) + 0.4
        light /= np.linalg.norm(light)
        strength = rng.random() * 0.8
        shade = np.maximum(0, np.tensordot(light, _NORMALS, 1))
        out *= (1 - strength + strength * 1.35 * shade).astype(np.float32)[..., None]
    return out


def morph(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blend two faces into a plausible person who is neither.

    By one weight, by a smooth random mask, by exaggerating what tells the first from the second (a caricature, which
    reaches people whom no blend reaches), or by the broad light and shape of one with the detail of the other.
    """
    draw = rng.random()
    if draw < 0.18:
        return (a + rng.uniform(0.1, 0.6) * (a - b)).clip(0, 255).astype(np.float32)
    if draw < 0.32:
        sigma = float(rng.uniform(3, 9))
        return (cv2.GaussianBlur(a, (0, 0), sigma) + b - cv2.GaussianBlur(b, (0, 0), sigma)).clip(0, 255)
    if draw < 0.6:
        mask: np.ndarray | float = float(np.clip(rng.normal(0.5, 0.25), 0, 1))
    else:
        coarse = 1 / (1 + np.exp(-3 * (rng.normal(0, 0.9, (4, 4)) + rng.normal(0, 0.5))))
        mask = cv2.resize(coarse.astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC).clip(0, 1)[..., None]
    return (mask * a + (1 - mask) * b).astype(np.float32)


def surround(image: np.ndarray, scene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bring in a picture without a face: behind the head, over a part of it, or shining through all of it.

    Generated portraits are smooth and stand before smooth walls; what a photo has besides a face comes from here.
    """
    draw = rng.random()
    if draw < 0.4:
        axes = np.array([36, 48], np.float32) * np.float32(rng.uniform(0.95, 1.35))
        x, y = (_GRID - 56 - rng.normal(0, 3, (2, 1, 1)).astype(np.float32)) / axes[:, None, None]
        mask = (1 / (1 + np.exp((np.hypot(x, y) - 1) * rng.uniform(8, 40))))[..., None]
    elif draw < 0.7:
        coarse = 1 / (1 + np.exp(-6 * (rng.normal(0, 1, (5, 5)) + rng.uniform(0.6, 1.4))))
        mask = cv2.resize(coarse.astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC).clip(0, 1)[..., None]
    else:
        mask = np.float32(rng.uniform(0.55, 0.9))
    return (mask * image + (1 - mask) * scene).astype(np.float32)


def occlude(image: np.ndarray, rng: np.random.Generator) -> None:
    """Draw a mask, glasses, a hat or a box over ``image`` in place."""
    colour = tuple(float(c) for c in rng.uniform(0, 255, 3) * rng.uniform(0.1, 1))
    jitter = rng.normal(0, 2.5, 2)
    kind = rng.integers(6)
    if kind == 0:
        top = 68 + rng.normal(0, 4)
        shape = np.array([[22, top], [56, top - 6], [90, top], [88, 100], [56, 118], [24, 100]]) + jitter
        cv2.fillPoly(image, [shape.astype(np.int32)], colour, cv2.LINE_AA)
    elif kind == 1:
        radius = (int(rng.integers(11, 17)), int(rng.integers(8, 14)))
        thickness = -1 if rng.random() < 0.4 else int(rng.integers(1, 3))
        for eye in ((38, 52), (74, 52)):
            cv2.ellipse(
                image,
                tuple(int(e + j) for e, j in zip(eye, jitter, strict=True)),
                radius,
                0,
                0,
                360,
                colour,
                thickness,
                cv2.LINE_AA,
            )
        cv2.line(image, (50, 51), (62, 51), colour, 2, cv2.LINE_AA)
    elif kind == 2:
        cv2.rectangle(image, (0, 0), (SIZE, int(rng.integers(12, 36))), colour, -1)
    elif kind == 3:
        _heavy_glasses(image, rng, jitter)
    elif kind == 4:
        brim = int(rng.integers(20, 38))
        shade = int(rng.integers(6, 34))
        below = image[brim : brim + shade]
        np.multiply(below, rng.uniform(0.25, 0.7), out=below, casting="unsafe")  # the shadow under a cap
        cv2.rectangle(image, (0, 0), (SIZE, brim), tuple(v * 0.5 for v in colour), -1)
    else:
        h, w = rng.integers(10, 45, 2)
        y, x = rng.integers(0, SIZE - h), rng.integers(0, SIZE - w)
        image[y : y + h, x : x + w] = colour


def _heavy_glasses(image: np.ndarray, rng: np.random.Generator, jitter: np.ndarray) -> None:
    """Thick dark frames around clear, tinted or black lenses."""
    frame = tuple(float(c) for c in rng.uniform(0, 70, 3))
    half = np.array([rng.integers(13, 20), rng.integers(10, 17)])
    tint = float(rng.choice([0.0, rng.uniform(0.2, 0.6), rng.uniform(0.8, 1.0)], p=[0.5, 0.2, 0.3]))
    thick, round_ = int(rng.integers(2, 5)), rng.random() < 0.5
    for eye in ((38, 53), (74, 53)):
        middle = np.array(eye) + jitter
        low, high = (middle - half).astype(int), (middle + half).astype(int)
        lens = image[max(low[1], 0) : high[1], max(low[0], 0) : high[0]]
        np.add(lens * (1 - tint), np.float32(rng.uniform(0, 40) * tint), out=lens, casting="unsafe")
        if round_:
            centre, axes = tuple(middle.astype(int).tolist()), tuple(half.tolist())
            cv2.ellipse(image, centre, axes, 0, 0, 360, frame, thick, cv2.LINE_AA)
        else:
            cv2.rectangle(image, tuple(low.tolist()), tuple(high.tolist()), frame, thick)
    bridge = int(53 + jitter[1])
    cv2.line(image, (48, bridge), (64, bridge), frame, thick, cv2.LINE_AA)
    for start, end in ((20, 4), (92, 108)):
        cv2.line(image, (start, bridge), (end, bridge - 2), frame, thick, cv2.LINE_AA)


def sensor(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exposure, colour cast, gamma, blur, low resolution, noise, JPEG: float32 in, uint8 out."""
    x = x * np.exp(rng.normal(0, 0.07, 3) + rng.normal(0, 0.22)).astype(np.float32) + np.float32(rng.normal(0, 9))
    if rng.random() < 0.5:
        ramp = np.linspace(-1, 1, SIZE, dtype=np.float32)
        x = (
            x
            * (1 + ramp[None, :, None] * rng.normal(0, 0.2)).astype(np.float32)
            * (1 + ramp[:, None, None] * rng.normal(0, 0.12)).astype(np.float32)
        )
    table = (255 * np.linspace(0, 1, 256) ** np.exp(rng.normal(0, 0.22))).astype(np.uint8)
    x = cv2.LUT(np.clip(x, 0, 255).astype(np.uint8), table)
    if rng.random() < 0.1:
        x = cv2.cvtColor(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    draw = rng.random()
    if draw < 0.3:
        small = int(rng.integers(28, 96))
        x = cv2.resize(
            cv2.resize(x, (small, small), interpolation=cv2.INTER_AREA), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR
        )
    elif draw < 0.45:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 1.8))
    elif draw < 0.52:
        kernel = np.zeros((9, 9), np.float32)
        cv2.line(kernel, (4, 4), tuple(int(v) for v in rng.integers(0, 9, 2)), 1.0)
        x = cv2.filter2D(x, -1, kernel / max(kernel.sum(), 1))
    if rng.random() < 0.5:
        x = np.clip(x + rng.standard_normal(x.shape, dtype=np.float32) * np.float32(rng.random() * 6), 0, 255).astype(
            np.uint8
        )
    if rng.random() < 0.3:
        x = cv2.imdecode(
            cv2.imencode(".jpg", x, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 90))])[1], cv2.IMREAD_COLOR
        )
    return np.ascontiguousarray(x)
