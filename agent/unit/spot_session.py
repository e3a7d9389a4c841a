# SPDX-License-Identifier: Apache-2.0
"""An enrolment session behind the act on the spot and the gate: only who has acted, and stands as an act wants it.

Nobody is embedded before the act is done, and then only the track that did it. When that track is lost, what was
captured is dropped, and the act has to be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from agent.camera.base import Camera, Frame
from agent.detect.gate import Gate
from agent.detect.track import Track, Tracker
from agent.door.on_the_spot import Key, OnTheSpot, key_of
from agent.errors import CaptureRefusedError
from agent.gallery.template import MIN_CAPTURES, Vector
from agent.unit.capturing import SESSION_NS, EnrolmentSession, Progress

if TYPE_CHECKING:
    from agent.detect.detector import Detector


class SpotSession:
    """See the module; ``session`` is what it feeds."""

    def __init__(self, session: EnrolmentSession, act: OnTheSpot, gate: Gate) -> None:
        self.session, self._act, self._gate = session, act, gate
        self._who: Key | None = None
        self._captured = 0

    def press(self, now_ns: int) -> None:
        """Take a press of the button by which people enrol."""
        self._act.press(now_ns)

    def offer(self, frame: Frame, tracks: Sequence[Track]) -> Progress:
        """Let the person act, then take captures of them; ``tracks`` are all that are seen in ``frame``."""
        size = {"frame_width": frame.main.width, "frame_height": frame.main.height}
        refusals = {key_of(one): self._gate.unfit(one, tracks, **size) for one in tracks}
        asked = self._act.look(tracks, lambda one: refusals[key_of(one)] is None, frame.timestamp_ns)
        if isinstance(asked, str):
            self._drop()
            return Progress(0, self.session.wanted, asked)
        if self._who != asked:
            self._drop()
        self._who = asked
        if len(tracks) == 1 and key_of(tracks[0]) != asked:  # who has acted is hidden, and somebody else is there
            return Progress(self._captured, self.session.wanted, "two_faces")
        if refusals.get(asked) == "outside_zone":
            return Progress(self._captured, self.session.wanted, "outside")
        progress = self.session.offer(frame, [one.face for one in tracks])
        self._captured = progress.captured
        return progress

    def _drop(self) -> None:
        """Overwrite what was captured of somebody who is here no more."""
        if self._who is not None:
            self.session.cancel()
        self._who, self._captured = None, 0


def capture(
    camera: Camera,
    detector: Detector,
    session: SpotSession,
    *,
    pressed: Callable[[], bool],
    tell: Callable[[str], None],
) -> list[Vector]:
    """Offer frames to ``session`` until it has what it needs; ``tell`` gets each new advice for the person once.

    ``pressed`` says whether the button by which people enrol was pressed since it was asked last. When the time is
    over or the camera ends before that, what was captured will do if a reference can be made of it; otherwise
    CaptureRefusedError.
    """
    told, tracker = "", Tracker()
    progress = None
    began_ns: int | None = None
    for frame in camera.frames():
        with frame:
            began_ns = frame.timestamp_ns if began_ns is None else began_ns
            if pressed():
                session.press(frame.timestamp_ns)
            progress = session.offer(frame, tracker.update(detector.detect(frame), frame.timestamp_ns))
            over = progress.refusal == "timed_out" or frame.timestamp_ns - began_ns > SESSION_NS
        text = f"{progress.captured} of {progress.wanted}" + (f": {progress.advice}" if progress.advice else "")
        if text != told:
            tell(text)
            told = text
        if progress.complete:
            return session.session.finish()
        if over:
            break
    if progress is not None and progress.captured >= MIN_CAPTURES:
        return session.session.finish()
    captured = f"{progress.captured} of {progress.wanted}" if progress else "no"
    session.session.cancel()
    raise CaptureRefusedError(f"{captured} captures were taken, nothing was stored: start again, follow the advice")
