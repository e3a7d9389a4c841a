# SPDX-License-Identifier: Apache-2.0
"""The report as it stands in the README: on what it was measured, ours beside peers, ours alone, each with its bars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tools.lib.bench.installed import BY_PIP, DEBIAN
from tools.lib.bench.networks import FAILURE, FP32_PEAK, MATCH, NEARLY, PEAK, STAY
from tools.lib.bench.report import NOT_MEASURED, Figure, Section, number
from tools.lib.bench.running import BUSY_DELAY, BUSY_IDLE, BUSY_MEMORY, BUSY_START, IDLE_H264, IDLE_RAW, PLAYING


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the first table: our figure, and for each peer its label, its figure and that of the ratio."""

    label: str
    section: str
    ours: str
    peers: tuple[tuple[str, str, str], ...]


LOOP = "YuNet at 320x240 + MobileFaceNet"
BESIDE = (
    Row(
        "detector 320x240, decoding included",
        "detector",
        "ours 320x240, detect()",
        (
            ("OpenCV YuNet 320x240", "YuNet 320x240", "YuNet / ours 320x240, detect()"),
            ("OpenCV YuNet 160x120", "YuNet 160x120", "YuNet 160x120 / ours 320x240, detect()"),
            ("BlazeFace 128x128, LiteRT", "BlazeFace 128x128", "BlazeFace 128x128 / ours 320x240, detect()"),
        ),
    ),
    Row(
        "detector 640x480, decoding included",
        "detector",
        "ours 640x480, detect()",
        (("OpenCV YuNet 640x480", "YuNet 640x480", "YuNet / ours 640x480, detect()"),),
    ),
    Row(
        "embedder",
        "embedder",
        "ours",
        tuple(
            (f"MobileFaceNet, {runtime}", f"MobileFaceNet, {runtime}", f"MobileFaceNet, {runtime} / ours")
            for runtime in ("ONNX Runtime", "OpenCV dnn")
        ),
    ),
    Row(
        "720p H.264 file to events on the broker",
        "pipeline",
        "ours, detector 320x240",
        tuple(
            (f"YuNet at {size} + MobileFaceNet", f"peers, YuNet at {size}", f"ours / peers, YuNet at {size}")
            for size in ("1280x720", "640x480", "320x240")
        ),
    ),
    Row(
        "resident memory with a file camera",
        "service",
        "resident memory, most seen",
        ((LOOP, "peers, resident memory, most seen", "peers / ours, resident memory"),),
    ),
    Row(
        "start → first frame processed",
        "service",
        "start to first frame done",
        ((LOOP, "peers, start to first frame done", "peers / ours, start to first frame done"),),
    ),
)
ALONE = (
    ("private memory with a file camera", "service", "of it private"),
    ("frame → PUBACK, local broker, p95", "service", "frame to PUBACK, p95"),
    ("one 15 frames/s camera, people passing all the time", "service", "real time at 15 frame/s, share of a core"),
    ("the same, empty door, uncompressed pictures (CSI, USB)", "service", IDLE_RAW),
    (PLAYING, "service", PLAYING),
    ("the same, empty door, H.264 decoded in software", "service", IDLE_H264),
    ("beside a busy process: start → first frame processed", "service", BUSY_START),
    ("beside a busy process: frame → PUBACK, p95", "service", BUSY_DELAY),
    ("beside a busy process: resident memory", "service", BUSY_MEMORY),
    ("beside a busy process: empty door, uncompressed pictures", "service", BUSY_IDLE),
    ("embedder in a visit that matches", "embedder", MATCH),
    ("embedder in an attempt that fails", "embedder", FAILURE),
    ("embedder in an attempt that nearly matches", "embedder", NEARLY),
    ("embedder, each second that a matched person stays", "embedder", STAY),
    ("comparison with 1 000 references", "gallery", "compare() with 1000 references"),
    ("comparison with 10 000 references", "gallery", "compare() with 10000 references"),
    ("comparison with 100 000 references", "gallery", "compare() with 100000 references"),
    ("outbox, durable commits", "outbox", "durable events, wall time"),
    ("verifier", "verifier", "verified events, processor time"),
    ("int8 peak of one core", "int8-peak", PEAK),
    ("fp32 peak of one core", "int8-peak", FP32_PEAK),
    ("arithmetic: detector 320x240", "int8-peak", "detector-320x240, work"),
    ("arithmetic: detector 640x480", "int8-peak", "detector-640x480, work"),
    ("arithmetic: landmarks, the second look at a face", "int8-peak", "landmarks, work"),
    ("arithmetic: YuNet 320x256", "int8-peak", "YuNet, work"),
    ("arithmetic: embedder", "int8-peak", "embedder, work"),
    ("arithmetic: MobileFaceNet", "int8-peak", "MobileFaceNet, work"),
    ("detector's share of the int8 peak", "int8-peak", "detector-320x240, share of the fastest layer"),
    ("embedder's share of the int8 peak", "int8-peak", "embedder, share of the fastest layer"),
    ("Debian package, installed", "install", DEBIAN),
    ("installed by pip, without numpy", "install", BY_PIP),
    ("with numpy", "install", "installed by pip"),
    ("peers: OpenCV and ONNX Runtime, without numpy", "install", "peers: OpenCV and ONNX Runtime, without numpy"),
)
NOTED = {"detector", "embedder", "int8-peak", "install"}  # sections whose notes a reader of the tables needs


