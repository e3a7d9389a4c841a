# SPDX-License-Identifier: Apache-2.0
"""The whole service on a clip, over a real broker with mutual TLS, beside the peers' loop on the same clip."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from agent.camera.scene_people import PERSON_IDS
from tools.benchmarks.clip import VISITORS, demo_clip, frame_count, visits_clip
from tools.benchmarks.effort import Effort
from tools.benchmarks.peers import PeerModels
from tools.benchmarks.report import Bar, Section
from tools.benchmarks.service import Run, run_service
from tools.benchmarks.timing import percentile, ratio
from tools.demonstration.brokers import DemoBroker
from tools.demonstration.site import ROOT, CommandError, DemoSite

STRANGER = "person-03"  # of the demo's scene: nobody asked them
OURS = {"ours, detector 320x240": "detector-320x240", "ours, detector 640x480": "detector-640x480"}
HEADLINE = "ours, detector 320x240"
PEERS: dict[str, tuple[int, int] | None] = {
    "peers, YuNet at 320x240": (320, 240),
    "peers, YuNet at 640x480": (640, 480),
    "peers, YuNet at 1280x720": None,
}
PIPELINE_RATIO, MAX_START_S, MAX_DELAY_P95_MS = 4.0, 1.5, 60.0
MAX_RESIDENT_MIB, MAX_THREADS, MAX_FILES = 110.0, 6, 20


class Bench:
    """A site with one unit and eight enrolled people who do not exist."""

    def __init__(self, folder: Path, broker: DemoBroker, site: DemoSite, enrolled: list[str]) -> None:
        self._folder, self._broker, self._site = folder, broker, site
        self.enrolled = enrolled

    def config(self, clip: Path, *, detector: str = "detector-320x240", realtime: bool = False) -> Path:
        """The unit's configuration with a recorded camera; a realtime one starts again at its end."""
        path = self._site.unit / "bench.yaml"
        self._site.write_config(path, port=self._broker.port, protocol=self._broker.protocol, scene=clip)
        content: dict[str, Any] = yaml.safe_load(path.read_text())
        content["camera"] = {"source": "file", "path": str(clip), "realtime": realtime, "loop": realtime}
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
        run = run_service(config, seconds=seconds, program=("-m", "tools.benchmarks.probe"))
        return run, [json.loads(line) for line in times.read_text().splitlines()] if times.exists() else []


@contextmanager
def bench(visitors: int = VISITORS) -> Iterator[Bench]:
    """Make the site, start the broker, enrol so many people."""
    with tempfile.TemporaryDirectory(prefix="postern-bench-") as name:
        folder = Path(name)
        site = DemoSite(folder)
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


def pipeline_section(unit: Bench, clips: Path, peers: PeerModels | None, effort: Effort) -> tuple[Section, list[Run]]:
    """Frames per second of processor time, ours and the peers' in turns; and the runs, for memory and start-up."""
    section = Section("pipeline")
    clip = demo_clip(clips, effort.clip_s)
    rates: dict[str, list[float]] = {name: [] for name in (*OURS, *PEERS)}
    wall: dict[str, list[float]] = {name: [] for name in rates}
    runs: list[Run] = []
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
        for name, size in PEERS.items() if peers is not None else ():
            _say(f"pass {number + 1} of {effort.passes}, {name}")
            result = _peer_loop(clip, peers, size)
            rates[name].append(result["frames"] / result["cpu_s"])
            wall[name].append(result["frames"] / result["wall_s"])
            faces.add(int(result["faces"]))
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
        section.bars.append(Bar(f"at least 4 times the frames of the {name}", f"ours / {name}", ">=", PIPELINE_RATIO))
    section.notes.append(f"{clip.name}, {frame_count(effort.clip_s)} frames of 1280x720 H.264, decoded on one thread")
    section.notes.append(f"ours: the service itself, {unit.broker}, mutual TLS, events signed and delivered")
    if faces:
        section.notes.append(f"faces that the peers found and embedded in a pass: {min(faces)} to {max(faces)}")
    section.notes.append("frames per second of one core's processor time after the first frame; wall beside it")
    return section, runs


def service_section(runs: list[Run], realtime: Run, delays: list[dict[str, float]]) -> Section:
    """Memory, start-up, threads and files of the service, and how long a decided match takes to its acknowledgement."""
    section = Section("service")
    everything = [*runs, realtime]
    section.values("resident memory, most seen", "MiB", [run.resident_mib for run in everything])
    section.values("of it private", "MiB", [run.private_mib for run in everything])
    section.values("start to first frame done", "s", [run.start_s for run in runs])
    section.values("start to first frame done, processor time", "s", [run.start_cpu_s for run in runs])
    section.single("threads", "", max(run.threads for run in everything))
    section.single("open files", "", max(run.files for run in everything))
    section.single("real time at 15 frame/s, share of a core", "%", 100 * realtime.pace_cpu_s / realtime.pace_s)
    frame, append = ([one[key] for one in delays] for key in ("frame_ms", "append_ms"))
    section.values("frame to PUBACK", "ms", frame)
    section.values("append to PUBACK", "ms", append)
    section.single("frame to PUBACK, p95", "ms", percentile(frame, 0.95) if frame else None)
    section.bars += [
        Bar("at most 110 MiB resident", "resident memory, most seen", "<=", MAX_RESIDENT_MIB),
        Bar(f"at most {MAX_THREADS} threads", "threads", "<=", MAX_THREADS),
        Bar(f"at most {MAX_FILES} open files", "open files", "<=", MAX_FILES),
        Bar("first frame done 1.5 s after the start", "start to first frame done", "<=", MAX_START_S),
        Bar("p95 from frame to PUBACK at most 60 ms", "frame to PUBACK, p95", "<=", MAX_DELAY_P95_MS),
    ]
    section.notes.append("frame to PUBACK: of the frame whose vote decided, from the camera's time of it; wall time")
    return section


def sections(clips: Path, peers: PeerModels | None, effort: Effort, chosen: list[str]) -> Iterator[Section]:
    """The sections that need the service running: pipeline and service, as chosen."""
    with bench() as unit:
        runs: list[Run] = []
        if "pipeline" in chosen:
            section, runs = pipeline_section(unit, clips, peers, effort)
            yield section
        if "service" in chosen:
            clip = demo_clip(clips, effort.clip_s)
            runs = runs or [run_service(unit.config(clip)) for _ in range(effort.passes)]
            _say("people pass by in real time")
            realtime, delays = unit.delays(
                unit.config(visits_clip(clips, unit.enrolled), realtime=True), effort.visits_s
            )
            yield service_section(runs, realtime, delays)


def _peer_loop(clip: Path, peers: PeerModels | None, size: tuple[int, int] | None) -> dict[str, float]:
    folder = peers.yunet.parent if peers is not None else Path()
    command = [sys.executable, "-m", "tools.benchmarks.peers", str(clip), str(folder)]
    command += ["--size", *map(str, size)] if size is not None else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommandError(f"the peers' loop failed: {done.stderr.strip()[-600:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _say(what: str) -> None:
    print(f"tools/bench: {what}", file=sys.stderr)
