# SPDX-License-Identifier: Apache-2.0
"""Decoders on tensors whose faces are known, and YuNet against OpenCV on real pictures."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from agent.detect.decoders import make_decoder
from agent.detect.decoders.blazeface import HALF_MOUTH
from agent.detect.decoders.common import MAX_CANDIDATES, Candidates, least_raw
from agent.detect.detector import sane
from agent.detect.nms import nms
from agent.errors import ModelError
from agent.inference.heads import HEADS
from agent.inference.manifest import Golden, GoldenOutput, InputSpec, ModelEntry, OutputSpec
from tests.conftest import shared_folder

BOX = np.array([40.0, 30.0, 100.0, 110.0])
LANDMARKS = np.array([[55.0, 60], [85, 58], [70, 75], [58, 92], [82, 91]])


def entry(
    decoder: str,
    width: int,
    height: int,
    shapes: dict[str, tuple[int, ...]],
    *,
    scale: float = 0.0,
    zero_point: int = 0,
) -> ModelEntry:
    dtype: Any = "int8" if scale else "float32"
    blank = GoldenOutput(crc32=0, sample=(0.0,))
    return ModelEntry(
        name="made",
        file="made.tflite",
        size=1,
        sha256="0" * 64,
        task=next(t for t, d in HEADS if d == decoder),  # type: ignore[arg-type]
        decoder=decoder,
        input=InputSpec(name="image", shape=(1, height, width, 3), dtype="uint8", scale=1 / 128, zero_point=128),
        outputs={n: OutputSpec(shape=s, dtype=dtype, scale=scale, zero_point=zero_point) for n, s in shapes.items()},
        golden=Golden(seed=1, runtime="none", outputs=dict.fromkeys(shapes, blank)),
        licence="Apache-2.0",
        training_data="none",
        created=date(2026, 1, 5),
    )


def cells(width: int, height: int, stride: int) -> tuple[int, int]:
    return math.ceil(height / stride), math.ceil(width / stride)


def shapes(decoder: str, width: int = 320, height: int = 240) -> dict[str, tuple[int, ...]]:
    if decoder == "blazeface":
        return {"scores": (1, 896, 1), "regressors": (1, 896, 16)}
    made: dict[str, tuple[int, ...]] = {}
    for stride in (8, 16, 32):
        rows, columns = cells(width, height, stride)
        if decoder == "postern":
            made |= {f"score_{stride}": (1, rows, columns, 1), f"geometry_{stride}": (1, rows, columns, 14)}
        elif decoder == "scrfd":
            n = rows * columns * 2
            made |= {f"score_{stride}": (1, n, 1), f"bbox_{stride}": (1, n, 4), f"kps_{stride}": (1, n, 10)}
        else:
            n = rows * columns
            made |= {f"{h}_{stride}": (1, n, c) for h, c in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10))}
    return made


def empty(decoder: str, size: tuple[int, int] = (320, 240)) -> tuple[ModelEntry, dict[str, NDArray[Any]]]:
    """A float model's answer to a picture without a face."""
    made = entry(decoder, *size, shapes(decoder, *size))
    logits = decoder in ("postern", "blazeface")
    scores = [n for n in made.outputs if n.startswith(("score", "cls", "obj"))]
    raw = {n: np.zeros(s.shape, np.float32) for n, s in made.outputs.items()}
    for name in scores:
        raw[name][:] = -20 if logits else 0
    return made, raw


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def check(found: Candidates, score: float, landmarks: NDArray[np.float64] = LANDMARKS) -> None:
    assert len(found.scores) == 1
    np.testing.assert_allclose(found.boxes[0], BOX, atol=1e-3)
    np.testing.assert_allclose(found.landmarks[0], landmarks, atol=1e-3)
    np.testing.assert_allclose(found.scores, [score], rtol=1e-4)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_postern_decodes_the_face_that_was_encoded(stride: int) -> None:
    made, raw = empty("postern")
    row, column = 70 // stride, 70 // stride
    centre = (np.array([column, row]) + 0.5) * stride
    raw[f"score_{stride}"][0, row, column] = logit(0.8)
    raw[f"geometry_{stride}"][0, row, column] = np.concatenate(
        [centre - BOX[:2], BOX[2:] - centre, (LANDMARKS - centre).ravel()]
    ) / np.float32(stride)
    check(make_decoder(made, 0.6).decode(raw), 0.8)


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("anchor", [0, 1])
def test_scrfd_decodes_the_face_that_was_encoded(stride: int, anchor: int) -> None:
    made, raw = empty("scrfd")
    row, column = 70 // stride, 70 // stride
    point = np.array([column, row]) * float(stride)
    index = (row * cells(320, 240, stride)[1] + column) * 2 + anchor
    raw[f"score_{stride}"][0, index] = 0.8
    raw[f"bbox_{stride}"][0, index] = np.concatenate([point - BOX[:2], BOX[2:] - point]) / stride
    raw[f"kps_{stride}"][0, index] = ((LANDMARKS - point) / stride).ravel()
    check(make_decoder(made, 0.6).decode(raw), 0.8)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_yunet_decodes_the_face_that_was_encoded(stride: int) -> None:
    made, raw = empty("yunet")
    row, column = 70 // stride, 70 // stride
    point = np.array([column, row]) * float(stride)
    index = row * cells(320, 240, stride)[1] + column
    raw[f"cls_{stride}"][0, index], raw[f"obj_{stride}"][0, index] = 1.0, 0.64
    middle, size = (BOX[:2] + BOX[2:]) / 2, BOX[2:] - BOX[:2]
    raw[f"bbox_{stride}"][0, index] = np.concatenate([(middle - point) / stride, np.log(size / stride)])
    raw[f"kps_{stride}"][0, index] = ((LANDMARKS - point) / stride).ravel()
    check(make_decoder(made, 0.6).decode(raw), 0.8)


