# SPDX-License-Identifier: Apache-2.0
"""Instructions of user space per call and per frame: a cost that does not depend on how busy a machine is.

    python -m tools.lib.arm64.instructions clips FOLDER                     make the clips
    python -m tools.lib.arm64.instructions count FOLDER --processor NAME [--peers FOLDER]

Clips of H.264 go through the pipeline of the product, file to decision. ``door``: the face in it is admitted, embedded
and compared with 100 references, of which none is its own, so every look fails. ``idle``: nobody is there; the same
pictures come uncompressed, too, as a CSI or USB camera gives them. Peers see the same pictures: each network alone, and
the usual loop over ``door``.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from agent import pipeline
from agent.camera.base import RgbPicture
from agent.camera.open import open_camera
from agent.clock import SystemClock
from agent.config.camera import FileCamera
from agent.detect.cadence import Cadence
from agent.detect.change import ChangeTest, part_of
from agent.detect.detector import load_detector
from agent.detect.gate import FaceLimits, ZoneGate
from agent.detect.second_try import SecondTry
from agent.detect.track import Tracker
from agent.door.liveness import UncheckedLiveness
from agent.embed.embedder import load_embedder
from agent.gallery.references import References
from agent.inference.engine import Engine, load_engine
from agent.inference.manifest import load_manifest
from agent.match.decide import Decider
from agent.match.policy import parse_policy
from agent.match.presence import Presence
from agent.protocol.subject import SubjectId
from agent.timing import StageTimes
from tools.lib.arm64 import MANIFEST
from tools.lib.arm64.counter import CounterError, Instructions
from tools.lib.arm64.installed import PERSON
from tools.lib.bench.clip import frame_of, idle_clip, uncompressed, visits_clip
from tools.lib.bench.peers import PeerModels, find_peers, loop, onnx_embedder, opencv_embedder, yunet

CALLS: Final = 3  # the count hardly varies
WARM_UP: Final = 2  # calls, and frames, before anything counts: buffers are made then
REFERENCES: Final = 100
MIN_FACE_PX: Final = 80
SMALL: Final = (320, 240)
DOOR_CLIP, IDLE_CLIP, RAW_CLIP = "door.mp4", "idle.mp4", "idle.nut"
FACE_FRAME = 12  # of the door: somebody stands there
FACE = (slice(254, 366), slice(584, 696))  # about where the face is then
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
    return {name: median_of(counter, run_of(load_engine(MANIFEST, name))) for name in names}


def run_of(engine: Engine) -> Callable[[], object]:
    spec = engine.entry.input
    image = np.full((spec.height, spec.width, 3), 128, np.uint8)
    return lambda: engine.run(image)


def median_of(counter: Instructions, call: Callable[[], object]) -> int:
    counts = []
    for number in range(WARM_UP + CALLS):
        began = counter.read()
        call()
        if number >= WARM_UP:
            counts.append(counter.read() - began)
    return int(statistics.median(counts))


def peers(counter: Instructions, models: PeerModels, door: Path) -> dict[str, int]:
    """One call of each peer, on a picture with a face in it."""
    picture = frame_of(door, FACE_FRAME)
    small = np.ascontiguousarray(RgbPicture(picture).shrunk((0, 0, *picture.shape[1::-1]), SMALL)[..., ::-1])
    crop = picture[FACE].copy()
    network = yunet(models.yunet, SMALL)
    calls: dict[str, Callable[[], object]] = {"YuNet 320x240, OpenCV, detect()": lambda: network.detect(small)}
    calls["YuNet 320x256, ONNX Runtime, network"] = onnx_yunet(models.yunet)
    runtimes = {"ONNX Runtime": onnx_embedder, "OpenCV": opencv_embedder}
    for name, make in runtimes.items():
        calls[f"MobileFaceNet, {name}"] = partial(make(models.mobilefacenet), crop)
    return {name: median_of(counter, call) for name, call in calls.items()}


def onnx_yunet(model: Path) -> Callable[[], object]:
    """YuNet's network in ONNX Runtime on one thread; its sides are multiples of 32."""
    import onnxruntime  # noqa: PLC0415 - only with peers

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    planes = np.random.default_rng(0).uniform(0, 255, (1, 3, 256, 320)).astype(np.float32)
    return partial(session.run, None, {session.get_inputs()[0].name: planes})


