# SPDX-License-Identifier: Apache-2.0
"""An enrolment: one consented person, live before the camera, for a few seconds.

The session takes frames, says at each one what to do better, and keeps 3 to 5 embeddings. Pictures pass
through it and are gone with their frame. There is no other way in: nothing here or elsewhere takes a
picture file, so a gallery cannot be filled from a collection of photographs.

Before the first one the person acts (``agent.unit.spot_session``). Each frame has to pass, in this order: one face only
(the consent is one person's), near, frontal, some time after the capture before, well lit, sharp, clear (its mirror
image embeds alike, as of the crops of a visit), not the same still picture, the same face as in the captures before,
and another view than those: turned, nearer or farther, or with another expression, because captures that are all alike
average out nothing. Who cannot do that is not kept out: after ``PATIENCE_NS`` a view that is alike will do. The session
ends by itself after ``SESSION_NS``; what it holds is then overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal, Protocol

import msgspec
import numpy as np

from agent.camera.base import Frame
from agent.detect.face import Face
from agent.detect.pose import Pose, head_pose
from agent.embed.align import align
from agent.embed.records import Crop, Embedding
from agent.errors import CaptureRefusedError
from agent.gallery.consent import ConsentRecord, Terms, check
from agent.gallery.references import References
from agent.gallery.template import MAX_CAPTURES, MIN_CAPTURES, Vector, mean_reference
from agent.match.compare import compare
from agent.match.policy import Policy
from agent.match.probe import Seen, both_ways
from agent.protocol.subject import SubjectId

PATIENCE_NS = 1_200_000_000  # from the last capture: half a second of advice, after the spacing; five take 5 s then
SESSION_NS = 120_000_000_000  # two minutes; whoever needs longer starts again, so no session stays open unattended

# ITU-R BT.601 luma; the crop is what the eye and the embedder see.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

Refusal = Literal[
    "press",  # the act on the spot is still to come: see ``agent.door.on_the_spot``
    "front",
    "left",
    "right",
    "up",
    "down",
    "outside",  # who has acted stands elsewhere now
    "none",  # nobody is in view
    "two_faces",
    "small",
    "turned",
    "dark",
    "bright",
    "blurred",
    "wait",  # good, but too soon after the capture before
    "unclear",  # the mirror image embeds elsewhere: something covers or shades a part of the face
    "alike",  # good, but too much like a capture before
    "still",  # the same picture again: a person moves a little
    "another_face",  # not who stood there before; the captures so far were dropped
    "timed_out",
]

ADVICE: dict[Refusal, str] = {
    "press": "press the button at the unit",
    "front": "stand before the camera, alone, and look into it",
    "left": "turn your head to your left, then look into the camera again",
    "right": "turn your head to your right, then look into the camera again",
    "up": "look up, then into the camera again",
    "down": "look down, then into the camera again",
    "outside": "stand in the marked place",
    "none": "step in front of the camera",
    "two_faces": "only one person may be in view",
    "small": "come nearer",
    "turned": "face the camera",
    "dark": "there is too little light on the face",
    "bright": "there is too much light on the face",
    "blurred": "hold still",
    "wait": "stay for a moment",
    "unclear": "your face is not clear to see: turn to the light, take off what covers it",
    "alike": "change something: turn your head a little, come nearer or step back, smile",
    "still": "move your head a little",
    "another_face": "another face appeared: start again, alone",
    "timed_out": "the session is over: start a new one",
}


class Quality(msgspec.Struct, frozen=True):
    """What a capture must be like. The defaults are for 112 x 112 crops of 8 bits."""

    captures: int = MAX_CAPTURES
    min_face_px: int = 112  # smaller side of the box in the full picture: the crop is then not enlarged
    max_turn_degrees: float = 20.0
    min_luma: float = 50.0  # mean of the crop, 0 to 255
    max_luma: float = 215.0
    # Variance of the Laplacian over the crop (Pech-Pacheco et al., ICPR 2000), by its contrast: a focused crop of a
    # low-contrast face must not count as blurred. On 150 crops of LFW, 99 % of the originals lie above 0.018, and 95 %
    # of them below 0.0065 once blurred by 2 pixels.
    min_sharpness: float = 0.008
    spacing_ns: int = 700_000_000  # captures of one second are one capture
    max_likeness: float = 0.995  # comparison score of two captures; above it is the same picture twice
    # Another view than a capture before, by any of these: degrees turned or bowed (what a head does that looks a little
    # aside; the measured pose of one that is still varies by a degree), share by which the face is larger or smaller
    # (a few centimetres), comparison score below (crops of one still second lie above it, another expression below).
    other_turn_degrees: float = 3.0
    other_size: float = 0.05
    other_likeness: float = 0.97

    def __post_init__(self) -> None:
        if not MIN_CAPTURES <= self.captures <= MAX_CAPTURES:
            raise ValueError(f"captures must be {MIN_CAPTURES} to {MAX_CAPTURES}")


class Progress(msgspec.Struct, frozen=True):
    """``captured`` of ``wanted`` captures are taken; ``refusal`` says why this frame was not one, if it was not."""

    captured: int
    wanted: int
    refusal: Refusal | None

    @property
    def complete(self) -> bool:
        """Whether ``finish`` will have all captures."""
        return self.captured >= self.wanted

    @property
    def advice(self) -> str:
        """What the person should do, in plain words; empty when all is well."""
        return "" if self.refusal is None else ADVICE[self.refusal]


class View(msgspec.Struct, frozen=True):
    """How a capture was taken: the head's pose, and the smaller side of the face's box in pixels."""

    pose: Pose
    size: float


class Embeds(Protocol):
    """The part of an embedder that enrolment uses."""

    def embed(self, crop: Crop) -> Embedding: ...


class EnrolmentSession:
    """One person's enrolment at this unit.

    ``policy`` says from which comparison score on two captures are of the same face; ``references`` is the gallery in
    use, to refuse who is enrolled already; ``subject`` names whose reference is being replaced, if one is. Raises
    ConsentError at once when the consent does not hold here and now.
    """

    def __init__(
        self,
        embedder: Embeds,
        consent: ConsentRecord,
        *,
        references: References,
        policy: Policy,
        terms: Terms,
        now: datetime,
        subject: SubjectId | None = None,
        quality: Quality | None = None,
        align: Callable[[Frame, Face], Crop] = align,
    ) -> None:
        check(consent, terms, now=now)
        self._embedder = embedder
        self._align = align
        self._references = references
        self._policy = policy
        self._subject = subject
        self._quality = quality or Quality()
        self._captures: list[Embedding] = []
        self._views: list[View] = []
        self._began_ns: int | None = None
        self._last_ns = 0

    @property
    def wanted(self) -> int:
        return self._quality.captures

    def offer(self, frame: Frame, faces: Sequence[Face]) -> Progress:
        """Take a capture from ``frame`` if it is fit for one; ``faces`` are all that were detected in it."""
        refusal = self._take(frame, faces)
        return Progress(len(self._captures), self.wanted, refusal)

    def finish(self) -> list[Vector]:
        """Hand over the captures, 3 to 5 float32 (128,) unit vectors, and end the session.

        Raises CaptureRefusedError when there are too few, or when the person has a reference here already. The
        captures are then overwritten.
        """
        try:
            reference = mean_reference([capture.vector for capture in self._captures])
            self._check_new(Embedding(reference, self._captures[0].model))
        except CaptureRefusedError:
            self.cancel()
            raise
        captures, self._captures, self._views = self._captures, [], []
        return [capture.vector for capture in captures]

    def cancel(self) -> None:
        """End the session and overwrite what it holds."""
        for capture in self._captures:
            capture.wipe()
        self._captures, self._views = [], []

    def _check_new(self, mean: Embedding) -> None:
        found = compare(mean, self._references)
        if found is None or found.subject == self._subject:
            return
        threshold = self._policy.threshold(len(self._references.subjects), len(self._captures))
        if found.score >= threshold.value:
            raise CaptureRefusedError(
                "this person is enrolled already: erase or renew that reference instead", reason="already_enrolled"
            )

    def _take(self, frame: Frame, faces: Sequence[Face]) -> Refusal | None:
        if self._began_ns is None:
            self._began_ns = frame.timestamp_ns
        if frame.timestamp_ns - self._began_ns > SESSION_NS:
            self.cancel()
            return "timed_out"
        refusal = self._unfit_view(faces)
        if refusal is not None:
            return refusal
        if len(self._captures) >= self.wanted:
            return None
        if self._captures and frame.timestamp_ns - self._last_ns < self._quality.spacing_ns:
            return "wait"
        crop = self._align(frame, faces[0])
        refusal = self._unfit_crop(crop)
        if refusal is not None:
            return refusal
        face = faces[0]
        view = View(head_pose(face.landmarks), min(face.width, face.height))
        return self._keep(both_ways(self._embedder.embed, crop), view, frame.timestamp_ns)

    def _unfit_view(self, faces: Sequence[Face]) -> Refusal | None:
        if not faces:
            return "none"
        if len(faces) > 1:
            return "two_faces"
        if not min(faces[0].width, faces[0].height) >= self._quality.min_face_px:  # also a size that is no number
            return "small"
        return "turned" if head_pose(faces[0].landmarks).turn > self._quality.max_turn_degrees else None

    def _unfit_crop(self, crop: Crop) -> Refusal | None:
        luma = crop.astype(np.float32) @ LUMA
        mean = float(luma.mean())
        if mean < self._quality.min_luma:
            return "dark"
        if mean > self._quality.max_luma:
            return "bright"
        return "blurred" if sharpness(luma) < self._quality.min_sharpness else None

    def _keep(self, seen: Seen, view: View, timestamp_ns: int) -> Refusal | None:
        refusal = self._unlike(seen, view, timestamp_ns)
        if refusal is not None:
            seen.embedding.wipe()
            if refusal == "another_face":
                self.cancel()
            return refusal
        self._captures.append(seen.embedding)
        self._views.append(view)
        self._last_ns = timestamp_ns
        return None

    def _unlike(self, seen: Seen, view: View, timestamp_ns: int) -> Refusal | None:
        """Whether the capture is of the same face as those before, and of another view of it."""
        if not seen.mirror >= self._policy.probe.mirror:
            return "unclear"
        likeness = [float(seen.embedding.vector @ earlier.vector) for earlier in self._captures]
        if likeness and max(likeness) > self._quality.max_likeness:
            return "still"
        if likeness and not min(likeness) >= self._policy.same_face:
            return "another_face"
        patient = timestamp_ns - self._last_ns < PATIENCE_NS
        if patient and any(self._alike(view, *one) for one in zip(self._views, likeness, strict=True)):
            return "alike"
        return None

    def _alike(self, view: View, earlier: View, likeness: float) -> bool:
        quality = self._quality
        turn = max(abs(view.pose.yaw - earlier.pose.yaw), abs(view.pose.pitch - earlier.pose.pitch))
        growth = max(view.size, earlier.size) / min(view.size, earlier.size)
        return (
            turn < quality.other_turn_degrees and growth < 1 + quality.other_size and likeness >= quality.other_likeness
        )


def sharpness(luma: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    """Variance of the 4-neighbour Laplacian of a float32 (h, w) picture, divided by the picture's own variance."""
    laplacian = 4 * luma[1:-1, 1:-1] - luma[:-2, 1:-1] - luma[2:, 1:-1] - luma[1:-1, :-2] - luma[1:-1, 2:]
    contrast = float(luma.var())
    return float(laplacian.var()) / contrast if contrast > 1.0 else 0.0
