# SPDX-License-Identifier: Apache-2.0
"""What became of a fleet's events: for people, and for machines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Report:
    """``latency_ms``: from the moment before an event was signed until a subscriber had verified it.

    ``late`` events filled a gap and say so; ``overtaken`` ones came after a later one of their unit and do not.
    ``lost`` ones did not come, though the broker took them: of these a unit would say again those in ``kept``, by unit
    and number. Those in ``waiting`` no broker took yet: they are not lost, but the run ended before they came.
    """

    units: int
    seconds: float
    signed: int
    delivered: int
    lost: int
    altered: int
    repeated: int
    refused: dict[str, int]
    late: int
    overtaken: int
    latency_ms: dict[str, float | None]
    units_cpu_s: float
    subscriber_cpu_s: float
    broker_cpu_s: float | None
    faults: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, tuple[int, ...]] = field(default_factory=dict)
    kept: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Everything that was signed was delivered as it was signed and in order, and nothing else was believed."""
        return (
            self.signed > 0
            and self.lost == self.altered == self.overtaken == 0
            and not self.refused
            and not self.waiting
        )

    def as_json(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}

    def table(self) -> Table:
        shown = Table(title=f"{self.units} units, {self.seconds:.0f} s, {sum(self.faults.values())} faults")
        shown.add_column("")
        shown.add_column("", justify="right")
        rows: dict[str, object] = {name: getattr(self, name) for name in ("signed", "delivered", "lost", "altered")}
        rows |= {
            "not lost, but waiting at units": _numbers(self.waiting),
            "lost, but kept by units": _numbers(self.kept),
        }
        rows |= {"repeated by the broker": self.repeated, "late": self.late, "out of order": self.overtaken}
        rows |= {f"refused: {reason}": count for reason, count in self.refused.items()}
        rows |= {f"latency {name}": _ms(value) for name, value in self.latency_ms.items()}
        rows |= {"CPU of all units": _cpu(self.units_cpu_s, self.signed)}
        rows |= {"CPU of the subscriber": _cpu(self.subscriber_cpu_s, self.delivered)}
        rows |= {"CPU of the broker": _cpu(self.broker_cpu_s, self.delivered)}
        for name, value in rows.items():
            shown.add_row(name, str(value))
        return shown


def overtaken(arrivals: Iterable[tuple[int, bool]]) -> int:
    """How many of one unit's events came after a later one, without saying that they are late.

    ``arrivals`` are number and ``late`` of each, in the order of arrival.
    """
    highest = count = 0
    for seq, late in arrivals:
        count += seq < highest and not late
        highest = max(highest, seq)
    return count


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """p50, p99 and the highest, by nearest rank; None without values."""
    ordered = sorted(values)
    ranks = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: ordered[math.ceil(share * len(ordered)) - 1] if ordered else None for name, share in ranks.items()}


def _numbers(by_unit: dict[str, tuple[int, ...]]) -> int:
    return sum(map(len, by_unit.values()))


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _cpu(seconds: float | None, events: int) -> str:
    if seconds is None:
        return "not measured"
    return f"{seconds:.1f} s" + (f", {seconds / events * 1000:.2f} ms an event" if events else "")
