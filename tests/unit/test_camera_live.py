# SPDX-License-Identifier: Apache-2.0
"""Live streams as they are found at doors: key pictures that are rare, boards that are too slow, cameras that hang."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

pytest.importorskip("av")

from agent.camera.av_input import rtsp_input
from agent.camera.av_source import MAX_LIVE_AGE_NS, AvCamera
from agent.camera.av_stream import KEY_PATIENCE_S
from agent.clock import SimulatedClock
from agent.config.camera import RtspCamera
from agent.errors import CameraLostError
from tests.simulators.scripted_input import Scripted, ScriptedInput

FRAME_S = 0.04
URL = "rtsp://192.0.2.20/stream1"


def play(script: Sequence[Scripted], *, work_s: float = 0.0) -> tuple[list[float], str, ScriptedInput, float]:
    """Ages of the pictures handed over, why it ended, and when; ``work_s`` is what the consumer takes for each."""
    clock = SimulatedClock()
    clock.advance(100)
    source = ScriptedInput(clock, script)
    ages: list[float] = []
    try:
        camera = AvCamera(rtsp_input(RtspCamera(url=URL)), lores_size=(32, 24), clock=clock, feed=source.feed)
        with camera:
            for frame in camera.frames():
                with frame:
                    ages.append((clock.monotonic_ns() - frame.timestamp_ns) / 1e9)
                clock.advance(work_s)
    except CameraLostError as error:
        return ages, str(error), source, clock.monotonic_ns() / 1e9 - 100
    raise AssertionError("a live stream ends with an error")


def joined(key_at_s: float, last_s: float) -> list[Scripted]:
    """Packets of 25 a second, of which none can be decoded before the key picture at ``key_at_s``."""
    times = [number * FRAME_S for number in range(round(last_s / FRAME_S))]
    return [Scripted(t, t, key=abs(t - key_at_s) < FRAME_S / 2, fit=t >= key_at_s - FRAME_S / 2) for t in times]


@pytest.mark.parametrize("key_at_s", [0.0, 9.0, 27.0, 100.0])
def test_a_camera_with_rare_key_pictures_is_waited_for(key_at_s: float) -> None:
    ages, reason, _, _ = play(joined(key_at_s, key_at_s + 4))
    assert len(ages) == pytest.approx(100, abs=1)
    assert "it stopped sending" in reason


def test_a_camera_without_key_pictures_is_told_so() -> None:
    ages, reason, _, ended_s = play(joined(1e9, KEY_PATIENCE_S + 20))
    assert ages == []
    assert "set its key interval" in reason
    assert ended_s == pytest.approx(KEY_PATIENCE_S, abs=1)


def test_damage_after_a_key_picture_is_not_waited_for_as_long() -> None:
    script = [Scripted(0, 0), *(Scripted(n * FRAME_S, n * FRAME_S, key=False, fit=False) for n in range(1, 3000))]
    ages, reason, _, ended_s = play(script)
    assert len(ages) == 1
    assert "damaged" in reason or "no picture came" in reason
    assert ended_s < 10


def test_a_board_that_is_too_slow_hands_over_no_old_picture_and_says_so() -> None:
    """Each picture of 40 ms takes 200: whatever waits in buffers, what is handed over is not older than the limit."""
    ages, reason, source, ended_s = play([Scripted(n * FRAME_S, n * 5 * FRAME_S) for n in range(300)])
    assert max(ages) <= MAX_LIVE_AGE_NS / 1e9
    assert ages[-1] > 1.5
    assert "choose the camera's smaller stream" in reason
    assert source.skipped == ["NONKEY"]
    assert ended_s < 20


def test_a_stall_is_caught_up_with_and_then_all_is_well() -> None:
    before = [Scripted(n * FRAME_S, n * FRAME_S) for n in range(50)]
    burst = [Scripted(n * FRAME_S, 8.0 + n / 1000) for n in range(50, 200)]
    after = [Scripted(n * FRAME_S, n * FRAME_S + 0.2) for n in range(200, 300)]
    ages, reason, source, _ = play([*before, *burst, *after])
    assert "it stopped sending" in reason
    assert max(ages) <= MAX_LIVE_AGE_NS / 1e9
    assert len(ages) > 190
    assert max(ages[-100:]) < 0.5
    assert source.skipped == ["NONKEY", "DEFAULT"]
