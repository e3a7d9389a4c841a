# SPDX-License-Identifier: Apache-2.0
"""RTP packets (RFC 3550, section 5.1) and the coded pictures that they carry in parts. Pure.

A part that is damaged or not whole is left out: the decoder conceals what is missing, or says that it cannot. Packets
come over TCP, so in order; a gap in their numbers is what the camera itself left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

MAX_PICTURE_BYTES: Final = 2 * 1024 * 1024  # of one coded picture; a key picture of 1080p has some 300 KiB
MAX_NAL_UNITS: Final = 512  # in one picture: slices; a camera sends one to eight
_START_CODE: Final = b"\x00\x00\x00\x01"  # before each NAL unit (H.264 and H.265, annex B)


class Packet(NamedTuple):
    """One RTP packet without its header."""

    number: int  # 16 bits
    time: int  # 32 bits, of the video's clock
    last: bool  # of a picture
    payload: bytes


class Coded(NamedTuple):
    """One coded picture; ``time`` goes on where the packets' 32 bits begin anew."""

    data: bytes
    time: int
    key: bool


def packet_of(data: bytes, payload_type: int) -> Packet | None:
    """The packet in ``data``; None where it is not one of this payload type."""
    if len(data) < 12 or data[0] >> 6 != 2 or data[1] & 0x7F != payload_type:  # version 2, 12 bytes
        return None
    begin, end = 12 + 4 * (data[0] & 0x0F), len(data)
    if data[0] & 0x10:  # an extension: its length in words stands in its second half
        begin += 4 + 4 * int.from_bytes(data[begin + 2 : begin + 4], "big")
    if data[0] & 0x20:
        end -= data[-1]
    if begin >= end:
        return None
    number, time = int.from_bytes(data[2:4], "big"), int.from_bytes(data[4:8], "big")
    return Packet(number, time, bool(data[1] & 0x80), data[begin:end])


class Parts(Protocol):
    """What puts the payloads of one picture together, in one payload format."""

    def lose(self) -> None:
        """Something is missing here: what is not finished is not to be finished with what comes."""

    def add(self, payload: bytes) -> None: ...

    def finish(self) -> tuple[bytes, bool]:
        """The picture's bytes as its decoder wants them, empty without any, and whether it is a key picture."""


class Pictures:
    """Packets in, coded pictures out, each at its last packet or at the first of the next one."""

    def __init__(self, parts: Parts, payload_type: int) -> None:
        self._parts, self._payload_type = parts, payload_type
        self._number: int | None = None
        self._rtp_time = 0
        self._time = 0
        self._open = False

    def add(self, data: bytes) -> Iterator[Coded]:
        packet = packet_of(data, self._payload_type)
        if packet is None:
            return
        if self._number is not None and packet.number != (self._number + 1) & 0xFFFF:
            self._parts.lose()
        if self._number is not None and packet.time != self._rtp_time:
            yield from self._finished()
            step = (packet.time - self._rtp_time) & 0xFFFFFFFF
            self._time += step - (1 << 32 if step >= 1 << 31 else 0)
        self._number, self._rtp_time = packet.number, packet.time
        self._parts.add(packet.payload)
        self._open = True
        if packet.last:
            yield from self._finished()

    def _finished(self) -> Iterator[Coded]:
        if self._open:
            self._open = False
            data, key = self._parts.finish()
            if data:
                yield Coded(data, self._time, key)


class NalUnits:
    """NAL units of H.264 (RFC 6184, modes 0 and 1) or, with ``header`` 2, of H.265 (RFC 7798 without DONs)."""

    def __init__(self, codec: str, parameter_sets: tuple[bytes, ...]) -> None:
        self._long = codec == "hevc"  # a header of two bytes
        self._units: list[bytes] = list(parameter_sets)  # before the first picture, as if the stream had begun so
        self._size = sum(map(len, parameter_sets))
        self._fragment: bytearray | None = None
        self._key = False

    def lose(self) -> None:
        self._fragment = None

    def add(self, payload: bytes) -> None:
        kind = self._kind(payload)
        if kind == (49 if self._long else 28):
            self._add_fragment(payload)
            return
        self._fragment = None
        if kind == (48 if self._long else 24):
            self._add_several(payload[2 if self._long else 1 :])
        elif 0 <= kind < (48 if self._long else 24):
            self._keep(payload)

    def finish(self) -> tuple[bytes, bool]:
        if self._fragment is not None:  # some cameras do not mark the last one
            self._keep(bytes(self._fragment))
        units, key = self._units, self._key
        self._units, self._size, self._fragment, self._key = [], 0, None, False
        return b"".join(_START_CODE + unit for unit in units), key

    def _kind(self, unit: bytes) -> int:
        if len(unit) < (3 if self._long else 2):
            return -1
        return unit[0] >> 1 & 0x3F if self._long else unit[0] & 0x1F

    def _add_several(self, rest: bytes) -> None:
        at = 0
        while at + 2 < len(rest):  # each begins with its length in two bytes
            begin = at + 2
            at = begin + int.from_bytes(rest[at:begin], "big")
            if at > len(rest):
                return
            self._keep(rest[begin:at])

    def _add_fragment(self, payload: bytes) -> None:
        flags = payload[2] if self._long else payload[1]
        content = payload[3:] if self._long else payload[2:]
        if flags & 0x80:  # the first one; the unit's header is put together from both
            if self._long:
                header = bytes([payload[0] & 0x81 | (flags & 0x3F) << 1, payload[1]])
            else:
                header = bytes([payload[0] & 0xE0 | flags & 0x1F])
            self._fragment = bytearray(header)
        if self._fragment is None:
            return
        if self._size + len(self._fragment) + len(content) > MAX_PICTURE_BYTES:
            self._fragment = None
            return
        self._fragment += content
        if flags & 0x40:
            unit, self._fragment = bytes(self._fragment), None
            self._keep(unit)

    def _keep(self, unit: bytes) -> None:
        kind = self._kind(unit)
        if kind < 0 or self._size + len(unit) > MAX_PICTURE_BYTES or len(self._units) >= MAX_NAL_UNITS:
            return
        self._key |= 16 <= kind <= 21 if self._long else kind == 5  # IRAP (H.265, table 7-1), IDR
        self._units.append(unit)
        self._size += len(unit)
