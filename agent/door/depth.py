# SPDX-License-Identifier: Apache-2.0
"""The part of liveness that a second camera or a depth camera makes: whether the face stands out at all.

Whoever measures depth gives it with the frame (``Frame.relief``). No camera of this release does but the simulated one,
so nothing here was ever measured: it is the place where such a camera goes. Masks stand out, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.camera.base import Frame
from agent.door.evidence import Part

# Eye distances from the plane of eyes and mouth to the tip of the nose. Heads have about 0.35 (the generic head of
# ``agent.camera.scene.pose``); paper on a cylinder of 0.45 sheets has 0.1.
LEAST_RELIEF = 0.2


def _look(frame: Frame, box: Sequence[float]) -> float | None:
    return None if frame.relief is None else frame.relief(box)


DEPTH = Part(_look, LEAST_RELIEF)
