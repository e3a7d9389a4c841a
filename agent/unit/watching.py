# SPDX-License-Identifier: Apache-2.0
"""What the console sees of a running unit's frames: a covered picture, and each face as numbers and words.

Nothing is looked at or made unless somebody asked within the last seconds. What leaves is a ``CoveredPicture`` and
whole numbers: boxes, five points a face, size, turn, light, sharpness. Nothing is embedded or compared for it.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Sequence
from typing import Any, Final

from agent.camera.base import Frame
from agent.clock import Clock
from agent.config.drawn import THOUSANDTHS, corners_of
from agent.config.schema import Config, ZoneActivation
from agent.detect.cover import CoveredPicture, Covering
from agent.detect.detector import Detector
from agent.detect.face import Face
from agent.detect.gate import ButtonGate, FaceLimits
from agent.detect.pose import head_pose
from agent.detect.track import MAX_MISSED_NS, Track
from agent.unit.aim import BRIGHT, DARK, refusal_of, why
from agent.unit.at_the_door import make_gate
from agent.unit.capturing import LUMA, Quality, sharpness

WATCHED_NS: Final = 3_000_000_000  # from the last question: a page asks twice a second
MAX_FACES: Final = 8  # told of, nearest first; all are covered
PATCH: Final = 112  # pixels a side at which light and sharpness of a face are judged, as at enrolment
RATE_NS: Final = 2_000_000_000  # over which the frame rate is told
WHITE: Final = 255
# Of one look, from which the picture rests while somebody is enrolled: another person may stand there after a second
# without a frame, so a machine on which looking takes a large part of that could never take a capture.
SLOW_NS: Final = MAX_MISSED_NS // 4
RESTS: Final = "the picture rests while captures are taken, because this machine is slow: follow the words"


class Watching:
    """``offer`` belongs to the pipeline's thread, ``take`` to whoever asks."""

    def __init__(self, config: Config, detector: Detector, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self._covering, self._gate = Covering(detector), make_gate(config)
        activation = config.activation
        self._limits = FaceLimits(activation.min_face_px, activation.max_turn_degrees)
        self._changed = threading.Condition()
        self._asked_ns: int | None = None
        self._wanted = self._closed = False
        self._seen: dict[str, Any] | None = None
        self._frames, self._since_ns, self._rate = 0, 0, 0
        self._look_ns = 0  # that the last one took

    @property
    def watched(self) -> bool:
        """Whether somebody is looking, so that every frame is looked at."""
        asked_ns = self._asked_ns
        return asked_ns is not None and self._clock.monotonic_ns() - asked_ns < WATCHED_NS

    def take(self, timeout_s: float) -> dict[str, Any] | None:
        """Return what is seen in the next frame; None when none comes within ``timeout_s``."""
        with self._changed:
            self._asked_ns, self._wanted, self._seen = self._clock.monotonic_ns(), True, None
            self._changed.wait_for(lambda: self._seen is not None or self._closed, timeout_s)
            seen, self._seen, self._wanted = self._seen, None, False
            return seen

    def close(self) -> None:
        """Let nobody wait for a frame any more: none comes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def offer(self, frame: Frame, tracks: Sequence[Track], *, capturing: bool = False) -> None:
        """Look at ``frame`` if somebody is looking; ``tracks`` are all that were seen in it.

        ``capturing``: the frame may become a capture of an enrolment, which a look must not keep waiting.
        """
        if not self.watched:
            return
        now_ns = frame.timestamp_ns
        self._count(now_ns)
        if isinstance(self._gate, ButtonGate):
            self._gate.open_window(now_ns)  # as if it were pressed: aiming is about place and size
        self._gate.admit(tracks, frame_width=frame.main.width, frame_height=frame.main.height, timestamp_ns=now_ns)
        if not self._wanted:
            return
        seen: dict[str, Any] = {"waiting": RESTS}
        if not capturing or self._look_ns < SLOW_NS:
            began_ns = self._clock.monotonic_ns()
            picture = self._covering.cover(frame, [track.face for track in tracks])
            seen = self._describe(frame, tracks, picture)
            self._look_ns = self._clock.monotonic_ns() - began_ns
        with self._changed:
            self._seen, self._wanted = seen, False
            self._changed.notify_all()

    def _count(self, now_ns: int) -> None:
        self._frames += 1
        if not 0 <= now_ns - self._since_ns < 2 * RATE_NS:
            self._frames, self._since_ns = 0, now_ns
        elif now_ns - self._since_ns >= RATE_NS:
            self._rate = round(self._frames * 1e9 / (now_ns - self._since_ns))
            self._frames, self._since_ns = 0, now_ns

    def _describe(self, frame: Frame, tracks: Sequence[Track], picture: CoveredPicture) -> dict[str, Any]:
        main, activation = frame.main, self._config.activation
        light = float(frame.content.mean())
        nearest = sorted(tracks, key=lambda track: track.face.width * track.face.height, reverse=True)[:MAX_FACES]
        return {
            **told(picture),
            "camera": {"width": main.width, "height": main.height, "frames_per_second": self._rate},
            "light": round(light * 100 / WHITE),
            "light_advice": "too dark" if light < DARK else "too bright" if light > BRIGHT else "",
            "zone": corners_of(activation.polygon) if isinstance(activation, ZoneActivation) else None,
            "faces": [self._face(frame, tracks, track) for track in nearest],
        }

    def _face(self, frame: Frame, tracks: Sequence[Track], track: Track) -> dict[str, Any]:
        main, face, quality = frame.main, track.face, Quality()
        refusal = refusal_of(self._gate, track, list(tracks), frame)
        x0, y0, x1, y1 = face.box
        inside = (max(x0, 0), max(y0, 0), min(x1, main.width), min(y1, main.height))
        light, sharp = 0.0, True
        if inside[2] - inside[0] >= 1 and inside[3] - inside[1] >= 1:
            luma = main.scaled(inside, PATCH).astype(LUMA.dtype) @ LUMA
            light, sharp = float(luma.mean()), sharpness(luma) >= quality.min_sharpness
        return {
            "box": _thousandths([(x0, y0), (x1, y1)], main.width, main.height),
            "points": _thousandths(face.landmarks.tolist(), main.width, main.height),
            "px": round(min(face.width, face.height)),
            "turn": _turn(face),
            "light": round(light * 100 / WHITE),
            "light_advice": "too dark"
            if light < quality.min_luma
            else "too bright"
            if light > quality.max_luma
            else "",
            "sharp": sharp,
            "accepted": refusal is None,
            "why": why(refusal, self._limits),
        }


def told(picture: CoveredPicture) -> dict[str, Any]:
    """Spell a picture for the console: the only pixels of a camera that are ever written down."""
    height, width = picture.pixels.shape[:2]
    return {"width": width, "height": height, "rgb": base64.b64encode(picture.pixels.tobytes()).decode()}


def _turn(face: Face) -> int:
    return round(head_pose(face.landmarks).turn)


def _thousandths(points: Sequence[Sequence[float]], width: int, height: int) -> list[list[int]]:
    return [[round(x * THOUSANDTHS / width), round(y * THOUSANDTHS / height)] for x, y in points]
