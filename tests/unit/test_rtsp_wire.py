# SPDX-License-Identifier: Apache-2.0
"""Bytes of an RTSP connection: read in any pieces alike, within bounds, or refused in words."""

from __future__ import annotations

import itertools
import time
from contextlib import closing, suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.camera.rtsp.session import RtspSession
from agent.camera.rtsp.wire import MAX_BODY_BYTES, MAX_HEAD_BYTES, MAX_HEADERS, Frame, Message, Reader, RtspError
from tests.simulators.rtsp_camera import Request, ScriptedRtspCamera, behaved, framed

TOKEN = st.text("abcXYZ-09", min_size=1, max_size=8)
VALUE = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=20).map(str.strip)
BODY = st.binary(max_size=300)
HOLDS = MAX_HEAD_BYTES + MAX_BODY_BYTES + 65536 + 4  # an unfinished message or frame, and what came last


@st.composite
def things(draw: st.DrawFn) -> tuple[bytes, Frame | Message]:
    if draw(st.booleans()):
        frame = Frame(draw(st.integers(0, 255)), draw(BODY))
        return framed([frame.payload], frame.channel), frame
    status, body = draw(st.integers(100, 599)), draw(BODY)
    headers = draw(st.lists(st.tuples(TOKEN.filter(lambda name: name != "Content-Length"), VALUE), max_size=5))
    lines = [f"RTSP/1.0 {status} Whatever", *(f"{name}: {value}" for name, value in headers)]
    lines.append(f"Content-Length: {len(body)}")
    said = (*((name.lower(), value) for name, value in headers), ("content-length", str(len(body))))
    return "\r\n".join([*lines, "", ""]).encode() + body, Message(status, "", said, body)


@settings(max_examples=60, deadline=None)
@given(said=st.lists(things(), max_size=6), cuts=st.lists(st.integers(1, 200), min_size=1, max_size=30))
def test_what_was_said_is_heard_however_it_is_cut(said: list[tuple[bytes, Frame | Message]], cuts: list[int]) -> None:
    data, reader, heard = b"".join(one for one, _ in said), Reader(), []
    while data:
        size = cuts[len(data) % len(cuts)]
        heard += list(reader.feed(data[:size]))
        data = data[size:]
    assert heard == [thing for _, thing in said]


@settings(max_examples=120, deadline=None)
@example([b"RTSP/1.0 200 OK\r\nContent-Length: \xb2\r\n\r\n"])
@example([b"\r"])
@example([b"$\x00\x00"])
@given(pieces=st.lists(st.one_of(st.binary(max_size=400), things().map(lambda one: one[0])), max_size=8))
def test_no_bytes_end_it_otherwise_than_in_words(pieces: list[bytes]) -> None:
    reader = Reader()
    with suppress(RtspError):
        for piece in pieces:
            for one in reader.feed(piece):
                assert isinstance(one, Frame | Message)


@pytest.mark.parametrize(
    "endless",
    [
        b"RTSP/1.0 200 OK\r\nX: " + b"a" * 4096,
        b"RTSP/1.0 200 OK\r\n" + b"X: y\r\n" * 600,
        b"RTSP/1.0 200 OK\r\nContent-Length: 65537\r\n\r\n",
        b"RTSP/1.0 200 OK\r\n" + b"X: y\r\n" * (MAX_HEADERS + 1) + b"\r\n",
        b"a" * 4096,
    ],
)
def test_what_has_no_end_is_given_up(endless: bytes) -> None:
    reader = Reader()

    def read_on() -> None:
        for _ in range(4):
            list(reader.feed(endless))

    with pytest.raises(RtspError):
        read_on()


def test_frames_without_end_are_not_kept() -> None:
    reader = Reader()
    for _ in range(200):
        assert sum(1 for _ in reader.feed(framed([bytes(1000)] * 50) + b"$\x00\xff")) <= 66
        list(reader.feed(b"\xff" + bytes(0xFFFF)))
        assert len(reader._held) <= HOLDS


@pytest.mark.parametrize(
    "head",
    [
        b"RTSP/2.0 200 OK",
        b"HTTP/1.1 200 OK",
        b"RTSP/1.0 999 OK",
        b"RTSP/1.0 200 OK\r\n continued: yes",
        b"RTSP/1.0 200 OK\r\nno colon",
        b"RTSP/1.0 200 OK\r\nname with spaces: x",
        b"RTSP/1.0 200 OK\nX: y",
        b"RTSP/1.0 200 OK\r\nX: a\x00b",
        b"RTSP/1.0 200 OK\r\nX: a\rb: c",
        b"RTSP/1.0 200 OK\r\nContent-Length: -1",
        b"RTSP/1.0 200 OK\r\nContent-Length: 1e3",
        b"RTSP/1.0 200 OK\r\nContent-Length: 3\r\nContent-Length: 4",
        b"OPTIONS rtsp://x",
        b"options rtsp://x RTSP/1.0",
    ],
)
def test_head_with_another_reading_is_refused(head: bytes) -> None:
    with pytest.raises(RtspError, match="does not speak RTSP"):
        list(Reader().feed(head + b"\r\n\r\n"))


@pytest.mark.parametrize("verb", ["OPTIONS", "PLAY"])
def test_questions_by_the_thousand_hold_nobody_beyond_the_timeout(verb: str) -> None:
    """Each answer may take as long as the server likes to listen; the clock here goes on by a second at each look."""
    questions = b"".join(b"OPTIONS * RTSP/1.0\r\nCSeq: %d\r\n\r\n" % number for number in range(500))
    clock = itertools.count()

    def answer(request: Request) -> bytes:
        good = behaved(request)
        return good if request.verb != verb else questions if verb == "OPTIONS" else good + questions

    def converse(camera: ScriptedRtspCamera) -> None:
        session = RtspSession(camera.url(), "h264", timeout_s=20, now_s=lambda: float(next(clock)), random=bytes)
        with closing(session):
            list(session.packets())

    with ScriptedRtspCamera(answer) as camera, pytest.raises(RtspError, match="stopped answering"):
        converse(camera)
    assert next(clock) < 100
    assert camera.heard.count(b"501 Not Implemented") < 50


def test_head_is_read_in_time_in_proportion_to_its_length() -> None:
    """Blanks that two parts of a pattern could both take would cost a second a head."""
    began = time.process_time()
    for _ in range(5):
        with pytest.raises(RtspError):
            list(Reader().feed(b"RTSP/1.0 200 OK\r\nX: " + b" " * 8000 + b"\x01\r\n\r\n"))
    assert time.process_time() - began < 0.5


@settings(max_examples=80, deadline=None)
@given(step=st.integers(1, 5), at=st.integers(0, 400), junk=st.binary(max_size=40), cut=st.integers(0, 40))
def test_changed_answer_ends_in_words(step: int, at: int, junk: bytes, cut: int) -> None:
    """A whole conversation in which one answer has other bytes somewhere; the camera hangs up after it."""

    def answer(request: Request) -> bytes:
        good = behaved(request)
        if request.number > step:
            return b""
        place = at % (len(good) + 1)
        return good[:place] + junk + good[place + cut :] if request.number == step else good

    with ScriptedRtspCamera(answer) as camera, suppress(RtspError):
        session = RtspSession(camera.url("cam:hunter2@"), "h264", timeout_s=0.3, now_s=lambda: 0.0, random=bytes)
        with closing(session):
            list(session.packets())
    assert b"hunter2" not in camera.heard
