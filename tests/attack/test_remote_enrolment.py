# SPDX-License-Identifier: Apache-2.0
"""A command from afar enrols nobody: who walks past, or stands there without an act of their own, is not embedded.

The whole way: site kit, Mosquitto, a running unit, an operator whose command is signed and whose consent holds. The
same scene with the act is ``contract/test_commands_of_a_running_unit.py``.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from agent.protocol.response import Response
from tests.contract.test_commands_of_a_running_unit import NOBODY, OTHER_OPERATOR, POSE, RunningUnit

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]

LOOK_S = 9.0  # an enrolment of somebody who acted takes six
PASSER_BY = {
    "size": [960, 540],
    "frames_per_second": 8,
    "duration": 120,
    "seed": 1,
    "background": {"kind": "room", "variant": 3},
    # Near, in the zone, facing the camera, moving a little: everything that a capture needs but the act.
    "people": [{"who": "person-01", "path": [{"at": 0, "x": 480, "y": 227, "face": 162}], "pose": POSE}],
}


@pytest.mark.parametrize("button", [True, False], ids=["a unit with a button", "a unit without"])
def test_a_remote_command_enrols_no_passer_by(tmp_path: Path, button: bool) -> None:
    if shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("mosquitto is not installed")
    changes: dict[str, Any] = {} if button else {"enrolment": None}
    unit = RunningUnit(tmp_path, PASSER_BY, **changes)
    heard: list[Response] = []
    began = time.monotonic()

    def watch(progress: Response) -> None:
        heard.append(progress)
        if len(heard) == 2:  # the first report: let the rest of the time pass, then end it
            time.sleep(max(0.0, began + LOOK_S - time.monotonic()))
            unit.ask("enrol/abort", {"enrolment": progress.transaction}, name=OTHER_OPERATOR)

    try:
        end = unit.ask("enrol/begin", {"consent": unit.consent()}, on_progress=watch)
        assert (end.status, end.error) == ("error", "aborted"), end
        advice = [one.data["refusal"] for one in heard if one.data]
        assert [one.data["captured"] for one in heard if one.data] == [0] * len(heard)
        assert set(advice) - {None, "front"} <= ({"press"} if button else {"left", "right", "up", "down"})
        assert unit.ask("gallery/status").data == NOBODY
    finally:
        unit.process.terminate()
        log = unit.process.communicate(timeout=30)[1]
        unit.broker.stop()
    assert re.search(r"stage embed: [1-9]", log) is None, "nobody was embedded"
