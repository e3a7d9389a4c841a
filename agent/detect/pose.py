# SPDX-License-Identifier: Apache-2.0
"""How far a face is turned away, estimated from its five landmarks alone.

The head is taken as a rigid shape seen from far away (orthographic): both eyes and both mouth corners
lie in one plane and the nose tip stands in front of it. Turning the head then moves the nose against
the plane by ``depth * tan(angle)``. The proportions are those of the generic head model that is widely
used for pose from landmarks (S. Mallick, "Head Pose Estimation using OpenCV and Dlib", 2016), in units
of the distance between the eye centres or of the distance from the eye line to the mouth line.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.detect.face import LEFT_EYE, LEFT_MOUTH, NOSE, RIGHT_EYE, RIGHT_MOUTH

NOSE_DEPTH_PER_EYE_DISTANCE = 0.42  # nose tip before the plane of eyes and mouth, in eye distances
NOSE_DEPTH_PER_FACE_HEIGHT = 0.41  # the same, in distances from eye line to mouth line
# Where the nose tip of a frontal face lies between eye line (0) and mouth line (1): the median of this landmark network
# over near-frontal photos of people, 0.54 (FairFace) and 0.57 to 0.59 (LFW). The generic head has 0.50, by which all
# people bow.
NOSE_HEIGHT_FRONTAL = 0.56
# The landmark network draws the nose of a bowed head towards where most noses are: nose heights spread 0.60 times as
# far as YuNet's on the same photos (tools/evaluate pose). Turning needs no such factor: slope 0.9 to 1.0 there.
PITCH_GAIN = 1.67


class Pose(msgspec.Struct, frozen=True):
    """Degrees; 0 is frontal and upright. Positive yaw: nose to the picture's right; positive pitch: nose down."""

    yaw: float
    pitch: float
    roll: float

    @property
    def turn(self) -> float:
        """The largest of the three angles, without sign."""
        return max(abs(self.yaw), abs(self.pitch), abs(self.roll))


TURNED_AWAY = Pose(90.0, 90.0, 90.0)


def head_pose(landmarks: NDArray[np.float32]) -> Pose:
    """Pose of a face from its landmarks, (5, 2) as x, y in pixels.

    Landmarks that are not finite, coincide, or are mirrored or upside down yield ``TURNED_AWAY``: an
    estimate that cannot be made must not admit anybody.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        return TURNED_AWAY
    # Complex numbers: numpy takes ten times as long for vectors of two.
    plane: list[complex] = np.ascontiguousarray(points).view(np.complex128)[:, 0].tolist()
    across = plane[RIGHT_EYE] - plane[LEFT_EYE]
    eyes = (plane[LEFT_EYE] + plane[RIGHT_EYE]) / 2
    eye_distance = abs(across)
    if eye_distance < 1.0:  # less than a pixel carries no direction
        return TURNED_AWAY
    upright = across.conjugate() / eye_distance  # turns the line of the eyes level: real is right, imaginary is down
    mouth = ((plane[LEFT_MOUTH] + plane[RIGHT_MOUTH]) / 2 - eyes) * upright
    nose = (plane[NOSE] - eyes) * upright
    height = mouth.imag
    if height < 1.0:
        return TURNED_AWAY
    drop = nose.imag / height
    # The midline runs from the eyes' middle to the mouth's middle; it leans when a face is turned and tilted at once.
    aside = nose.real - drop * mouth.real
    return Pose(
        yaw=math.degrees(math.atan(aside / eye_distance / NOSE_DEPTH_PER_EYE_DISTANCE)),
        pitch=math.degrees(math.atan(PITCH_GAIN * (drop - NOSE_HEIGHT_FRONTAL) / NOSE_DEPTH_PER_FACE_HEIGHT)),
        roll=math.degrees(math.atan2(across.imag, across.real)),
    )
