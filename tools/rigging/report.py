# SPDX-License-Identifier: Apache-2.0
"""The verdict of a rig run: a table for people, JUnit XML for build servers, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from xml.etree import ElementTree as ET

from rich.table import Table

from tools.rigging.outcome import Check, Run, spell


@dataclass(frozen=True, slots=True)
class Verdict:
    """One scenario on one target; ``skipped`` says why it was not played, ``run`` is None then."""

    name: str
    target: str
    promise: str
    checks: tuple[Check, ...]
    run: Run | None
    skipped: str | None = None

    @property
    def ok(self) -> bool:
        """Whether everything that was promised held."""
        return all(check.ok for check in self.checks)


def table(verdicts: Sequence[Verdict], *, every_check: bool) -> Table:
    """One row a scenario and, below it, what did not hold (or everything)."""
    shown = Table(title="scenarios")
    for column, side in (("scenario", "left"), ("target", "left"), ("verdict", "left"), ("events", "right")):
        shown.add_column(column, justify=side, no_wrap=column != "scenario")  # type: ignore[arg-type]
    shown.add_column("seconds", justify="right")
    shown.add_column("what was found")
    for verdict in verdicts:
        if verdict.run is None:
            shown.add_row(verdict.name, verdict.target, "[yellow]skipped", "", "", verdict.skipped or "")
            continue
        word = "[green]pass" if verdict.ok else "[bold red]FAIL"
        events, seconds = str(len(verdict.run.arrivals)), f"{verdict.run.seconds:.1f}"
        shown.add_row(verdict.name, verdict.target, word, events, seconds, "" if verdict.ok else verdict.promise)
        for check in verdict.checks:
            if every_check or not check.ok:
                mark = "[green]ok" if check.ok else "[red]no"
                shown.add_row("", "", mark, "", "", f"{check.name}: {check.found}")
    return shown


def as_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Everything, one object a scenario."""
    return [
        {
            "scenario": verdict.name,
            "target": verdict.target,
            "ok": verdict.ok,
            "skipped": verdict.skipped,
            "promise": verdict.promise,
            "checks": [asdict(check) for check in verdict.checks],
            "events": [
                {"what": spell(one), "at_s": round(one.at_s, 3), "seq": one.event.event.data.seq, "bytes": one.size}
                for one in (verdict.run.arrivals if verdict.run is not None else ())
            ],
            "seconds": None if verdict.run is None else round(verdict.run.seconds, 2),
        }
        for verdict in verdicts
    ]


def as_junit(verdicts: Sequence[Verdict]) -> bytes:
    """One test case a check, as build servers read it."""
    suites = ET.Element("testsuites", name="tools/rig")
    for verdict in verdicts:
        failures = sum(not check.ok for check in verdict.checks)
        seconds = f"{verdict.run.seconds:.2f}" if verdict.run is not None else "0"
        cases = max(len(verdict.checks), 1)
        facts = {"tests": cases, "failures": failures, "skipped": int(verdict.skipped is not None)}
        suite = ET.SubElement(
            suites,
            "testsuite",
            {"name": f"{verdict.target}.{verdict.name}", "time": seconds, **{k: str(v) for k, v in facts.items()}},
        )
        if verdict.skipped is not None:
            case = ET.SubElement(suite, "testcase", classname=verdict.target, name=verdict.name)
            ET.SubElement(case, "skipped", message=verdict.skipped)
        for check in verdict.checks:
            case = ET.SubElement(suite, "testcase", classname=f"{verdict.target}.{verdict.name}", name=check.name)
            if not check.ok:
                ET.SubElement(case, "failure", message=check.found or "it does not hold")
    ET.indent(suites)
    content: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return content + b"\n"
