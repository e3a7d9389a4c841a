# SPDX-License-Identifier: Apache-2.0
"""What a broker, a clip or a stream sends costs the unit a bounded memory: each is tried on a process of its own.

The service is held to 200 MiB resident: what it has (110, tools/bench) and what others can make it take. All of it in
one process, with a broker and a camera that are hostile at once: ``test_memory_of_the_service``.
"""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.simulators.hostile_video import MANY_REFERENCES, make_clip
from tests.simulators.pki import Authority
from tests.simulators.rtsp_camera import ScriptedRtspCamera, framed
from tests.simulators.scripted_broker import ScriptedBroker, connack
from tools.lib.bench.running import MAX_RESIDENT_MIB

MAX_SERVICE_MIB = 200.0
MAX_BROKER_MIB = 8.0  # beyond what the process had before the broker spoke; 32 messages of 32 KiB may wait
MAX_STREAM_MIB = 16.0  # a coded picture is 2 MiB at most; what joins its parts holds it twice
PART_BYTES = 50_000
ROOT = Path(__file__).parents[2]

LISTEN = """
import sys
from pathlib import Path
from agent.clock import SystemClock
from agent.errors import BrokerError
from agent.mqtt.connection import Connection
from agent.mqtt.records import BrokerSettings
from agent.mqtt.credentials import Credentials

def peak():  # not ru_maxrss, which begins with what the parent had
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024

ca, certificate, key, port, protocol = sys.argv[1:]
files = Credentials(Path(ca), Path(certificate), Path(key))
settings = BrokerSettings("127.0.0.1", files, port=int(port), protocol=protocol)
first = Connection(settings, client_id="door-1", clock=SystemClock())
before = peak()
try:
    first.open()
    for _ in range(4000):
        first.poll(0.002)
    told = "still there"
except BrokerError as error:
    told = type(error).__name__
print(told, peak() - before)
"""

LOOK = """
import sys
from pathlib import Path
from agent.camera.open import open_camera
from agent.clock import SystemClock
from agent.config.camera import FileCamera, RtspCamera
from agent.errors import PosternError
from agent.unit.memory import FOREIGN_BYTES, bounded_data
import av

def peak():  # not ru_maxrss, which begins with what the parent had
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024

address = sys.argv[1]
settings = RtspCamera(url=address, timeout_s=3) if address.startswith("rtsp:") else FileCamera(path=Path(address))
before = peak()
try:
    with bounded_data(), open_camera(settings, lores_size=(320, 240), clock=SystemClock()) as camera:
        for frame in camera.frames():
            frame.close()
    told = "played"
except PosternError as error:
    told = str(error)
print(peak() - before, told)
"""

DECODE = """
from fractions import Fraction
from agent.camera.av_feed import CodedPicture
from agent.camera.av_input import rtsp_input
from agent.camera.av_stream import AvStream, load_av
from agent.clock import SystemClock
from agent.config.camera import RtspCamera
from agent.errors import CameraLostError
from agent.camera.headroom import RESERVE_BYTES
from agent.unit.memory import bounded_data

class Greedy:
    # A feed whose decoder takes a mebibyte for each packet, and gives none back.
    context = None
    held = []
    def packets(self):
        while True:
            yield CodedPicture(True, self.decode)
    def decode(self):
        self.held.append(bytearray(1 << 20))
        return []
    def close(self):
        pass

greedy = Greedy()
with bounded_data():
    try:
        AvStream(load_av(), rtsp_input(RtspCamera(url="rtsp://127.0.0.1/")), SystemClock(), lambda *_: greedy)
    except CameraLostError as error:
        told = str(error)
    try:
        print("room", len(bytearray(RESERVE_BYTES - (2 << 20))), told)
    except MemoryError:
        print("none", told)
"""


def run(code: str, *arguments: object, timeout_s: float = 60) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=timeout_s,
    )
    return done.stdout.strip().split(" ", 1)


def publish(size: int, qos: int = 0, mid: int = 1) -> bytes:
    """A PUBLISH with ``size`` bytes of content, as a broker sends it."""
    topic = b"\x00\x01t" + (mid.to_bytes(2, "big") if qos else b"") + b"\x00"
    return bytes([0x30 | qos << 1]) + remaining(len(topic) + size) + topic + bytes(size)


def remaining(length: int) -> bytes:
    digits = b""
    while True:
        length, digit = length >> 7, length & 0x7F
        digits += bytes([digit | (0x80 if length else 0)])
        if not length:
            return digits


