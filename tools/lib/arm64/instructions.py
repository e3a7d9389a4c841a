# SPDX-License-Identifier: Apache-2.0
"""Instructions of user space per call and per frame: a cost that does not depend on how busy a machine is.

    python -m tools.lib.arm64.instructions clip FILE.mp4                    make the clip
    python -m tools.lib.arm64.instructions count FILE.mp4 --processor NAME

A clip of H.264 goes through the pipeline of the product, file to decision; the face in it is admitted, embedded and
compared with 100 references, of which none is its own, so every look fails.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from agent import pipeline
from agent.camera.open import open_camera
from agent.clock import SystemClock
from agent.config.camera import FileCamera
from agent.detect.detector import load_detector
from agent.detect.gate import FaceLimits, ZoneGate
from agent.detect.track import Tracker
from agent.embed.embedder import load_embedder
from agent.gallery.references import References
from agent.inference.engine import Engine, load_engine
from agent.inference.manifest import load_manifest
from agent.match.decide import Decider
from agent.match.policy import parse_policy
from agent.match.presence import Presence
from agent.subject import SubjectId
from agent.timing import StageTimes
from tools.lib.arm64 import MANIFEST
from tools.lib.arm64.counter import CounterError, Instructions
from tools.lib.arm64.installed import PERSON
from tools.lib.bench.clip import visits_clip

CALLS: Final = 3  # the count hardly varies
WARM_UP: Final = 2  # calls, and frames, before anything counts: buffers are made then
REFERENCES: Final = 100
DOOR = [(0.25, 0.1), (0.75, 0.1), (0.75, 0.9), (0.25, 0.9)]


class InstructionStages(StageTimes):
    """Counts instructions instead of time."""

    def __init__(self, counter: Instructions) -> None:
        super().__init__(pipeline.STAGES)
        self._counter = counter
        self.spent: dict[str, list[int]] = defaultdict(list)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        began = self._counter.read()
        yield
        self.spent[name].append(self._counter.read() - began)


def models(counter: Instructions) -> dict[str, int]:
    """One run of each model of the manifest, without what is before and after it."""
    names = [entry.name for entry in load_manifest(MANIFEST).entries]
    return {name: median_of(counter, load_engine(MANIFEST, name)) for name in names}


def median_of(counter: Instructions, engine: Engine) -> int:
    spec = engine.entry.input
    image = np.full((spec.height, spec.width, 3), 128, np.uint8)
    counts = []
    for number in range(WARM_UP + CALLS):
        began = counter.read()
        engine.run(image)
        if number >= WARM_UP:
            counts.append(counter.read() - began)
    return int(statistics.median(counts))


def frames(counter: Instructions, clip: Path) -> dict[str, list[int]]:
    """Instructions of each stage, call by call, and of ``camera`` and ``whole``, frame by frame."""
    detector, embedder = load_detector(MANIFEST, "detector-320x240"), load_embedder(MANIFEST, "embedder")
    stages = InstructionStages(counter)
    camera = open_camera(FileCamera(path=clip), lores_size=detector.input_size, clock=SystemClock())
    parts = pipeline.Stages(
        camera=camera,
        detector=detector,
        tracker=Tracker(),
        gate=ZoneGate(zone="door", polygon=DOOR, limits=FaceLimits(80, 25.0)),
        embedder=embedder,
        enrol=lambda _frame, _faces: False,
        references=lambda: references,
        decider=Decider(parse_policy((MANIFEST.parent / "policy.json").read_bytes())),
        presence=Presence(),
        record=lambda outcome: sys.exit(f"a reference that is nobody's matched: {outcome}"),
        times=stages,
    )
    references = nobody(embedder.model)
    with camera:
        began = counter.read()
        for frame in camera.frames():
            stages.spent["camera"].append(counter.read() - began)
            with frame:
                pipeline.process(parts, frame)
            stages.spent["whole"].append(counter.read() - began)
            began = counter.read()
    return {name: counts[WARM_UP:] if len(counts) > WARM_UP else counts for name, counts in stages.spent.items()}


def nobody(model: str) -> References:
    """References in random directions: a face is as far from them as a face is from noise."""
    vectors = np.random.default_rng(1).normal(size=(REFERENCES, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return References(tuple(SubjectId(bytes([n]) * 16) for n in range(REFERENCES)), vectors, model)


def report(processor: str, counter: Instructions, clip: Path) -> None:
    print(f"instructions in user space, {platform.machine()} {processor}, millions (median)")
    for name, count in models(counter).items():
        print(f"  {name + ', network alone':<36} {count / 1e6:8.2f}")
    spent = frames(counter, clip)
    order = ("camera", *(name for name in pipeline.STAGES if name != "frame"), "whole")
    for name in (name for name in order if spent.get(name)):
        counts = spent[name]
        print(f"  {name:<36} {statistics.median(counts) / 1e6:8.2f}  {len(counts)} times, most {max(counts) / 1e6:.2f}")
    whole, embedded = spent["whole"], len(spent.get("embed", ()))
    print(f"  mean of {len(whole)} frames, {embedded} embedded{'':<12} {statistics.mean(whole) / 1e6:8.2f}")


def door_clip(folder: Path) -> Path:
    """Make the clip: a demo person, who does not exist, at the door for a second and a half, 720p."""
    return visits_clip(folder, [PERSON])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("clip", "count"))
    parser.add_argument("clip", type=Path, metavar="FILE.mp4")
    parser.add_argument("--processor", default="", help="its name, to be printed")
    arguments = parser.parse_args()
    if arguments.what == "clip":
        with tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(door_clip(Path(folder)), arguments.clip)
        return 0
    try:
        with Instructions() as counter:
            report(arguments.processor, counter, arguments.clip)
    except CounterError as error:
        print(f"tools.lib.arm64.instructions: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
