# SPDX-License-Identifier: Apache-2.0
"""Jetson and other GStreamer pipelines: the text that is built, and real pipelines where GStreamer is installed."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import pytest

from agent.camera.base import LORES_BORDER
from agent.camera.gstreamer import GstApi, GstreamerSource, load_gstreamer, pipeline_text
from agent.clock import SystemClock
from agent.config.camera import GstreamerCamera
from agent.errors import CameraLostError, ConfigError

DISTRIBUTION = "/usr/lib/python3/dist-packages"  # where python3-gi lies, which no virtual environment sees
TEST = (
    "videotestsrc is-live=true num-buffers={frames} pattern={pattern} ! "
    "video/x-raw,format=NV12,width={width},height={height},framerate=25/1"
)
LARGEST = 'capsfilter caps="video/x-raw(ANY),{0};image/jpeg(ANY),{0}"'.format("width=[1,1920],height=[1,1200]")


@pytest.fixture(scope="module")
def gst() -> GstApi:
    sys.path.append(DISTRIBUTION)
    try:
        with warnings.catch_warnings(action="ignore"):  # PyGObject's importer is of an older kind
            api = load_gstreamer()
    except ConfigError:
        pytest.skip(
            "GStreamer is not installed for this Python: apt-get install python3-gi gir1.2-gst-plugins-base-1.0"
        )
    finally:
        sys.path.remove(DISTRIBUTION)
    return api


def source(gst: GstApi, pipeline: str, **settings: Any) -> GstreamerSource:
    settings = {"timeout_s": 5, **settings}
    return GstreamerSource(
        GstreamerCamera(pipeline=pipeline, **settings), lores_size=(320, 240), clock=SystemClock(), load=lambda: gst
    )


def test_jetson_pipeline_keeps_only_the_newest_picture() -> None:
    assert pipeline_text(GstreamerCamera(sensor_id=1, width=1920, height=1080, frames_per_second=29.97)) == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=2997/100 ! "
        "nvvidconv flip-method=0 ! capsfilter caps=video/x-raw,format=NV12 ! "
        "appsink name=postern drop=true max-buffers=1 sync=false"
    )


@pytest.mark.parametrize(("turn", "method"), [(0, 0), (90, 3), (180, 2), (270, 1)])
def test_a_jetsons_converter_turns_clockwise(turn: int, method: int) -> None:
    """By nvvidconv's own numbers: 1 is a quarter against the clock, 3 one with it."""
    assert f"nvvidconv flip-method={method} !" in pipeline_text(GstreamerCamera(rotate=turn))


def test_own_pipeline_ends_in_the_same_sink() -> None:
    assert pipeline_text(GstreamerCamera(pipeline="videotestsrc", max_width=640, max_height=480)) == (
        'videotestsrc ! capsfilter caps="video/x-raw,format=NV12,width=[1,640],height=[1,480]" ! '
        "appsink name=postern drop=true max-buffers=1 sync=false"
    )


def test_each_element_of_a_cameras_chain_is_held_to_the_largest_picture() -> None:
    text = pipeline_text(GstreamerCamera(pipeline="v4l2src ! video/x-raw,format=YUY2 ! videoscale ! videoconvert"))
    bounded = f"v4l2src ! {LARGEST} ! video/x-raw,format=YUY2 ! videoscale ! {LARGEST} ! videoconvert ! {LARGEST} ! "
    assert text.startswith(bounded + "capsfilter caps=")


def test_missing_binding_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gi", None)
    camera = GstreamerSource(GstreamerCamera(), lores_size=(320, 240), clock=SystemClock())
    with pytest.raises(ConfigError, match="install the packages python3-gi"), camera:
        pass


@pytest.mark.parametrize(("width", "height"), [(640, 360), (322, 242), (321, 241)])
def test_pictures_of_a_real_pipeline_are_right_with_and_without_padding(gst: GstApi, width: int, height: int) -> None:
    pipeline = TEST.format(frames=50, pattern="red", width=width, height=height)
    with source(gst, pipeline) as camera:
        info = camera.info()
        assert (info.source, info.width, info.height, info.live) == ("gstreamer", width, height, True)
        before = 0
        frames = camera.frames()
        for number in range(3):
            with next(frames) as frame:
                assert frame.number == number
                assert frame.timestamp_ns > before
                before = frame.timestamp_ns
                window = frame.main.window(0, 0, 9999, 9999)
                assert window.shape == (height, width, 3)
                assert np.abs(window.astype(int) - (255, 0, 0)).max() <= 3
                assert np.abs(frame.lores[:100, :200].astype(int) - (255, 0, 0)).max() <= 3
                assert width != 640 or (frame.lores[180:] == LORES_BORDER).all()


