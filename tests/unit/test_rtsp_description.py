# SPDX-License-Identifier: Apache-2.0
"""Descriptions of cameras as they are found: which video is taken, and at which addresses."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.camera.av_input import RTSP_CODECS
from agent.camera.rtsp.description import video_of
from agent.camera.rtsp.wire import RtspError

BASE = "rtsp://192.0.2.20/live"
HEAD = "v=0\r\no=- 1 1 IN IP4 192.0.2.20\r\ns=Media\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
AUDIO = "m=audio 0 RTP/AVP 0\r\na=control:trackID=2\r\n"
H264 = (
    "m=video 0 RTP/AVP 96\r\nb=AS:5000\r\na=control:trackID=1\r\na=rtpmap:96 H264/90000\r\n"
    "a=fmtp:96 profile-level-id=420029; packetization-mode=1; "
    "sprop-parameter-sets=Z00AKZpmA8ARPyzUBAQFAAADA+gAAMNQBA==,aO48gA==\r\n"
    "a=framerate:15.0\r\n"
)
H265 = (
    "m=video 0 RTP/AVP 98\r\na=rtpmap:98 H265/90000\r\na=control:track1\r\n"
    "a=fmtp:98 sprop-vps=QAEMAf//AWAAAAMAsAAAAwAAAwBdqgJA;sprop-sps=QgEBAWA=;sprop-pps=RAHBcrRiQA==\r\n"
)
JPEG = "m=video 0 RTP/AVP 26\r\na=control:track1\r\n"


def taken(body: str, base: str = BASE, codecs: str = RTSP_CODECS):  # type: ignore[no-untyped-def]
    return video_of(body.encode(), base, codecs)


def test_video_of_a_camera_with_sound() -> None:
    video = taken(HEAD + "a=control:*\r\n" + AUDIO + H264)
    assert (video.codec, video.payload_type, video.rate) == ("h264", 96, 15.0)
    assert (video.aggregate, video.control) == (BASE, f"{BASE}/trackID=1")
    assert [unit[0] & 31 for unit in video.parameter_sets] == [7, 8]


def test_lines_may_end_in_any_of_the_two_ways() -> None:
    assert taken((HEAD + H264).replace("\r\n", "\n")) == taken(HEAD + H264)


def test_parameter_sets_of_h265_come_in_order() -> None:
    video = taken(HEAD + H265)
    assert video.codec == "hevc"
    assert [unit[0] >> 1 & 63 for unit in video.parameter_sets] == [32, 33, 34]


def test_static_payload_type_needs_no_map() -> None:
    assert taken(HEAD + JPEG).codec == "mjpeg"


@pytest.mark.parametrize(
    ("base", "session", "control", "aggregate", "address"),
    [
        ("rtsp://h/live/", "", "track1", "rtsp://h/live/", "rtsp://h/live/track1"),
        ("rtsp://h/live", "a=control:*\r\n", "", "rtsp://h/live", "rtsp://h/live"),
        ("rtsp://h/x?channel=1&subtype=0", "", "trackID=0", "rtsp://h/x?channel=1&subtype=0",
         "rtsp://h/x?channel=1&subtype=0/trackID=0"),
        ("rtsp://h/live", "a=control:rtsp://10.0.0.9/all/\r\n", "t", "rtsp://10.0.0.9/all/", "rtsp://10.0.0.9/all/t"),
        ("rtsp://h/live", "", "rtsp://10.0.0.9/t1", "rtsp://h/live", "rtsp://10.0.0.9/t1"),
    ],
)  # fmt: skip
def test_addresses_are_those_that_players_use(
    base: str, session: str, control: str, aggregate: str, address: str
) -> None:
    video = taken(HEAD + session + JPEG.replace("track1", control), base)
    assert (video.aggregate, video.control) == (aggregate, address)


def test_first_video_that_may_be_decoded_is_taken() -> None:
    other = "m=video 0 RTP/AVP 97\r\na=rtpmap:97 VP8/90000\r\na=control:a\r\n"
    assert taken(HEAD + other + H264).control == f"{BASE}/trackID=1"
    with pytest.raises(RtspError, match=r"set it to H\.264"):
        taken(HEAD + H264, codecs="mjpeg")


@pytest.mark.parametrize(
    "body",
    [
        "", "v=0", HEAD, HEAD + AUDIO, "\xff",
        HEAD + H264.replace("RTP/AVP", "RTP/SAVP"),
        HEAD + H264.replace("RTP/AVP 96", "RTP/AVP 296"),
        HEAD + H264.replace("H264/90000", "H264/1000"),
        HEAD + H264.replace("trackID=1", "http://192.0.2.9/x"),
        HEAD + H264.replace("trackID=1", 'x"y'),
        HEAD + H264.replace("trackID=1", "x" * 2000),
    ],
)  # fmt: skip
def test_what_describes_no_such_video_is_refused(body: str) -> None:
    with pytest.raises(RtspError):
        video_of(body.encode("latin-1"), BASE, RTSP_CODECS)


def test_line_of_blanks_costs_no_more_than_its_length() -> None:
    """A description may have 64 KiB: at four steps a pair of blanks, the unit would stand still for a minute."""
    body = HEAD + "a=control:" + " " * 32_000 + "x y\r\n" + H264
    began = time.process_time()
    assert taken(body).control == f"{BASE}/trackID=1"
    assert time.process_time() - began < 0.5


def test_name_in_another_character_set_is_no_reason() -> None:
    """Cameras with a name in GB 2312 or Latin-1 say it in ``s=``; nothing there is read."""
    body = (HEAD + H264).encode().replace(b"\r\n", "\r\ns=前门\r\n".encode("gb2312"), 1)
    assert video_of(body, BASE, RTSP_CODECS).control == f"{BASE}/trackID=1"


def test_parameter_sets_that_are_none_are_left_out() -> None:
    assert taken(HEAD + H264.replace("Z00A", "!!!!")).parameter_sets == (b"\x68\xee\x3c\x80",)


def test_address_of_two_words_is_none() -> None:
    """A space would end the address within a request."""
    assert taken(HEAD + "a=control:x y\r\n" + H264.replace("trackID=1", "rtsp://h/x y")).control == BASE
    with pytest.raises(RtspError):
        taken(HEAD + H264, f"{BASE} x")


@settings(max_examples=120, deadline=None)
@given(
    start=st.sampled_from([HEAD + H264, HEAD + H265, HEAD + AUDIO + JPEG]),
    at=st.integers(0, 600), junk=st.binary(max_size=30), cut=st.integers(0, 30),
)  # fmt: skip
def test_no_description_ends_it_otherwise_than_in_words(start: str, at: int, junk: bytes, cut: int) -> None:
    data = start.encode()
    at %= len(data)
    try:
        video = video_of(data[:at] + junk + data[at + cut :], BASE, RTSP_CODECS)
    except RtspError:
        return
    for address in (video.control, video.aggregate):
        assert address.isprintable()
        assert " " not in address
        assert address.startswith("rtsp://")