@pytest.mark.parametrize(
    ("index", "anchor"),
    [
        ((8 * 16 + 9) * 2, (9.5 * 8, 8.5 * 8)),
        ((8 * 16 + 9) * 2 + 1, (9.5 * 8, 8.5 * 8)),
        (512 + (4 * 8 + 5) * 6 + 5, (5.5 * 16, 4.5 * 16)),
    ],
)
def test_blazeface_decodes_the_face_that_was_encoded(index: int, anchor: tuple[float, float]) -> None:
    made, raw = empty("blazeface", (128, 128))
    point = np.array(anchor)
    mouth, ears = np.array([[70.0, 91]]), np.array([[42.0, 62], [98, 60]])
    keypoints = np.concatenate([LANDMARKS[:3], mouth, ears]) - point
    raw["scores"][0, index] = logit(0.8)
    raw["regressors"][0, index] = np.concatenate(
        [(BOX[:2] + BOX[2:]) / 2 - point, BOX[2:] - BOX[:2], keypoints.ravel()]
    )
    across = (LANDMARKS[1] - LANDMARKS[0]) * float(HALF_MOUTH)
    check(make_decoder(made, 0.6).decode(raw), 0.8, np.concatenate([LANDMARKS[:3], mouth - across, mouth + across]))


@pytest.mark.parametrize("decoder", ["postern", "scrfd", "yunet", "blazeface"])
def test_picture_without_a_face_yields_nothing(decoder: str) -> None:
    made, raw = empty(decoder, (128, 128) if decoder == "blazeface" else (320, 240))
    found = make_decoder(made, 0.5).decode(raw)
    assert (found.boxes.shape, found.landmarks.shape, found.scores.shape) == ((0, 4), (0, 5, 2), (0,))


@pytest.mark.parametrize("decoder", ["postern", "scrfd", "yunet", "blazeface"])
def test_head_of_another_size_is_refused(decoder: str) -> None:
    made = entry(decoder, 256, 256, shapes("blazeface") if decoder == "blazeface" else shapes(decoder, 320, 240))
    if decoder == "blazeface":
        made = entry(decoder, 128, 96, shapes("blazeface"))
    with pytest.raises(ModelError, match="made"):
        make_decoder(made, 0.5)


def test_an_embedder_is_no_detector() -> None:
    with pytest.raises(ModelError, match="not as a detector"):
        make_decoder(entry("embedding", 112, 112, {"embedding": (1, 128)}), 0.5)


