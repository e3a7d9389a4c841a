# SPDX-License-Identifier: Apache-2.0
"""The loop: every stage by name, in order, and no other logic. Read this first.

    Frame -> Face[] -> Track[] -> (gate) -> Crop -> Embedding -> Probe -> Candidate -> Match -> event -> outbox

A frame in which nothing changed since the last empty one is not looked at (``agent.detect.change``): it has no faces.
Nor is every other frame while something stirs and nobody is found, and while whoever is followed stands still and no
crop is due, or walks and nothing is to be decided about anybody at the door (``agent.detect.cadence``). One in which
something stirs and nobody is found is looked at once more, five times a second (``agent.detect.second_try``).
While an enrolment takes captures it looks at each frame, and nobody is recognised in it: a frame serves one purpose.
A face that the gate does not admit has no embedding, ever, and an empty gallery embeds nobody. A crop and its
embedding are overwritten within their frame. What outlives it is the sum of a track's embeddings, in memory only
(``agent.match.probe``): of somebody who matches nobody for at most ten seconds, and until the track dies, recognition
pauses, an enrolment begins, somebody is erased or the unit stops. It is overwritten then; nothing counts it, logs it or
stores it. Where liveness is required (``agent.door.liveness``) a face that was named has to pass a challenge first, for
which the angles of its head are looked at in each frame; other parts that are required see a few of them. Only a
``Match``, or its subject's coming and going, reaches ``record``.

An embedder costs two runs a crop (it and its mirror image), and crops are few: three make a match or show that there is
nobody to match, five end an attempt that came near, then one a second, without its mirror image, while a matched person
stays, and none while a hopeless one rests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from agent.detect.pose import head_pose
from agent.embed.align import align
from agent.match.compare import compare
from agent.match.probe import both_ways

if TYPE_CHECKING:
    from agent.camera.base import Camera, Frame
    from agent.detect.cadence import Cadence
    from agent.detect.change import ChangeTest
    from agent.detect.detector import Detector
    from agent.detect.gate import Gate
    from agent.detect.second_try import SecondTry
    from agent.detect.track import Track, Tracker
    from agent.door.liveness import Angles, LivenessCheck
    from agent.embed.embedder import Embedder
    from agent.embed.records import Embedding
    from agent.gallery.references import References
    from agent.match.decide import Decider
    from agent.match.presence import Presence, PresenceChange
    from agent.match.probe import Seen
    from agent.match.records import Candidate, Match
    from agent.timing import StageTimes

STAGES = ("frame", "change", "read", "detect", "track", "align", "embed", "compare", "liveness", "record")


class Stages(msgspec.Struct, frozen=True):
    """The parts of one unit. ``references`` gives the gallery of this moment, ``record`` makes and queues events.

    ``enrol`` shows the frame to an enrolment that was begun by command, if one is under way, and says if that took it;
    ``enrolling`` tells whether it is. ``read`` shows a frame that is looked at to whoever reads what people hold up:
    what it finds counts from this frame on. ``acting`` is told how many faces are admitted while somebody could be
    recognised.
    """

    camera: Camera
    change: ChangeTest
    cadence: Cadence
    detector: Detector
    second_try: SecondTry
    tracker: Tracker
    gate: Gate
    embedder: Embedder
    references: Callable[[], References]
    decider: Decider
    liveness: LivenessCheck
    presence: Presence
    record: Callable[[Match | PresenceChange], None]
    enrol: Callable[[Frame, Sequence[Track]], bool]
    enrolling: Callable[[], bool]
    read: Callable[[Frame], None]
    acting: Callable[[int], None]
    times: StageTimes


def run(stages: Stages, *, keep_going: Callable[[], bool]) -> None:
    """Process frames until the camera ends or ``keep_going`` says no; it is asked once a frame."""
    for frame in stages.camera.frames():
        with frame, stages.times.measure("frame"):
            process(stages, frame)
        if not keep_going():
            break


def process(stages: Stages, frame: Frame) -> None:
    """One frame through all stages."""
    times, now_ns = stages.times, frame.timestamp_ns
    busy = stages.gate.waits(now_ns) or stages.enrolling()
    if stages.cadence.spares(now_ns, free=not busy and _nobody_needs(stages, now_ns)):
        stages.tracker.unseen()
        return
    with times.measure("change"):
        due = stages.change.is_due(frame, busy=busy or stages.tracker.following)
    if not due:
        _nobody(stages, frame)
        return
    with times.measure("read"):
        stages.read(frame)
    with times.measure("detect"):
        resting = [track.face for track in stages.tracker.tracks if stages.decider.rests(track.id)]
        faces = stages.detector.detect(frame, exact=False, known=resting)
        if stages.second_try.due(now_ns, found=bool(faces), stirs=stages.change.stirs(now_ns)):
            faces = stages.detector.again(frame)
    with times.measure("track"):
        tracks = stages.tracker.update(faces, now_ns)
        stages.decider.forget(stages.tracker.gone)
        stages.liveness.forget(stages.tracker.gone)
        admitted = stages.gate.admit(
            tracks, frame_width=frame.main.width, frame_height=frame.main.height, timestamp_ns=now_ns
        )
    taken = stages.enrol(frame, tracks)
    references = stages.references()
    recognises = bool(references.subjects) and not taken
    stages.acting(len(admitted) if recognises else 0)
    if not recognises:  # nobody to recognise, recognition pauses, or the frame was an enrolment's
        stages.decider.forget_all()
        stages.liveness.forget_all()
    for track in admitted:
        wanted = recognises and stages.decider.wants(track.id, now_ns)
        if wanted and not stages.decider.take(track.id, _see(stages, frame, track), now_ns):
            stages.liveness.forget([track.id])
    candidates = stages.decider.compare(partial(_compare, stages, references), now_ns)
    decision = stages.decider.update(
        candidates,
        gallery_size=len(references.subjects),
        zone=stages.gate.zone,
        timestamp_ns=now_ns,
        vouch=stages.liveness.vouch,
        method="token" if references.carried else "face",
    )
    stages.liveness.look(decision.named, _watch(stages, frame, tracks), now_ns)
    _tell(stages, (*decision.matches, *stages.presence.update(decision.seen, now_ns)))


def _nobody(stages: Stages, frame: Frame) -> None:
    """A frame that is not looked at because nothing changed: no track, no act, no enrolment is under way."""
    stages.enrol(frame, ())
    stages.references()  # a pause drops what a token brought
    _tell(stages, stages.presence.update((), frame.timestamp_ns))


def _tell(stages: Stages, outcomes: Sequence[Match | PresenceChange]) -> None:
    if outcomes:
        with stages.times.measure("record"):
            for outcome in outcomes:
                stages.record(outcome)


def _nobody_needs(stages: Stages, now_ns: int) -> bool:
    """Whether the next frame is soon enough: for whoever is followed, or where something stirs and nobody was found.

    Where nothing stirs the change test says so, at a smaller cost than that of a look.
    """
    if not stages.tracker.following:
        return stages.change.stirs(now_ns)
    return (
        (stages.tracker.still or (stages.tracker.walking and not stages.gate.dwells(stages.decider.rests)))
        and stages.liveness.watched is None
        and not stages.gate.needs(now_ns, lambda track_id: stages.decider.wants(track_id, now_ns))
        and bool(stages.references().subjects)  # else what is kept of faces is dropped in this very frame
    )


def _see(stages: Stages, frame: Frame, track: Track) -> Seen:
    """Embed one admitted face; its crop does not outlive this call, its embedding not the frame."""
    with stages.times.measure("align"):
        crop = align(frame, stages.detector.locate(frame, track.face))
    with stages.times.measure("embed"):
        seen = both_ways(stages.embedder.embed, crop, enough=partial(stages.decider.is_sure, track.id))
    crop.fill(0)
    return seen


def _watch(stages: Stages, frame: Frame, tracks: Sequence[Track]) -> Angles | None:
    """How the head is held whose liveness is being checked; None when it, or its second look, was not seen."""
    watched = next((track for track in tracks if track.id == stages.liveness.watched), None)
    if watched is None:
        return None
    with stages.times.measure("liveness"):
        face = stages.detector.locate(frame, watched.face)
        if face is watched.face:
            return None
        stages.liveness.see(frame, face.box)
        pose = head_pose(face.landmarks)
    return pose.yaw, pose.pitch


def _compare(stages: Stages, references: References, probe: Embedding) -> Candidate | None:
    with stages.times.measure("compare"):
        return compare(probe, references)
