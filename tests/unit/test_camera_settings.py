# SPDX-License-Identifier: Apache-2.0
"""Camera settings are strict, and a camera's password shows nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote, urlsplit

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.camera.av_input import MAX_CREDENTIALS, read_credentials, rtsp_input, with_credentials
from agent.camera.av_source import AvCamera
from agent.camera.gstreamer import GstreamerSource
from agent.camera.open import open_camera
from agent.camera.picam import PicamCamera
from agent.clock import SimulatedClock
from agent.config.camera import CameraSettings, FileCamera, RtspCamera
from agent.errors import ConfigError, KeyStoreError


def parsed(document: dict[str, Any]) -> Any:
    return msgspec.convert(document, CameraSettings, dec_hook=lambda _, value: Path(value))


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"source": "file", "path": "a.mp4"}, AvCamera),
        ({"source": "rtsp", "url": "rtsp://host/live"}, AvCamera),
        ({"source": "v4l2", "device": "/dev/video0"}, AvCamera),
        ({"source": "picamera2"}, PicamCamera),
        ({"source": "gstreamer"}, GstreamerSource),
    ],
)
def test_each_source_opens_its_own_kind_of_camera(document: dict[str, Any], kind: type) -> None:
    camera = open_camera(parsed(document), lores_size=(320, 240), clock=SimulatedClock())
    assert isinstance(camera, kind)


REAL = {
    "file": {"path": "a.mp4"},
    "rtsp": {"url": "rtsp://host/live"},
    "v4l2": {"device": "/dev/video0"},
    "picamera2": {},
    "gstreamer": {},
}


def test_each_source_that_can_be_turned_in_the_world_can_be_turned_back() -> None:
    kinds = {kind.__struct_config__.tag for kind in get_args(CameraSettings)}
    assert kinds == {*REAL, "scene"}, "a scene stands upright by construction"
    for source, needed in REAL.items():
        for turn in (0, 90, 180, 270):
            assert parsed({"source": source, **needed, "rotate": turn}).rotate == turn
        for turn in (-90, 45, 360):
            with pytest.raises(msgspec.ValidationError):
                parsed({"source": source, **needed, "rotate": turn})


@pytest.mark.parametrize(
    "document",
    [
        {"source": "webcam"},
        {"path": "a.mp4"},
        {"source": "file"},
        {"source": "file", "path": "a.mp4", "lop": True},
        {"source": "v4l2", "device": "/dev/video0", "width": 641},
        {"source": "v4l2", "device": "/dev/video0", "height": 9000},
        {"source": "v4l2", "device": "/dev/video0", "frames_per_second": 0},
        {"source": "v4l2", "device": "/dev/video0", "format": "bayer"},
        {"source": "picamera2", "index": -1},
        {"source": "gstreamer", "pipeline": ""},
        {"source": "gstreamer", "pipeline": "videotestsrc\n! fakesink"},
        {"source": "gstreamer", "pipeline": "videotestsrc", "rotate": 45},
        {"source": "rtsp", "url": "rtsp://"},
        {"source": "rtsp", "url": "http://host/live"},
        {"source": "rtsp", "url": "rtsps://host/live"},
        {"source": "rtsp", "url": "rtsp://host:99999/live"},
        {"source": "rtsp", "url": "rtsp://host/live", "timeout_s": 0},
    ],
)
def test_what_is_not_understood_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        parsed(document)


def test_password_in_a_refused_url_is_not_in_the_refusal() -> None:
    for url in ("http://cam:hunter2@host/live", "rtsp://cam:hunter2@host:99999/live", "rtsp://cam:hunter2@[host/x"):
        with pytest.raises(msgspec.ValidationError) as refused:
            parsed({"source": "rtsp", "url": url})
        assert "hunter2" not in str(refused.value)


def test_password_is_kept_in_one_place_only() -> None:
    with pytest.raises(msgspec.ValidationError, match="keep it in the file alone"):
        parsed({"source": "rtsp", "url": "rtsp://cam:hunter2@host/live", "credentials_file": "camera.txt"})


def test_settings_with_a_password_do_not_print_it() -> None:
    one = parsed({"source": "rtsp", "url": "rtsp://cam:hunter2@host/live"})
    other = parsed({"source": "gstreamer", "pipeline": "rtspsrc location=rtsp://cam:hunter2@host/live ! decodebin"})
    shown = [repr(one), str(one), f"{one}", repr([other]), repr(rtsp_input(one)), str(one.__rich_repr__())]
    assert "hunter2" not in "".join(shown)
    assert "host" not in "".join(shown)


def credentials(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def test_password_comes_from_a_private_file(tmp_path: Path) -> None:
    file = credentials(tmp_path / "camera", "cam:hunter2\n")
    source = rtsp_input(RtspCamera(url="rtsp://host:8554/live?channel=1", credentials_file=file))
    assert source.address == "rtsp://cam:hunter2@host:8554/live?channel=1"


def test_password_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyStoreError, match="can be read by others"):
        read_credentials(credentials(tmp_path / "camera", "cam:hunter2", 0o644))


def test_missing_password_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyStoreError, match="cannot read"):
        read_credentials(tmp_path / "camera")


@pytest.mark.parametrize(
    "content", ["", "cam", ":hunter2", "cam:a\nb", "cam:\0", b"\xff:\xfe", "cam:" + "x" * MAX_CREDENTIALS]
)
def test_password_file_with_other_content_is_refused_without_quoting_it(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(ConfigError, match="does not hold one line 'user:password'") as refused:
        read_credentials(credentials(tmp_path / "camera", content))
    assert "hunter2" not in str(refused.value)


@settings(max_examples=60, deadline=None)
@given(
    user=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20),
    password=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
)
def test_any_password_survives_the_way_into_the_address(user: str, password: str) -> None:
    parts = urlsplit(with_credentials("rtsp://host:8554/live", user, password))
    assert (parts.hostname, parts.port, parts.path) == ("host", 8554, "/live")
    assert unquote(parts.username or "") == user
    assert unquote(parts.password or "") == password


def test_rtsp_is_bounded_and_ffmpeg_opens_none_of_it() -> None:
    source = rtsp_input(RtspCamera(url="rtsp://host/live", timeout_s=2.5))
    assert (source.timeout_s, source.live, source.demuxer, dict(source.options)) == (2.5, True, None, {})
    assert source.codecs == "h264,hevc,mjpeg"


def test_pictures_over_udp_are_refused_and_tcp_may_be_written() -> None:
    assert parsed({"source": "rtsp", "url": "rtsp://host/live", "transport": "tcp"})
    with pytest.raises(msgspec.ValidationError, match="udp"):
        parsed({"source": "rtsp", "url": "rtsp://host/live", "transport": "udp"})


def test_settings_survive_a_round_trip() -> None:
    before = FileCamera(path=Path("a.mp4"), loop=True)
    document = msgspec.to_builtins(before, enc_hook=str)
    assert parsed(document) == before
