# SPDX-License-Identifier: Apache-2.0
"""Video that costs whoever decodes it as much as it can, as a file and as an RTSP camera sends it."""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import pytest

from tests.simulators.rtsp_camera import framed

START_CODE = re.compile(b"\x00\x00\x00?\x01")
PAYLOAD_TYPE = 96
FRAGMENT_BYTES = 60_000  # an interleaved frame has 65 535 at most
TICKS = 3600  # of 90 kHz: 25 pictures a second
MANY_REFERENCES = {"x264opts": "ref=16:bframes=0:level=51", "g": "100"}


def make_clip(
    path: Path, size: tuple[int, int], codec: str = "libx264", *, pictures: int = 20, audio: int = 0, **options: str
) -> Path:
    """A clip of pictures in which nothing happens: small as a file, large once it is decoded.

    Before the first picture stand ``audio`` seconds of silence.
    """
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        silence = container.add_stream("pcm_s16le", rate=48_000) if audio else None
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.time_base = Fraction(1, 25)
        stream.options = {"preset": "ultrafast", **options} if codec == "libx264" else dict(options)
        stream.codec_context.thread_count = 1
        for second in range(audio):
            samples = av.AudioFrame("s16", "stereo", 48_000)
            samples.planes[0].update(bytes(samples.planes[0].buffer_size))
            samples.sample_rate, samples.pts, samples.time_base = 48_000, second * 48_000, Fraction(1, 48_000)
            container.mux(silence.encode(samples))
        picture = av.VideoFrame(*size, stream.pix_fmt)
        for plane in picture.planes:
            plane.update(bytes(plane.buffer_size))
        for number in range(pictures):
            picture.pts = number + 25 * audio
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def with_size(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG picture that says it is of another size (ISO/IEC 10918-1, B.2.2)."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def coded_pictures(size: tuple[int, int], codec: str, folder: Path, **options: str) -> list[bytes]:
    """The pictures of a clip, each in the codec's byte stream with its parameter sets (annex B)."""
    av = pytest.importorskip("av")
    name = {"libx264": "h264", "libx265": "hevc"}[codec]
    clip = make_clip(folder / f"{size[0]}.{name}", size, codec, **options)
    with av.open(str(clip), format=name) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def payloads(unit: bytes, codec: str) -> list[bytes]:
    """A NAL unit as it is, or in fragments where it is too long for one (RFC 6184, 5.8; RFC 7798, 4.4.3)."""
    if len(unit) <= FRAGMENT_BYTES:
        return [unit]
    if codec == "libx264":
        head, kind, rest = bytes([unit[0] & 0xE0 | 28]), unit[0] & 0x1F, unit[1:]
    else:
        head, kind, rest = bytes([unit[0] & 0x81 | 49 << 1, unit[1]]), unit[0] >> 1 & 0x3F, unit[2:]
    parts = [rest[at : at + FRAGMENT_BYTES] for at in range(0, len(rest), FRAGMENT_BYTES)]
    marks = [0x80] + [0] * (len(parts) - 2) + [0x40]
    return [head + bytes([mark | kind]) + part for mark, part in zip(marks, parts, strict=True)]


def as_stream(pictures: Sequence[bytes], codec: str) -> Callable[[], bytes]:
    """What a camera says that sends these pictures for ever: each call the next one, in interleaved RTP packets."""
    numbers = itertools.count()
    ever = enumerate(itertools.cycle(pictures))

    def say() -> bytes:
        at, picture = next(ever)
        parts = [part for unit in START_CODE.split(picture) if unit for part in payloads(unit, codec)]
        packets = []
        for number, part in enumerate(parts, 1):
            last = 0x80 if number == len(parts) else 0
            head = struct.pack(">BBHII", 0x80, last | PAYLOAD_TYPE, next(numbers) % 65536, at * TICKS % 2**32, 7)
            packets.append(head + part)
        return framed(packets)

    return say