def markdown(sections: list[Section], facts: dict[str, Any]) -> list[str]:
    """Both tables and what they were measured on; what misses its bar is bold, what was not measured says so."""
    lines = [*_measured_on(facts), ""]
    lines += ["| | ours | peer | times | bar |", "|---|---|---|---|---|"]
    for row in BESIDE:
        label, ours, own = row.label, _value(sections, row.section, row.ours), _bar(sections, row.section, row.ours)
        for peer, figure, ratio in row.peers:
            value = f"{peer}: {_value(sections, row.section, figure)}"
            bars = ", ".join(filter(None, (own, _bar(sections, row.section, ratio))))
            lines.append(f"| {label} | {ours} | {value} | {_value(sections, row.section, ratio)} | {bars} |")
            label = ours = own = ""
    lines += ["", "| ours alone | measured | bar |", "|---|---|---|"]
    for label, section, figure in ALONE:
        lines.append(f"| {label} | {_value(sections, section, figure)} | {_bar(sections, section, figure)} |")
    notes = [note for section in sections if section.name in NOTED for note in section.notes]
    return [*lines, *(["", *(f"- {note}" for note in notes)] if notes else [])]


def _measured_on(facts: dict[str, Any]) -> list[str]:
    processor = f"{facts['processor']} ({facts['instructions']}), {facts['cores']} cores"
    machine = f"{processor}, Python {facts['python']}, {facts['packages']}"
    return [
        f"Printed by `{facts['command']}` on {facts['date'][:10]}: {machine}.",
        f"Load over 1, 5 and 15 minutes: {facts['load_before']} before, {facts['load_after']} after.",
        "Medians with the 10th and 90th percentile, of one core's processor time; start, PUBACK and commits are wall",
        "time. In **bold** what misses its bar.",
    ]


def _value(sections: list[Section], section: str, name: str) -> str:
    figure = _figure(sections, section, name)
    if figure is None or figure.value is None:
        return NOT_MEASURED
    value = figure.value
    unit = "" if figure.unit == "times" else f" {figure.unit}"
    spread = f" ({number(value.p10)} to {number(value.p90)})" if value.count > 1 else ""
    text = number(value.median)
    missed = any(
        bar.figure == name and bar.holds(one.figures) is False
        for one in sections
        if one.name == section
        for bar in one.bars
    )
    return f"{f'**{text}**' if missed else text}{unit}{spread}"


def _bar(sections: list[Section], section: str, name: str) -> str:
    figure = _figure(sections, section, name)
    signs = {"<=": "≤", ">=": "≥"}
    return ", ".join(
        f"{signs[bar.relation]} {bar.limit:g} {figure.unit}"
        for one in sections
        if one.name == section and figure is not None
        for bar in one.bars
        if bar.figure == name
    )


def _figure(sections: list[Section], section: str, name: str) -> Figure | None:
    figures = (figure for one in sections if one.name == section for figure in one.figures)
    return next((figure for figure in figures if figure.name == name), None)
