# SPDX-License-Identifier: Apache-2.0
"""An RTSP server that wants the password in clear, sends the unit elsewhere, or chooses a decoder of its own."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from agent.camera.av_input import RTSP_CODECS, rtsp_input
from agent.camera.open import open_camera
from agent.camera.rtsp_check import MAX_BODY_BYTES, MAX_HEAD_BYTES
from agent.clock import SystemClock
from agent.config.camera import RtspCamera
from agent.errors import CameraLostError

pytest.importorskip("av")
SECRET = "hunter2"


class Server:
    """Gives the same answer to every request, and keeps what it was told."""

    def __init__(self, answer: bytes = b"") -> None:
        self.answer, self.heard = answer, b""
        self.first: bytes | None = None  # to the first connection; empty: it is closed without a word
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            answer = self.first if self.connections == 1 and self.first is not None else self.answer
            threading.Thread(target=self._answer, args=(client, answer), daemon=True).start()

    def _answer(self, client: socket.socket, answer: bytes) -> None:
        with client, suppress(OSError):
            client.settimeout(2)
            while answer and (request := client.recv(4096)):
                self.heard += request
                client.sendall(answer)


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    made = [Server(), Server(b"RTSP/1.0 404 Not Found\r\nCSeq: 1\r\n\r\n")]
    yield made
    for server in made:
        server.listener.close()


def refused(server: Server, answer: bytes) -> str:
    server.answer = answer
    url = f"rtsp://cam:{SECRET}@127.0.0.1:{server.port}/live"
    with (
        pytest.raises(CameraLostError) as refusal,
        open_camera(RtspCamera(url=url, timeout_s=2), lores_size=(320, 240), clock=SystemClock()),
    ):
        pass
    return str(refusal.value)


def test_password_never_leaves_in_clear(servers: list[Server]) -> None:
    said = refused(servers[0], b'RTSP/1.0 401 Unauthorized\r\nCSeq: 1\r\nWWW-Authenticate: Basic realm="x"\r\n\r\n')
    assert "in clear" in said
    assert SECRET.encode() not in servers[0].heard
    assert base64.b64encode(f"cam:{SECRET}".encode()) not in servers[0].heard
    assert b"uthorization" not in servers[0].heard


BASIC = b'RTSP/1.0 401 Unauthorized\r\nCSeq: %d\r\nWWW-Authenticate: Basic realm="x"\r\n\r\n'
WELL_BEHAVED = {
    "asks for nothing": b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 0\r\n\r\n",
    "has no such stream": b"RTSP/1.0 404 Not Found\r\nCSeq: 1\r\n\r\n",
    "hangs up": b"",
}


@pytest.mark.parametrize("first", WELL_BEHAVED.values(), ids=WELL_BEHAVED)
def test_second_question_gets_no_password_that_the_first_did_not_ask_for(servers: list[Server], first: bytes) -> None:
    """FFmpeg sends what it has however it is asked; so it has nothing."""
    servers[0].first = first
    refused(servers[0], BASIC % 1)
    assert servers[0].connections == 2
    assert SECRET.encode() not in servers[0].heard
    assert base64.b64encode(f"cam:{SECRET}".encode()) not in servers[0].heard
    assert b"uthorization" not in servers[0].heard


@pytest.mark.parametrize("status", [b"301 Moved Permanently", b"302 Found", b"303 See Other", b"305 Use Proxy"])
def test_redirection_is_not_followed(servers: list[Server], status: bytes) -> None:
    to = f"rtsp://127.0.0.1:{servers[1].port}/other".encode()
    said = refused(servers[0], b"RTSP/1.0 " + status + b"\r\nCSeq: 1\r\nLocation: " + to + b"\r\n\r\n")
    assert "another address" in said
    assert servers[1].connections == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1),
        b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: " + b"9" * 400 + b"\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nX: " + b"a" * MAX_HEAD_BYTES,
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"\x00" * 64 + b"\r\n\r\n",
    ],
)
def test_answer_that_is_no_cameras_is_given_up(servers: list[Server], answer: bytes) -> None:
    assert "gives no pictures: it" in refused(servers[0], answer)
    assert servers[0].connections == 1, "FFmpeg was not let near it"


SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n{}a=control:t\r\n"


@pytest.mark.parametrize("codec", ["VP8/90000", "theora/90000", "MP4V-ES/90000", "H261/90000", "X-SVQ3/90000"])
def test_server_chooses_no_decoder(servers: list[Server], codec: str) -> None:
    body = SDP.format(f"a=rtpmap:96 {codec}\r\n").encode()
    head = b"RTSP/1.0 200 OK\r\nCSeq: %d\r\nContent-Type: application/sdp\r\nContent-Length: %d\r\n\r\n"
    assert "gives no pictures" in refused(servers[0], head % (1, len(body)) + body)


def test_decoders_are_few_and_hold_while_probing() -> None:
    source = rtsp_input(RtspCamera(url="rtsp://192.0.2.1/live"))
    assert source.codecs == RTSP_CODECS == "h264,hevc,mjpeg"
    assert source.max_pixels <= 1920 * 1200
