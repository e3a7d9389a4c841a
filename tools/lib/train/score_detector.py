# SPDX-License-Identifier: Apache-2.0
"""Measure exported detectors the way training cares about; ``tools/evaluate`` measures the product.

tools/train score-detector MODEL.tflite --people FOLDER --backgrounds FOLDER --scenes HELD_OUT_POOL

Prints, per threshold: share of photos whose person is found, landmark error against YuNet in percent of the eye
distance, false faces per held-out background, recall on held-out scenes by face size; then milliseconds.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from tools.lib.train.detector_net import STRIDES
from tools.lib.train.naturals import HELD_BACKGROUND
from tools.lib.train.teacher import DetectionTeacher

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
SIZES = (13, 20, 24, 34, 60, 112, 200, 480)
NMS_IOU = 0.4
SAME = 0.4  # IoU from which two boxes are the same face


class Model:
    """A .tflite detector on one thread: RGB uint8 (h, w, 3) to faces (n, 15), score last, best first."""

    def __init__(self, path: Path) -> None:
        self._interpreter = Interpreter(str(path), num_threads=1)
        self._run = self._interpreter.get_signature_runner("serving_default")
        self._outputs = self._run.get_output_details()
        _, self.height, self.width, _ = self._run.get_input_details()["image"]["shape"]
        self._dtype = self._run.get_input_details()["image"]["dtype"]

    def raw(self, image: np.ndarray) -> dict[str, np.ndarray]:
        x = image[None]
        if self._dtype == np.int8:
            x = (x ^ np.uint8(128)).view(np.int8)
        elif self._dtype == np.float32:
            x = (x.astype(np.float32) - 128) / 128
        out = {}
        for name, value in self._run(image=x).items():
            scale, zero = self._outputs[name]["quantization"]
            out[name] = (value[0].astype(np.float32) - zero) * scale if scale else value[0]
        return out

    def detect(self, image: np.ndarray, threshold: float) -> np.ndarray:
        raw, found = self.raw(image), []
        for stride in STRIDES:
            score = 1 / (1 + np.exp(-raw[f"score_{stride}"][..., 0]))
            rows, columns = np.nonzero(score >= threshold)
            centre = (np.stack([columns, rows], 1) + 0.5) * stride
            geometry = raw[f"geometry_{stride}"][rows, columns] * stride
            corner, size = centre - geometry[:, :2], geometry[:, :2] + geometry[:, 2:4]
            marks = geometry[:, 4:] + np.tile(centre, 5)
            found.append(np.concatenate([corner, size, marks, score[rows, columns, None]], 1))
        return suppress(np.concatenate(found))

    def fit(self, bgr: np.ndarray) -> tuple[np.ndarray, float]:
        """Letterboxed RGB of the model's size and the scale used (from the top left corner)."""
        scale = min(self.width / bgr.shape[1], self.height / bgr.shape[0])
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        small = cv2.resize(bgr, (int(bgr.shape[1] * scale), int(bgr.shape[0] * scale)), interpolation=how)
        canvas = np.zeros((self.height, self.width, 3), np.uint8)
        canvas[: small.shape[0], : small.shape[1]] = small[..., ::-1]
        return canvas, scale


def iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[:2] + box[2:4], boxes[:, :2] + boxes[:, 2:4])
    inter = np.clip(high - low, 0, None).prod(1)
    return inter / (box[2] * box[3] + boxes[:, 2] * boxes[:, 3] - inter + 1e-6)


def suppress(faces: np.ndarray) -> np.ndarray:
    faces = faces[np.argsort(-faces[:, 14])]
    keep: list[np.ndarray] = []
    while len(faces):
        keep.append(faces[0])
        faces = faces[iou(faces[0], faces) < NMS_IOU]
    return np.array(keep).reshape(-1, 15)


def people(model: Model, folder: Path, teachers: Path, step: int) -> None:
    teach = DetectionTeacher(teachers)
    best, errors, missed = [], [], []
    for path in sorted(folder.glob("*/*.jpg"))[::step]:
        bgr = cv2.imread(str(path))
        middle = np.array([bgr.shape[1], bgr.shape[0]]) / 2
        truth = teach(bgr)
        if not len(truth):
            print(f"  teacher finds nobody in {path.name}")
            continue
        face = min(truth, key=lambda f: float(np.hypot(*(f[:2] + f[2:4] / 2 - middle))))
        canvas, scale = model.fit(bgr)
        mine = model.detect(canvas, 0.05)
        mine[:, :14] /= scale
        same = mine[iou(face, mine) >= SAME]
        best.append(float(same[0, 14]) if len(same) else 0.0)
        if best[-1] < 0.5:
            missed.append(f"{path.name}:{best[-1]:.2f}")
        if len(same):
            distance = np.hypot(*(face[4:6] - face[6:8]))
            error = np.hypot(*(same[0, 4:14] - face[4:14]).reshape(5, 2).T).mean() / distance
            errors.append(error)
    shares = " ".join(f"{t}:{np.mean(np.array(best) >= t):.4f}" for t in THRESHOLDS)
    print(f"people {len(best)} photos, found {shares}")
    print(f"  landmark error mean {np.mean(errors):.4f} p95 {np.percentile(errors, 95):.4f} of the eye distance")
    print(f"  below 0.5: {len(missed)} {missed[:16]}")