@pytest.mark.parametrize(("turn", "size"), [(0, (320, 180)), (90, (180, 320)), (180, (320, 180)), (270, (180, 320))])
def test_a_pipeline_of_ones_own_is_turned_here(gst: GstApi, turn: int, size: tuple[int, int]) -> None:
    """Its left half is red: clockwise that goes up, to the right, down."""
    half = TEST.format(frames=50, pattern="red", width=160, height=180).replace("NV12", "I420")
    with source(gst, f"{half} ! videobox right=-160 fill=black ! videoconvert", rotate=turn) as camera:
        assert (camera.info().width, camera.info().height) == size
        with next(camera.frames()) as frame:
            picture = frame.main.window(0, 0, 9999, 9999).astype(int)
            assert picture.shape == (size[1], size[0], 3)
            small = frame.lores.astype(int)
    for shown in (picture, small[:180] if turn % 180 == 0 else small[:, :135]):
        upright = np.rot90(shown, turn // 90)  # against the clock, back to what the pipeline gave
        assert (upright[:, : upright.shape[1] // 2 - 4, 0] > 200).all()
        assert (upright[:, upright.shape[1] // 2 + 4 :, 0] < 50).all()


def test_picture_larger_than_configured_is_refused_before_anything_makes_room_for_it(gst: GstApi) -> None:
    scaled = TEST.format(frames=5, pattern="black", width=8192, height=8192) + f" ! {LARGEST} ! videoscale"
    for pipeline in (TEST.format(frames=5, pattern="black", width=1922, height=64), scaled):
        with (
            pytest.raises(
                (ConfigError, CameraLostError), match=r"larger than camera\.max_width and camera\.max_height"
            ),
            source(gst, pipeline),
        ):
            pass
    with source(gst, TEST.format(frames=5, pattern="black", width=1920, height=1200) + f" ! {LARGEST}") as camera:
        assert (camera.info().width, camera.info().height) == (1920, 1200)


def test_stream_that_changes_its_size_is_read_as_what_it_is(gst: GstApi) -> None:
    sizes = [(128, 96), (64, 48), (160, 120)]
    parts = " ".join(f"{TEST.format(frames=4, pattern='red', width=w, height=h)} ! c." for w, h in sizes)
    seen = []

    def look(camera: GstreamerSource) -> None:
        for frame in camera.frames():
            with frame:
                seen.append((frame.main.width, frame.main.height))
                assert np.abs(frame.main.window(0, 0, 999, 999).astype(int) - (255, 0, 0)).max() <= 3

    with source(gst, f"concat name=c {parts} c.") as camera, pytest.raises(CameraLostError, match="its stream ended"):
        look(camera)
    assert sorted(set(seen), key=seen.index) == sizes


def test_live_pictures_carry_the_time_of_the_monotonic_clock(gst: GstApi) -> None:
    pipeline = TEST.format(frames=50, pattern="black", width=64, height=64)
    with source(gst, pipeline) as camera:
        frames = camera.frames()
        for _ in range(5):
            with next(frames) as frame:
                age = SystemClock().monotonic_ns() - frame.timestamp_ns
                assert -5_000_000 <= age < 1_000_000_000


def test_end_of_the_stream_is_a_loss(gst: GstApi) -> None:
    def drain(camera: GstreamerSource) -> None:
        for frame in camera.frames():
            frame.close()

    with (
        source(gst, TEST.format(frames=3, pattern="black", width=64, height=64)) as camera,
        pytest.raises(CameraLostError, match="its stream ended"),
    ):
        drain(camera)


def test_pipeline_that_gives_nothing_is_a_loss_in_time(gst: GstApi) -> None:
    pipeline = TEST.format(frames=50, pattern="black", width=64, height=64) + " ! valve drop=true drop-mode=drop-all"
    camera = source(gst, pipeline, timeout_s=1)
    with pytest.raises(CameraLostError, match="no picture for 1 seconds"), camera:
        pass


def test_missing_element_is_a_wrong_configuration(gst: GstApi) -> None:
    with pytest.raises(ConfigError, match="one of its elements is not installed"), source(gst, "nosuchcamerasrc"):
        pass


def test_error_of_an_element_does_not_show_the_pipeline(gst: GstApi) -> None:
    for pipeline in (
        "filesrc location=/nowhere/cam:hunter2@host ! decodebin ! videoconvert",
        "videotestsrc pattern=cam:hunter2@host ! videoconvert",
    ):
        with pytest.raises((CameraLostError, ConfigError)) as refused, source(gst, pipeline):
            pass
        assert "hunter2" not in str(refused.value)
        assert refused.value.__context__ is None
