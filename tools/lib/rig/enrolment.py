# SPDX-License-Identifier: Apache-2.0
"""Enrolment sessions of demo people without a process each: real captures of a simulated person, on simulated time."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

import numpy as np

from agent.camera.scene.camera import SceneCamera
from agent.clock import SimulatedClock
from agent.detect.gate import ZoneGate
from agent.door.acts import ScenePresses
from agent.door.on_the_spot import ButtonAct
from agent.embed.records import EMBEDDING_DIM
from agent.gallery.consent import ConsentRecord, Terms
from agent.gallery.references import References
from agent.gallery.template import Vector
from agent.match.policy import Policy, parse_policy
from agent.protocol.names import NoticeId
from agent.unit.capturing import EnrolmentSession
from agent.unit.models import Models
from agent.unit.spot_session import SpotSession, capture
from tools.lib.demo.site import PURPOSE, ROOT, SITE, UNIT, ZONE
from tools.lib.enrolment_scene import enrolment_script

WHOLE_PICTURE = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
PICTURE, FRAMES_PER_SECOND = (960, 540), 5.0  # at which people enrol: in 0.65 s, with 720p and 10 in 1.5
CONSENT_GIVEN = timedelta(days=1)  # before the scenario starts
CONSENT_LASTS = timedelta(days=30)  # where nobody says otherwise
DIGEST = "sha256:" + hashlib.sha256(b"the notice").hexdigest()
NOTICE = NoticeId("1", DIGEST)  # where no unit's own notice is at hand to be asked


def consent(
    start: datetime, expires_at: datetime | None = None, *, signed: str, unit: str = UNIT, notice: NoticeId = NOTICE
) -> ConsentRecord:
    """What a demo person agreed to the day before ``start``, having read ``notice``; ``signed`` is the paper's text."""
    return ConsentRecord(
        purpose=PURPOSE,
        site=SITE,
        units=(unit,),
        notice_version=notice.version,
        notice_digest=notice.digest,
        evidence_digest="sha256:" + hashlib.sha256(signed.encode()).hexdigest(),
        given_at=start - CONSENT_GIVEN,
        expires_at=expires_at or start + CONSENT_LASTS,
        age_class="of_age",
    )


def policy() -> Policy:
    """The policy that ships with the models."""
    return parse_policy((ROOT / "models" / "policy.json").read_bytes())


def captures(who: str, models: Models, references: References | None = None) -> list[Vector]:
    """What an enrolment session takes of ``who``; CaptureRefusedError when ``references`` know that face already."""
    clock = SimulatedClock()
    model = models.embedder.model
    session = EnrolmentSession(
        models.embedder,
        consent(clock.now(), signed=who),
        references=references or References((), np.zeros((0, EMBEDDING_DIM), np.float32), model),
        policy=policy(),
        terms=Terms(SITE, UNIT, PURPOSE),
        now=clock.now(),
        align=models.align,
    )
    script = enrolment_script(who, size=PICTURE, frames_per_second=FRAMES_PER_SECOND)
    spot = SpotSession(session, ButtonAct(), ZoneGate(zone=ZONE, polygon=WHOLE_PICTURE))
    presses = ScenePresses(script.presses, clock)
    with SceneCamera(script, lores_size=models.detector.input_size, clock=clock) as camera:
        return capture(camera, models.detector, spot, pressed=presses.pressed, tell=lambda _: None)
