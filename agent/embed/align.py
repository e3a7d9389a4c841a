# SPDX-License-Identifier: Apache-2.0
"""From a face in a frame to the 112x112 crop that embedders were trained on.

Only what the crop covers is asked of the main picture; the rest of the frame is never converted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.camera.base import Frame
from agent.detect.face import Face
from agent.embed.records import CROP_SIZE, Crop

# The five landmarks in a 112x112 crop, pixel centres at whole numbers, in the order of ``Face.landmarks``.
# Source: ArcFace (Deng et al. 2019), insightface's face_align.arcface_dst.
TEMPLATE: NDArray[np.float64] = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


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
    turn, shift = forward[:, :2], forward[:, 2]
    linear = turn.T / (turn[0] @ turn[0])
    inverse = np.column_stack([linear, -linear @ shift])  # from crop to main picture, by the middles of pixels
    inverse[:, 2] += 0.5 - inverse[:, :2].sum(1) / 2  # by their edges
    return frame.main.warped(inverse, CROP_SIZE)
