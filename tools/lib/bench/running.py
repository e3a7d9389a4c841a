# SPDX-License-Identifier: Apache-2.0
"""The whole service on a clip, over a real broker with mutual TLS, beside the peers' loop on the same clip."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agent.camera.scene.people import PERSON_IDS
from tools.lib.bench.arithmetic import DOT_PRODUCT
from tools.lib.bench.clip import VISITORS, demo_clip, frame_count, idle_clip, uncompressed, visits_clip
from tools.lib.bench.effort import Effort
from tools.lib.bench.peers import PeerModels
from tools.lib.bench.report import Bar, Section
from tools.lib.bench.service import Run, busy_process, compile_program, run_service, watched
from tools.lib.bench.timing import percentile, ratio
from tools.lib.demo.brokers import DemoBroker
from tools.lib.demo.site import ROOT, CommandError, DemoSite, postern

STRANGER = "person-03"  # of the demo's scene: nobody asked them
OURS = {"ours, detector 320x240": "detector-320x240", "ours, detector 640x480": "detector-640x480"}
HEADLINE = "ours, detector 320x240"
PEERS: dict[str, tuple[int, int] | None] = {
    "peers, YuNet at 320x240": (320, 240),
    "peers, YuNet at 640x480": (640, 480),
    "peers, YuNet at 1280x720": None,
}
LIGHTEST = "peers, YuNet at 320x240"  # the peers' memory and start-up are those of their quickest loop
PIPELINE_RATIO = 5.0 if DOT_PRODUCT else 3.5
MAX_START_S, MAX_DELAY_P95_MS = 0.5, 60.0
IDLE_RAW, IDLE_H264 = "empty door, uncompressed pictures, share of a core", "empty door, H.264, share of a core"
PLAYING = "of it playing the recording, which no camera costs"
BUSY = "beside a busy process"
BUSY_START, BUSY_MEMORY = f"start to first frame done, {BUSY}", f"resident memory, most seen, {BUSY}"
BUSY_DELAY, BUSY_IDLE = f"frame to PUBACK, p95, {BUSY}", f"{IDLE_RAW}, {BUSY}"
SETTLE_S = 3.0  # before the share of an empty door is measured
MAX_IDLE_PERCENT = 1.5 if DOT_PRODUCT else 3.0  # of a core
MAX_RESIDENT_MIB, MAX_THREADS, MAX_FILES = 110.0, 6, 20


@dataclass(frozen=True, slots=True)
class Beside:
    """The service beside one process that never rests: starts, a run in real time with its delays, an empty door."""

    starts: list[Run]
    realtime: Run
    delays: list[dict[str, float]]
    idle: list[Run]


@dataclass(frozen=True, slots=True)
class PeerRun:
    """The peers' loop, as ``Run`` is ours: times in seconds, ``cpu_s`` and ``wall_s`` of all frames after the first."""

    frames: int
    faces: int
    start_s: float
    start_cpu_s: float
    cpu_s: float
    wall_s: float
    resident_mib: float


class Bench:
    """A site with one unit and eight enrolled people who do not exist."""

    def __init__(self, folder: Path, broker: DemoBroker, site: DemoSite, enrolled: list[str]) -> None:
        self._folder, self._broker, self._site = folder, broker, site
        self.enrolled = enrolled

    def config(
        self, clip: Path, *, detector: str = "detector-320x240", realtime: bool = False, name: str = "bench"
    ) -> Path:
        """The unit's configuration with a recorded camera; a realtime one starts again at its end."""
        path = self._site.unit / f"{name}.yaml"
        self._site.write_config(path, port=self._broker.port, protocol=self._broker.protocol, scene=clip)
        content: dict[str, Any] = yaml.safe_load(path.read_text())
        content["camera"] = {"source": "file", "path": str(clip), "realtime": realtime, "loop": realtime}
        del content["enrolment"]  # its button is one of a scene
        content["models"]["detector"] = detector
        path.write_text(yaml.safe_dump(content))
        return path

    @property
    def broker(self) -> str:
        """What the events go to."""
        return self._broker.name

    def delays(self, config: Path, seconds: float) -> tuple[Run, list[dict[str, float]]]:
        """Run in real time for ``seconds``; the run and the delays of its matches."""
        times = self._folder / "times.jsonl"
        times.unlink(missing_ok=True)
        os.environ["POSTERN_BENCH_TIMES"] = str(times)
        run = run_service(config, seconds=seconds, program=("-m", "tools.lib.bench.probe"))
        return run, [json.loads(line) for line in times.read_text().splitlines()] if times.exists() else []


