# SPDX-License-Identifier: Apache-2.0
"""What the camera sees now and why a face is not accepted, in words, for whoever holds the camera.

No picture is shown or stored, and no embedder is loaded: nothing here can recognise anybody.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.camera.base import Camera, Frame
from agent.camera.open import open_camera
from agent.clock import Clock
from agent.config.schema import Config
from agent.detect.detector import Detector, load_detector
from agent.detect.gate import ButtonGate, FaceLimits, Gate, Refusal, ZoneGate
from agent.detect.pose import head_pose
from agent.detect.track import Track, Tracker
from agent.unit.at_the_door import make_gate
from agent.unit.looking import make_view

PERIOD_NS = 500_000_000  # between lines: as fast as a person on a ladder reads
DARK, BRIGHT = 40, 220  # mean of the picture, 0 to 255: outside, faces have no contrast left
MAX_SECONDS = 3600  # aiming is done by then; a forgotten terminal must not hold the camera


def lines(config: Config, clock: Clock, *, seconds: float) -> Iterator[str]:
    """Open the camera and describe what it sees, twice a second, for ``seconds`` or until it ends."""
    models = config.models
    detector = load_detector(models.manifest, models.detector, models.threads, view=make_view(config))
    with open_camera(config.camera, lores_size=detector.input_size, clock=clock) as camera:
        yield from look(camera, detector, config, clock, seconds=seconds)


def look(camera: Camera, detector: Detector, config: Config, clock: Clock, *, seconds: float) -> Iterator[str]:
    """Describe what ``camera`` sees, one line per half second of its own time."""
    gate, tracker = make_gate(config), Tracker()
    limits = FaceLimits(config.activation.min_face_px, config.activation.max_turn_degrees)
    began_ns = told_ns = spent_ns = 0
    told_count = 1
    for count, frame in enumerate(camera.frames(), start=1):
        with frame:
            now_ns = frame.timestamp_ns
            before_ns = clock.monotonic_ns()
            faces = detector.detect(frame)
            spent_ns += clock.monotonic_ns() - before_ns
            tracks = tracker.update(faces, now_ns)
            if isinstance(gate, ButtonGate):
                gate.open_window(now_ns)  # as if it were pressed: aiming is about place and size
            gate.admit(tracks, frame_width=frame.main.width, frame_height=frame.main.height, timestamp_ns=now_ns)
            if count == 1:  # the first frame of a camera comes late and is detected slowly
                began_ns, told_ns, spent_ns = now_ns, now_ns, 0
            elif now_ns - told_ns >= PERIOD_NS:
                frames = count - told_count
                rate, detection = frames * 1e9 / (now_ns - told_ns), spent_ns / frames / 1e6
                words = (_words(track, refusal_of(gate, track, tracks, frame), limits) for track in tracks)
                people = "; ".join(words) or "nobody in view"
                yield f"{rate:5.1f} frames/s  detection {detection:.0f} ms{_light(frame)}  {people}"
                told_ns, told_count, spent_ns = now_ns, count, 0
            if now_ns - began_ns >= min(seconds, MAX_SECONDS) * 1e9:
                return


def _light(frame: Frame) -> str:
    mean = float(frame.content.mean())
    return "  TOO DARK" if mean < DARK else "  TOO BRIGHT" if mean > BRIGHT else ""


def refusal_of(gate: Gate, track: Track, tracks: list[Track], frame: Frame) -> Refusal | None:
    """Why ``track`` is not admitted in ``frame``, which ``gate`` has just seen."""
    width, height = frame.main.width, frame.main.height
    if isinstance(gate, ZoneGate):
        return gate.refusal(track, frame_width=width, frame_height=height, timestamp_ns=frame.timestamp_ns)
    if isinstance(gate, ButtonGate):
        return gate.refusal(track, tracks, frame_width=width, frame_height=height, timestamp_ns=frame.timestamp_ns)
    return None


def _words(track: Track, refusal: Refusal | None, limits: FaceLimits) -> str:
    size = min(track.face.width, track.face.height)
    turn = head_pose(track.face.landmarks).turn
    return f"face {size:.0f} px, turned {turn:.0f} degrees: {why(refusal, limits)}"


def why(refusal: Refusal | None, limits: FaceLimits) -> str:
    """Say in words what somebody who aims should do about it."""
    reasons: dict[Refusal | None, str] = {
        None: "accepted here",
        "outside_zone": "outside the zone",
        "too_small": f"too small: come nearer than this, {limits.min_face_px} px are needed",
        "turned": f"turned away: {limits.max_turn_degrees:g} degrees are allowed",
        "dwell": "good, stay for a moment",
        "shut": "the button is not pressed",
        "not_nearest": "somebody else is nearer",
    }
    return reasons[refusal]
