# SPDX-License-Identifier: Apache-2.0
"""A look at an RTSP server before FFmpeg opens it, which follows redirections and sends a password however it is asked.

One DESCRIBE without credentials (RFC 2326 sec. 10.2), whose answer is read within bounds. It keeps the unit from what a
server asks of everybody, and says whether FFmpeg needs the password at all: it is given it only where the server asked
for it by digest just now, so one that asks for nothing at first, or is not there, gets nothing by asking differently.

A server that asks by digest now and in clear a moment later is not held by it, nor is one that redirects only then: the
network is (see ``deploy/network.conf.example``), and the decoders that may run (``av_input``).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple
from urllib.parse import urlsplit, urlunsplit

MAX_HEAD_BYTES: Final = 8 * 1024  # status and headers; cameras send some 500
MAX_BODY_BYTES: Final = 64 * 1024  # a session description has 1 to 4 KiB; FFmpeg allocates what is announced
PORT: Final = 554  # IANA
TOO_MUCH: Final = "it answers with more than a camera has to say"
_STATUS = re.compile(rb"RTSP/1\.[01] ([0-9]{3})\b")
_LENGTH = re.compile(rb"^content-length:\s*([0-9]+)\s*$", re.IGNORECASE | re.MULTILINE)
_SCHEME = re.compile(rb"^www-authenticate:\s*(\w+)", re.IGNORECASE | re.MULTILINE)


class Look(NamedTuple):
    """``refusal`` says in a few words why a server is not opened; ``address`` is what FFmpeg may be given of it."""

    refusal: str | None
    address: str


@contextmanager
def looked_at(address: str, timeout_s: float, now_s: Callable[[], float]) -> Iterator[Look]:
    """Look at the server of ``address``; one that does not answer at all is left to FFmpeg, without the password.

    ``address`` may hold user and password, which are not sent. ``now_s`` is a clock that does not go back. The
    connection stays until the end of the block: a server may take down what it prepared for it, and be busy with that.
    """
    parts = urlsplit(address)
    place = (parts.hostname or "", parts.port or PORT)
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    request = f"DESCRIBE {bare} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n"
    with ExitStack() as stack:
        try:
            connection = stack.enter_context(socket.create_connection(place, timeout_s))
            connection.sendall(request.encode())
            head = _read_head(connection, now_s() + timeout_s, now_s)
        except OSError:
            yield Look(None, bare)  # FFmpeg finds the same, and there are words for it
            return
        refusal = TOO_MUCH if head is None else _judge(head, secret="@" in parts.netloc)
        yield Look(refusal, address if head is not None and _asks(head) else bare)


def _read_head(connection: socket.socket, end_s: float, now_s: Callable[[], float]) -> bytes | None:
    """Status and headers; None when they do not end within the bound or the time."""
    head = b""
    while b"\r\n\r\n" not in head:
        if len(head) >= MAX_HEAD_BYTES or (left := end_s - now_s()) <= 0:
            return None
        connection.settimeout(left)
        more = connection.recv(MAX_HEAD_BYTES - len(head))
        if not more:
            break
        head += more
    return head.partition(b"\r\n\r\n")[0].replace(b"\r\n", b"\n")


def _asks(head: bytes) -> bool:
    """Whether a server wants a password, and takes it by digest."""
    status = _STATUS.match(head)
    by_digest = b"digest" in {scheme.lower() for scheme in _SCHEME.findall(head)}
    return status is not None and status[1] == b"401" and by_digest


def _judge(head: bytes, *, secret: bool) -> str | None:
    status = _STATUS.match(head)
    if status is None:
        return "it does not speak RTSP"
    length = _LENGTH.search(head)
    if length is not None and (len(length[1]) > len(str(MAX_BODY_BYTES)) or int(length[1]) > MAX_BODY_BYTES):
        return TOO_MUCH
    if status[1].startswith(b"3"):
        return "it sends us to another address: give that as camera.url if it is right"
    if status[1] == b"401" and secret and not _asks(head):
        return "it wants the password in clear: set the camera to digest authentication"
    return None
