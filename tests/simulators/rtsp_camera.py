# SPDX-License-Identifier: Apache-2.0
"""An RTSP camera that does whatever a test wants: each request is answered by a function, on plain TCP."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, Self

SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n{}a=control:t\r\n"
H264 = "a=rtpmap:96 H264/90000\r\n"
TRANSPORT = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"


class Request(NamedTuple):
    number: int  # over all connections, from 1
    verb: str
    address: str
    head: str

    def header(self, name: str) -> str:
        found = re.search(rf"(?im)^{name}:\s*(.*?)\r?$", self.head)
        return found[1] if found else ""

    def reply(self, status: str = "200 OK", *headers: str, body: str = "") -> bytes:
        lines = [f"RTSP/1.0 {status}", f"CSeq: {self.header('CSeq')}", *headers]
        if body:
            lines += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        return "".join(f"{line}\r\n" for line in [*lines, ""]).encode() + body.encode()


Answer = Callable[[Request], bytes]


def behaved(request: Request) -> bytes:
    """A camera that asks for nothing and shows nothing."""
    if request.verb == "OPTIONS":
        return request.reply("200 OK", "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER")
    if request.verb == "DESCRIBE":
        return request.reply(body=SDP.format(H264))
    if request.verb == "SETUP":
        return request.reply("200 OK", TRANSPORT, "Session: 1234;timeout=60")
    return request.reply()


def framed(packets: Sequence[bytes], channel: int = 0) -> bytes:
    return b"".join(bytes([0x24, channel]) + len(one).to_bytes(2, "big") + one for one in packets)


class ScriptedRtspCamera:
    """Listens on ``port`` until it is closed; ``heard`` is every byte that anybody said to it."""

    def __init__(self, answer: Answer = behaved, stream: Callable[[], bytes] = bytes, period_s: float = 0.05) -> None:
        self.answer = answer
        self.stream, self.period_s = stream, period_s  # what it says by itself once it plays, and how often
        self.heard = b""
        self.requests: list[Request] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def url(self, credentials: str = "") -> str:
        return f"rtsp://{credentials}127.0.0.1:{self.port}/live"

    def verbs(self) -> list[str]:
        return [request.verb for request in self.requests]

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._converse, args=(client,), daemon=True).start()

    def _converse(self, client: socket.socket) -> None:
        held = b""
        with client, suppress(OSError):
            client.settimeout(20)
            while more := client.recv(65536):
                self.heard += more
                held += more
                while b"\r\n\r\n" in held:
                    head, _, held = held.partition(b"\r\n\r\n")
                    text = head.decode(errors="replace")
                    verb, address, *_ = [*text.split(" ", 2), "", ""]
                    request = Request(len(self.requests) + 1, verb, address, text)
                    self.requests.append(request)
                    if not (answer := self.answer(request)):
                        return
                    client.sendall(answer)
                    if verb == "PLAY":
                        threading.Thread(target=self._play, args=(client,), daemon=True).start()

    def _play(self, client: socket.socket) -> None:
        with suppress(OSError):
            while more := self.stream():
                client.sendall(more)
                time.sleep(self.period_s)