@contextmanager
def bench(visitors: int = VISITORS, typed: Callable[..., str] = postern) -> Iterator[Bench]:
    """Make the site, start the broker, enrol so many people; ``typed`` runs the commands for it (``DemoSite``)."""
    compile_program()
    with tempfile.TemporaryDirectory(prefix="postern-bench-") as name:
        folder = Path(name)
        site = DemoSite(folder, typed=typed)
        site.create()
        with DemoBroker(site.site, folder / "broker") as broker:
            site.add_unit(port=broker.port, protocol=broker.protocol, scene=ROOT / "tools" / "scenes" / "demo.yaml")
            broker.reload(site.site)
            yield Bench(folder, broker, site, _enrol(site, broker, visitors))


def _enrol(site: DemoSite, broker: DemoBroker, visitors: int) -> list[str]:
    """Enrol as many of the demo people as are needed; whom the model takes for another is refused and left out."""
    enrolled: list[str] = []
    for person in (one for one in PERSON_IDS if one != STRANGER):
        if len(enrolled) == visitors:
            break
        _say(f"enrolling {person}")
        try:
            site.enrol(person, port=broker.port, protocol=broker.protocol)
        except CommandError as error:
            _say(f"{person} is left out: {str(error).splitlines()[-1]}")
            continue
        enrolled.append(person)
    return enrolled


def pipeline_section(
    unit: Bench, clips: Path, peers: PeerModels | None, effort: Effort
) -> tuple[Section, list[Run], list[PeerRun]]:
    """Frames per second of processor time, ours and the peers' in turns; and a run of each a pass, for the rest."""
    section = Section("pipeline")
    clip = demo_clip(clips, effort.clip_s)
    rates: dict[str, list[float]] = {name: [] for name in (*OURS, *PEERS)}
    wall: dict[str, list[float]] = {name: [] for name in rates}
    rivals = [] if peers is None else [(name, peers, size) for name, size in PEERS.items()]
    runs: list[Run] = []
    peer_runs: list[PeerRun] = []
    faces: set[int] = set()
    for number in range(effort.passes):
        for name, detector in OURS.items():
            _say(f"pass {number + 1} of {effort.passes}, {name}")
            run = run_service(unit.config(clip, detector=detector))
            if run.frames != frame_count(effort.clip_s) - 1:
                raise CommandError(f"the service saw {run.frames + 1} frames of {clip.name}, not all")
            rates[name].append(run.frames / run.pace_cpu_s)
            wall[name].append(run.frames / run.pace_s)
            if name == HEADLINE:
                runs.append(run)
        for name, models, size in rivals:
            _say(f"pass {number + 1} of {effort.passes}, {name}")
            peer = run_peers(clip, models, size)
            rates[name].append(peer.frames / peer.cpu_s)
            wall[name].append(peer.frames / peer.wall_s)
            faces.add(peer.faces)
            if name == LIGHTEST:
                peer_runs.append(peer)
    for name, rate in rates.items():
        section.values(name, "frame/s", rate, wall[name])
    for name in PEERS:
        pairs = (rates[HEADLINE], rates[name])
        section.values(
            f"ours / {name}",
            "times",
            [a / b for a, b in zip(*pairs, strict=True)] if rates[name] else [],
            [ratio(wall[HEADLINE], wall[name]).median] if rates[name] else None,
        )
        section.bars.append(
            Bar(f"at least {PIPELINE_RATIO:g} times the frames of the {name}", f"ours / {name}", ">=", PIPELINE_RATIO)
        )
    section.notes.append(f"{clip.name}, {frame_count(effort.clip_s)} frames of 1280x720 H.264, decoded on one thread")
    section.notes.append(f"ours: the service itself, {unit.broker}, mutual TLS, events signed and delivered")
    if faces:
        section.notes.append(f"faces that the peers found and embedded in a pass: {min(faces)} to {max(faces)}")
    section.notes.append("frames per second of one core's processor time after the first frame; wall beside it")
    return section, runs, peer_runs


