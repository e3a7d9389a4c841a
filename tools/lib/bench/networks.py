# SPDX-License-Identifier: Apache-2.0
"""The models alone: detector and embedder beside their peers, and what share of the core's int8 peak they reach."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.camera.base import LORES_BORDER, Frame, RgbPicture, lores_fit
from agent.detect.detector import Detector, load_detector
from agent.embed.embedder import load_embedder
from agent.inference.engine import Engine, load_engine
from agent.match.policy import parse_policy
from tools.lib.bench.arithmetic import DOT_PRODUCT, onnx_macs
from tools.lib.bench.effort import Effort
from tools.lib.bench.peers import PeerModels, blazeface, onnx_embedder, opencv_embedder, yunet
from tools.lib.bench.report import Bar, Section
from tools.lib.bench.timing import Timing, alternate, percentile, ratio

MANIFEST = Path(__file__).resolve().parents[3] / "models" / "manifest.yaml"
BLAZEFACE_SIDE = 128
SMALL = (160, 120)  # half of our smallest model in either direction
SIZES = {"detector-320x240": (320, 240), "detector-640x480": (640, 480)}
DETECTOR_RATIO = 5.0 if DOT_PRODUCT else 2.5
EMBEDDER_RATIOS = {"ONNX Runtime": 3.0, "OpenCV dnn": 6.0}
RUNS_A_CROP = 2  # it and its mirror image, unless it confirms somebody who stays: agent.match.probe.both_ways
MATCH, FAILURE = "a visit that matches", "an attempt that fails"
NEARLY, STAY = "an attempt that nearly matches", "a second of somebody who stays"
PEAK, FP32_PEAK = "one core, the fastest of some int8 layers", "one core, the same layers in fp32"
PEER_WORK = {"YuNet": (1, 3, 256, 320), "MobileFaceNet": (1, 3, 112, 112)}  # sides of YuNet are multiples of 32

Case = Callable[[], object]


def view(detector: Detector, picture: NDArray[np.uint8]) -> Frame:
    """A frame of ``picture``, (h, w, 3) RGB, as a camera hands it over: lores made, border grey."""
    return Frame(0, 0, _shrunk(picture, detector.input_size), RgbPicture(picture))


def _shrunk(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    from PIL import Image  # noqa: PLC0415 - only to prepare

    height, width = picture.shape[:2]
    columns, rows = size
    fitted = lores_fit(width, height, columns, rows)
    lores = np.full((rows, columns, 3), LORES_BORDER, np.uint8)
    lores[: fitted[1], : fitted[0]] = np.asarray(Image.fromarray(picture).resize(fitted, Image.Resampling.BOX))
    return lores


def detector_section(picture: NDArray[np.uint8], peers: PeerModels | None, effort: Effort) -> Section:
    """Ours at both sizes, engine alone and with decoding and suppression, beside YuNet at these and a smaller size."""
    section = Section("detector")
    cases: dict[str, Case] = _small_peers(picture, peers)
    faces = 0
    for name, (width, height) in SIZES.items():
        detector = load_detector(MANIFEST, name)
        frame = view(detector, picture)
        faces = len(detector.detect(frame))
        cases[f"ours {width}x{height}, network"] = _engine_case(detector.engine, frame.lores)
        cases[f"ours {width}x{height}, detect()"] = _detect_case(detector, frame)
        if peers is not None:
            cases[f"YuNet {width}x{height}"] = _yunet_case(peers.yunet, (width, height), frame.lores)
    timings = alternate(cases, rounds=effort.rounds, round_s=effort.round_s)
    for width, height in SIZES.values():
        size = f"{width}x{height}"
        for name in (f"ours {size}, network", f"ours {size}, detect()", f"YuNet {size}"):
            section.timing(name, timings.get(name))
        over = timings.get(f"YuNet {size}")
        _ratio(section, f"YuNet / ours {size}, detect()", over, timings[f"ours {size}, detect()"])
    for name in ("YuNet 160x120", "BlazeFace 128x128"):
        section.timing(name, timings.get(name))
        _ratio(section, f"{name} / ours 320x240, detect()", timings.get(name), timings["ours 320x240, detect()"])
    section.bars.append(
        Bar(
            f"at least {DETECTOR_RATIO:g} times as fast as YuNet at 320x240",
            "YuNet / ours 320x240, detect()",
            ">=",
            DETECTOR_RATIO,
        )
    )
    section.notes.append(
        f"detectors: all see the same picture, faces in it: {faces}; decoding and suppression are in the time, "
        "in ours the second look at each face, too"
    )
    section.notes.append(
        "YuNet at 160x120 sees faces from twice the size on; BlazeFace's time is that of its network alone"
    )
    return section


def _small_peers(picture: NDArray[np.uint8], peers: PeerModels | None) -> dict[str, Case]:
    """What peers offer below our smallest size."""
    if peers is None:
        return {}
    cases = {"YuNet 160x120": _yunet_case(peers.yunet, SMALL, _shrunk(picture, SMALL))}
    if peers.blazeface is not None:
        square = _shrunk(picture, (BLAZEFACE_SIDE, BLAZEFACE_SIDE))
        cases["BlazeFace 128x128"] = _embed_case(blazeface(peers.blazeface), square)
    return cases


def embedder_section(crop: NDArray[np.uint8], peers: PeerModels | None, effort: Effort) -> Section:
    """Ours beside MobileFaceNet in two runtimes; all from the uint8 crop to the unit-length embedding."""
    section = Section("embedder")
    embedder = load_embedder(MANIFEST, "embedder")
    cases: dict[str, Case] = {"ours": lambda: embedder.embed(crop)}
    if peers is not None:
        runtimes = {"ONNX Runtime": onnx_embedder, "OpenCV dnn": opencv_embedder}
        for runtime, make in runtimes.items():
            cases[f"MobileFaceNet, {runtime}"] = _embed_case(make(peers.mobilefacenet), crop)
    timings = alternate(cases, rounds=effort.rounds, round_s=effort.round_s)
    section.timing("ours", timings["ours"])
    for runtime in EMBEDDER_RATIOS:
        name = f"MobileFaceNet, {runtime}"
        section.timing(name, timings.get(name))
        _ratio(section, f"{name} / ours", timings.get(name), timings["ours"])
    for runtime, times in EMBEDDER_RATIOS.items():
        text = f"at least {times:g} times as fast as MobileFaceNet in {runtime}"
        section.bars.append(Bar(text, f"MobileFaceNet, {runtime} / ours", ">=", times))
    probing = parse_policy((MANIFEST.parent / "policy.json").read_bytes()).probe
    crops = {MATCH: probing.first, FAILURE: probing.first, NEARLY: probing.most}
    runs_of = {name: RUNS_A_CROP * count for name, count in crops.items()} | {STAY: 1}
    for name, count in runs_of.items():
        section.values(name, "ms", [count * ms for ms in timings["ours"].cpu_ms])
    runs = ", ".join(f"{name} {count}" for name, count in runs_of.items())
    section.notes.append(f"runs of the embedder, however many frames there are: {runs}")
    return section


def peak_section(effort: Effort, peers: PeerModels | None = None) -> Section:
    """The core's peaks as the same runtime reaches them, the models' arithmetic and their share of the int8 peak."""
    # Needs the runtime's schema, which the Debian package leaves out.
    from tools.lib.bench.peak import SHAPES, macs_of, peak_case  # noqa: PLC0415

    section = Section("int8-peak")
    cases: dict[str, Case] = {str(shape): peak_case(shape) for shape in SHAPES}
    counts = {str(shape): shape.macs for shape in SHAPES}
    engines = {name: load_detector(MANIFEST, name).engine for name in SIZES}
    engines["landmarks"] = load_engine(MANIFEST, "landmarks")
    engines["embedder"] = load_embedder(MANIFEST, "embedder").engine
    for name, engine in engines.items():
        entry = engine.entry.input
        cases[name] = _engine_case(engine, np.full((entry.height, entry.width, 3), 128, np.uint8))
        counts[name] = macs_of((MANIFEST.parent / engine.entry.file).read_bytes())
    floating = {f"{shape}, fp32": shape for shape in SHAPES}
    cases |= {name: peak_case(shape, floating=True) for name, shape in floating.items()}
    counts |= {name: shape.macs for name, shape in floating.items()}
    timings = alternate(cases, rounds=effort.rounds, round_s=effort.round_s)
    rates = {name: [counts[name] / ms / 1e6 for ms in timing.cpu_ms] for name, timing in timings.items()}
    for shape in map(str, SHAPES):
        section.values(shape, "GMAC/s", rates[shape])
    best = max(map(str, SHAPES), key=lambda shape: percentile(rates[shape], 0.5))
    section.values(PEAK, "GMAC/s", rates[best])
    section.values(FP32_PEAK, "GMAC/s", max((rates[name] for name in floating), key=lambda rate: percentile(rate, 0.5)))
    for name in engines:
        section.single(f"{name}, work", "MMAC", counts[name] / 1e6)
        section.values(f"{name}, rate", "GMAC/s", rates[name])
        shares = [100 * a / b for a, b in zip(rates[name], rates[best], strict=True)]
        section.values(f"{name}, share of the fastest layer", "%", shares)
    files = {} if peers is None else {"YuNet": peers.yunet, "MobileFaceNet": peers.mobilefacenet}
    for name, size in PEER_WORK.items():
        section.single(f"{name}, work", "MMAC", onnx_macs(files[name], size) / 1e6 if name in files else None)
    section.notes.append(f"the fastest layer: {best}; all in LiteRT on one thread")
    section.notes.append("multiply-accumulates of convolutions and matrix products, counted in the model files")
    return section


def _engine_case(engine: Engine, image: NDArray[np.uint8]) -> Case:
    return lambda: engine.run(image)


def _detect_case(detector: Detector, frame: Frame) -> Case:
    return lambda: detector.detect(frame)


def _yunet_case(model: Path, size: tuple[int, int], lores: NDArray[np.uint8]) -> Case:
    network, picture = yunet(model, size), np.ascontiguousarray(lores[..., ::-1])
    return lambda: network.detect(picture)


def _embed_case(embed: Callable[[NDArray[np.uint8]], object], crop: NDArray[np.uint8]) -> Case:
    return lambda: embed(crop)


def _ratio(section: Section, name: str, over: Timing | None, under: Timing) -> None:
    section.values(
        name,
        "times",
        [] if over is None else [a / b for a, b in zip(over.cpu_ms, under.cpu_ms, strict=True)],
        None if over is None else [ratio(over.wall_ms, under.wall_ms).median],
    )
