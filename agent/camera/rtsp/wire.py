# SPDX-License-Identifier: Apache-2.0
"""What stands on an RTSP connection (RFC 2326): messages, and between them binary frames. Pure, bounded, strict.

What is not one of these ends the conversation; nothing is skipped in search of something that looks like one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

MAX_HEAD_BYTES: Final = 8 * 1024  # start line and headers; cameras send some 500
MAX_BODY_BYTES: Final = 64 * 1024  # a session description has 1 to 4 KiB
MAX_HEADERS: Final = 64  # in one message; cameras send a dozen

TOO_MUCH: Final = "it answers with more than a camera has to say"
NOT_RTSP: Final = "it does not speak RTSP"

_DOLLAR: Final = 0x24  # begins an interleaved frame (RFC 2326, section 10.12): channel, length in two bytes, content
_FRAME_HEAD: Final = 4
_STATUS: Final = re.compile(rb"RTSP/1\.[01] ([1-5][0-9]{2})(?: [^\x00-\x1f\x7f]*)?")
_REQUEST: Final = re.compile(rb"([A-Z_]{1,32}) [!-~]{1,1024} RTSP/1\.[01]")
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*+:[ \t]*+([^\x00-\x08\x0a-\x1f\x7f]*)")
_FIRST: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ_")  # of a message


class RtspError(Exception):
    """Why a camera is of no use, in a few words for a person: none of them is the camera's."""


class Frame(NamedTuple):
    """One binary frame: an RTP or RTCP packet of a channel."""

    channel: int
    payload: bytes


class Message(NamedTuple):
    """A response, whose ``verb`` is empty, or a request of the server, whose ``status`` is 0."""

    status: int
    verb: str
    headers: tuple[tuple[str, str], ...]  # names in lower case
    body: bytes

    def header(self, name: str) -> str:
        """The first header of that name; empty without one."""
        return next((value for known, value in self.headers if known == name), "")

    def all_of(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known == name]


class Reader:
    """Takes bytes as they arrive; holds one unfinished message or frame, no more than 64 KiB and what came last."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame | Message]:
        """Yield what is complete; raises RtspError at what is neither. To be iterated to its end before the next."""
        held = self._held
        held += data
        at = 0
        try:
            while at < len(held):
                if held[at] == _DOLLAR:
                    end = at + _FRAME_HEAD + int.from_bytes(held[at + 2 : at + _FRAME_HEAD], "big")
                    if len(held) < at + _FRAME_HEAD or len(held) < end:
                        return
                    yield Frame(held[at + 1], bytes(held[at + _FRAME_HEAD : end]))
                    at = end
                elif held.startswith(b"\r\n", at):  # between messages, as RFC 9112, section 2.2, has it
                    at += 2
                elif held[at] == 0x0D and len(held) == at + 1:
                    return
                else:
                    message, end = _message(held, at)
                    if message is None:
                        return
                    yield message
                    at = end
        finally:
            del held[:at]


def _message(held: bytearray, at: int) -> tuple[Message | None, int]:
    """The message that begins ``at``, and where it ends; None as long as it is not complete."""
    if held[at] not in _FIRST:
        raise RtspError(NOT_RTSP)
    head_end = held.find(b"\r\n\r\n", at, at + MAX_HEAD_BYTES)
    if head_end < 0:
        if len(held) - at >= MAX_HEAD_BYTES:
            raise RtspError(TOO_MUCH)
        return None, at
    start, *lines = bytes(held[at:head_end]).split(b"\r\n")
    status, request = _STATUS.fullmatch(start), _REQUEST.fullmatch(start)
    if status is None and request is None:
        raise RtspError(NOT_RTSP)
    headers = _headers(lines)
    begin = head_end + 4
    end = begin + _length(headers)
    if len(held) < end:
        return None, at
    verb = request[1].decode() if request is not None else ""
    return Message(int(status[1]) if status is not None else 0, verb, headers, bytes(held[begin:end])), end


def _headers(lines: list[bytes]) -> tuple[tuple[str, str], ...]:
    if len(lines) > MAX_HEADERS:
        raise RtspError(TOO_MUCH)
    found = [_HEADER.fullmatch(line) for line in lines]
    if not all(found):
        raise RtspError(NOT_RTSP)
    return tuple((one[1].decode().lower(), one[2].decode("utf-8", "replace").strip()) for one in found if one)


def _length(headers: Iterable[tuple[str, str]]) -> int:
    said = [value for name, value in headers if name == "content-length"]
    if not said:
        return 0
    if len(set(said)) > 1 or re.fullmatch("[0-9]{1,400}", said[0]) is None:
        raise RtspError(NOT_RTSP)
    if len(said[0]) > len(str(MAX_BODY_BYTES)) or int(said[0]) > MAX_BODY_BYTES:
        raise RtspError(TOO_MUCH)
    return int(said[0])