def empty(model: Model, folder: Path) -> None:
    scores = []
    paths = sorted(folder.glob("*.jpg"))[::HELD_BACKGROUND]
    for path in paths:
        found = model.detect(model.fit(cv2.imread(str(path)))[0], THRESHOLDS[0])
        scores += [(float(s), path.name) for s in found[:, 14]]
    rates = " ".join(f"{t}:{sum(s >= t for s, _ in scores) / len(paths):.3f}" for t in THRESHOLDS)
    print(f"false faces per background ({len(paths)}): {rates}; worst {sorted(scores)[::-1][:5]}")


def scenes(model: Model, pool: Path, limit: int) -> None:
    images, faces = np.load(pool / "image-0000.npy", mmap_mode="r"), np.load(pool / "faces-0000.npy")
    scale = model.width / images.shape[2]
    sizes, best, marks, false = [], [], [], np.zeros(len(THRESHOLDS))
    for image, rows in zip(images[:limit], faces[:limit], strict=True):
        view = image if scale == 1 else cv2.resize(image, (model.width, model.height), interpolation=cv2.INTER_AREA)
        mine = model.detect(np.ascontiguousarray(view), THRESHOLDS[0])
        known = rows[rows[:, 14] != 0] * np.append(np.full(14, scale), 1).astype(np.float32)
        for row in known[known[:, 14] > 0]:
            same = mine[iou(row, mine) >= SAME]
            sizes.append(float(np.sqrt(row[2] * row[3])))
            best.append(float(same[0, 14]) if len(same) else 0.0)
            if len(same):
                error = np.hypot(*(same[0, 4:14] - row[4:14]).reshape(5, 2).T).mean()
                marks.append(error / max(float(np.hypot(*(row[4:6] - row[6:8]))), 0.2 * sizes[-1]))
        lone = [m[14] for m in mine if not len(known) or iou(m, known).max() < 0.2]
        false += [sum(s >= t for s in lone) for t in THRESHOLDS]
    size, score = np.array(sizes), np.array(best)
    count = min(limit, len(images))
    rates = " ".join(f"{t}:{n / count:.3f}" for t, n in zip(THRESHOLDS, false, strict=True))
    print(f"scenes {count}: landmark error {np.mean(marks):.4f}, false faces per scene {rates}")
    for low, high in [*pairwise(SIZES), (24, 480)]:
        inside = (size >= low) & (size < high)
        if inside.any():
            shares = " ".join(f"{t}:{np.mean(score[inside] >= t):.3f}" for t in THRESHOLDS)
            print(f"  {low}-{high} px ({inside.sum()}): {shares}")


def speed(model: Model, teachers: Path) -> None:
    """Medians of alternating runs: what else the machine does hits both."""
    teach = DetectionTeacher(teachers)
    image = np.random.default_rng(0).integers(0, 256, (model.height, model.width, 3), dtype=np.uint8)
    mine, theirs = [], []
    for _ in range(60):
        began = time.perf_counter()
        model.raw(image)
        middle = time.perf_counter()
        teach(image)
        mine.append(middle - began)
        theirs.append(time.perf_counter() - middle)
    ours, peer = np.median(mine) * 1e3, np.median(theirs) * 1e3
    least = f"(least {min(mine) * 1e3:.2f} and {min(theirs) * 1e3:.2f})"
    print(f"{model.width}x{model.height}: {ours:.2f} ms, YuNet {peer:.2f} ms {least}: {peer / ours:.2f} times as fast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--people", type=Path)
    parser.add_argument("--backgrounds", type=Path)
    parser.add_argument("--scenes", type=Path)
    parser.add_argument("--teachers", type=Path, default=Path("../shared/models/teacher"))
    parser.add_argument("--step", type=int, default=1, help="use every n-th photo")
    parser.add_argument("--limit", type=int, default=300, help="scenes")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    for path in args.models:
        model = Model(path)
        print(f"{path}: {path.stat().st_size} bytes")
        if args.people:
            people(model, args.people, args.teachers, args.step)
        if args.backgrounds:
            empty(model, args.backgrounds)
        if args.scenes:
            scenes(model, args.scenes, args.limit)
        speed(model, args.teachers)


if __name__ == "__main__":
    main()
