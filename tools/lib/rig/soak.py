# SPDX-License-Identifier: Apache-2.0
"""Hours of people, faults, kills and broker restarts against two units, then the books.

``steady`` is never killed: its memory is watched. ``mortal`` is killed, or loses its power in the middle of a write,
and starts again. Both talk to a real Mosquitto over links that fail. At the end a subscriber must have verified
exactly what the units signed. The exit status is 0 only then, and only if threads, open files and memory kept their
budgets (the slope of the memory is judged from 30 minutes on). A run that has nothing to show is not as promised.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from agent.camera.scene.people import PERSON_IDS
from agent.clock import SystemClock
from agent.config.load import load_config
from agent.errors import CaptureRefusedError
from agent.notices.notice import notice_id
from agent.outbox.numbers import Head
from agent.unit.assemble import load_key
from agent.unit.models import load_models
from agent.unit.stores import open_gallery
from tools.lib.demo.brokers import DemoBroker
from tools.lib.demo.site import PROGRAM, SITE, CommandError, DemoSite, postern
from tools.lib.rig.chaos import Chaos
from tools.lib.rig.enrolment import captures, consent
from tools.lib.rig.ledger import Balance, balance
from tools.lib.rig.listener import Listener
from tools.lib.rig.process import UnitProcess
from tools.lib.rig.proxy import FaultyProxy

STEADY, MORTAL = "steady", "mortal"
VISITORS = 8  # a subject seen again within ten seconds is the same visit: eight take longer
VISIT_S = 2.0
FRAMES_PER_SECOND = 6
MAX_SLOPE_MIB_PER_H = 1.0
JUDGED_AFTER_MIN = 30.0  # a shorter slope is mostly the warm-up
MAX_THREADS, MAX_FILES = 6, 24  # of a unit, as without faults: a new connection takes the place of the one before
WARM_UP = 0.15  # share of the time that the slope leaves out, five minutes at least
SETTLE_S = 60.0  # for the last events, once the faults are over
ARRIVES_S = 5.0  # within which what the broker has is with the subscriber
SAMPLE_S = 5.0
START_S = 10.0  # until a unit has loaded what it runs with
MEANING = {
    "owned up": "taken out of the outbox by the unit, which said so in a signed loss event; only a full outbox or an "
    "erasure does that, and neither is among these faults: any is a failure",
    "late": "verified after a later one, on the backlog's topic, as what a broker hung up on is tried again; not lost",
    "disordered": "the same on the live topic, where nothing may be overtaken: any is a failure",
    "not signed": "what a full disk or a power cut kept from being signed has no number; it is neither signed nor lost",
}


@dataclass(slots=True)
class Result:
    """``usage`` are samples of the steady unit: seconds since the start, MiB resident, threads, open files.

    ``disordered`` counts, by unit, what came on the live topic after a later event.
    """

    minutes: float
    seed: int
    enrolled: int
    faults: dict[str, int] = field(default_factory=dict)
    units: dict[str, Balance] = field(default_factory=dict)
    disordered: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    ended_by_itself: list[str] = field(default_factory=list)
    usage: list[tuple[float, float, int, int]] = field(default_factory=list)
    starved: int = 0  # starts of the mortal unit that a full disk ended with advice, as it should

    @property
    def slope(self) -> float | None:
        """MiB per hour after the warm-up, by least squares; None without enough samples."""
        return slope([(at, mib) for at, mib, _, _ in self.usage])

    @property
    def ok(self) -> bool:
        """Everything was looked at, and all of it is as promised."""
        return not self.wrong()

    def wrong(self) -> list[str]:
        """What did not hold or was not seen, a sentence each."""
        found = [] if self.enrolled else ["nobody was enrolled"]
        found += [] if self.faults else ["nothing went wrong, so nothing was shown"]
        for name in (STEADY, MORTAL):
            found += [f"{name}: {what}" for what in self._wrong_books(name)]
        found += [
            f"{count} messages were refused as {why}" for why, count in self.refused.items() if why != "duplicate"
        ]
        found += [f"a unit ended by itself: {last}" for last in self.ended_by_itself]
        return found + self._wrong_usage()

    def _wrong_books(self, name: str) -> list[str]:
        books = self.units.get(name)
        if books is None or books.signed == 0:
            return ["nothing was signed" if books is not None else "there are no books"]
        counts = {what: getattr(books, what) for what in ("lost", "owned_up", "doubled", "altered")}
        counts["disordered"] = self.disordered.get(name, 0)
        return [f"{count} of {books.signed} events {what.replace('_', ' ')}" for what, count in counts.items() if count]

    def _wrong_usage(self) -> list[str]:
        if not self.usage:
            return [f"{STEADY}: its memory was never looked at"]
        threads, files = (max(one[place] for one in self.usage) for place in (2, 3))
        found = [f"{STEADY}: {threads} threads, at most {MAX_THREADS} are promised"] if threads > MAX_THREADS else []
        found += [f"{STEADY}: {files} open files, at most {MAX_FILES} are promised"] if files > MAX_FILES else []
        if self.minutes < JUDGED_AFTER_MIN:
            return found
        if self.slope is None:
            return [*found, f"{STEADY}: too few samples to say whether its memory grows"]
        grows = f"{STEADY}: memory grows by {self.slope:.2f} MiB an hour, less than {MAX_SLOPE_MIB_PER_H:g} is promised"
        return found if self.slope < MAX_SLOPE_MIB_PER_H else [*found, grows]


def slope(samples: Sequence[tuple[float, float]]) -> float | None:
    """Least squares over (s, value) after the warm-up, per hour."""
    if not samples:
        return None
    begin = max(300.0, WARM_UP * samples[-1][0])
    kept = [(at, value) for at, value in samples if at >= begin]
    if len(kept) < 10:
        return None
    times, values = np.array(kept).T
    return float(np.polyfit(times / 3600, values, 1)[0])


def scene(visitors: Sequence[str]) -> dict[str, Any]:
    """Take turns before the camera, each for as long as a match needs, and again from the start."""
    people = []
    for number, who in enumerate(visitors):
        at = number * VISIT_S
        path = [{"at": at, "x": 320, "y": 155, "face": 130}]
        people.append({"who": who, "appears": at, "leaves": at + VISIT_S - 0.2, "path": path})
    return {
        "size": [640, 360],
        "frames_per_second": FRAMES_PER_SECOND,
        "duration": max(len(visitors), 1) * VISIT_S,
        "seed": 2,
        "background": {"kind": "room", "variant": 11},
        "people": people,
    }


class Soak:
    """The site, the two units, their links, and one run.

    ``visitors`` people are enrolled; after the faults each unit has ``settle_s`` to deliver what is left.
    """

    def __init__(
        self,
        folder: Path,
        *,
        minutes: float,
        seed: int,
        say: Console,
        visitors: int = VISITORS,
        settle_s: float = SETTLE_S,
        typed: Callable[..., str] = postern,
    ) -> None:
        """``typed`` runs the commands by which the site is made (``DemoSite``)."""
        self._folder, self._minutes, self._seed, self._say = folder, minutes, seed, say
        self._visitors, self._settle_s = visitors, settle_s
        self._sites = {name: DemoSite(folder, name, typed) for name in (STEADY, MORTAL)}

    def run(self) -> Result:
        first = self._sites[STEADY]
        first.create()
        with (
            DemoBroker(first.site, self._folder / "broker") as broker,
            FaultyProxy(broker.port) as steady_link,
            FaultyProxy(broker.port) as mortal_link,
        ):
            links = {STEADY: steady_link, MORTAL: mortal_link}
            visitors = self._make_units(broker, links)
            result = Result(self._minutes, self._seed, len(visitors))
            with Listener.of_program(first.site, PROGRAM, name=SITE, port=broker.port) as listener:
                self._live(result, broker, links, listener, visitors)
            result.refused = dict(listener.refusals())
        return result

    def _make_units(self, broker: DemoBroker, links: dict[str, FaultyProxy]) -> list[str]:
        empty = self._folder / "empty.yaml"
        empty.write_text(yaml.safe_dump(scene([])))
        for name, site in self._sites.items():
            site.add_unit(port=links[name].port, protocol=broker.protocol, scene=empty)
        broker.reload(self._sites[STEADY].site)
        return self._enrol()

    def _enrol(self) -> list[str]:
        """Enrol at both units; whom the model takes for somebody who is enrolled already is left out."""
        clock, enrolled = SystemClock(), list[str]()
        configs = [load_config(site.config) for site in self._sites.values()]
        models = load_models(configs[0])
        with ExitStack() as stack:
            galleries = [stack.enter_context(open_gallery(one, load_key(one), clock)) for one in configs]
            for who in PERSON_IDS:
                try:
                    taken = captures(who, models, galleries[0].references(models.embedder.model))
                except CaptureRefusedError as error:
                    self._say.print(f"{who} is left out: {error}", style="dim")
                    continue
                for config, gallery in zip(configs, galleries, strict=True):
                    record = consent(clock.now(), signed=who, unit=config.unit.id, notice=notice_id(config))
                    gallery.enrol(taken, consent=record, model=models.embedder.model)
                enrolled.append(who)
                if len(enrolled) == self._visitors:
                    break
        return enrolled

    def _live(
        self,
        result: Result,
        broker: DemoBroker,
        links: dict[str, FaultyProxy],
        listener: Listener,
        visitors: list[str],
    ) -> None:
        script = self._folder / "visits.yaml"
        script.write_text(yaml.safe_dump(scene(visitors)))
        units = {}
        for name, site in self._sites.items():
            self._configure(site, links[name].port, broker.protocol, script)
            units[name] = UnitProcess(site.config, outbox=site.unit / "outbox.db")
            units[name].start()
        chaos = Chaos(
            broker=broker,
            steady=(units[STEADY], links[STEADY]),
            mortal=(units[MORTAL], links[MORTAL]),
            seed=self._seed,
        )
        began, told = time.monotonic(), 0.0

        def look() -> None:
            nonlocal told
            now, usage = time.monotonic() - began, units[STEADY].usage()
            if usage is not None and (not result.usage or now - result.usage[-1][0] >= SAMPLE_S):
                result.usage.append((now, usage.resident_kib / 1024, usage.threads, usage.files))
            if now - told >= 60:
                told = now
                counts = ", ".join(f"{name} {len(listener.events(name))} events" for name in units)
                self._say.print(f"{now / 60:5.1f} min  {counts}, {chaos.done.total()} faults", style="dim")

        chaos.run(self._minutes * 60, look=look)
        result.faults, result.starved, result.ended_by_itself = dict(chaos.done), chaos.starved, chaos.surprises
        for name, unit in units.items():
            head = self._settle(name, unit, listener)
            events = listener.events(name)
            heads = chaos.heads if name == MORTAL else []
            result.units[name] = balance([*heads, head], events)
            result.disordered[name] = sum(one.late and not one.backlog for one in events)

    def _settle(self, name: str, unit: UnitProcess, listener: Listener) -> Head:
        """Let the unit deliver what it has, stop it clean; where its chain ends, which the subscriber then has."""
        seen = -1
        end = time.monotonic() + self._settle_s
        while time.monotonic() < end and len(listener.events(name)) != seen:
            seen = len(listener.events(name))
            time.sleep(self._settle_s / 6)
        status = unit.stop()
        head = unit.head()
        if not listener.wait_for(name, head.seq, ARRIVES_S):  # what a clean stop had no time for, the next start sends
            self._say.print(f"{name}: the last events need another start (status {status})", style="dim")
            unit.start()
            listener.wait_for(name, head.seq, SETTLE_S)
            unit.stop()
            head = unit.head()
            listener.wait_for(name, head.seq, SETTLE_S)
        return head

    def _configure(self, site: DemoSite, port: int, protocol: str, script: Path) -> None:
        site.write_config(site.config, port=port, protocol=protocol, scene=script)
        content: dict[str, Any] = yaml.safe_load(site.config.read_text())
        content["camera"]["loop"] = True
        content["events"] = {"presence": True, "presence_hold_s": 5}
        site.config.write_text(yaml.safe_dump(content))


def table(result: Result) -> Table:
    """The books, for people."""
    shown = Table(title=f"soak of {result.minutes:g} minutes, {sum(result.faults.values())} faults")
    shown.add_column("")
    for name in result.units:
        shown.add_column(name, justify="right")
    for what in ("signed", "verified", "lost", "owned_up", "doubled", "altered", "late"):
        shown.add_row(what.replace("_", " "), *(str(getattr(one, what)) for one in result.units.values()))
    shown.add_row("disordered", *(str(result.disordered.get(name, 0)) for name in result.units))
    return shown


def summary(result: Result) -> dict[str, Any]:
    """The result for machines, without the samples."""
    usage = result.usage
    running = [mib for at, mib, _, _ in usage if at >= START_S]
    return {
        "ok": result.ok,
        "wrong": result.wrong(),
        "minutes": result.minutes,
        "seed": result.seed,
        "enrolled": result.enrolled,
        "faults": result.faults,
        "units": {name: asdict(one) for name, one in result.units.items()},
        "disordered": result.disordered,
        "refused": result.refused,
        "starved": result.starved,
        "ended_by_itself": result.ended_by_itself,
        "resident_mib": [round(running[0], 1), round(max(running), 1)] if running else None,
        "slope_mib_per_h": None if result.slope is None else round(result.slope, 3),
        "threads": max((one[2] for one in usage), default=None),
        "files": max((one[3] for one in usage), default=None),
    }


def main(words: Sequence[str] | None = None) -> int:
    """``tools/rig soak``: exit status 0 only if every promise held."""
    parser = argparse.ArgumentParser(prog="tools/rig soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="of faults; setting up takes about a minute more")
    parser.add_argument("--seed", type=int, default=1, help="of the faults and their times")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--samples", type=Path, metavar="FILE", help="write the steady unit's memory over time, CSV")
    args = parser.parse_args(words)
    say = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="postern-soak-") as folder:
        try:
            result = Soak(Path(folder), minutes=args.minutes, seed=args.seed, say=say).run()
        except CommandError as error:
            say.print(f"tools/rig soak: {error}", style="red", highlight=False)
            return 1
    if args.samples is not None:
        rows = ["s,resident_mib,threads,files", *(",".join(map(str, one)) for one in result.usage)]
        args.samples.write_text("\n".join(rows) + "\n")
    facts = summary(result)
    if args.json:
        print(json.dumps(facts))
    else:
        out = Console()
        out.print(table(result))
        for what, meaning in MEANING.items():
            out.print(f"{what}: {meaning}", style="dim", highlight=False)
        for name in (
            "faults",
            "refused",
            "starved",
            "ended_by_itself",
            "resident_mib",
            "slope_mib_per_h",
            "threads",
            "files",
        ):
            out.print(f"{name.replace('_', ' ')}: {facts[name]}", highlight=False)
        for sentence in facts["wrong"]:
            out.print(sentence, style="red", highlight=False, markup=False)
        out.print("as promised" if result.ok else "NOT AS PROMISED", style="green" if result.ok else "bold red")
    return 0 if result.ok else 1
