# SPDX-License-Identifier: Apache-2.0
"""The verdict of a rig run: a table for people, JUnit XML for build servers, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from xml.etree import ElementTree as ET

from rich.table import Table
from rich.text import Text

from tools.lib.rig.judge import ended
from tools.lib.rig.outcome import Check, Run, spell

MAX_LOG_SHOWN = 15  # last lines of a unit's log, beside what did not hold: half a screen
MAX_LINE_SHOWN = 300  # characters of each
MARKS = {True: ("ok", "green"), False: ("no", "red"), None: ("?", "yellow")}
WORDS = {True: ("pass", "green"), False: ("FAIL", "bold red"), None: ("skipped", "yellow")}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One scenario on one target.

    ``skipped`` says why this target cannot play it, ``error`` what kept the rig from playing it to its end; ``run``
    is None then.
    """

    name: str
    target: str
    promise: str
    checks: tuple[Check, ...] = ()
    run: Run | None = None
    skipped: str | None = None
    error: str | None = None

    @property
    def ok(self) -> bool | None:
        """Whether everything that was promised held, as far as the target can tell; None when it was not played."""
        if self.skipped is not None:
            return None
        return self.error is None and all(check.ok is not False for check in self.checks)

    @property
    def word(self) -> str:
        return "ERROR" if self.error is not None else WORDS[self.ok][0]

    def trace(self) -> list[str]:
        """How the unit ended and the last that it logged: for whoever has to find out why."""
        if self.run is None or self.run.log is None:
            return []
        lines = [f"the unit ended: {ended(self.run)}", *self.run.log[-MAX_LOG_SHOWN:]]
        return [_clean(line)[:MAX_LINE_SHOWN] for line in lines]


def all_held(verdicts: Sequence[Verdict]) -> bool:
    """Whether something was played and everything that was played held."""
    return all(one.ok is not False for one in verdicts) and any(one.ok for one in verdicts)


def table(verdicts: Sequence[Verdict], *, every_check: bool) -> Table:
    """One row a scenario and, below it, what did not hold or cannot be told (or everything)."""
    shown = Table(title="scenarios")
    for column, side in (("scenario", "left"), ("target", "left"), ("verdict", "left"), ("events", "right")):
        shown.add_column(column, justify=side, no_wrap=column != "scenario")  # type: ignore[arg-type]
    shown.add_column("seconds", justify="right")
    shown.add_column("what was found")
    for verdict in verdicts:
        word = Text(verdict.word, WORDS[verdict.ok][1])
        said = verdict.skipped or verdict.error or ("" if verdict.ok else verdict.promise)
        counts = ("", "")
        if verdict.run is not None:
            counts = (str(len(verdict.run.arrivals)), f"{verdict.run.seconds:.1f}")
        shown.add_row(verdict.name, verdict.target, word, *counts, Text(_clean(said)))
        for check in verdict.checks:
            if every_check or not check.ok:
                found = Text(_clean(f"{check.name}: {check.found}"))
                shown.add_row("", "", Text(*MARKS[check.ok]), "", "", found)
    return shown


def traces(verdicts: Sequence[Verdict]) -> list[str]:
    """Lines to print below the table: the traces of what failed."""
    lines = []
    for verdict in verdicts:
        if verdict.ok is False and (trace := verdict.trace()):
            lines += [f"{verdict.name}: {trace[0]}; the last lines of its log:", *(f"    {line}" for line in trace[1:])]
    return lines


def as_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Everything, one object a scenario; ``ok`` is null for what was not played and for what cannot be told."""
    return [
        {
            "scenario": verdict.name,
            "target": verdict.target,
            "ok": verdict.ok,
            "skipped": verdict.skipped,
            "error": verdict.error,
            "promise": verdict.promise,
            "checks": [asdict(check) for check in verdict.checks],
            "events": [
                {"what": spell(one), "at_s": round(one.at_s, 3), "seq": one.seq, "bytes": one.size}
                for one in (verdict.run.arrivals if verdict.run is not None else ())
            ],
            "measured": None if verdict.run is None else asdict(verdict.run.measured),
            "exit_status": None if verdict.run is None else verdict.run.status,
            "log": [] if verdict.ok else verdict.trace(),
            "seconds": None if verdict.run is None else round(verdict.run.seconds, 2),
        }
        for verdict in verdicts
    ]


def as_junit(verdicts: Sequence[Verdict]) -> bytes:
    """One test case a check, as build servers read it."""
    suites = ET.Element("testsuites", name="tools/rig")
    for verdict in verdicts:
        failures = sum(check.ok is False for check in verdict.checks)
        untold = sum(check.ok is None for check in verdict.checks)
        facts = {
            "tests": max(len(verdict.checks), 1),
            "failures": failures,
            "errors": int(verdict.error is not None),
            "skipped": untold + int(verdict.skipped is not None),
        }
        seconds = f"{verdict.run.seconds:.2f}" if verdict.run is not None else "0"
        name = f"{verdict.target}.{verdict.name}"
        suite = ET.SubElement(
            suites, "testsuite", {"name": name, "time": seconds, **{key: str(count) for key, count in facts.items()}}
        )
        if verdict.skipped is not None or verdict.error is not None:
            case = ET.SubElement(suite, "testcase", classname=verdict.target, name=verdict.name)
            kind = "skipped" if verdict.error is None else "error"
            ET.SubElement(case, kind, message=_clean(verdict.error or verdict.skipped or ""))
        for check in verdict.checks:
            case = ET.SubElement(suite, "testcase", classname=name, name=_clean(check.name))
            if not check.ok:
                kind = "skipped" if check.ok is None else "failure"
                ET.SubElement(case, kind, message=_clean(check.found) or "it does not hold")
        if verdict.ok is False and (trace := verdict.trace()):
            ET.SubElement(suite, "system-out").text = "\n".join(trace)
    ET.indent(suites)
    content: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def _clean(text: str) -> str:
    """Without what XML cannot hold and a terminal would obey; line ends stay."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
