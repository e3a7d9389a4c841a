# SPDX-License-Identifier: Apache-2.0
"""A hostile broker and a hostile camera at once: the memory of the whole service, as one process that systemd starts.

``test_hostile_memory`` tries each reader by itself. Here ``postern run`` is a program with everything in it that a unit
has, both parts of liveness too, and its own peak is read when it ends (VmHWM): what others send included.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.attack.test_hostile_memory import MAX_SERVICE_MIB, PACKETS, STREAMS, HostileCamera, remaining
from tests.simulators.broker import wait_until
from tests.simulators.hostile_video import MANY_REFERENCES, as_stream, coded_pictures, make_clip, with_size
from tests.simulators.pki import Authority
from tests.simulators.rtsp_camera import H264, SDP, Request, ScriptedRtspCamera, behaved
from tests.simulators.scripted_broker import ScriptedBroker, connack
from tests.simulators.typed import typed
from tools.lib.demo.site import SITE, UNIT, DemoSite

pytestmark = pytest.mark.timeout(120)

EXHAUSTIVE = os.environ.get("POSTERN_EXHAUSTIVE") == "1"
LASTS_S = 4.0  # of an attack
START_S, STOP_S = 60.0, 30.0  # of a busy machine
COMMANDS = 300  # of 32 KB each, at each connection
LARGEST = (1920, 1200)  # what a camera may send by default
FRAMES = re.compile(r"\b[1-9]\d* frames in ")  # what a unit of the demo says at its end
H265 = "a=rtpmap:96 H265/90000\r\n"

PROGRAM = """
import atexit, sys
from pathlib import Path
from agent.cli import main

def peak():  # by the process itself, when it ends: not ru_maxrss, which begins with what the parent had
    status = Path("/proc/self/status").read_text()
    Path(sys.argv.pop()).write_text(status.partition("VmHWM:")[2].split()[0])