def service_section(
    runs: list[Run],
    peers: list[PeerRun],
    realtime: Run,
    delays: list[dict[str, float]],
    idle: dict[str, list[Run]],
    busy: Beside | None = None,
    playing: Sequence[float] = (),
) -> Section:
    """Memory, start-up, threads and files of the service, and how long a decided match takes to its acknowledgement.

    ``peers`` are as many runs as ``runs``, or none; ``busy`` is the same beside a busy process, ``playing`` what the
    uncompressed recording takes that nobody looks at, in percent of a core.
    """
    section = Section("service")
    everything = [*runs, realtime]
    section.values("resident memory, most seen", "MiB", [run.resident_mib for run in everything])
    section.values("of it private", "MiB", [run.private_mib for run in everything])
    section.values("start to first frame done", "s", [run.start_s for run in runs])
    section.values("start to first frame done, processor time", "s", [run.start_cpu_s for run in runs])
    section.values("peers, resident memory, most seen", "MiB", [peer.resident_mib for peer in peers])
    section.values("peers, start to first frame done", "s", [peer.start_s for peer in peers])
    section.values("peers, start to first frame done, processor time", "s", [peer.start_cpu_s for peer in peers])
    beside = list(zip(peers, runs, strict=True)) if peers else []
    section.values("peers / ours, resident memory", "times", [a.resident_mib / b.resident_mib for a, b in beside])
    section.values("peers / ours, start to first frame done", "times", [a.start_s / b.start_s for a, b in beside])
    section.single("threads", "", max(run.threads for run in everything))
    section.single("open files", "", max(run.files for run in everything))
    section.single("real time at 15 frame/s, share of a core", "%", 100 * realtime.pace_cpu_s / realtime.pace_s)
    for name, at_rest in idle.items():
        section.values(name, "%", _shares(at_rest))
        if name == IDLE_RAW:
            section.values(PLAYING, "%", list(playing))
    frame, append = ([one[key] for one in delays] for key in ("frame_ms", "append_ms"))
    section.values("frame to PUBACK", "ms", frame)
    section.values("append to PUBACK", "ms", append)
    section.single("frame to PUBACK, p95", "ms", percentile(frame, 0.95) if frame else None)
    _add_busy(section, busy)
    section.bars += [
        Bar("at most 110 MiB resident", "resident memory, most seen", "<=", MAX_RESIDENT_MIB),
        Bar(f"at most {MAX_IDLE_PERCENT:g} % of a core at an empty door", IDLE_RAW, "<=", MAX_IDLE_PERCENT),
        Bar(f"at most {MAX_THREADS} threads", "threads", "<=", MAX_THREADS),
        Bar(f"at most {MAX_FILES} open files", "open files", "<=", MAX_FILES),
        Bar(f"first frame done {MAX_START_S:g} s after the start", "start to first frame done", "<=", MAX_START_S),
        Bar("p95 from frame to PUBACK at most 60 ms", "frame to PUBACK, p95", "<=", MAX_DELAY_P95_MS),
        Bar(f"{BUSY}: first frame done {MAX_START_S:g} s after the start", BUSY_START, "<=", MAX_START_S),
        Bar(f"{BUSY}: p95 from frame to PUBACK at most 60 ms", BUSY_DELAY, "<=", MAX_DELAY_P95_MS),
        Bar(f"{BUSY}: at most 110 MiB resident", BUSY_MEMORY, "<=", MAX_RESIDENT_MIB),
        Bar(f"{BUSY}: at most {MAX_IDLE_PERCENT:g} % of a core at an empty door", BUSY_IDLE, "<=", MAX_IDLE_PERCENT),
    ]
    section.notes.append("peers: decode, YuNet at 320x240 and MobileFaceNet in ONNX Runtime, without broker and store")
    section.notes.append(
        "empty door: 15 frame/s of 1280x720 in real time; of H.264, decoding every picture is the most"
    )
    section.notes.append("frame to PUBACK: of the frame whose crop decided, from the camera's time of it; wall time")
    return section


def _add_busy(section: Section, busy: Beside | None) -> None:
    section.values(BUSY_START, "s", [run.start_s for run in busy.starts] if busy else [])
    section.values(BUSY_MEMORY, "MiB", [run.resident_mib for run in (*busy.starts, busy.realtime)] if busy else [])
    frame = [one["frame_ms"] for one in busy.delays] if busy else []
    section.single(BUSY_DELAY, "ms", percentile(frame, 0.95) if frame else None)
    section.values(BUSY_IDLE, "%", _shares(busy.idle) if busy else [])


