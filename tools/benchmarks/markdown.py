# SPDX-License-Identifier: Apache-2.0
"""The report as the two tables of the README: ours beside peers, and ours alone beside its bars."""

from __future__ import annotations

from dataclasses import dataclass

from tools.benchmarks.report import NOT_MEASURED, Figure, Section, number


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the first table: our figure, and for each peer its label, its figure and that of the ratio."""

    label: str
    section: str
    ours: str
    peers: tuple[tuple[str, str, str], ...]


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
)
ALONE = (
    ("resident memory with a file camera", "service", "resident memory, most seen"),
    ("of it private", "service", "of it private"),
    ("start → first frame processed", "service", "start to first frame done"),
    ("frame → PUBACK, local broker, p95", "service", "frame to PUBACK, p95"),
    ("one 15 frames/s camera, share of a core", "service", "real time at 15 frame/s, share of a core"),
    ("comparison with 1 000 references", "gallery", "compare() with 1000 references"),
    ("comparison with 10 000 references", "gallery", "compare() with 10000 references"),
    ("comparison with 100 000 references", "gallery", "compare() with 100000 references"),
    ("outbox, durable commits", "outbox", "durable events, wall time"),
    ("verifier", "verifier", "verified events, processor time"),
    ("detector's share of the core's int8 peak", "int8-peak", "detector-320x240, share of the peak"),
    ("embedder's share of the core's int8 peak", "int8-peak", "embedder, share of the peak"),
    ("packages beside the distribution's Python", "install", "runtime dependencies, installed"),
)


def markdown(sections: list[Section]) -> list[str]:
    """Both tables; what misses its bar is bold, what was not measured says so."""
    lines = ["| | ours | peer | times |", "|---|---|---|---|"]
    for row in BESIDE:
        label, ours = row.label, _value(sections, row.section, row.ours)
        for peer, figure, ratio in row.peers:
            value = f"{peer}: {_value(sections, row.section, figure)}"
            lines.append(f"| {label} | {ours} | {value} | {_value(sections, row.section, ratio)} |")
            label = ours = ""
    lines += ["", "| ours alone | measured | bar |", "|---|---|---|"]
    for label, section, figure in ALONE:
        lines.append(f"| {label} | {_value(sections, section, figure)} | {_bar(sections, section, figure)} |")
    return lines


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