MAXIMUM = 268_435_455  # the longest that MQTT can say
SENT = 96 * 1024 * 1024
# Made by the test that sends them: each process that collects this file would keep them all.
PACKETS: dict[str, Callable[[], bytes]] = {
    "one packet of maximum length": lambda: bytes([0x30]) + remaining(MAXIMUM) + b"\x00\x01t\x00" + bytes(SENT),
    "the same before the greeting": lambda: PACKETS["one packet of maximum length"](),
    "messages at a quality that keeps them": lambda: b"".join(publish(30_000, 2, mid) for mid in range(1, 3000)),
    "an acknowledgement of maximum length": lambda: bytes([0x90]) + remaining(MAXIMUM) + bytes(SENT),
}


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("name", PACKETS)
@pytest.mark.timeout(120)
def test_packet_of_a_broker_is_bounded_before_it_is_read(tmp_path: Path, name: str, protocol: str) -> None:
    authority = Authority(tmp_path / "pki")
    broker = ScriptedBroker(authority)
    files = authority.issue("door-1")
    try:
        if name == "the same before the greeting":
            broker.greeting = PACKETS[name]()
        else:
            broker.greeting = connack() if protocol == "5" else b"\x20\x02\x00\x00"
            broker.after_greeting = PACKETS[name]()
        port = broker.settings(files).port
        told, grown = run(LISTEN, files.ca, files.certificate, files.key, port, protocol)
    finally:
        broker.close()
    print(f"{name}: {float(grown):.1f} MiB, {told}")
    assert float(grown) < MAX_BROKER_MIB
    assert told != "still there"


@pytest.mark.timeout(240)
def test_clip_that_decodes_to_huge_pictures_is_refused_by_its_size(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "huge.mkv", (4096, 2304), **MANY_REFERENCES)
    grown, told = run(LOOK, clip)
    print(f"{clip.stat().st_size / 1e6:.2f} MB clip: {float(grown):.1f} MiB, {told}")
    assert clip.stat().st_size < 1.5e6
    assert "larger than camera.max_width" in told or "cannot be played" in told
    assert MAX_RESIDENT_MIB + float(grown) < MAX_SERVICE_MIB
    assert float(grown) < 30


@pytest.mark.timeout(120)
def test_clip_of_the_largest_size_with_the_most_reference_pictures_plays_within_the_bound(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "many.mkv", (1920, 1080), **MANY_REFERENCES)
    grown, told = run(LOOK, clip)
    print(f"1080p with 16 references: {float(grown):.1f} MiB, {told}")
    assert told == "played"
    assert MAX_RESIDENT_MIB + float(grown) < MAX_SERVICE_MIB


class HostileCamera:
    """Answers the first request with ``head`` and then ``more`` for ever, on plain TCP."""

    def __init__(self, head: bytes, more: bytes) -> None:
        self.head, self.more = head, more
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.sent = 0
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.listener.getsockname()[1]}/live"

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client:
                client.settimeout(5)
                try:
                    client.recv(4096)
                    client.sendall(self.head)
                    while True:
                        client.sendall(self.more)
                        self.sent += len(self.more)
                except OSError:
                    continue


STREAMS = {
    "endless headers": (b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n", b"X-Header: " + b"a" * 500 + b"\r\n" * 1),
    "one endless header": (b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nX-Header: ", b"a" * 65536),
    "a body of a gigabyte": (b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 1073741824\r\n\r\n", b"a" * 65536),
    "a body of 200 MB": (b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 200000000\r\n\r\n", b"a" * 65536),
    "a description of 60 MB": (
        b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Type: application/sdp\r\nContent-Length: 60000000\r\n\r\n",
        b"a" * 65536,
    ),
    "endless interleaved data": (b"", b"$\x00\xff\xff" + b"a" * 65535),
}


@pytest.fixture(params=STREAMS)
def stream(request: pytest.FixtureRequest) -> Iterator[HostileCamera]:
    camera = HostileCamera(*STREAMS[request.param])
    yield camera
    camera.listener.close()


@pytest.mark.timeout(120)
def test_stream_with_endless_headers_takes_no_memory(stream: HostileCamera) -> None:
    pytest.importorskip("av")
    grown, told = run(LOOK, stream.url)
    print(f"{stream.sent / 1e6:.0f} MB were sent: {float(grown):.1f} MiB, {told}")
    assert MAX_RESIDENT_MIB + float(grown) < MAX_SERVICE_MIB
    assert "gives no pictures" in told


@pytest.mark.timeout(120)
def test_stream_of_pictures_without_end_takes_a_bounded_memory() -> None:
    """A camera that plays by the rules, and whose first picture never ends."""
    pytest.importorskip("av")
    numbers = itertools.count()

    def packet() -> bytes:
        number = next(numbers)
        flags = (
            0x05 if number % 100 else 0x85
        )  # an H.264 key picture in parts (RFC 6184, section 5.8): begun, not ended
        return b"\x80\x60" + (number % 65536).to_bytes(2, "big") + bytes(8) + bytes([0x7C, flags]) + bytes(PART_BYTES)

    def stream() -> bytes:
        return framed([packet() for _ in range(20)])

    with ScriptedRtspCamera(stream=stream, period_s=0) as camera:
        grown, told = run(LOOK, camera.url())
        print(f"{next(numbers) * PART_BYTES / 1e6:.0f} MB of one picture were sent: {float(grown):.1f} MiB, {told}")
    assert float(grown) < MAX_STREAM_MIB
    assert "no picture came" in told


def test_a_decoder_is_given_up_while_there_is_room_for_the_others() -> None:
    """At the limit the next allocation fails, whosever it is: a thread that only wanted a little would end the unit."""
    pytest.importorskip("av")
    left, told = run(DECODE)
    assert left == "room"
    assert "needs more memory than a unit gives" in told
