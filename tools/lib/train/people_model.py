# SPDX-License-Identifier: Apache-2.0
"""A small generative model of heads: shape and texture apart, sampled from local Gaussians.

Every aligned portrait is cut out of its background (GrabCut, Rother et al. 2004), brought into dense
correspondence with the mean head (DIS optical flow, Kroeger et al. 2016) and split into a warp and a
shape-free texture with matte; each half gets a principal component analysis (active appearance models,
Cootes et al. 2001). One Gaussian over all heads blurs hair styles into each other and stays near the mean
face, so a sample comes from the Gaussian of a neighbourhood: a random combination of several dozen heads,
none of which carries more than a small share.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from agent.camera.scene.pose import PICTURE_SIDE as SIDE

GREY = 128  # what lies behind a cut-out head in the texture model
NOSE_OFFSET = 0.14  # eye distances off the middle: portraits turned further do not fit one frontal shape model
SHAPE_SIDE = 50  # the warp is smooth: a quarter of the resolution holds it
TEXTURE_COMPONENTS, SHAPE_COMPONENTS = 600, 60
NEIGHBOURS = 60  # heads behind one sample
NEIGHBOURHOOD_COMPONENTS = 16  # the first texture components: hair style, hair colour, tone of skin
ROUNDS, ROUND_HEADS = 3, 300  # refinements of the mean head, and the heads each takes
MAX_FLOW = 14.0  # stored pixels: larger displacements are mistakes of the flow

_GRID = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)[::-1].transpose(1, 2, 0).copy()
# Flow is trusted inside the face; hair and clothes have no correspondence between people.
_TRUST = np.exp(-3 * np.maximum(((_GRID[..., 0] - 100) / 52) ** 2 + ((_GRID[..., 1] - 104) / 62) ** 2 - 1, 0))


@dataclass(frozen=True)
class Head:
    """One sample: texture float32 (SIDE, SIDE, 4) RGB over GREY and matte, 0-255, and its parameters."""

    picture: np.ndarray
    texture: np.ndarray
    shape: np.ndarray
    neighbours: np.ndarray


class HeadModel:
    """Fitted on uint8 (n, SIDE, SIDE, 3) aligned portraits with five landmarks each (n, 5, 2)."""

    def __init__(self, faces: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> None:
        eyes = np.linalg.norm(landmarks[:, 1] - landmarks[:, 0], axis=1)
        middle = landmarks[:, [0, 1, 3, 4], 0].mean(1)
        frontal = np.flatnonzero(np.abs(landmarks[:, 2, 0] - middle) < NOSE_OFFSET * eyes)
        flow_of = _Correspondence(faces, rng.permutation(frontal)[:ROUND_HEADS])
        kept, textures, warps = [], [], []
        for index in frontal:
            matte = cut_out(faces[index])
            if not _whole(matte):
                continue
            warp = flow_of(faces[index])
            over_grey = faces[index] * matte[..., None] + GREY * (1 - matte[..., None])
            texture = _remap(np.dstack([over_grey, 255 * matte]).astype(np.float32), warp)
            kept.append(index)
            textures.append(np.clip(texture, 0, 255).astype(np.uint8).reshape(-1))
            warps.append(cv2.resize(warp, (SHAPE_SIDE, SHAPE_SIDE), interpolation=cv2.INTER_AREA).reshape(-1))
        self.kept = np.array(kept)
        self._mean, self._basis, self._texture = _principal(np.stack(textures), TEXTURE_COMPONENTS)
        self._shape_mean, self._shape_basis, self._shape = _principal(np.stack(warps), SHAPE_COMPONENTS)

    def sample(self, rng: np.random.Generator, count: int) -> list[Head]:
        """Draw heads that exist nowhere."""
        near = self._texture[:, :NEIGHBOURHOOD_COMPONENTS]
        textures, shapes, behind = [], [], []
        for _ in range(count):
            centre = near[rng.integers(len(near))]
            group = np.argsort(((near - centre) ** 2).sum(1))[:NEIGHBOURS]
            textures.append(_gaussian(self._texture[group], rng))
            shapes.append(_gaussian(self._shape[group], rng))
            behind.append(self.kept[group])
        return [Head(*one) for one in zip(self.draw(textures, shapes), textures, shapes, behind, strict=True)]

    def expression(self, head: Head, rng: np.random.Generator, strength: float) -> np.ndarray:
        """Draw ``head`` with another mouth and slightly moved features; the rest stays."""
        group = np.flatnonzero(np.isin(self.kept, head.neighbours))
        other = head.texture + strength * (_gaussian(self._texture[group], rng) - self._texture[group].mean(0))
        (moved,) = self.draw([other], [head.shape])
        mouth = np.exp(-(np.maximum(((_GRID[..., 0] - 100) / 30) ** 2 + ((_GRID[..., 1] - 146) / 20) ** 2 - 1, 0)) * 2)
        mixed = head.picture + mouth[..., None] * (moved - head.picture)
        elastic = rng.normal(0, 1.6 * strength, (5, 5, 2)).astype(np.float32)
        return _remap(mixed, cv2.resize(elastic, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) * _TRUST[..., None])

    def draw(self, textures: list[np.ndarray], shapes: list[np.ndarray]) -> np.ndarray:
        """Pictures of parameters: float32 (n, SIDE, SIDE, 4), 0-255."""
        flat = np.clip(self._mean + np.stack(textures) @ self._basis, 0, 255).reshape(-1, SIDE, SIDE, 4)
        warps = (self._shape_mean + np.stack(shapes) @ self._shape_basis).reshape(-1, SHAPE_SIDE, SHAPE_SIDE, 2)
        return np.stack([_remap(one, _inverse(warp)) for one, warp in zip(flat, warps, strict=True)])


def cut_out(face: np.ndarray) -> np.ndarray:
    """Matte of the head, float32 (SIDE, SIDE), 0-1: GrabCut at half size, the part that holds the nose."""
    half = SIDE // 2
    small = cv2.resize(face, (half, half), interpolation=cv2.INTER_AREA)
    mask = np.full((half, half), cv2.GC_PR_BGD, np.uint8)
    cv2.ellipse(mask, (50, 42), (26, 40), 0, 0, 360, cv2.GC_PR_FGD, -1)
    cv2.ellipse(mask, (50, 55), (18, 28), 0, 0, 360, cv2.GC_FGD, -1)
    mask[:60, :3] = mask[:60, 97:] = cv2.GC_BGD
    mask[88:, 35:65] = cv2.GC_FGD  # neck
    cv2.grabCut(
        np.ascontiguousarray(small[..., ::-1]),
        mask,
        None,
        np.zeros((1, 65)),
        np.zeros((1, 65)),
        3,
        cv2.GC_INIT_WITH_MASK,
    )
    _, parts = cv2.connectedComponents(mask & 1, connectivity=4)
    head = (parts == parts[55, 50]).astype(np.float32)
    head[:4] = 0  # often mirrored rows above the source picture
    return cv2.GaussianBlur(cv2.resize(head, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), (0, 0), 1.2)


def _whole(matte: np.ndarray) -> bool:
    """Whether hair or skull reaches to where it should and no further than the picture."""
    return bool(matte[26:32, 80:120].mean() > 0.8 and (matte[10] > 0.5).sum() < 70 and (matte[40] > 0.5).sum() > 60)


class _Correspondence:
    """Dense flow from the mean head to a face; the mean is refined with the flow it yields."""

    def __init__(self, faces: np.ndarray, subset: np.ndarray) -> None:
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._flow.setFinestScale(1)
        self._equalise = cv2.createCLAHE(2.0, (4, 4))
        mean = np.mean([faces[i] for i in subset], 0)
        for _ in range(ROUNDS):
            self._mean = self._grey(mean)
            warps = [self(faces[i]) for i in subset]
            mean = np.mean([_remap(faces[i].astype(np.float32), w) for i, w in zip(subset, warps, strict=True)], 0)
            mean = _remap(mean.astype(np.float32), -np.mean(warps, 0))
        self._mean = self._grey(mean)

    def __call__(self, face: np.ndarray) -> np.ndarray:
        raw = np.clip(self._flow.calc(self._mean, self._grey(face), None), -MAX_FLOW, MAX_FLOW)
        weight = cv2.GaussianBlur(_TRUST, (0, 0), 9)[..., None] + 0.08
        return cv2.GaussianBlur(raw * _TRUST[..., None], (0, 0), 9) / weight

    def _grey(self, picture: np.ndarray) -> np.ndarray:
        return self._equalise.apply(cv2.cvtColor(np.ascontiguousarray(picture, np.uint8), cv2.COLOR_RGB2GRAY))


def _principal(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, orthonormal basis (count, d) and coefficients (n, count), by the Gram matrix."""
    mean = rows.mean(0, dtype=np.float32)
    centred = np.subtract(rows, mean, dtype=np.float32)
    values, vectors = np.linalg.eigh(centred @ centred.T)
    root = np.sqrt(values[::-1][:count])
    vectors = vectors[:, ::-1][:, :count]
    return mean, (vectors / root).T @ centred, vectors * root


def _gaussian(group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One draw from the Gaussian of the rows of ``group``."""
    mean = group.mean(0)
    weights = rng.normal(0, 1 / np.sqrt(len(group)), len(group)).astype(np.float32)
    return mean + weights @ (group - mean)


def _remap(picture: np.ndarray, warp: np.ndarray) -> np.ndarray:
    return cv2.remap(picture, _GRID + warp.astype(np.float32), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _inverse(small: np.ndarray) -> np.ndarray:
    """Invert a smooth warp by fixed-point rounds."""
    warp = cv2.resize(small.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    inverse = -warp
    for _ in range(4):
        inverse = -_remap(warp, inverse)
    return inverse
