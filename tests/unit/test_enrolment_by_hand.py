# SPDX-License-Identifier: Apache-2.0
"""An enrolment at the unit's own command line: it ends by itself, whoever stands there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from agent.camera.base import Frame, RgbPicture
from agent.detect.face import Face
from agent.errors import CaptureRefusedError
from agent.unit.capturing import SESSION_NS
from agent.unit.spot_session import SpotSession, capture
from tests.simulators.acted import ANYWHERE, Acted
from tests.simulators.gallery_life import consent
from tests.unit.test_enrolment_live import GOOD, TEXTURE, Unit


class Crowd:
    """A camera before which two people stand for ten minutes, and their detector."""

    def __init__(self) -> None:
        self.shown = 0

    def frames(self) -> Iterator[Frame]:
        for second in range(600):
            self.shown += 1
            yield Frame(0, second * 1_000_000_000, np.zeros((240, 320, 3), np.uint8), RgbPicture(TEXTURE))

    def detect(self, frame: Frame) -> list[Face]:
        return [GOOD, replace(GOOD, box=tuple(side + 400 for side in GOOD.box))]


def test_at_the_units_own_command_line_two_people_in_view_end_the_session_at_its_time(tmp_path: Path) -> None:
    unit, crowd, told = Unit(tmp_path), Crowd(), []
    session = SpotSession(unit.registrar.open(consent(unit.clock.now()), None), Acted(), ANYWHERE)
    with pytest.raises(CaptureRefusedError, match="nothing was stored: start again"):
        capture(crowd, crowd, session, pressed=lambda: False, tell=told.append)
    assert crowd.shown == SESSION_NS // 1_000_000_000 + 2
    assert told, "they are told what to do"
    assert len(told) <= 5, "once and not for each frame"
    assert not unit.given, "nobody was embedded"