atexit.register(peak)
sys.exit(main(["run", "-c", sys.argv[1]]))
"""


def command(payload: bytes, mid: int) -> bytes:
    """A command as the broker brings it, at quality of service 1."""
    topic = f"postern/{SITE}/{UNIT}/request/recognition/pause".encode()
    body = len(topic).to_bytes(2, "big") + topic + mid.to_bytes(2, "big") + b"\0" + payload
    return b"\x32" + remaining(len(body)) + body


def flood() -> bytes:
    return b"".join(command(b"[" * 32_000, 1 + number) for number in range(COMMANDS))


def acknowledgements() -> bytes:
    return b"".join(b"\x40\x02" + (1 + n % 60_000).to_bytes(2, "big") for n in range(200_000))


BROKERS: Mapping[str, Callable[[], bytes]] = {
    "commands that are nested as deeply as they can be": flood,
    "acknowledgements without end": acknowledgements,
    **PACKETS,
}


class Service:
    """A unit with a broker of its own, and ``run`` starts it as a program before a camera."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.site = folder, DemoSite(folder / "site", typed=typed)
        self.site.folder.mkdir()
        self.site.create()
        scene = self.site.folder / "scene.yaml"
        scene.write_text("duration: 1\n")
        self.site.add_unit(port=1, protocol="5", scene=scene)
        self.settings: dict[str, Any] = yaml.safe_load(self.site.config.read_text())
        self.authority = Authority(folder / "pki")
        self.files = self.authority.issue(UNIT)

    def run(
        self, camera: dict[str, Any], says: bytes = b"", *, greets: bool = True, lasts_s: float = LASTS_S
    ) -> tuple[float, int, str]:
        """Peak in MiB, exit status and log of a run that ends by itself, or ``lasts_s`` after it connected."""
        broker = ScriptedBroker(self.authority)
        broker.greeting, broker.after_greeting = (connack(), says) if greets else (says, b"")
        said = self.folder / "peak"
        said.unlink(missing_ok=True)
        tls = {"ca": self.files.ca, "certificate": self.files.certificate, "key": self.files.key}
        port = broker.settings(self.files).port
        where = {**self.settings["broker"], "port": port, "tls": {name: str(file) for name, file in tls.items()}}
        both = {"liveness": "require", "liveness_parts": ["challenge", "passive"], "enrolment": {}}
        self.site.config.write_text(yaml.safe_dump({**self.settings, **both, "camera": camera, "broker": where}))
        command = [sys.executable, "-c", PROGRAM, str(self.site.config), str(said)]
        try:
            with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as unit:
                wait_until(lambda: broker.connections > 0 or unit.poll() is not None, START_S)
                try:
                    unit.wait(lasts_s)
                except subprocess.TimeoutExpired:
                    unit.send_signal(signal.SIGTERM)
                log = unit.communicate(timeout=STOP_S)[1]
        finally:
            broker.close()
        return int(said.read_text()) / 1024, unit.returncode, log


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    return Service(tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def some(names: Mapping[str, Any], *few: int) -> list[str]:
    """All of them in the long form, else these."""
    return [name for at, name in enumerate(names) if EXHAUSTIVE or at in few]


def check(name: str, peak: float, log: str) -> None:
    print(f"{name}: {peak:.1f} MiB; {[line[24:] for line in log.splitlines()]}")
    assert peak <= MAX_SERVICE_MIB
    assert "Traceback" not in log


def costly(clips: Path) -> dict[str, Any]:
    """A clip that takes most of what a decoder may have, so that whatever the broker adds comes on top."""
    clip = clips / "many.mkv"
    if not clip.exists():
        make_clip(clip, (1920, 1080), x264opts="ref=10:bframes=0:level=51", g="100")
    return {"source": "file", "path": str(clip), "loop": True, "realtime": True}


@pytest.mark.parametrize("name", some(BROKERS, 0, 1))
def test_hostile_broker_beside_the_costliest_clip_leaves_the_service_in_its_bounds(
    service: Service, clips: Path, name: str
) -> None:
    greets = name != "the same before the greeting"
    peak, status, log = service.run(costly(clips), BROKERS[name](), greets=greets)
    check(name, peak, log)
    assert status == 0, "it went on until it was stopped"
    assert FRAMES.search(log)
    if name in PACKETS:
        assert "the broker sends" in log


def answering(description: str) -> Callable[[Request], bytes]:
    """A camera that plays by the rules, with this description."""
    return lambda request: request.reply(body=description) if request.verb == "DESCRIBE" else behaved(request)


@pytest.mark.parametrize("name", some(STREAMS, 2))
def test_hostile_camera_beside_a_hostile_broker_is_lost_and_nothing_else(service: Service, name: str) -> None:
    camera = HostileCamera(*STREAMS[name])
    try:
        peak, status, log = service.run(
            {"source": "rtsp", "url": camera.url, "timeout_s": 3}, PACKETS["one packet of maximum length"]()
        )
    finally:
        camera.listener.close()
    check(name, peak, log)
    assert status == 0, "it went on until it was stopped"
    assert "camera_lost: the RTSP camera gives no pictures" in log


PICTURES: Mapping[str, tuple[tuple[int, int], str, Mapping[str, str]]] = {
    "a parameter set that says 8K": ((7680, 4320), "libx264", {}),
    "16 references of the largest size": (LARGEST, "libx264", MANY_REFERENCES),
    "16 references of the largest size in H.265": (
        LARGEST,
        "libx265",
        {"x265-params": "ref=16:bframes=0:level-idc=62"},
    ),
}


@pytest.mark.parametrize("name", some(PICTURES, 0, 2))
def test_pictures_of_a_hostile_camera_leave_the_service_in_its_bounds(
    service: Service, tmp_path: Path, name: str
) -> None:
    """A few small ones, then the hostile ones, again and again: what both leave behind adds up."""
    size, codec, options = PICTURES[name]
    if codec not in pytest.importorskip("av").codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    pictures = coded_pictures((640, 360), codec, tmp_path, pictures=5)
    pictures += coded_pictures(size, codec, tmp_path, pictures=20 if size == LARGEST else 2, **options)
    sdp = SDP.format(H264 if codec == "libx264" else H265)
    with ScriptedRtspCamera(answering(sdp), as_stream(pictures, codec), period_s=0.04) as camera:
        peak, status, log = service.run({"source": "rtsp", "url": camera.url(), "timeout_s": 3}, flood(), lasts_s=8)
    check(name, peak, log)
    assert status == 0, "it went on until it was stopped"
    assert FRAMES.search(log)
    if size == LARGEST:
        assert "camera_lost: the RTSP camera gives no pictures: it needs more memory than" in log


TABLES = (b"stsz", b"stts", b"stsc", b"stco")  # of MP4 (ISO/IEC 14496-12, 8.6 and 8.7)


def with_bomb(clip: bytes, kind: bytes) -> bytes:
    """The clip with the count of one of its tables as large as it can be said; the lengths stay as they are."""
    at = clip.index(kind) + 4 + 4 + (4 if kind == b"stsz" else 0)
    return clip[:at] + (0x0FFFFFFF).to_bytes(4, "big") + clip[at + 4 :]


def huge_clip(folder: Path) -> Path:
    return make_clip(folder / "huge.mkv", (4096, 2304), **MANY_REFERENCES)


def endless_audio(folder: Path) -> Path:
    return make_clip(folder / "audio.mkv", (640, 360), audio=600 if EXHAUSTIVE else 60)


def bombed(kind: bytes, folder: Path) -> Path:
    clip = make_clip(folder / "plain.mp4", (640, 360))
    file = folder / f"{kind.decode()}.mp4"
    file.write_bytes(with_bomb(clip.read_bytes(), kind))
    return file


def said_size(width: int, height: int, folder: Path) -> Path:
    """A file of a few hundred bytes whose picture says it is huge."""
    av = pytest.importorskip("av")
    clip = make_clip(folder / "one.avi", (64, 64), "mjpeg", pictures=1)
    with av.open(str(clip)) as container:
        (picture,) = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    file = folder / f"{width}.mjpeg"
    file.write_bytes(with_size(picture, width, height) * 20)
    return file


CLIPS: Mapping[str, Callable[[Path], Path]] = {
    "4096 x 2304 with 16 references": huge_clip,
    "minutes of sound before the first picture": endless_audio,
    **{f"a table of 268 million entries ({kind.decode()})": partial(bombed, kind) for kind in TABLES},
    "a small file that says 65500 x 65500": partial(said_size, 65_500, 65_500),
    "a small file that says 8000 x 8000": partial(said_size, 8000, 8000),
}


@pytest.mark.parametrize("name", some(CLIPS, 0, 3, 6))
def test_hostile_clip_leaves_the_service_in_its_bounds(service: Service, clips: Path, name: str) -> None:
    clip = CLIPS[name](clips)
    peak, status, log = service.run(
        {"source": "file", "path": str(clip)}, flood(), lasts_s=10 if EXHAUSTIVE else LASTS_S
    )
    check(f"{name}, {clip.stat().st_size} bytes", peak, log)
    assert status == 0 or sum(str(clip) in line for line in log.splitlines()) == 1, "one sentence"
