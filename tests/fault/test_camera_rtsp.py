# SPDX-License-Identifier: Apache-2.0
"""A real RTSP camera that is killed, frozen, restarted and guarded by a password."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from agent.camera.base import LORES_BORDER, Frame
from agent.camera.open import open_camera
from agent.camera.supervise import CameraNotice, LatestFrame, Supervised
from agent.clock import SystemClock
from agent.config.camera import RtspCamera
from agent.errors import CameraLostError
from tests.simulators.camera import Collected, RtspServer

pytest.importorskip("av")
LORES = (160, 120)
PASSWORD = "hunter2/@:%é"  # every character that has a meaning in an address, and one that is not ASCII
TIMEOUT_S = 4.0  # of cameras that will freeze
AT_ONCE_S = 3.0  # on a busy machine, and still sooner than a wait for the camera would end


@pytest.fixture
def server() -> Iterator[RtspServer]:
    with RtspServer() as running:
        yield running


def settings(url: str, **others: Any) -> RtspCamera:
    return RtspCamera(url=url, **{"timeout_s": 10.0, **others})


def collect(frames: Iterator[Frame], count: int) -> list[int]:
    times = []
    for frame in frames:
        with frame:
            times.append(frame.timestamp_ns)
        if len(times) == count:
            break
    return times


def wait_for_frame(latest: LatestFrame, within_s: float) -> None:
    frame = latest.take(within_s)
    assert frame is not None
    frame.close()


def test_live_stream_gives_pictures_with_times_of_arrival(server: RtspServer) -> None:
    begun = time.monotonic_ns()
    with open_camera(settings(server.url()), lores_size=LORES, clock=SystemClock()) as camera:
        info = camera.info()
        assert (info.source, info.width, info.height, info.live) == ("rtsp", 320, 180, True)
        frames = camera.frames()
        with next(frames) as frame:
            assert frame.lores.shape == (120, 160, 3)
            assert (frame.lores[90:] == LORES_BORDER).all()
            assert frame.main.window(0, 0, 320, 180).max() > 150  # the white ball
        times = collect(frames, 10)
    assert begun < times[0]
    assert times == sorted(set(times))
    assert times[-1] <= time.monotonic_ns()


def test_killed_camera_is_lost_at_once(server: RtspServer) -> None:
    with open_camera(settings(server.url()), lores_size=LORES, clock=SystemClock()) as camera:
        frames = camera.frames()
        next(frames).close()
        server.kill()
        begun = time.monotonic()
        with pytest.raises(CameraLostError, match=r"it stopped (sending|answering)"):
            collect(frames, 10_000)
        assert time.monotonic() - begun < AT_ONCE_S


def test_frozen_camera_is_lost_after_its_time(server: RtspServer) -> None:
    with open_camera(settings(server.url(), timeout_s=TIMEOUT_S), lores_size=LORES, clock=SystemClock()) as camera:
        frames = camera.frames()
        next(frames).close()
        server.freeze()
        begun = time.monotonic()
        with pytest.raises(CameraLostError, match=r"it stopped (sending|answering)|no picture came for 4 seconds"):
            collect(frames, 10_000)
        waited = time.monotonic() - begun
        closing = time.monotonic()
    assert TIMEOUT_S * 0.8 < waited < 3 * TIMEOUT_S
    assert time.monotonic() - closing < TIMEOUT_S


def test_killed_camera_that_restarts_is_back_and_both_are_told_once(server: RtspServer) -> None:
    notices = Collected()
    supervised = Supervised(
        lambda: open_camera(settings(server.url()), lores_size=LORES, clock=SystemClock()),
        clock=SystemClock(),
        random=lambda count: b"\x20" * count,  # an eighth of every bound
        on_notice=notices,
    )
    with LatestFrame(supervised) as latest:
        wait_for_frame(latest, 10)
        notices.clear()  # a busy machine may have needed a second attempt
        server.kill()
        lost = notices.next(5)
        assert isinstance(lost, CameraNotice)
        assert lost.kind == "camera_lost"
        server.start()
        assert notices.next(15).kind == "camera_back"
        wait_for_frame(latest, 5)
        begun = time.monotonic()
    assert time.monotonic() - begun < AT_ONCE_S
    assert notices.all() == []


def test_frozen_camera_that_thaws_is_back(server: RtspServer) -> None:
    notices = Collected()
    supervised = Supervised(
        lambda: open_camera(settings(server.url(), timeout_s=TIMEOUT_S), lores_size=LORES, clock=SystemClock()),
        clock=SystemClock(),
        random=lambda count: b"\x20" * count,
        on_notice=notices,
    )
    with LatestFrame(supervised) as latest:
        wait_for_frame(latest, 10)
        notices.clear()
        server.freeze()
        assert notices.next(15).kind == "camera_lost"
        server.thaw()
        assert notices.next(15).kind == "camera_back"
        wait_for_frame(latest, 5)


def test_stop_while_the_camera_is_frozen_takes_a_second_at_most(server: RtspServer) -> None:
    supervised = Supervised(
        lambda: open_camera(settings(server.url(), timeout_s=TIMEOUT_S), lores_size=LORES, clock=SystemClock()),
        clock=SystemClock(),
        random=lambda count: bytes(count),
        on_notice=Collected(),
    )
    with LatestFrame(supervised) as latest:
        wait_for_frame(latest, 10)
        server.freeze()
        time.sleep(0.2)
        begun = time.monotonic()
    assert time.monotonic() - begun < AT_ONCE_S


def test_password_file_opens_a_guarded_camera(tmp_path: Path) -> None:
    file = tmp_path / "camera"
    file.write_text(f"cam:{PASSWORD}\n")
    file.chmod(0o600)
    with (
        RtspServer("cam", PASSWORD) as server,
        open_camera(settings(server.url(), credentials_file=file), lores_size=LORES, clock=SystemClock()) as camera,
    ):
        assert len(collect(camera.frames(), 3)) == 3


@pytest.mark.parametrize(
    ("path", "credentials", "reason"),
    [
        ("live", "", "it refuses the user name or the password"),
        ("live", "cam:wrong-hunter2@", "it refuses the user name or the password"),
        ("nowhere", "cam:right-hunter2@", "it has no stream of that name"),
    ],
)
def test_refusal_says_why_and_never_shows_the_address(
    path: str, credentials: str, reason: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with RtspServer("cam", "right-hunter2") as server:
        url = server.url(path, credentials)
        with (
            pytest.raises(CameraLostError, match=reason) as refused,
            open_camera(settings(url), lores_size=LORES, clock=SystemClock()),
        ):
            pass
    shown = (
        "".join(traceback.format_exception(refused.value))
        + repr(refused.value)
        + caplog.text
        + "".join(capfd.readouterr())
    )
    assert "hunter2" not in shown
    assert "127.0.0.1" not in shown
    assert refused.value.__cause__ is refused.value.__context__ is None


def test_camera_that_is_not_there_is_lost_at_once() -> None:
    server = RtspServer()
    begun = time.monotonic()
    with (
        pytest.raises(CameraLostError, match="nothing answers at its address"),
        open_camera(settings(server.url()), lores_size=LORES, clock=SystemClock()),
    ):
        pass
    assert time.monotonic() - begun < AT_ONCE_S


def test_password_is_not_sent_in_clear_to_a_camera_that_asks_for_it_so() -> None:
    with (
        RtspServer("cam", "right-hunter2", "basic") as server,
        pytest.raises(CameraLostError, match="wants the password in clear: set the camera to digest") as refused,
        open_camera(settings(server.url(credentials="cam:right-hunter2@")), lores_size=LORES, clock=SystemClock()),
    ):
        pass
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("path", ["live", "h265", "jpeg"])
def test_each_codec_of_a_camera_is_taken_out_of_its_packets_whole(path: str) -> None:
    """A real server's payloads: no picture is damaged, and the ball is where it is bright."""
    with (
        RtspServer("cam", PASSWORD) as server,
        open_camera(
            settings(server.url(path, f"cam:{quote(PASSWORD, safe='')}@")), lores_size=LORES, clock=SystemClock()
        ) as camera,
    ):
        info = camera.info()
        assert (info.width, info.height) == ((320, 180) if path != "jpeg" else (320, 184))  # RFC 2435 counts in eights
        frames = camera.frames()
        for _ in range(30):
            with next(frames) as frame:
                shown = frame.main.window(0, 0, 320, 180)
                assert shown.max() > 200
                assert shown.min() < 30
                assert (shown[:, :, 0].astype(int) - shown[:, :, 2]).__abs__().max() < 40  # grey, as it was sent
