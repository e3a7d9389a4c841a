# SPDX-License-Identifier: Apache-2.0
"""JPEG pictures in RTP (RFC 2435): the scan comes in parts, its headers are made here from a few numbers. Pure.

The Huffman tables are those of ITU-T T.81, annex K, which every decoder of motion JPEG has, so none is written.
"""

from __future__ import annotations

from typing import Final

from agent.camera.rtsp.rtp import MAX_PICTURE_BYTES

_HEAD: Final = 8  # bytes of the main header
_IN_BAND: Final = 128  # from this Q on the tables are sent (section 3.1.8)
_MAX_TABLE_BYTES: Final = 256  # two tables of 16 bits
# ITU-T T.81, tables K.1 and K.2, in zigzag order (RFC 2435, appendix A).
_LUMA: Final = bytes.fromhex(
    "100b0c0e0c0a100e0d0e1211101318281a181616183123251d283a333d3c3933383740485c4e404457453738506d51575f626768673e4d71"
    "797064785c656763"
)
_CHROMA: Final = bytes.fromhex("1112121815182f1a1a2f634238426363" + "63" * 48)


class JpegScans:
    """One picture's scan from its fragments; the tables of a ``Q`` that stands for fixed ones are kept."""

    def __init__(self) -> None:
        self._scan: bytearray | None = None
        self._header = b""
        self._tables: dict[int, bytes] = {}  # by Q, 128 to 254: at most 127 of 256 bytes

    def lose(self) -> None:
        self._scan = None

    def add(self, payload: bytes) -> None:
        if len(payload) < _HEAD:
            return
        offset, kind, quality = int.from_bytes(payload[1:4], "big"), payload[4], payload[5]
        at, restart = _HEAD, b""
        if 64 <= kind <= 127:  # with restart markers (section 3.1.7)
            restart, at = payload[at : at + 2], at + 4
        if offset == 0:
            self._scan = None
            tables, at = self._quantisation(payload, at, quality)
            if tables and kind & 0x3F in (0, 1) and 0 not in payload[6:8]:
                self._header = _header(kind & 0x3F, payload[6] * 8, payload[7] * 8, tables, restart)
                self._scan = bytearray()
        if self._scan is None or offset != len(self._scan) or offset + len(payload) > MAX_PICTURE_BYTES:
            self._scan = None
            return
        self._scan += payload[at:]

    def finish(self) -> tuple[bytes, bool]:
        scan, self._scan = self._scan, None
        if not scan:
            return b"", False
        return self._header + scan + (b"" if scan.endswith(b"\xff\xd9") else b"\xff\xd9"), True

    def _quantisation(self, payload: bytes, at: int, quality: int) -> tuple[bytes, int]:
        """Both tables, empty where there is none, and where the scan goes on."""
        if quality < _IN_BAND:
            return _scaled(quality), at
        length = int.from_bytes(payload[at + 2 : at + 4], "big")
        begin, end = at + 4, at + 4 + length
        if length > _MAX_TABLE_BYTES or end > len(payload):
            return b"", end
        wide = payload[at + 1] if length else 0
        tables = payload[begin:end] if wide == 0 and length in (64, 128) else b""  # baseline: 8 bits
        if length == 0:
            tables = self._tables.get(quality, b"")
        elif tables and quality < 255:  # 255: they may change with each picture
            self._tables[quality] = tables
        return tables, end


def _scaled(quality: int) -> bytes:
    """The standard tables for ``quality`` 1 to 99 (section 4.2); empty for what is reserved."""
    if not 1 <= quality <= 99:
        return b""
    factor = 5000 // quality if quality < 50 else 200 - 2 * quality
    return bytes(min(max((value * factor + 50) // 100, 1), 255) for value in _LUMA + _CHROMA)


def _segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def _header(kind: int, width: int, height: int, tables: bytes, restart: bytes) -> bytes:
    """Everything before the scan; ``kind`` 0 has chroma halved across, 1 in both directions (section 4.1)."""
    luma, chroma = tables[:64], tables[64:] or tables[:64]
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    parts = bytes([1, 0x22 if kind else 0x21, 0, 2, 0x11, 1, 3, 0x11, 1])
    return (
        b"\xff\xd8"
        + _segment(0xDB, b"\x00" + luma)
        + _segment(0xDB, b"\x01" + chroma)
        + (_segment(0xDD, restart) if restart else b"")
        + _segment(0xC0, b"\x08" + size + b"\x03" + parts)
        + _segment(0xDA, b"\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00")
    )
