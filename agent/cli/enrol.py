# SPDX-License-Identifier: Apache-2.0
"""``postern enrol CONSENT``: a live session with a person who is here and has agreed. No picture is ever read or kept.

The service must be stopped: it holds camera and gallery.
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Protocol

from agent.audit.log import AuditLog
from agent.camera.base import Camera, Frame
from agent.camera.open import open_camera
from agent.cli.options import add_config, read_unit_config
from agent.clock import SystemClock
from agent.detect.face import Face
from agent.errors import CaptureRefusedError
from agent.files import read_bounded
from agent.gallery.consent import MAX_CONSENT_BYTES, parse_consent
from agent.gallery.template import Vector
from agent.subject import parse_subject
from agent.unit.assemble import load_key, load_models, load_policy, make_registrar, open_gallery
from agent.unit.capturing import EnrolmentSession


class Detects(Protocol):
    """The part of a detector that enrolment uses."""

    def detect(self, frame: Frame) -> list[Face]: ...


def configure(parser: argparse.ArgumentParser) -> None:
    """Take the consent record."""
    parser.add_argument("consent", type=Path, metavar="CONSENT", help="the person's consent record, a JSON file")
    parser.add_argument(
        "--subject", type=parse_subject, help="renew this subject's reference (32 hexadecimal digits) instead"
    )
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    """Capture, enrol, log; the subject id goes to standard output, everything else is talk."""
    config = read_unit_config(arguments)
    consent = parse_consent(read_bounded(arguments.consent, MAX_CONSENT_BYTES))
    clock = SystemClock()
    models = load_models(config)
    policy = load_policy(config, models.embedder.model)
    with (
        closing(AuditLog(config.audit.path, clock=clock, random=secrets.token_bytes)) as audit,
        open_gallery(config, load_key(config), clock) as gallery,
    ):
        registrar = make_registrar(
            config, models, policy, gallery=gallery, audit=audit, clock=clock, random=secrets.token_bytes
        )
        session = registrar.open(consent, arguments.subject)
        with open_camera(config.camera, lores_size=models.detector.input_size, clock=clock) as camera:
            vectors = capture(camera, models.detector, session, tell=lambda text: print(text, flush=True))
        subject = registrar.keep(vectors, consent, arguments.subject)
    print(f"enrolled: {subject.hex()}")
    return 0


def capture(
    camera: Camera, detector: Detects, session: EnrolmentSession, *, tell: Callable[[str], None]
) -> list[Vector]:
    """Offer frames to ``session`` until it has what it needs; ``tell`` gets each new advice for the person once.

    Raises CaptureRefusedError when the time is over or the camera ends before that.
    """
    told = ""
    progress = None
    for frame in camera.frames():
        with frame:
            progress = session.offer(frame, detector.detect(frame))
        text = f"{progress.captured} of {progress.wanted}" + (f": {progress.advice}" if progress.advice else "")
        if text != told:
            tell(text)
            told = text
        if progress.complete:
            return session.finish()
        if progress.refusal == "timed_out":
            break
    captured = f"{progress.captured} of {progress.wanted}" if progress else "no"
    session.cancel()
    raise CaptureRefusedError(f"{captured} captures were taken, nothing was stored: start again, follow the advice")