def test_picture_full_of_faces_is_bounded_to_the_best() -> None:
    made, raw = empty("postern")
    rng = np.random.default_rng(1)
    for name in raw:
        raw[name][:] = rng.uniform(1, 9, raw[name].shape)
    found = make_decoder(made, 0.5).decode(raw)
    assert len(found.scores) == MAX_CANDIDATES
    best = np.sort(np.concatenate([raw[f"score_{s}"].ravel() for s in (8, 16, 32)]))[-MAX_CANDIDATES:]
    np.testing.assert_allclose(np.sort(found.scores), 1 / (1 + np.exp(-best)), rtol=1e-5)


def test_values_that_are_no_numbers_never_become_a_face() -> None:
    for poison in (math.nan, math.inf, -math.inf):
        made, raw = empty("yunet")
        for name in raw:
            raw[name][:, :5] = poison if name.startswith(("bbox", "kps")) else 0.9
        assert not sane(make_decoder(made, 0.5).decode(raw)).scores.size


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-4, 1.0), st.integers(-128, 127), st.floats(-20, 20))
def test_raw_threshold_passes_exactly_what_the_real_threshold_passes(scale: float, zero: int, value: float) -> None:
    spec = OutputSpec(shape=(1, 1), dtype="int8", scale=scale, zero_point=zero)
    raw = np.arange(-128, 128)
    real = (raw - zero) * scale
    clear = np.abs(real - value) > scale * 1e-5  # a raw value on the threshold may fall to either side
    least = least_raw(spec, value)
    passes = raw >= int(least) if least is not None else np.zeros(256, bool)  # type: ignore[call-overload]
    assert (passes == (real >= value))[clear].all()


def test_level_whose_scores_end_below_the_threshold_is_left_out() -> None:
    outputs = dict(empty("postern")[0].outputs)
    for stride, top in ((8, 4.0), (16, 4.0), (32, 0.1)):
        spec = outputs[f"score_{stride}"]
        outputs[f"score_{stride}"] = OutputSpec(shape=spec.shape, dtype="int8", scale=top / 127, zero_point=0)
    made = msgspec.structs.replace(empty("postern")[0], outputs=outputs)
    raw = {n: np.zeros(s.shape, s.dtype) for n, s in outputs.items()}
    raw["score_32"][:] = 127
    assert not len(make_decoder(made, 0.6).decode(raw).scores)
    raw["score_16"][0, 3, 4] = 127
    assert len(make_decoder(made, 0.6).decode(raw).scores) == 1
    with pytest.raises(ModelError, match="no score can reach"):
        make_decoder(made, 0.99)


@pytest.mark.shared
def test_yunet_decodes_real_outputs_as_opencv_does() -> None:
    cv2 = pytest.importorskip("cv2")
    ort = pytest.importorskip("onnxruntime")
    model = shared_folder() / "models" / "teacher" / "yunet_n_320_320.onnx"
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    peer = cv2.FaceDetectorYN.create(str(model), "", (320, 320), 0.6, 0.3, 100)
    names = [output.name for output in session.get_outputs()]
    decoder = make_decoder(entry("yunet", 320, 320, shapes("yunet", 320, 320)), 0.6)
    compared = 0
    for path in pictures(12):
        with Image.open(path) as image:
            bgr = np.ascontiguousarray(np.asarray(image.convert("RGB").resize((320, 320)))[..., ::-1])
        outputs = session.run(names, {session.get_inputs()[0].name: bgr.transpose(2, 0, 1)[None].astype(np.float32)})
        found = sane(decoder.decode(dict(zip(names, outputs, strict=True))))
        kept = nms(found.boxes, found.scores, 0.3, 100) if found.scores.size else []
        expected = peer.detect(bgr)[1]
        expected = np.empty((0, 15)) if expected is None else expected
        assert len(kept) == len(expected), path.name
        for index, face in zip(kept, expected[np.argsort(-expected[:, 14])], strict=True):
            x0, y0, x1, y1 = found.boxes[index]
            np.testing.assert_allclose([x0, y0, x1 - x0, y1 - y0], face[:4], atol=1)
            np.testing.assert_allclose(found.landmarks[index].ravel(), face[4:14], atol=1)
            np.testing.assert_allclose(found.scores[index], face[14], atol=1e-2)
            compared += 1
    assert compared >= 10


def pictures(count: int) -> list[Path]:
    return sorted((shared_folder() / "data" / "lfw_dev").glob("*/*.jpg"))[:: 1600 // count][:count]
