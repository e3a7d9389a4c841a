# SPDX-License-Identifier: Apache-2.0
"""One conversation with a network camera over one TCP connection: what it shows, then its RTP packets.

OPTIONS, DESCRIBE, SETUP (interleaved alone), PLAY, what keeps the session, TEARDOWN: nothing else is said. Every answer
is held to the same rules, from the first to the last: a redirection ends it, a password is proven by digest or not at
all. The connection goes where the configuration says, and nothing that the camera says opens another.
"""

from __future__ import annotations

import re
import socket
import string
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from agent.camera.rtsp.description import NOT_VIDEO, Video, video_of
from agent.camera.rtsp.digest import Digest
from agent.camera.rtsp.wire import NOT_RTSP, TOO_MUCH, Frame, Message, Reader, RtspError

PORT: Final = 554  # IANA
READ_BYTES: Final = 64 * 1024  # at once
MAX_FRAMES_BEFORE_ANSWER: Final = 2000  # interleaved ones while an answer is awaited: some seconds of video
MAX_PROOFS: Final = 2  # of the password for one request: the second where only the nonce was old
SESSION_S: Final = 60  # without a word, where the camera says nothing else (RFC 2326, section 12.37)
MIN_SESSION_S: Final = 4  # a shorter one would have the unit say more than it hears
MAX_SESSION_S: Final = 3600
MAX_AWAITED: Final = 8  # requests while it plays that may yet be answered: what is older is not missed

NOBODY: Final = "nothing answers at its address"
SILENT: Final = "it stopped answering"
ELSEWHERE: Final = "it sends us to another address: give that as camera.url if it is right"
NOT_LET_IN: Final = "it refuses the user name or the password"
NOT_PLAYING: Final = "it did not start to play"
_STATUS_REASONS: Final = {403: "it refuses this user", 404: "it has no stream of that name"}
_TRANSPORT: Final = re.compile(
    r"RTP/AVP/TCP\b.*?;\s*interleaved=([0-9]{1,3})(?:-[0-9]{1,3})?\s*(?:;.*)?", re.IGNORECASE
)
_SESSION: Final = re.compile(r"([!-:<-~]{1,128})\s*(?:;.*)?")
_TIMEOUT: Final = re.compile(r";\s*timeout=([0-9]{1,5})\b", re.IGNORECASE)


class _Asked(NamedTuple):
    """A request while the camera plays: its verb, and how often the password was proven for it."""

    verb: str
    proofs: int


