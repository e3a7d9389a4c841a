# SPDX-License-Identifier: Apache-2.0
"""A camera that plays, and answers what keeps its session late, twice, never, hugely, or to another question.

Its pictures are what shows that it is there. Time is simulated: half a second passes with each packet.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from contextlib import closing

import pytest

from agent.camera.rtsp.session import MAX_AWAITED, RtspSession
from agent.camera.rtsp.wire import MAX_BODY_BYTES, MAX_HEAD_BYTES, RtspError
from tests.simulators.rtsp_camera import TRANSPORT, Request, ScriptedRtspCamera, behaved, framed

SECRET = "hunter2"
DIGEST = 'WWW-Authenticate: Digest realm="x", nonce="abc"'
BASIC = 'WWW-Authenticate: Basic realm="x"'
NOTHING = framed([b""], channel=9)  # a frame of a channel that nobody asked for
BEFORE = 4  # requests: OPTIONS, DESCRIBE, SETUP, PLAY
STEP_S = 0.5  # of simulated time from packet to packet; the session ends after four seconds without a word
PACKETS = 200

Say = Callable[[Request], bytes]
Later = Callable[[list[Request]], bytes]


def nothing(_: Request) -> bytes:
    return NOTHING


class Playing:
    """A camera that says ``keeper`` to what keeps its session, and ``later`` with its packets to what it still owes."""

    def __init__(self, keeper: Say = nothing, later: Later = lambda _: b"", play: Say = behaved) -> None:
        self._keeper, self._later, self._play = keeper, later, play
        self.kept: list[Request] = []  # all that came after PLAY
        self._owed: list[Request] = []
        self._numbers = itertools.count()
        self._wanted = threading.Semaphore()  # packets: the next one is sent once the one before was taken
        self.camera = ScriptedRtspCamera(self._answer, self._stream, period_s=0)
        self._now_s = 0.0

    def _answer(self, request: Request) -> bytes:
        if request.verb == "SETUP":
            return request.reply("200 OK", TRANSPORT, "Session: 1234;timeout=4")
        if request.verb == "PLAY":
            return self._play(request)
        if request.number > BEFORE:
            self.kept.append(request)
            self._owed.append(request)
            return self._keeper(request)
        return behaved(request)

    def _stream(self) -> bytes:
        if not self._wanted.acquire(timeout=5):
            return b""
        return framed([b"\x80\x60" + next(self._numbers).to_bytes(2, "big") + bytes(9)]) + self._later(self._owed)

    def watch(self, packets: int = PACKETS) -> int:
        """Take packets; how many came. Raises RtspError where the session ends."""
        seen = 0
        with self.camera as camera:
            url = camera.url(f"cam:{SECRET}@")
            session = RtspSession(url, "h264", timeout_s=3, now_s=lambda: self._now_s, random=bytes)
            with closing(session):
                for _ in session.packets():
                    seen += 1
                    self._now_s += STEP_S
                    self._wanted.release()
                    if seen == packets:
                        break
        assert SECRET.encode() not in camera.heard
        return seen


def together(many: int, order: int = 1, status: str = "200 OK", *headers: str) -> Later:
    """Answers once ``many`` are owed, all of them, the newest first where ``order`` is -1."""

    def answers(owed: list[Request]) -> bytes:
        if len(owed) < many:
            return b""
        waiting, owed[:] = owed[:], []
        return b"".join(one.reply(status, *headers) for one in waiting[::order])

    return answers


def test_stream_goes_on_where_no_answer_ever_comes() -> None:
    playing = Playing()
    assert playing.watch() == PACKETS
    assert len(playing.kept) >= PACKETS * STEP_S / 2 - 2, "it goes on saying that it is there"


@pytest.mark.parametrize("many", [1, 2, 5, MAX_AWAITED, MAX_AWAITED + 3])
@pytest.mark.parametrize("order", [1, -1])
def test_answers_that_come_after_the_next_question_belong_to_their_own(many: int, order: int) -> None:
    assert Playing(later=together(many, order)).watch() == PACKETS


def test_answer_to_play_may_come_after_what_keeps_the_session() -> None:
    owed: list[Request] = []

    def play(request: Request) -> bytes:
        owed.append(request)
        return NOTHING

    def later(kept: list[Request]) -> bytes:
        return owed.pop().reply() if len(kept) > 1 and owed else b""

    assert Playing(later=later, play=play).watch() == PACKETS
    owed.clear()
    playing = Playing(
        later=lambda kept: owed.pop().reply("404 Not Found") if len(kept) > 1 and owed else b"", play=play
    )
    with pytest.raises(RtspError, match="did not start to play"):
        playing.watch()


def test_answer_that_comes_twice_or_by_the_hundred_changes_nothing() -> None:
    assert Playing(lambda request: request.reply() * 100).watch() == PACKETS
    said: list[bytes] = []

    def again(owed: list[Request]) -> bytes:
        said.extend(one.reply() for one in owed)
        owed.clear()
        return b"".join(said)

    assert Playing(later=again).watch() == PACKETS


@pytest.mark.parametrize("number", ["0", "99999", "9" * 11, "-1", "1e1", " ", "²"])
def test_answer_to_what_was_never_asked_ends_the_conversation(number: str) -> None:
    playing = Playing(lambda _: f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n\r\n".encode())
    with pytest.raises(RtspError, match="does not speak RTSP"):
        playing.watch()


@pytest.mark.parametrize("status", ["405 Method Not Allowed", "451 Parameter Not Understood", "501 Not Implemented"])
def test_camera_that_refuses_the_question_is_asked_another_way(status: str) -> None:
    playing = Playing(lambda one: one.reply(status) if one.verb == "GET_PARAMETER" else one.reply())
    assert playing.watch() == PACKETS
    assert [one.verb for one in playing.kept[:3]] == ["GET_PARAMETER", "OPTIONS", "OPTIONS"]


def test_late_question_for_the_password_is_answered_by_digest_once() -> None:
    playing = Playing(
        later=lambda owed: b"".join(
            one.reply() if one.header("Authorization") else one.reply("401 Unauthorized", DIGEST)
            for one in [owed.pop(0) for _ in owed[1:]]
        )
    )
    assert playing.watch() == PACKETS
    proven = [one for one in playing.kept if one.header("Authorization")]
    assert len(playing.kept) - len(proven) <= 3, "once it is known that a proof is wanted, each carries one"


def test_camera_that_is_never_content_with_the_proof_is_left() -> None:
    playing = Playing(lambda one: one.reply("401 Unauthorized", DIGEST))
    with pytest.raises(RtspError, match="refuses the user name or the password"):
        playing.watch()
    assert len(playing.kept) <= MAX_AWAITED


@pytest.mark.parametrize(
    ("status", "header", "reason"),
    [("401 Unauthorized", BASIC, "in clear"), ("302 Found", "Location: rtsp://192.0.2.7/x", "another address")],
)
@pytest.mark.parametrize("many", [1, 4, MAX_AWAITED])
def test_late_answer_is_held_to_the_same_rules(status: str, header: str, reason: str, many: int) -> None:
    playing = Playing(later=together(many, 1, status, header))
    with pytest.raises(RtspError, match=reason):
        playing.watch()
    assert b"Basic" not in playing.camera.heard


def sized(request: Request, size: int) -> bytes:
    return request.reply("200 OK", f"Content-Length: {size}") + bytes(size)


def test_giant_answer_is_given_up_and_one_within_the_bound_is_not_taken_for_pictures() -> None:
    playing = Playing(lambda one: sized(one, MAX_BODY_BYTES + 1))
    with pytest.raises(RtspError, match="more than a camera has to say"):
        playing.watch()
    endless = Playing(lambda one: one.reply()[:-2] + b"X: " + b"a" * MAX_HEAD_BYTES)
    with pytest.raises(RtspError, match="more than a camera has to say"):
        endless.watch()
    hidden = framed([bytes(8)] * 8, channel=0)
    within = Playing(lambda one: one.reply("200 OK", f"Content-Length: {len(hidden)}") + hidden)
    assert within.watch() == PACKETS
