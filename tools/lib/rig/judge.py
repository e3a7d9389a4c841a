# SPDX-License-Identifier: Apache-2.0
"""Whether what came of a scenario is what it promised. Pure: a scenario and a run in, checks out."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from agent.protocol.event import MatchData, UnitData
from tools.lib.rig.board import Pulse
from tools.lib.rig.faults import MAX_SECONDS
from tools.lib.rig.ledger import balance
from tools.lib.rig.outcome import Arrival, Check, Run, spell
from tools.lib.rig.scenario import Expected, ExpectMatch, ExpectPresence, ExpectPulse, Scenario

ALLOWED_REFUSALS = frozenset({"duplicate"})  # what QoS 1 may do; a verifier sees through it
MAX_NAMED = 8  # missing numbers in a sentence
NOT_HERE = "not measured here"


def judge(scenario: Scenario, run: Run) -> list[Check]:
    """Everything that a scenario promises, in the order in which a reader asks."""
    if run.silent is not None:
        return [Check("the unit starts", ok=False, found=run.silent)]
    order = sort(scenario.expect, run.arrivals, run.slack_s)
    checks = []
    for number, (expected, found) in enumerate(zip(scenario.expect, order.taken, strict=True)):
        least, most = expected.times
        shown = ", ".join(f"{one.at_s:.2f} s" for one in found) or "never"
        checks.append(Check(describe(expected), least <= len(found) <= most, shown))
        checks += _beside_others(expected, found, [one for taken in order.taken[:number] for one in taken])
    checks.append(Check("in the order of the file", not order.early, "; ".join(order.early) or "nothing out of it"))
    checks.append(Check("nothing else", not order.stray, "; ".join(order.stray) or "nothing"))
    checks += _pulses(scenario, run)
    return [*checks, *_delivery(scenario, run), *_words(scenario, run), *_budgets(scenario, run)]


@dataclass(slots=True)
class Order:
    """Events at the expectations that they fulfil; ``early`` would fulfil one that had its turn, ``stray`` none."""

    taken: list[list[Arrival]]
    early: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)


def sort(expect: Sequence[Expected], arrivals: Sequence[Arrival], slack_s: float) -> Order:
    """Give each event, as they came, to the first expectation from the last fulfilled one on that wants it."""
    order, turn = Order([[] for _ in expect]), 0
    for arrival in arrivals:
        wanting = [
            number
            for number, expected in enumerate(expect)
            if _fits(expected, arrival, slack_s) and len(order.taken[number]) < expected.times[1]
        ]
        place = next((number for number in wanting if number >= turn), None)
        if place is not None:
            order.taken[place].append(arrival)
            turn = place
            continue
        shown = f"{spell(arrival)} at {arrival.at_s:.2f} s"
        if wanting:
            order.early.append(f"{shown} came after {_named(expect[turn])}")
        else:
            order.stray.append(shown)
    return order


def describe(expected: Expected) -> str:
    """One line: what, who, how often, when."""
    least, most = expected.times
    often = "once" if (least, most) == (1, 1) else f"{least} to {most} times" if least != most else f"{least} times"
    kept = {None: "", True: ", on the backlog", False: ", live"}[expected.backlog]
    begin, end = expected.between
    when = "" if (begin, end) == (0.0, MAX_SECONDS) else f" from {begin:g} to {end:g} s"
    return f"{_named(expected)} {often}{when}{kept}"


def ended(run: Run) -> str:
    """How the unit came to its end, for a reader."""
    words = run.ended or ("clean" if not run.status else "without a word")
    if not run.status:
        return words
    if run.status > 0:
        return f"{words} (exit status {run.status})"
    return f"{words} (killed by {signal.Signals(-run.status).name})"


def _fits(expected: Expected, arrival: Arrival, slack_s: float) -> bool:
    begin, end = expected.between
    kept = expected.backlog is None or expected.backlog == arrival.event.backlog
    if isinstance(expected, ExpectMatch) and expected.liveness is not None:
        data = arrival.event.event.data
        kept = kept and isinstance(data, MatchData) and data.liveness == expected.liveness
    return kept and _named(expected) == spell(arrival) and begin <= arrival.at_s <= end + slack_s


def _named(expected: Expected) -> str:
    if isinstance(expected, ExpectMatch):
        return f"match of {expected.who}" + ("" if expected.granted is None else f", granted {expected.granted}")
    if isinstance(expected, ExpectPresence):
        return f"{expected.who} {expected.state}"
    return f"unit {expected.condition}"


def _beside_others(expected: Expected, found: Sequence[Arrival], before: Sequence[Arrival]) -> Iterator[Check]:
    """What an expectation says about the events ``before`` it."""
    if expected.within_ms is not None and found:
        waited = [round(1000 * (one.at_s - before[-1].at_s)) for one in found] if before else []
        shown = ", ".join(f"{ms} ms" for ms in waited) or "nothing came before it"
        ok = bool(waited) and max(waited) <= expected.within_ms
        yield Check(f"{_named(expected)} within {expected.within_ms} ms", ok, shown)
    if isinstance(expected, ExpectMatch | ExpectPresence) and expected.pseudonym is not None and found:
        known = [one.pseudonym for one in before if one.who == expected.who]
        same = [
            one.pseudonym in known[-1:] if expected.pseudonym == "same" else one.pseudonym not in known for one in found
        ]
        shown = (
            "nothing about this person came before it" if not known else "as it must be" if all(same) else "it is not"
        )
        yield Check(f"{_named(expected)} under the {expected.pseudonym} pseudonym", bool(known) and all(same), shown)


def _pulses(scenario: Scenario, run: Run) -> Iterator[Check]:
    """What went on and off on the board, and what the unit answered to questions."""
    if scenario.pulses is not None and run.pulses is None:
        yield Check("pulses", None, NOT_HERE)
    elif scenario.pulses is not None and run.pulses is not None:
        found = [f"line {one.line} at {one.on_s:.2f} s" for one in run.pulses]
        fit = len(run.pulses) == len(scenario.pulses) and all(
            _is_pulse(expected, one, run.slack_s) for expected, one in zip(scenario.pulses, run.pulses, strict=True)
        )
        yield Check(f"{len(scenario.pulses)} pulses, each at its time", fit, "; ".join(found) or "none")
    if scenario.lit or scenario.dark:
        lines = sorted({one.line for one in run.pulses or ()})
        fits = run.pulses is not None and set(scenario.lit) <= set(lines) and not set(scenario.dark) & set(lines)
        wanted = (
            f"on: {' '.join(map(str, scenario.lit)) or 'none'}; never: {' '.join(map(str, scenario.dark)) or 'none'}"
        )
        yield Check(
            f"lines {wanted}", None if run.pulses is None else fits, f"on: {' '.join(map(str, lines)) or 'none'}"
        )
    if run.pulses is not None:
        lit = [str(one.line) for one in run.pulses if one.off_s is None]
        yield Check("every output is off in the end", not lit, f"on: {', '.join(lit)}" if lit else "all off")
    if scenario.answers:
        same = None if run.answers is None else tuple(run.answers) == scenario.answers
        yield Check(f"answers: {', '.join(scenario.answers)}", same, ", ".join(run.answers or ()) or NOT_HERE)


def _is_pulse(expected: ExpectPulse, found: Pulse, slack_s: float) -> bool:
    begin, end = expected.between
    at_its_time = expected.line == found.line and begin <= found.on_s <= end + slack_s
    if expected.lasts_ms is None or found.off_s is None:
        return at_its_time and found.off_s is not None
    least, most = expected.lasts_ms
    return at_its_time and least <= 1000 * (found.off_s - found.on_s) <= most + 1000 * slack_s


def _delivery(scenario: Scenario, run: Run) -> Iterator[Check]:
    """Verified, once, in order, complete."""
    foreign = {reason: count for reason, count in run.refused.items() if reason not in ALLOWED_REFUSALS}
    again = run.refused["duplicate"]
    yield Check("every event verified", not foreign, str(foreign) if foreign else f"{again} sent twice and seen")
    if scenario.resent is not None:
        least, most = scenario.resent
        yield Check(f"{least} to {most} messages came again", least <= again <= most, str(again))
    seqs = [one.seq for one in run.arrivals]
    yield Check("in order of their numbers", seqs == sorted(set(seqs)), f"{len(seqs)} events")
    if run.heads is not None:
        books = balance(run.heads, [one.event for one in run.arrivals], after=run.after)
        found = f"signed {books.signed}, verified {books.verified}, owned up {books.owned_up}"
        yield Check("what was signed arrived, once, unaltered", books.ok, found)
    elif seqs:
        yield _contiguous(run.arrivals)


def _contiguous(arrivals: Sequence[Arrival]) -> Check:
    """Where nobody can look into the unit: between the first and the last number none may be missing."""
    seqs = sorted({one.seq for one in arrivals})
    missing = [seq for earlier, later in pairwise(seqs) for seq in range(earlier + 1, later)]
    data = [one.event.event.data for one in arrivals]
    owned_up = sum(one.lost.count for one in data if isinstance(one, UnitData) and one.lost is not None)
    shown = f"missing: {', '.join(str(seq) for seq in missing[:MAX_NAMED])}" if missing else f"{len(seqs)} numbers"
    return Check(f"no number is missing from {seqs[0]} to {seqs[-1]}", len(missing) <= owned_up, shown)


def _words(scenario: Scenario, run: Run) -> Iterator[Check]:
    """What the unit logs, and how it ends."""
    for words in scenario.log:
        if run.log is None:
            yield Check(f"log: {words}", None, "nobody sees the log of a unit somewhere else")
        else:
            yield Check(f"log: {words}", any(words in line for line in run.log), f"{len(run.log)} lines")
    name = "ends: " + (scenario.ends or "clean")
    if run.log is None:
        yield Check(name, None, "nobody sees how a unit somewhere else ends")
    elif scenario.ends is None:
        yield Check(name, run.ended is None and not run.status, ended(run))
    else:
        yield Check(name, scenario.ends in (run.ended or ""), ended(run))


def _budgets(scenario: Scenario, run: Run) -> Iterator[Check]:
    budgets, measured = scenario.budgets, run.measured
    longest = max((one.size for one in run.arrivals), default=0)
    limits = (
        ("bytes of an event", longest, budgets.event_bytes),
        ("embeddings made", measured.embeddings, budgets.embeddings),
        ("bytes more on disk", measured.disk_bytes, budgets.disk_bytes),
        ("MiB of memory", measured.memory_mib, budgets.memory_mib),
        ("MiB of memory of all processes", measured.together_mib, budgets.together_mib),
        ("threads", measured.threads, budgets.threads),
        ("open files", measured.open_files, budgets.open_files),
    )
    for name, found, limit in limits:
        if limit is not None:
            ok = None if found is None else found <= limit
            yield Check(f"at most {limit} {name}", ok, NOT_HERE if found is None else str(found))
