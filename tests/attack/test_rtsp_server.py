# SPDX-License-Identifier: Apache-2.0
"""An RTSP server that wants the password in clear, sends the unit elsewhere, or chooses a decoder of its own.

It may do so at once, or only after it has behaved: the unit looks at each answer alike, and nothing else of the unit
ever speaks to it.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from itertools import count

import pytest

from agent.camera.av_input import RTSP_CODECS, rtsp_input
from agent.camera.open import open_camera
from agent.camera.rtsp.wire import MAX_BODY_BYTES, MAX_HEAD_BYTES
from agent.clock import SystemClock
from agent.config.camera import RtspCamera
from agent.errors import CameraLostError
from tests.simulators.rtsp_camera import H264, SDP, TRANSPORT, Answer, Request, ScriptedRtspCamera, behaved, framed

pytest.importorskip("av")
SECRET = "hunter2"
DIGEST = 'WWW-Authenticate: Digest realm="x", nonce="abc"'
BASIC = 'WWW-Authenticate: Basic realm="x"'
STEPS = ["OPTIONS", "DESCRIBE", "SETUP", "PLAY", "GET_PARAMETER"]  # what a unit says, in order


@pytest.fixture
def camera() -> Iterator[ScriptedRtspCamera]:
    with ScriptedRtspCamera() as one:
        yield one


@pytest.fixture
def elsewhere() -> Iterator[ScriptedRtspCamera]:
    with ScriptedRtspCamera(lambda request: request.reply("404 Not Found")) as one:
        yield one


def refused(camera: ScriptedRtspCamera, answer: Answer, timeout_s: float = 2) -> str:
    camera.answer = answer
    url = camera.url(f"cam:{SECRET}@")
    with (
        pytest.raises(CameraLostError) as refusal,
        open_camera(RtspCamera(url=url, timeout_s=timeout_s), lores_size=(320, 240), clock=SystemClock()),
    ):
        pass
    return str(refusal.value)


def nothing_said(camera: ScriptedRtspCamera) -> None:
    assert SECRET.encode() not in camera.heard
    assert base64.b64encode(f"cam:{SECRET}".encode()) not in camera.heard
    assert b"Basic" not in camera.heard


def test_password_never_leaves_in_clear(camera: ScriptedRtspCamera) -> None:
    assert "in clear" in refused(camera, lambda request: request.reply("401 Unauthorized", BASIC))
    nothing_said(camera)
    assert b"uthorization" not in camera.heard


@pytest.mark.parametrize("behaves", range(1, 5))
def test_server_that_asks_by_digest_first_and_in_clear_a_moment_later_gets_nothing(
    camera: ScriptedRtspCamera, behaves: int
) -> None:
    """However many requests it waits, on whatever connection: FFmpeg would have sent what it had."""

    def answer(request: Request) -> bytes:
        if request.number > behaves:
            return request.reply("401 Unauthorized", BASIC)
        if not request.header("Authorization"):
            return request.reply("401 Unauthorized", DIGEST)
        return behaved(request)

    assert "in clear" in refused(camera, answer)
    nothing_said(camera)
    assert camera.connections == 1


def test_server_that_offers_both_gets_a_digest(camera: ScriptedRtspCamera) -> None:
    refused(camera, lambda request: request.reply("401 Unauthorized", BASIC, DIGEST))
    nothing_said(camera)
    assert b"Authorization: Digest " in camera.heard


WELL_BEHAVED = {
    "asks for nothing": lambda request: request.reply(),
    "has no such stream": lambda request: request.reply("404 Not Found"),
    "hangs up": lambda request: b"",
}


@pytest.mark.parametrize("first", WELL_BEHAVED.values(), ids=WELL_BEHAVED)
def test_second_question_gets_no_password_that_the_first_did_not_ask_for(
    camera: ScriptedRtspCamera, first: Answer
) -> None:
    refused(camera, lambda request: first(request) if request.number == 1 else request.reply("401 No", BASIC))
    nothing_said(camera)
    assert b"uthorization" not in camera.heard


@pytest.mark.parametrize("step", STEPS[:4])
@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "303 See Other", "305 Use Proxy"])
def test_redirection_is_not_followed(
    camera: ScriptedRtspCamera, elsewhere: ScriptedRtspCamera, status: str, step: str
) -> None:
    def answer(request: Request) -> bytes:
        return request.reply(status, f"Location: {elsewhere.url()}") if request.verb == step else behaved(request)

    assert "another address" in refused(camera, answer)
    assert elsewhere.connections == 0


@pytest.mark.parametrize("after", range(1, 7))
def test_redirection_after_good_answers_is_not_followed(
    camera: ScriptedRtspCamera, elsewhere: ScriptedRtspCamera, after: int
) -> None:
    """FFmpeg followed one that came to its own DESCRIBE, which came after the unit's look."""

    def answer(request: Request) -> bytes:
        if request.number > after and request.verb == "DESCRIBE":
            return request.reply("302 Found", f"Location: {elsewhere.url()}")
        return behaved(request)

    refused(camera, answer, timeout_s=1)
    assert elsewhere.connections == 0


def test_server_that_sends_us_away_by_a_request_of_its_own_is_left(
    camera: ScriptedRtspCamera, elsewhere: ScriptedRtspCamera
) -> None:
    away = f"REDIRECT {camera.url()} RTSP/1.0\r\nCSeq: 9\r\nLocation: {elsewhere.url()}\r\n\r\n".encode()
    said = refused(camera, lambda request: behaved(request) + (away if request.verb == "PLAY" else b""))
    assert "another address" in said
    assert elsewhere.connections == 0


