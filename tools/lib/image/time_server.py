# SPDX-License-Identifier: Apache-2.0
"""A time server for one board: SNTP (RFC 5905, section 14) with this machine's clock."""

from __future__ import annotations

import socket
import struct
import threading
import time
from typing import Final, Self

PORT: Final = 123
EPOCH: Final = 2_208_988_800  # seconds from 1900, where NTP begins, to 1970
_PACKET: Final = struct.Struct("!BBbb II4s QQQQ")


class TimeServer:
    """Answers on loopback within its ``with`` block."""

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", PORT))
        self._socket.settimeout(0.5)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._ending.is_set():
            try:
                request, sender = self._socket.recvfrom(512)
            except TimeoutError:
                continue
            if len(request) >= _PACKET.size:
                self._socket.sendto(answer(request, time.time()), sender)


def answer(request: bytes, now: float) -> bytes:
    """What a server of stratum 2 says at ``now`` (seconds since 1970)."""
    originate = _PACKET.unpack(request[: _PACKET.size])[-1]
    stamp = round((now + EPOCH) * 2**32)
    return _PACKET.pack(0x24, 2, 6, -20, 0, 0, b"LOCL", stamp, originate, stamp, stamp)
