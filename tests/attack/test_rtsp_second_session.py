# SPDX-License-Identifier: Apache-2.0
"""A camera that describes itself otherwise once it is asked again: each session is held to the rules of the first."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.camera.open import open_camera
from agent.camera.rtsp.wire import MAX_BODY_BYTES
from agent.camera.supervise import CameraNotice, Supervised
from agent.clock import SystemClock
from agent.config.camera import RtspCamera
from tests.simulators.hostile_video import as_stream, coded_pictures
from tests.simulators.rtsp_camera import H264, SDP, Request, ScriptedRtspCamera, behaved

SECRET = "hunter2"
DESCRIPTIONS = {
    "a codec of its choice": lambda request, _: request.reply(body=SDP.format("a=rtpmap:96 VP8/90000\r\n")),
    "pictures at another address": lambda request, other: request.reply(
        body=SDP.format(H264).replace("a=control:t", f"a=control:{other}/t")
    ),
    "another address": lambda request, other: request.reply("302 Found", f"Location: {other}"),
    "a password in clear": lambda request, _: request.reply("401 Unauthorized", 'WWW-Authenticate: Basic realm="x"'),
    "no end": lambda request, _: request.reply(body="a" * (MAX_BODY_BYTES + 1)),
    "nothing": lambda request, _: request.reply(body=""),
}


@pytest.mark.timeout(120)
def test_second_description_is_held_to_the_rules_of_the_first(tmp_path: Path) -> None:
    pytest.importorskip("av")
    small, large = (coded_pictures(size, "libx264", tmp_path, pictures=5) for size in ((320, 240), (640, 480)))
    notices: list[CameraNotice] = []
    with ScriptedRtspCamera() as elsewhere, ScriptedRtspCamera(period_s=0.02) as camera:

        def answer(request: Request) -> bytes:
            if request.verb != "DESCRIBE":
                return behaved(request)
            number = camera.verbs().count("DESCRIBE") - 1
            if 0 < number <= len(DESCRIPTIONS):
                camera.stream = bytes
                return list(DESCRIPTIONS.values())[number - 1](request, elsewhere.url())
            stream, left = as_stream(large if number else small, "libx264"), [5]

            def five_pictures() -> bytes:
                left[0] -= 1
                return stream() if left[0] >= 0 else b""

            camera.stream = five_pictures
            return behaved(request)

        camera.answer = answer
        settings = RtspCamera(url=camera.url(f"cam:{SECRET}@"), timeout_s=1)
        clock = SystemClock()
        source = Supervised(
            lambda: open_camera(settings, lores_size=(160, 120), clock=clock),
            clock=clock,
            random=bytes,
            on_notice=notices.append,
        )
        sizes = []
        for frame in source.frames():
            with frame:
                sizes.append((frame.main.width, frame.main.height))
            if sizes[-1] == (640, 480):
                source.stop()
        assert camera.verbs().count("DESCRIBE") == len(DESCRIPTIONS) + 2
        assert set(sizes) == {(320, 240), (640, 480)}
        assert source.info().width == 640
        assert elsewhere.connections == 0
        assert SECRET.encode() not in camera.heard
        assert b"Basic" not in camera.heard
    assert [notice.kind for notice in notices] == ["camera_lost", "camera_back"]
