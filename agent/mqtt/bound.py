# SPDX-License-Identifier: Apache-2.0
"""What a broker may send, held to while it is read: the MQTT library allocates whatever a packet says it is long.

Only the framing is read here (MQTT 5, 2.1): type, flags and remaining length. A packet that is too long, or that the
library would keep in memory without a bound of its own (QoS 2), ends the connection before its content is read.
"""

from __future__ import annotations

import ssl

MAX_INCOMING_BYTES = 32 * 1024  # the broker must not send larger packets (MQTT 5, 3.1.2.11.4); responses have 16 KiB
MAX_LENGTH_BYTES = 4  # of the remaining length (MQTT 5, 1.5.5)
_PUBLISH = 3


class Framing:
    """Follows the packets of one direction; ``feed`` raises ConnectionError for one that is not wanted."""

    def __init__(self) -> None:
        self._left = 0  # bytes of the content that are still to come
        self._length: int | None = None  # as far as it was read; None between packets
        self._digits = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes, in whatever portions they come."""
        at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            if self._length is None:
                self._begin(data[at])
            else:
                self._add(data[at])
            at += 1

    def _begin(self, first: int) -> None:
        if first >> 4 == _PUBLISH and first & 0b0110 > 0b0010:
            raise ConnectionError("the broker sends at a quality of service that nobody asked for")
        self._length, self._digits = 0, 0

    def _add(self, digit: int) -> None:
        length = (self._length or 0) | (digit & 0x7F) << 7 * self._digits
        self._digits += 1
        if length > MAX_INCOMING_BYTES or (digit & 0x80 and self._digits == MAX_LENGTH_BYTES):
            raise ConnectionError(f"the broker sends packets of more than {MAX_INCOMING_BYTES} bytes")
        self._length = length
        if not digit & 0x80:
            self._left, self._length = length, None


class BoundedSocket(ssl.SSLSocket):
    """A TLS socket that gives no more of a packet than its first bytes when it is one that ``Framing`` refuses."""

    _framing: Framing | None = None
    refused = ""  # why this side ended the connection, in words

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """As that of a socket; at most ``MAX_INCOMING_BYTES`` at once. Raises ConnectionError."""
        data = super().recv(min(buflen, MAX_INCOMING_BYTES), flags)
        if self._framing is None:
            self._framing = Framing()
        try:
            self._framing.feed(data)
        except ConnectionError as error:
            self.refused = str(error)
            raise
        return data