@pytest.mark.parametrize(
    "transport",
    [
        "Transport: RTP/AVP;unicast;client_port=5000-5001;server_port=6000-6001;source=192.0.2.7",
        "Transport: RTP/AVP;multicast;destination=239.0.0.1;port=5000-5001",
        "Transport: RTP/AVP/TCP;unicast;interleaved=300-301",
        "X: y",
    ],
)
def test_pictures_come_over_the_connection_alone(camera: ScriptedRtspCamera, transport: str) -> None:
    def answer(request: Request) -> bytes:
        return request.reply("200 OK", transport, "Session: 1") if request.verb == "SETUP" else behaved(request)

    assert "over the connection itself" in refused(camera, answer)
    assert "PLAY" not in camera.verbs()


def test_addresses_in_a_description_open_no_connection(
    camera: ScriptedRtspCamera, elsewhere: ScriptedRtspCamera
) -> None:
    """They are the text of requests to the camera itself."""
    away = elsewhere.url()
    sdp = SDP.format(H264).replace("t=0 0", f"t=0 0\r\na=control:{away}").replace("control:t", f"control:{away}/t")
    sdp = sdp.replace("IN IP4 0.0.0.0", "IN IP4 127.0.0.1")

    def answer(request: Request) -> bytes:
        return (
            request.reply("200 OK", f"Content-Base: {away}", body=sdp)
            if request.verb == "DESCRIBE"
            else behaved(request)
        )

    refused(camera, answer, timeout_s=1)
    assert elsewhere.connections == 0
    assert camera.connections == 1
    assert camera.requests[2].address == f"{away}/t"


@pytest.mark.parametrize(
    "answer",
    [
        b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1),
        b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: " + b"9" * 400 + b"\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nX: " + b"a" * MAX_HEAD_BYTES,
        b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"RTSP/1.0 200 OK\r\nCSeq: 2\r\n\r\n",
        b"RTSP/1.0 200 OK\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n folded: yes\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\nRTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"\x00" * 64 + b"\r\n\r\n",
    ],
)
def test_answer_that_is_no_cameras_is_given_up(camera: ScriptedRtspCamera, answer: bytes) -> None:
    assert "gives no pictures: it" in refused(camera, lambda request: answer)
    assert camera.connections == 1
    assert camera.verbs() == ["OPTIONS"]


@pytest.mark.parametrize("codec", ["VP8/90000", "theora/90000", "MP4V-ES/90000", "H261/90000", "X-SVQ3/90000"])
def test_server_chooses_no_decoder(camera: ScriptedRtspCamera, codec: str) -> None:
    """It is refused by its description: no decoder, and no demuxer, has seen a byte."""
    body = SDP.format(f"a=rtpmap:96 {codec}\r\n")

    def answer(request: Request) -> bytes:
        return request.reply(body=body) if request.verb == "DESCRIBE" else behaved(request)

    assert "set it to H.264, H.265 or MJPEG" in refused(camera, answer)
    assert camera.verbs() == ["OPTIONS", "DESCRIBE"]


SHOWING_NOTHING = {
    "empty lines": b"\r\n" * 200,
    "frames of a channel that nobody asked for": framed([bytes(200)] * 5, channel=7),
    "packets of another payload type": framed([b"\x80\x05" + bytes(200)] * 5),
    "requests": b"GET_PARAMETER rtsp://x RTSP/1.0\r\nCSeq: 1\r\n\r\n",
}


@pytest.mark.parametrize("more", SHOWING_NOTHING.values(), ids=SHOWING_NOTHING)
def test_server_that_keeps_talking_without_a_picture_is_left(camera: ScriptedRtspCamera, more: bytes) -> None:
    camera.stream = lambda: more
    begun = time.monotonic()
    said = refused(camera, behaved, timeout_s=1)
    assert "gives no pictures" in said
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("turn", "reason"), [(("401 Unauthorized", BASIC), "in clear"), (("302 Found", "Location: rtsp://x"), "another")]
)
def test_what_keeps_the_session_is_held_to_the_same_rules(
    camera: ScriptedRtspCamera, turn: tuple[str, str], reason: str
) -> None:
    """The camera plays, without a key picture yet, and turns when the unit says that it is still there."""

    def answer(request: Request) -> bytes:
        if request.verb == "GET_PARAMETER":
            return request.reply(*turn)
        if not request.header("Authorization"):
            return request.reply("401 Unauthorized", DIGEST)
        if request.verb == "SETUP":
            return request.reply("200 OK", TRANSPORT, "Session: 1;timeout=1")
        return behaved(request)

    numbers = count()
    camera.stream = lambda: framed([picture_without_key(next(numbers))])
    assert reason in refused(camera, answer)
    nothing_said(camera)
    assert camera.verbs().count("GET_PARAMETER") == 1


def picture_without_key(number: int) -> bytes:
    time_90k = (number * 4500).to_bytes(4, "big")
    return b"\x80\xe0" + number.to_bytes(2, "big") + time_90k + bytes(4) + b"\x41\x9a\x00\x00"


def test_decoders_are_few_and_hold_while_probing() -> None:
    source = rtsp_input(RtspCamera(url="rtsp://192.0.2.1/live"))
    assert source.codecs == RTSP_CODECS == "h264,hevc,mjpeg"
    assert source.max_pixels <= 1920 * 1200


def test_unit_asks_in_this_order_and_for_one_way_of_travelling(camera: ScriptedRtspCamera) -> None:
    refused(camera, behaved, timeout_s=1)
    assert camera.requests[2].header("Transport") == TRANSPORT.removeprefix("Transport: ")
    assert camera.verbs()[:4] == STEPS[:4]
    assert set(camera.verbs()[4:]) <= {"TEARDOWN"}
