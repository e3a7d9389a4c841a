# SPDX-License-Identifier: Apache-2.0
"""What a section found: figures, bars that must hold, notes; as a table for people and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tools.lib.bench.timing import Spread, Timing, spread

NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity: by processor time where ``wall`` stands beside it."""

    name: str
    unit: str
    value: Spread | None
    wall: Spread | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """What the project promises: ``figure`` at least or at most ``limit``."""

    text: str
    figure: str
    relation: Literal[">=", "<="]
    limit: float

    def holds(self, figures: list[Figure]) -> bool | None:
        """Whether the median keeps the promise; None when it was not measured."""
        value = next((one.value for one in figures if one.name == self.figure), None)
        if value is None:
            return None
        return value.median >= self.limit if self.relation == ">=" else value.median <= self.limit


@dataclass(slots=True)
class Section:
    """One part of the report."""

    name: str
    figures: list[Figure] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def timing(self, name: str, timing: Timing | None) -> None:
        """Add a duration in milliseconds; None says that it was not measured."""
        self.figures.append(Figure(name, "ms", None) if timing is None else Figure(name, "ms", timing.cpu, timing.wall))

    def single(self, name: str, unit: str, value: float | None) -> None:
        """Add something that is counted once."""
        self.figures.append(Figure(name, unit, None if value is None else spread([value])))

    def values(self, name: str, unit: str, values: list[float], wall: list[float] | None = None) -> None:
        """Add something that was measured several times, or not at all."""
        self.figures.append(Figure(name, unit, spread(values) if values else None, spread(wall) if wall else None))


def as_json(sections: list[Section], machine: dict[str, Any]) -> dict[str, Any]:
    """The report as one JSON object; what was not measured is null."""
    return {
        "machine": machine,
        "sections": {
            section.name: {
                "figures": {one.name: _figure(one) for one in section.figures},
                "bars": {bar.text: bar.holds(section.figures) for bar in section.bars},
                "notes": section.notes,
            }
            for section in sections
        },
    }


def _figure(figure: Figure) -> dict[str, Any]:
    content: dict[str, Any] = {"unit": figure.unit, **_spread(figure.value)}
    if figure.wall is not None:
        content["wall"] = _spread(figure.wall)
    return content


def _spread(value: Spread | None) -> dict[str, Any]:
    if value is None:
        return {"median": None}
    return {"median": value.median, "p10": value.p10, "p90": value.p90, "count": value.count}


def table(section: Section) -> list[str]:
    """The section for people: a row a figure, then its bars and notes."""
    width = max((len(one.name) for one in section.figures), default=0)
    lines = [f"{section.name:<{width + 2}} {'median':>10} {'p10':>9} {'p90':>9} {'n':>4}  {'unit':<8} wall"]
    lines += [f"  {one.name:<{width}} {_row(one)}".rstrip() for one in section.figures]
    for bar in section.bars:
        verdict = {True: "holds", False: "DOES NOT HOLD", None: NOT_MEASURED}[bar.holds(section.figures)]
        lines.append(f"  bar: {bar.text}: {verdict}")
    return lines + [f"  note: {note}" for note in section.notes]


def _row(figure: Figure) -> str:
    value = figure.value
    if value is None:
        return f"{NOT_MEASURED:>14}"
    if value.count == 1:
        numbers = f"{number(value.median):>10} {'':>9} {'':>9} {'1':>4}"
    else:
        numbers = f"{number(value.median):>10} {number(value.p10):>9} {number(value.p90):>9} {value.count:>4}"
    wall = "" if figure.wall is None else number(figure.wall.median)
    return f"{numbers}  {figure.unit:<8} {wall}"


def number(value: float) -> str:
    """Three significant digits, and no more decimals than help."""
    size = abs(value)
    if size >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.4f}"
