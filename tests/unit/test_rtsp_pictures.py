# SPDX-License-Identifier: Apache-2.0
"""Coded pictures out of RTP packets: what FFmpeg's own muxer put in comes out, and no bytes do harm."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.camera.rtsp.jpeg import JpegScans
from agent.camera.rtsp.rtp import MAX_NAL_UNITS, MAX_PICTURE_BYTES, Coded, NalUnits, Parts, Pictures, packet_of
from tests.simulators.camera import picture

av = pytest.importorskip("av")

SIZE = (320, 184)
FRAMES = 12
CODECS = {  # what encodes it, its pixels and options, and its payload type
    "h264": (
        "libx264",
        "yuv420p",
        {"preset": "ultrafast", "qp": "18", "tune": "zerolatency", "x264-params": "slices=2"},
        96,
    ),
    "hevc": (
        "libx265",
        "yuv420p",
        {"preset": "ultrafast", "x265-params": "qp=18:log-level=none:bframes=0:pools=1"},
        96,
    ),
    "mjpeg": ("mjpeg", "yuvj420p", {"huffman": "default", "qmin": "2", "qmax": "2"}, 26),
}


def parts_of(codec: str) -> Parts:
    return JpegScans() if codec == "mjpeg" else NalUnits(codec, ())


def muxed(codec: str, packet_bytes: int = 1400) -> list[bytes]:
    """RTP packets of ``FRAMES`` pictures by FFmpeg's muxer, which speaks UDP alone."""
    encoder, pixels, options, _ = CODECS[codec]
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.bind(("127.0.0.1", 0))
        heard.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
        address = f"rtp://127.0.0.1:{heard.getsockname()[1]}?pkt_size={packet_bytes}"
        with av.open(address, "w", format="rtp", options={"rtpflags": "skip_rtcp"}) as container:
            stream = container.add_stream(encoder, rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt = *SIZE, pixels
            stream.codec_context.thread_count, stream.codec_context.gop_size = 1, 6
            for number in range(FRAMES):
                frame = av.VideoFrame.from_ndarray(picture(number, *SIZE), format="rgb24").reformat(format=pixels)
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        heard.settimeout(0.3)
        try:
            while True:
                found.append(heard.recv(65536))
        except TimeoutError:
            return found


def decoded(codec: str, coded: Sequence[Coded]) -> list[Any]:
    context = av.CodecContext.create(codec, "r")
    context.thread_count = 1
    pictures = []
    for one in coded:
        packet = av.Packet(one.data)
        packet.pts = one.time
        with suppress(av.error.InvalidDataError):  # as the stream does: of what was lost nothing can be made
            pictures += context.decode(packet)
    return [*pictures, *context.decode(None)]


def collected(parts: Parts, packets: Sequence[bytes], payload_type: int) -> list[Coded]:
    pictures = Pictures(parts, payload_type)
    return [coded for packet in packets for coded in pictures.add(packet)]


@pytest.mark.parametrize("packet_bytes", [300, 1400])
@pytest.mark.parametrize("codec", CODECS)
def test_what_ffmpeg_sends_is_put_together_again(codec: str, packet_bytes: int) -> None:
    coded = collected(parts_of(codec), muxed(codec, packet_bytes), CODECS[codec][3])
    assert len(coded) == FRAMES
    assert [one.key for one in coded] == [codec == "mjpeg" or number % 6 == 0 for number in range(FRAMES)]
    assert [one.time - coded[0].time for one in coded] == [3600 * number for number in range(FRAMES)]
    shown = decoded(codec, coded)
    assert len(shown) == FRAMES
    for number, one in enumerate(shown):
        assert not one.is_corrupt
        error = one.to_ndarray(format="rgb24").astype(int) - picture(number, *SIZE)
        assert np.abs(error).mean() < 4


@pytest.mark.parametrize("codec", CODECS)
def test_lost_packet_costs_its_own_part(codec: str) -> None:
    """Each packet in turn is what the camera left out; what is handed over has no other bytes in it."""
    packets, payload_type = muxed(codec, 700), CODECS[codec][3]
    whole = {one.data for one in collected(parts_of(codec), packets, payload_type)}
    for lost in range(0, len(packets), 7):
        got = collected(parts_of(codec), packets[:lost] + packets[lost + 1 :], payload_type)
        damaged = [one.data for one in got if one.data not in whole]
        assert len(damaged) <= 1
        assert FRAMES - len(got) <= 1
        if codec == "mjpeg":
            assert damaged == []
        assert len(decoded(codec, got)) >= FRAMES - 6, "what comes after the next key picture is whole again"


def rtp(number: int, time: int, payload: bytes, *, last: bool = False, first_byte: int = 0x80) -> bytes:
    head = bytes([first_byte, 96 | last << 7]) + (number & 0xFFFF).to_bytes(2, "big")
    return head + (time & 0xFFFFFFFF).to_bytes(4, "big") + bytes(4) + payload


def test_time_and_numbers_go_on_where_their_bits_begin_anew() -> None:
    packets = [rtp(65530 + n, (1 << 32) - 5 * 3600 + n * 3600, b"\x65ab", last=True) for n in range(12)]
    coded = collected(NalUnits("h264", ()), packets, 96)
    assert [one.time for one in coded] == [n * 3600 for n in range(12)]


def test_picture_whose_last_packet_is_not_marked_ends_with_the_next_one() -> None:
    packets = [rtp(n, n // 2 * 3600, bytes([0x41, n])) for n in range(6)]
    assert [one.data.count(b"\x00\x00\x00\x01") for one in collected(NalUnits("h264", ()), packets, 96)] == [2, 2]


def test_parameter_sets_of_the_description_stand_before_the_first_picture_alone() -> None:
    packets = [rtp(n, n * 3600, b"\x65ab", last=True) for n in range(2)]
    first, second = collected(NalUnits("h264", (b"\x67sps", b"\x68pps")), packets, 96)
    assert first.data == b"\x00\x00\x00\x01\x67sps\x00\x00\x00\x01\x68pps" + second.data


def test_header_extension_sources_and_padding_are_left_out() -> None:
    sources = bytes(8)
    extension = b"\xbe\xde\x00\x02" + bytes(8)
    packet = rtp(1, 1, sources + extension + b"\x65ab" + b"\x00\x00\x03", first_byte=0x80 | 0x20 | 0x10 | 2)
    found = packet_of(packet, 96)
    assert found is not None
    assert found.payload == b"\x65ab"


@pytest.mark.parametrize(
    "packet", [b"", bytes(11), rtp(1, 1, b""), rtp(1, 1, b"\x05", first_byte=0xA0), rtp(1, 1, b"x", first_byte=0x40),
               rtp(1, 1, b"\x00\x00\xff\xff", first_byte=0x90)]
)  # fmt: skip
def test_packet_without_content_is_none(packet: bytes) -> None:
    assert packet_of(packet, 96) is None


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_picture_of_endless_parts_is_bounded(codec: str) -> None:
    """Fragments without end, and units without number: the sender's choice, not the unit's memory."""
    fragment = (b"\x62\x01\x13" if codec == "hevc" else b"\x7c\x05") + bytes(60_000)
    first = (b"\x62\x01\x93" if codec == "hevc" else b"\x7c\x85") + bytes(60_000)
    units = NalUnits(codec, ())
    units.add(first)
    for _ in range(100):
        units.add(fragment)
        assert len(units._fragment or b"") <= MAX_PICTURE_BYTES
    for _ in range(10 * MAX_NAL_UNITS):
        units.add(b"\x41\x01\x01")
    data, _ = units.finish()
    assert len(data) <= MAX_PICTURE_BYTES
    assert data.count(b"\x00\x00\x00\x01") <= MAX_NAL_UNITS


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_packet_of_many_empty_units_is_copied_a_few_times_and_not_once_for_each(codec: str) -> None:
    copied = 0

    class Watched(bytes):
        def __getitem__(self, at: Any) -> Any:
            nonlocal copied
            found = super().__getitem__(at)
            if isinstance(found, int):
                return found
            copied += len(found)
            return Watched(found)

    packet = Watched((b"\x60\x01" if codec == "hevc" else b"\x18") + bytes(65_500))
    NalUnits(codec, ()).add(packet)
    assert 0 < copied <= 4 * len(packet)


def test_scan_of_endless_parts_is_bounded() -> None:
    scans = JpegScans()
    for offset in range(0, 5_000_000, 60_000):
        scans.add(b"\x00" + offset.to_bytes(3, "big") + b"\x01\x50\x28\x17" + bytes(60_000))
        assert len(scans._scan or b"") <= MAX_PICTURE_BYTES


@settings(max_examples=120, deadline=None)
@given(
    codec=st.sampled_from(sorted(CODECS)),
    payloads=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans(), st.binary(max_size=300)), max_size=20
    ),
)
def test_no_packets_do_harm(codec: str, payloads: list[tuple[int, int, bool, bytes]]) -> None:
    number, time, packets = 0, 0, []
    for step, later, last, payload in payloads:
        number, time = number + step, time + later * 3600
        packets.append(rtp(number, time, payload, last=last))
    for coded in collected(parts_of(codec), packets, 96):
        assert 0 < len(coded.data) <= MAX_PICTURE_BYTES
