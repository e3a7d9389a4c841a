# SPDX-License-Identifier: Apache-2.0
"""From a face in a frame to the 112x112 crop that embedders were trained on.

Only the rectangle that the crop covers is asked of the main picture; the rest of the frame is never converted.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.camera.base import Frame
from agent.detect.face import Face
from agent.embed.records import CROP_SIZE, Crop

# The five landmarks in a 112x112 crop, pixel centres at whole numbers, in the order of ``Face.landmarks``.
# Source: ArcFace (Deng et al. 2019), insightface's face_align.arcface_dst.
TEMPLATE: NDArray[np.float64] = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
_CORNERS = np.array([[0, 0, 1], [CROP_SIZE, 0, 1], [0, CROP_SIZE, 1], [CROP_SIZE, CROP_SIZE, 1]], np.float64) - [
    0.5,
    0.5,
    0,
]
EDGE = 1  # blocks around the covered rectangle that bilinear sampling reads


def umeyama(src: NDArray[np.floating], dst: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the similarity (2, 3) that maps points ``src`` (n, 2) to ``dst`` (n, 2) with the least square error.

    Rotation, uniform scale and translation, no reflection: Umeyama, "Least-squares estimation of transformation
    parameters between two point patterns", IEEE PAMI 13(4), 1991. In the plane the closed form with complex numbers
    gives the same result without a decomposition. Raises ValueError when all points of ``src`` coincide.
    """
    a = np.asarray(src, np.float64).copy().view(np.complex128)[:, 0]
    b = np.asarray(dst, np.float64).copy().view(np.complex128)[:, 0]
    mean_a, mean_b = a.mean(), b.mean()
    a -= mean_a
    variance = np.vdot(a, a).real
    if not variance > 0:
        raise ValueError("the points to align from coincide")
    turn = complex(np.vdot(a, b - mean_b) / variance)
    shift = complex(mean_b) - turn * complex(mean_a)
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def align(frame: Frame, face: Face) -> Crop:
    """Return the aligned crop, uint8 (112, 112, 3) RGB; black where it reaches over the edge of the picture.

    Pixel centres are at whole numbers, as in OpenCV's warpAffine with bilinear interpolation. A face more than twice as
    large as the template is averaged down by a whole factor first, so that no detail aliases.
    """
    forward = umeyama(face.landmarks, TEMPLATE)
    scale = math.hypot(forward[0, 0], forward[1, 0])
    linear = np.array([[forward[0, 0], forward[1, 0]], [-forward[1, 0], forward[0, 0]]]) / scale**2
    inverse = np.column_stack([linear, -linear @ forward[:, 2]])  # crop to main picture

    covered = _CORNERS @ inverse.T
    factor = max(int(1 / scale), 1)
    left, top = (max(math.floor(v) - EDGE * factor, 0) for v in covered.min(0))
    # whole blocks, so that the last one is averaged over as many pixels as the others
    right, bottom = (
        first + max(math.ceil((math.ceil(v) + EDGE * factor + 1 - first) / factor), 0) * factor
        for first, v in zip((left, top), covered.max(0), strict=True)
    )
    window = frame.main.window(left, top, right, bottom)
    if not window.size:
        return np.zeros((CROP_SIZE, CROP_SIZE, 3), np.uint8)
    picture = Image.fromarray(window)
    if factor > 1:
        picture = picture.reduce(factor)

    # Pillow maps the continuous point (x + 0.5, y + 0.5) of the target; a pixel's centre is half a pixel inside.
    inverse[:, 2] += 0.5 - inverse[:, :2].sum(1) / 2 - (left, top)
    inverse /= factor
    crop = picture.transform(
        (CROP_SIZE, CROP_SIZE), Image.Transform.AFFINE, inverse.ravel().tolist(), Image.Resampling.BILINEAR
    )
    return np.array(crop)  # a copy that its holder may wipe
