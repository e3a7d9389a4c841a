# SPDX-License-Identifier: Apache-2.0
"""What a person or a program sees of a subscriber: columns on a terminal, JSON lines everywhere else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from agent.errors import printable
from agent.parse.strict_json import dumps
from agent.protocol.event import MatchData, PresenceData
from agent.subscribe.chain import Gap
from agent.subscribe.sequence import Passed
from agent.subscribe.subscriber import Handed, Refusal
from agent.subscribe.verify import Loss, VerifiedEvent

if TYPE_CHECKING:
    from rich.console import Console

HEADER = f"{'time':20}  {'unit':16}  {'what':16}  {'who':14}  {'where':12}  remarks"
SHOWN_GAPS = 8  # ranges in one line
MAX_LINE = 100_000  # characters; the longest event as JSON has about 5 000
SHOWN_SUBJECT = 11  # characters: enough to tell the people of a site apart on a screen


def as_json(outcome: Handed) -> str:
    """One line of JSON: ``accepted`` with the event, ``refused`` with the reason, or ``lost`` with the numbers."""
    if isinstance(outcome, Loss):
        gap = [outcome.gap.first, outcome.gap.last]
        lost = {"outcome": "lost", "unit": outcome.unit, "gap": gap, "count": outcome.count, "repeat": outcome.repeat}
        return dumps(lost)
    if isinstance(outcome, Refusal):
        return dumps({"outcome": "refused", "reason": outcome.reason, "topic": outcome.topic})
    skipped = None if outcome.gap is None else [outcome.gap.first, outcome.gap.last]
    facts: dict[str, Any] = {
        "outcome": "accepted",
        "unit": outcome.unit,
        "kind": outcome.kind,
        "backlog": outcome.backlog,
        "fresh": outcome.fresh,
        "late": outcome.late,
        "repeat": outcome.repeat,
        "age_s": outcome.age_s,
        "gap": skipped,
        "event": msgspec.to_builtins(outcome.event),
    }
    return dumps(facts)


def as_columns(outcome: Handed) -> str:
    if isinstance(outcome, Loss):
        what = f"{outcome.count} of {outcome.gap.first} to {outcome.gap.last} are kept at the unit no more"
        return f"{'LOST':20}  {outcome.unit:16}  {what}"
    if isinstance(outcome, Refusal):
        return f"{'REFUSED':20}  {printable(outcome.topic):48}  {outcome.reason}: {printable(outcome.message)}"
    data = outcome.event.data
    who, where = "", ""
    if isinstance(data, MatchData | PresenceData):
        who, where = data.subject[:SHOWN_SUBJECT] + "…", data.zone
    what = data.state if isinstance(data, PresenceData) else "match" if isinstance(data, MatchData) else data.condition
    remarks = [_remarks(outcome)]
    if isinstance(data, MatchData) and data.granted is not None:
        remarks.insert(0, f"opens {data.granted}")
    told = ", ".join(filter(None, remarks))
    return f"{outcome.event.time:20}  {outcome.unit:16}  {what:16}  {who:14}  {where:12}  {told}".rstrip()


def _remarks(outcome: VerifiedEvent) -> str:
    remarks = []
    if outcome.repeat:
        remarks.append("REPEAT: perhaps shown before")
    if outcome.backlog:
        remarks.append("backlog")
    elif outcome.age_s is None:
        remarks.append("clock not synchronised")
    elif not outcome.fresh:
        remarks.append(f"NOT FRESH: {abs(outcome.age_s)} s {'ahead' if outcome.age_s < 0 else 'old'}")
    if outcome.late:
        remarks.append("late, fills a gap")
    if outcome.gap is not None:
        remarks.append(f"GAP: {outcome.gap.first} to {outcome.gap.last} missing")
    return ", ".join(remarks)


def what_is_missing(
    missing: Mapping[str, Sequence[Gap]], withheld: Mapping[str, int], quarantined: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """What a person has to look after: what never came of each unit, is withheld, or is quarantined."""
    for unit, gaps in missing.items():
        count = sum(gap.count for gap in gaps)
        yield {"outcome": "missing", "unit": unit, "count": count, "gaps": [[gap.first, gap.last] for gap in gaps]}
    for unit, count in withheld.items():
        yield {"outcome": "withheld", "unit": unit, "count": count}
    for unit, reason in quarantined.items():
        yield {"outcome": "quarantined", "unit": unit, "reason": reason}


def in_words(fact: Mapping[str, Any]) -> str:
    """One such fact for people."""
    unit = fact["unit"]
    if fact["outcome"] == "missing":
        gaps = [f"{first} to {last}" if first < last else f"{first}" for first, last in fact["gaps"]]
        more = f" and {len(gaps) - SHOWN_GAPS} more ranges" if len(gaps) > SHOWN_GAPS else ""
        return f"unit {unit}: {fact['count']} events missing: {', '.join(gaps[:SHOWN_GAPS])}{more}"
    if fact["outcome"] == "withheld":
        return f"unit {unit}: {fact['count']} events withheld, as its health says"
    return f"unit {unit}: QUARANTINED ({fact['reason']})"


class Screen:
    """Writes outcomes to ``stream``: columns when it is a terminal and JSON was not asked for."""

    def __init__(self, stream: TextIO, *, json_lines: bool = False) -> None:
        self._stream = stream
        self._json = json_lines or not stream.isatty()
        self._console = None if self._json else _console(stream)
        if not self._json:
            self._write(HEADER, "bold")

    def show(self, outcome: Handed) -> None:
        if self._json:
            self._write(as_json(outcome))
        elif isinstance(outcome, Refusal | Loss):
            self._write(as_columns(outcome), "bold red")
        elif outcome.gap is not None or outcome.repeat or (not outcome.backlog and not outcome.fresh):
            self._write(as_columns(outcome), "yellow")
        else:
            self._write(as_columns(outcome), "dim" if outcome.backlog else "green")

    def tell(self, passed: Passed | None) -> None:
        """Say that somebody came past all units of a sequence, if they did."""
        if passed is None:
            return
        if self._json:
            ends = {"first": passed.first.isoformat(), "last": passed.last.isoformat(), "seconds": passed.seconds}
            self._write(dumps({"outcome": "sequence", "subject": passed.subject, "units": list(passed.units), **ends}))
        else:
            who, way = passed.subject[:SHOWN_SUBJECT] + "…", ", ".join(passed.units)
            self._write(f"{'':20}  {who} came past {way} in {passed.seconds} s", "bold green")

    def _write(self, line: str, style: str | None = None) -> None:
        line = printable(line, MAX_LINE)
        if self._console is not None:
            self._console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
        else:
            self._stream.write(line + "\n")
            self._stream.flush()


def _console(stream: TextIO) -> Console | None:
    """Colours where the library for them is installed."""
    try:
        from rich.console import Console  # noqa: PLC0415  # optional: a plain terminal does without
    except ImportError:
        return None
    return Console(file=stream)