class RtspSession:
    """A camera that is being asked and then plays; raises RtspError with the reason wherever that goes wrong.

    ``address`` may hold user and password, percent-encoded; they are in no request. ``codecs``: names that may be
    decoded, joined by commas. ``timeout_s`` bounds connecting, each answer, and each wait for data. ``now_s`` is a
    clock that does not go back; ``random`` gives n random bytes.
    """

    video: Video

    def __init__(
        self, address: str, codecs: str, *, timeout_s: float, now_s: Callable[[], float], random: Callable[[int], bytes]
    ) -> None:
        parts = urlsplit(address)
        bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
        self._address = quote(bare, safe=string.punctuation.replace('"', "").replace("\\", ""))
        self._digest = None
        if "@" in parts.netloc:
            self._digest = Digest(unquote(parts.username or ""), unquote(parts.password or ""), random)
        self._timeout_s, self._now_s = timeout_s, now_s
        self._reader = Reader()
        self._number = 0  # CSeq of the last request
        self._session = ""
        self._session_s = SESSION_S
        self._keeper = "OPTIONS"
        self._channel = 0
        try:
            self._connection = socket.create_connection((parts.hostname or "", parts.port or PORT), timeout_s)
        except ConnectionRefusedError:
            raise RtspError(NOBODY) from None
        except TimeoutError:
            raise RtspError(SILENT) from None
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that is none
            raise RtspError(NOBODY) from error
        try:
            self.video = self._prepare(codecs)
        except BaseException:
            self.close()
            raise

    def packets(self) -> Iterator[bytes]:
        """RTP packets of the video for as long as they come; ends where the camera closes the connection."""
        self._say("PLAY", self.video.aggregate, "Range: npt=0.000-")
        awaited = {self._number: _Asked("PLAY", 0)}
        last_word_s = last_packet_s = self._now_s()
        while (data := self._receive(self._timeout_s)) != b"":
            for one in self._reader.feed(data):
                if isinstance(one, Frame):
                    if one.channel == self._channel:
                        last_packet_s = self._now_s()
                        yield one.payload
                elif one.verb:
                    self._decline(one, last_packet_s + self._timeout_s)
                else:
                    self._take(one, awaited)
            if self._now_s() - last_packet_s > self._timeout_s:  # it says something, but shows nothing
                raise RtspError(SILENT)
            if self._now_s() - last_word_s >= self._session_s / 2:
                last_word_s = self._now_s()
                self._say_again(_Asked(self._keeper, 0), awaited)

    def close(self) -> None:
        """Say good-bye if that can be said at once, and close the connection; idempotent."""
        if self._session:
            with suppress(OSError, RtspError):
                self._connection.settimeout(0)
                self._say("TEARDOWN", self.video.aggregate)
        self._session = ""
        self._connection.close()

    def _take(self, answer: Message, awaited: dict[int, _Asked]) -> None:
        """Take an answer while it plays: to whichever request it belongs, late, and not to all of them.

        What shows that the camera is there are its pictures. An answer that nobody waits for any longer changes
        nothing; one to a request that was never made ends the conversation.
        """
        number = answer.header("cseq")
        if re.fullmatch("[0-9]{1,10}", number) is None or not 0 < int(number) <= self._number:
            raise RtspError(NOT_RTSP)
        if 300 <= answer.status < 400:
            raise RtspError(ELSEWHERE)
        if (asked := awaited.pop(int(number), None)) is None:
            return
        if self._unproven(answer, asked.proofs):
            self._say_again(_Asked(asked.verb, asked.proofs + 1), awaited)
        elif answer.status != 200:
            if asked.verb == "PLAY":
                raise RtspError(NOT_PLAYING)
            self._keeper = "OPTIONS"  # which every camera answers: it keeps the session, too

    def _say_again(self, asked: _Asked, awaited: dict[int, _Asked]) -> None:
        self._say(asked.verb, self.video.aggregate)
        awaited[self._number] = asked
        if len(awaited) > MAX_AWAITED:
            del awaited[min(awaited)]

    def _prepare(self, codecs: str) -> Video:
        offered = self._ask("OPTIONS", self._address)
        if "GET_PARAMETER" in re.split(r"[\s,]+", offered.header("public").upper()):
            self._keeper = "GET_PARAMETER"
        told = self._expect("DESCRIBE", self._address, "Accept: application/sdp")
        base = told.header("content-base") or told.header("content-location") or self._address
        video = video_of(told.body, base, codecs)
        prepared = self._expect("SETUP", video.control, "Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
        transport = _TRANSPORT.fullmatch(prepared.header("transport"))
        session = _SESSION.fullmatch(prepared.header("session"))
        if transport is None or int(transport[1]) > 255 or session is None:  # a byte
            raise RtspError("it does not send its pictures over the connection itself (RTP over TCP)")
        self._channel, self._session = int(transport[1]), session[1]
        timeout = _TIMEOUT.search(prepared.header("session"))
        self._session_s = min(max(int(timeout[1]) if timeout else SESSION_S, MIN_SESSION_S), MAX_SESSION_S)
        return video

    def _expect(self, verb: str, address: str, header: str) -> Message:
        answer = self._ask(verb, address, header)
        if answer.status != 200:
            raise RtspError(_STATUS_REASONS.get(answer.status, NOT_VIDEO if verb == "DESCRIBE" else NOT_PLAYING))
        return answer

    def _ask(self, verb: str, address: str, header: str = "") -> Message:
        """Ask, prove the password if that is wanted, and wait for the answer."""
        proofs = 0
        while True:
            self._say(verb, address, header)
            answer = self._answer()
            if not self._again(answer, proofs):
                return answer
            proofs += 1

    def _again(self, answer: Message, proofs: int) -> bool:
        """Hold an answer to the rules; whether its request is to be said again with a proof of the password."""
        if 300 <= answer.status < 400:
            raise RtspError(ELSEWHERE)
        if answer.header("cseq") != str(self._number):
            raise RtspError(NOT_RTSP)
        return self._unproven(answer, proofs)

    def _unproven(self, answer: Message, proofs: int) -> bool:
        """Whether it wants the password proven, as can be done; raises RtspError where it cannot, or was in vain."""
        if answer.status != 401:
            return False
        if self._digest is None:
            raise RtspError(NOT_LET_IN)
        only_old = self._digest.take(answer.all_of("www-authenticate"))
        if proofs >= (MAX_PROOFS if only_old else 1):
            raise RtspError(NOT_LET_IN)
        return True

    def _say(self, verb: str, address: str, header: str = "") -> None:
        self._number += 1
        lines = [f"{verb} {address} RTSP/1.0", f"CSeq: {self._number}", "User-Agent: Postern", header]
        if self._session:
            lines.append(f"Session: {self._session}")
        if self._digest is not None and (proof := self._digest.header(verb, address)) is not None:
            lines.append(f"Authorization: {proof}")
        self._send("".join(f"{line}\r\n" for line in lines if line))

    def _answer(self) -> Message:
        end_s, frames = self._now_s() + self._timeout_s, 0
        found: Message | None = None
        while found is None:
            left_s = end_s - self._now_s()
            data = self._receive(left_s) if left_s > 0 else None
            if not data:
                raise RtspError(SILENT)
            for one in self._reader.feed(data):
                if isinstance(one, Frame):
                    frames += 1
                elif one.verb:
                    self._decline(one, end_s)
                elif found is not None:
                    raise RtspError(NOT_RTSP)
                else:
                    found = one
            if frames > MAX_FRAMES_BEFORE_ANSWER:
                raise RtspError(TOO_MUCH)
        return found

    def _decline(self, request: Message, end_s: float) -> None:
        """What a server may ask of a player is nothing that this one does; one is a redirection.

        Not after ``end_s``: each word may wait for a server that hardly listens, and questions may come in thousands.
        """
        if self._now_s() > end_s:
            raise RtspError(SILENT)
        if request.verb == "REDIRECT":
            raise RtspError(ELSEWHERE)
        number = request.header("cseq")
        if re.fullmatch("[0-9]{1,10}", number) is None:
            raise RtspError(NOT_RTSP)
        self._send(f"RTSP/1.0 501 Not Implemented\r\nCSeq: {number}\r\n")

    def _send(self, head: str) -> None:
        try:
            self._connection.sendall(f"{head}\r\n".encode())
        except OSError as error:
            raise RtspError(SILENT) from error

    def _receive(self, timeout_s: float) -> bytes:
        try:
            self._connection.settimeout(timeout_s)
            return self._connection.recv(READ_BYTES)
        except OSError as error:
            raise RtspError(SILENT) from error
