# SPDX-License-Identifier: Apache-2.0
"""The peers on one thread: OpenCV's YuNet, BlazeFace in LiteRT, MobileFaceNet in two runtimes, and the usual loop.

Run as a program, this module is the usual face recognition loop: decode, detect, embed every face, compare.
Prints one JSON object: the time until the first frame was done, and that of all frames after it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.embed.align import TEMPLATE, umeyama
from agent.embed.records import CROP_SIZE
from tools.lib.evaluate.peers import MAX_FACES, MEAN, STD, YUNET_NMS_IOU, YUNET_SCORE

YUNET, MOBILEFACENET = "yunet_n_dynamic.onnx", "MobileFaceNet.onnx"
BLAZEFACE = "face_detection_short_range.tflite"  # MediaPipe's name of it
Picture = NDArray[np.uint8]  # (h, w, 3), BGR as OpenCV has it
Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PeerModels:
    """The model files; BlazeFace is measured only where it is there."""

    yunet: Path
    mobilefacenet: Path
    blazeface: Path | None


def find_peers(folder: Path | None) -> PeerModels | None:
    """Return the peers' models in ``folder``; None without one. SystemExit says what is missing."""
    if folder is None:
        return None
    blazeface = folder / BLAZEFACE
    models = PeerModels(folder / YUNET, folder / MOBILEFACENET, blazeface if blazeface.is_file() else None)
    for path in (models.yunet, models.mobilefacenet):
        if not path.is_file():
            raise SystemExit(f"tools/bench: there is no {path}; --peers needs {YUNET} and {MOBILEFACENET}")
    return models


def yunet(model: Path, size: tuple[int, int]) -> Any:  # noqa: ANN401 - OpenCV ships no types
    """OpenCV's FaceDetectorYN for pictures of ``size`` (w, h) on one thread, at its usual working point."""
    import cv2  # noqa: PLC0415 - the bench extra, only with peers

    cv2.setNumThreads(1)
    return cv2.FaceDetectorYN.create(str(model), "", size, YUNET_SCORE, YUNET_NMS_IOU, MAX_FACES)


def blazeface(model: Path) -> Callable[[Picture], object]:
    """BlazeFace's network, without decoding, in LiteRT on one thread; pictures are 128x128."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - only with peers

    interpreter = Interpreter(str(model), num_threads=1)
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()

    def detect(picture: Picture) -> object:
        interpreter.set_tensor(entry["index"], ((picture[None] - np.float32(127.5)) / np.float32(127.5)))
        interpreter.invoke()
        return [interpreter.get_tensor(one["index"]) for one in interpreter.get_output_details()]

    return detect


def onnx_embedder(model: Path) -> Callable[[Picture], Vector]:
    """MobileFaceNet in ONNX Runtime on one thread; crops are (112, 112, 3) RGB."""
    import onnxruntime  # noqa: PLC0415 - likewise

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def embed(crop: Picture) -> Vector:
        vector: Vector = session.run(None, {name: _planes(crop)})[0].reshape(-1)
        return vector / np.float32(np.linalg.norm(vector))

    return embed


def opencv_embedder(model: Path) -> Callable[[Picture], Vector]:
    """MobileFaceNet in OpenCV's dnn on one thread."""
    import cv2  # noqa: PLC0415 - likewise

    cv2.setNumThreads(1)
    network = cv2.dnn.readNetFromONNX(str(model))

    def embed(crop: Picture) -> Vector:
        network.setInput(_planes(crop))
        vector: Vector = network.forward().reshape(-1)
        return vector / np.float32(np.linalg.norm(vector))

    return embed


def _planes(crop: Picture) -> NDArray[np.float32]:
    return np.ascontiguousarray(((crop - MEAN) / STD).transpose(2, 0, 1)[None])


def loop(
    clip: Path,
    models: PeerModels,
    size: tuple[int, int] | None,
    began_s: float,
    each: Callable[[], object] = lambda: None,
) -> dict[str, int | float]:
    """Every frame of ``clip`` through the peers; detection at ``size`` (w, h), or at the clip's own.

    ``began_s`` is when the process was started, on the monotonic clock; ``each`` is called after every frame.
    """
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "threads;1"  # more threads cost more processor time, not less
    import cv2  # noqa: PLC0415 - likewise

    capture = cv2.VideoCapture(str(clip), cv2.CAP_FFMPEG)
    main = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    detector, embed = yunet(models.yunet, size or main), onnx_embedder(models.mobilefacenet)
    gallery = np.eye(2, 128, dtype=np.float32)
    scale = np.array(main) / np.array(size or main)
    frames = faces = 0
    start_s = start_cpu_s = 0.0
    while True:
        there, picture = capture.read()
        if not there:
            break
        small = picture if size is None else cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
        found = detector.detect(small)[1]
        for row in [] if found is None else found:
            forward = umeyama(row[4:14].reshape(5, 2) * scale, TEMPLATE)
            crop = cv2.warpAffine(picture, forward, (CROP_SIZE, CROP_SIZE))
            (gallery @ embed(crop[..., ::-1])).argmax()
            faces += 1
        frames += 1
        each()
        if frames == 1:  # set-up and the first, slower calls are not the peers' pace
            faces, start_cpu_s, start_s = 0, time.process_time(), time.monotonic() - began_s
    return {
        "frames": frames - 1,
        "faces": faces,
        "start_s": start_s,
        "start_cpu_s": start_cpu_s,
        "cpu_s": time.process_time() - start_cpu_s,
        "wall_s": time.monotonic() - began_s - start_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--began", type=float, required=True, help="s on the monotonic clock, when this was started")
    parser.add_argument("--size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"))
    args = parser.parse_args()
    models = find_peers(args.folder)
    if models is not None:
        print(json.dumps(loop(args.clip, models, tuple(args.size) if args.size else None, args.began)))


if __name__ == "__main__":
    main()