def peers_frames(counter: Instructions, models: PeerModels, door: Path) -> list[int]:
    """Instructions of each frame of the peers' loop: decode, YuNet at 320x240, MobileFaceNet for every face."""
    counts = [counter.read()]
    loop(door, models, SMALL, time.monotonic(), lambda: counts.append(counter.read()))
    return [after - before for before, after in pairwise(counts)][WARM_UP:]


def frames(counter: Instructions, clip: Path) -> dict[str, list[int]]:
    """Instructions of each stage, call by call, and of ``camera`` and ``whole``, frame by frame."""
    detector, embedder = load_detector(MANIFEST, "detector-320x240"), load_embedder(MANIFEST, "embedder")
    stages = InstructionStages(counter)
    camera = open_camera(FileCamera(path=clip), lores_size=detector.input_size, clock=SystemClock())
    parts = pipeline.Stages(
        camera=camera,
        change=ChangeTest(part_of(DOOR), min_face_px=MIN_FACE_PX),
        cadence=Cadence(),
        detector=detector,
        second_try=SecondTry(),
        tracker=Tracker(),
        gate=ZoneGate(zone="door", polygon=DOOR, limits=FaceLimits(MIN_FACE_PX, 25.0)),
        embedder=embedder,
        enrol=lambda _frame, _tracks: False,
        enrolling=lambda: False,
        read=lambda _frame: None,
        acting=lambda _admitted: None,
        references=lambda: references,
        decider=Decider(parse_policy((MANIFEST.parent / "policy.json").read_bytes())),
        liveness=UncheckedLiveness(),
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


def report(processor: str, counter: Instructions, clips: Path, rivals: PeerModels | None) -> None:
    print(f"instructions in user space, {platform.machine()} {processor}, millions (median)")
    for clip in (DOOR_CLIP, IDLE_CLIP, RAW_CLIP):
        print(f"{clip}:", flush=True)
        tell(frames(counter, clips / clip))
    print("one call:", flush=True)
    for name, count in models(counter).items():
        print(f"  {name + ', network alone':<36} {count / 1e6:8.2f}")
    if rivals is not None:
        for name, count in peers(counter, rivals, clips / DOOR_CLIP).items():
            print(f"  {name:<36} {count / 1e6:8.2f}", flush=True)
        counts = peers_frames(counter, rivals, clips / DOOR_CLIP)
        print(f"  peers, mean of {len(counts)} frames of {DOOR_CLIP:<10} {statistics.mean(counts) / 1e6:8.2f}")


def tell(spent: dict[str, list[int]]) -> None:
    """Print what the stages took, and the whole: the median, and the mean of all frames."""
    order = ("camera", *(name for name in pipeline.STAGES if name != "frame"), "whole")
    for name in (name for name in order if spent.get(name)):
        counts = spent[name]
        share = sum(counts) / len(spent["whole"]) / 1e6
        print(f"  {name:<36} {statistics.median(counts) / 1e6:8.2f}  {len(counts)} times, {share:.2f} a frame")
    whole = spent["whole"]
    embedded = len(spent["embed"]) + WARM_UP if "embed" in spent else 0  # the frames of the first two count, too
    print(f"  mean of {len(whole)} frames, {embedded} embedded{'':<12} {statistics.mean(whole) / 1e6:8.2f}", flush=True)


def make_clips(folder: Path) -> None:
    """A demo person, who does not exist, at the door for a second and a half; and the door alone. 720p."""
    with tempfile.TemporaryDirectory() as work:
        shutil.copyfile(visits_clip(Path(work), [PERSON]), folder / DOOR_CLIP)
        idle = idle_clip(Path(work))
        shutil.copyfile(idle, folder / IDLE_CLIP)
        shutil.copyfile(uncompressed(idle), folder / RAW_CLIP)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("clips", "count"))
    parser.add_argument("folder", type=Path, help="of the clips")
    parser.add_argument("--peers", type=Path, help="folder of the peers' models, as for tools/bench")
    parser.add_argument("--processor", default="", help="its name, to be printed")
    arguments = parser.parse_args()
    if arguments.what == "clips":
        make_clips(arguments.folder)
        return 0
    rivals = find_peers(arguments.peers)
    try:
        with Instructions() as counter:
            report(arguments.processor, counter, arguments.folder, rivals)
    except CounterError as error:
        print(f"tools.lib.arm64.instructions: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