def _shares(runs: list[Run]) -> list[float]:
    """Of a core, in percent."""
    return [100 * run.pace_cpu_s / run.pace_s for run in runs]


def sections(clips: Path, peers: PeerModels | None, effort: Effort, chosen: list[str]) -> Iterator[Section]:
    """The sections that need the service running: pipeline and service, as chosen."""
    with bench() as unit:
        runs: list[Run] = []
        peer_runs: list[PeerRun] = []
        if "pipeline" in chosen:
            section, runs, peer_runs = pipeline_section(unit, clips, peers, effort)
            yield section
        if "service" in chosen:
            clip = demo_clip(clips, effort.clip_s)
            for number in range(effort.passes if not runs else 0):
                _say(f"pass {number + 1} of {effort.passes}")
                runs.append(run_service(unit.config(clip)))
                peer_runs += [run_peers(clip, peers, PEERS[LIGHTEST])] if peers is not None else []
            realtime, delays = visits(unit, clips, effort)
            idle = idle_runs(unit, clips, effort)
            playing = [_played(uncompressed(idle_clip(clips)), effort.idle_s) for _ in range(effort.passes)]
            yield service_section(runs, peer_runs, realtime, delays, idle, beside(unit, clips, effort), playing)


def visits(unit: Bench, clips: Path, effort: Effort) -> tuple[Run, list[dict[str, float]]]:
    """Enrolled people pass by in real time; the run and the delays of their matches."""
    _say("people pass by in real time")
    return unit.delays(unit.config(visits_clip(clips, unit.enrolled), realtime=True), effort.visits_s)


def beside(unit: Bench, clips: Path, effort: Effort) -> Beside:
    """The same beside a process that takes what it gets of a core."""
    with busy_process():
        _say(BUSY)
        starts = [run_service(unit.config(demo_clip(clips, effort.clip_s))) for _ in range(effort.passes)]
        realtime, delays = visits(unit, clips, effort)
        config = unit.config(uncompressed(idle_clip(clips)), realtime=True, name="raw")
        idle = [run_service(config, seconds=effort.idle_s, settle_s=SETTLE_S) for _ in range(effort.passes)]
    return Beside(starts, realtime, delays, idle)


def idle_runs(unit: Bench, clips: Path, effort: Effort) -> dict[str, list[Run]]:
    """The service before an empty door, in real time: as a CSI or USB camera shows it, and as a network camera."""
    clip = idle_clip(clips)
    doors = {
        IDLE_RAW: unit.config(uncompressed(clip), realtime=True, name="raw"),
        IDLE_H264: unit.config(clip, realtime=True),
    }
    runs: dict[str, list[Run]] = {name: [] for name in doors}
    for number in range(effort.passes):
        for name, config in doors.items():
            _say(f"pass {number + 1} of {effort.passes}, {name}")
            runs[name].append(run_service(config, seconds=effort.idle_s, settle_s=SETTLE_S))
    return runs


def _played(clip: Path, seconds: float) -> float:
    """Percent of a core that the recording alone takes, in a process of its own."""
    _say("the recording alone")
    command = [sys.executable, "-m", "tools.lib.bench.playing", str(clip), str(seconds)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def run_peers(clip: Path, peers: PeerModels, size: tuple[int, int] | None) -> PeerRun:
    """Run the peers' loop over ``clip`` in a process of its own, as ``tools.lib.bench.peers`` says."""
    command = [sys.executable, "-m", "tools.lib.bench.peers", str(clip), str(peers.yunet.parent)]
    command += ["--size", *map(str, size)] if size is not None else []
    with tempfile.TemporaryFile("w+") as words, tempfile.TemporaryFile("w+") as complaints:
        command += ["--began", repr(time.monotonic())]
        with subprocess.Popen(command, stdout=words, stderr=complaints) as process, watched(process.pid) as seen:
            status = process.wait()
        for stream in (words, complaints):
            stream.seek(0)
        if status != 0 or not seen.samples:
            raise CommandError(f"the peers' loop failed: {complaints.read().strip()[-600:]}")
        return PeerRun(**json.loads(words.read().splitlines()[-1]), resident_mib=seen.resident_kib / 1024)


def _say(what: str) -> None:
    print(f"tools/bench: {what}", file=sys.stderr)
