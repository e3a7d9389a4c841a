# SPDX-License-Identifier: Apache-2.0
"""A lost camera is reported once and comes back; the pipeline gets the newest frame; nothing leaks or hangs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from threading import Event
from types import TracebackType
from typing import Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.camera.base import CameraInfo, Frame, RgbPicture
from agent.camera.supervise import REOPEN_S, STABLE_S, CameraNotice, LatestFrame, Supervised
from agent.camera.timestamps import Timestamps
from agent.clock import SimulatedClock, full_jitter
from agent.errors import CameraLostError, ConfigError
from tests.simulators.camera import ScriptedCamera, threads_named


class Rig:
    """A supervised camera whose sessions are listed; ``half`` is the random source."""

    def __init__(self, *sessions: dict[str, object], half: bytes = b"\x80\0\0\0") -> None:
        self.clock = SimulatedClock()
        self.alive: set[int] = set()
        self.notices: list[CameraNotice] = []
        self.told_at: list[float] = []
        self.opened_at: list[float] = []
        self.cameras: list[ScriptedCamera] = []
        self._sessions = list(sessions)
        self.supervised = Supervised(self._make, clock=self.clock, random=lambda _: half, on_notice=self._hear)

    def _hear(self, notice: CameraNotice) -> None:
        self.notices.append(notice)
        self.told_at.append(self.clock.monotonic_ns() / 1e9)

    def _make(self) -> ScriptedCamera:
        self.opened_at.append(self.clock.monotonic_ns() / 1e9)
        script = self._sessions.pop(0) if self._sessions else {"frames": 5}
        camera = ScriptedCamera(clock=self.clock, alive=self.alive, **script)  # type: ignore[arg-type]
        self.cameras.append(camera)
        return camera

    def take(self, count: int) -> list[int]:
        numbers = []
        with self.supervised as camera, closing(camera.frames()) as frames:
            for frame in frames:
                with frame:
                    numbers.append(frame.number)
                if len(numbers) == count:
                    break
        return numbers

    @property
    def story(self) -> list[str]:
        return [notice.kind for notice in self.notices]


LOST = CameraLostError("the camera gives no pictures: unplugged")


def test_loss_and_return_are_told_once_each() -> None:
    rig = Rig({"frames": 3}, {"frames": 0, "opening": LOST}, {"frames": 0, "opening": LOST}, {"frames": 4})
    assert rig.take(5) == [0, 1, 2, 3, 4]
    assert rig.story == ["camera_lost", "camera_back"]
    assert rig.notices[0].reason == "the camera gives no pictures: the script says so"
    assert rig.told_at[0] < rig.told_at[1]


def test_camera_missing_from_the_start_is_a_loss() -> None:
    rig = Rig({"frames": 0, "opening": LOST}, {"frames": 2})
    with pytest.raises(CameraLostError, match="not reached yet"):
        rig.supervised.info()
    assert rig.take(1) == [0]
    assert rig.story == ["camera_lost", "camera_back"]
    assert rig.supervised.info().width == 64


def test_camera_that_opens_but_gives_nothing_is_still_lost() -> None:
    rig = Rig({"frames": 0}, {"frames": 0}, {"frames": 0}, {"frames": 1})
    rig.take(1)
    assert rig.story == ["camera_lost", "camera_back"]


def test_wrong_configuration_is_not_tried_again() -> None:
    rig = Rig({"frames": 0, "opening": ConfigError("files, RTSP and USB cameras need PyAV")})
    with pytest.raises(ConfigError):
        rig.take(1)
    assert len(rig.opened_at) == 1


def test_waits_grow_to_their_limit() -> None:
    rig = Rig(*[{"frames": 0, "opening": LOST}] * 12)
    rig.take(1)
    waits = np.diff(rig.opened_at)
    assert waits[:6] == pytest.approx([0.5, 1, 2, 4, 8, 15], abs=0.01)
    assert waits.max() <= REOPEN_S.most_s / 2 + 0.2


def test_camera_that_dies_after_each_first_frame_does_not_loop_hot() -> None:
    rig = Rig(*[{"frames": 1}] * 20)
    rig.take(12)
    assert rig.opened_at[-1] > 60
    assert rig.story[:4] == ["camera_lost", "camera_back", "camera_lost", "camera_back"]


def test_camera_that_worked_for_long_is_tried_again_soon() -> None:
    steady = {"frames": int(STABLE_S / 0.04) + 10}
    rig = Rig(*[{"frames": 0, "opening": LOST}] * 6, steady, {"frames": 1})
    rig.take(int(STABLE_S / 0.04) + 11)
    assert rig.opened_at[-1] - rig.told_at[-2] <= REOPEN_S.first_s


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(min_size=4, max_size=4), min_size=1, max_size=40))
def test_every_wait_is_random_below_a_doubling_bound(numbers: list[bytes]) -> None:
    for attempt, number in enumerate(numbers):
        bound = min(REOPEN_S.first_s * 2**attempt, REOPEN_S.most_s)
        wait = full_jitter(attempt + 1, REOPEN_S, lambda _, number=number: number)
        assert 0 <= wait < bound
        assert wait == pytest.approx(bound * int.from_bytes(number, "big") / 2**32)


def test_stop_ends_a_wait() -> None:
    rig = Rig(*[{"frames": 0, "opening": LOST}] * 50)

    def stop(_: CameraNotice) -> None:
        rig.supervised.stop()

    rig.supervised.on_notice = stop
    assert rig.take(1) == []
    assert rig.clock.monotonic_ns() < 1e9


def test_leaving_in_the_middle_closes_camera_and_frames() -> None:
    rig = Rig({"frames": 100})
    rig.take(3)
    assert rig.cameras[0].closed
    assert rig.alive == set()


def test_frame_that_comes_after_the_stop_is_closed() -> None:
    rig = Rig({"frames": 100})
    with rig.supervised as camera:
        frames = camera.frames()
        next(frames).close()
        camera.stop()
        assert list(frames) == []
    assert rig.alive == set()
    assert rig.cameras[0].closed


class HandFed:
    """A stoppable camera that makes a frame for each ``feed`` and blocks in between, as a driver does."""

    def __init__(self, *, deaf: bool = False) -> None:
        self.alive: set[int] = set()
        self.left = False
        self._feed = Event()
        self._done = Event()
        self._stop = Event()
        self._deaf = deaf  # does not notice ``stop`` while it waits
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.left = True

    def info(self) -> CameraInfo:
        return CameraInfo("hand", 4, 4, 25.0, live=True)

    def stop(self) -> None:
        self._stop.set()
        if not self._deaf:
            self._feed.set()

    def feed(self, error: Exception | None = None) -> None:
        """Let one frame, or ``error``, through and wait until it was taken over."""
        self._error = error
        self._done.clear()
        self._feed.set()
        assert error or self._done.wait(5)

    def frames(self) -> Iterator[Frame]:
        number = 0
        while True:
            self._feed.wait()
            self._feed.clear()
            if self._stop.is_set() and not self._deaf:
                return
            if self._error is not None:
                raise self._error
            self.alive.add(number)
            shape = np.zeros((4, 4, 3), np.uint8)
            yield Frame(number, number, shape, RgbPicture(shape), lambda key=number: self.alive.remove(key))  # type: ignore[misc]
            number += 1
            self._done.set()


def test_slow_consumer_gets_the_newest_frame_and_the_others_are_dropped() -> None:
    camera = HandFed()
    with LatestFrame(camera) as latest:
        for _ in range(5):
            camera.feed()
        frame = latest.take(1)
        assert frame is not None
        assert frame.number == 4
        assert camera.alive == {4}
        for _ in range(3):
            camera.feed()
        assert camera.alive == {4, 7}  # one with the consumer, one waiting
        frame.close()
        newest = latest.take(1)
        assert newest is not None
        newest.close()
        assert newest.number == 7
    assert camera.alive == set()


def test_waiting_for_a_frame_ends_in_time_without_one() -> None:
    with LatestFrame(HandFed()) as latest:
        assert latest.take(0.01) is None


def test_stop_closes_the_waiting_frame_and_ends_the_thread() -> None:
    camera = HandFed()
    with LatestFrame(camera) as latest:
        camera.feed()
        assert camera.alive == {0}
    assert camera.alive == set()
    assert camera.left
    assert not [thread for thread in threads_named("camera") if thread is latest._thread]
    with pytest.raises(CameraLostError, match="has ended"):
        latest.take(0)
    latest.stop()


def test_stop_does_not_wait_for_a_driver_that_hangs() -> None:
    camera = HandFed(deaf=True)
    begun = time.monotonic()
    with LatestFrame(camera) as latest:
        camera.feed()
    assert time.monotonic() - begun < 5  # a second, and a busy machine; the driver would never end
    camera._feed.set()  # the driver wakes up and gives one more frame
    latest._thread.join(5)
    assert camera.alive == set()
    assert camera.left


def test_error_of_the_camera_reaches_the_consumer() -> None:
    camera = HandFed()
    with LatestFrame(camera) as latest:
        camera.feed()
        camera.feed(ConfigError("files, RTSP and USB cameras need PyAV"))
        frame = latest.take(5)
        assert frame is not None
        frame.close()
        with pytest.raises(ConfigError, match="need PyAV"):
            latest.take(5)


def test_a_supervised_camera_runs_behind_the_hand_off() -> None:
    rig = Rig({"frames": 30}, {"frames": 30}, {"frames": 0, "opening": ConfigError("stop here")})
    numbers: list[int] = []

    def follow(latest: LatestFrame) -> None:
        while (frame := latest.take(5)) is not None:
            with frame:
                numbers.append(frame.number)

    with LatestFrame(rig.supervised) as latest, pytest.raises(ConfigError):
        follow(latest)
    assert numbers == sorted(numbers)
    assert numbers
    assert rig.alive == set()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.one_of(st.none(), st.integers(-(2**63), 2**63)), st.integers(0, 10**9)), max_size=20))
def test_times_of_live_frames_rise_and_stay_near_the_clock(frames: list[tuple[int | None, int]]) -> None:
    times, now, last = Timestamps(), 10**12, -1
    for claimed, step in frames:
        now += step
        result = times.live(claimed, now)
        assert result > last
        assert result - now <= len(frames)
        last = result


def test_a_sensor_time_of_the_same_clock_is_believed() -> None:
    assert Timestamps().live(999_950_000_000, 10**12) == 999_950_000_000
    assert Timestamps().live(1_790_000_000 * 10**9, 10**12) == 10**12  # wall time
