# SPDX-License-Identifier: Apache-2.0
"""Months of a site on a simulated clock: its units renew themselves through its service, and nobody types anything.

Everything but clock, broker and camera is the product's own: the site's folder and acts, the service's desk, the units'
keys and command side. Messages are handed over in memory, as the broker would; some are lost on the way. The service is
away now and then, for up to ten days, and is started anew afterwards; so is now and then a unit.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent.clock import SimulatedClock
from agent.mqtt.credentials import Credentials, offer_certificate, read_ends
from agent.protocol.command import RENEW
from agent.protocol.invitation import read_invitation
from agent.protocol.joining import JoinReply
from agent.protocol.program import Role
from agent.protocol.record import decode
from agent.protocol.topics import certificate_topic
from agent.site import joining
from agent.site.creation import create_site
from agent.site.delegation import delegate, take_root_away
from agent.site.desk import Desk
from agent.site.programs import issue_broker, issue_client
from agent.site.records import SiteFiles
from agent.unit.joining import install, new_unit_request
from tools.lib.lifetime.shown import Shown
from tools.lib.lifetime.unit import FleetUnit

SITE = "hq"
PROGRAMS: dict[str, Role] = {"guard": "auditor", "bridge": "announcer", "office": "operator"}
START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
STEP_S = 12 * 3600  # between two looks; units say how they are each minute, the same a thousand times
LOST = 0.1  # of messages, in either direction
RESTARTS = 0.02  # of units, at each step


@dataclass(frozen=True)
class Outage:
    """The service is away from ``day`` on for ``days``."""

    day: float
    days: float


@dataclass
class Tally:
    """What came of it."""

    announced: int = 0
    silent: int = 0
    fewest_weeks: int = 99
    fewest_days: int = 9_999
    certificates: int = 0
    programs: int = 0  # whose certificate was renewed
    told: Counter[str] = field(default_factory=Counter)


def outages(days: int, longest: float, seed: int) -> tuple[Outage, ...]:
    """Some outages, the longest among them; a week or more apart."""
    rng, at = random.Random(seed), 3.0
    found: list[Outage] = []
    while at < days - 1:
        length = longest if not found else rng.choice([0.25, 1.0, 4.0, longest])
        found.append(Outage(at, min(length, days - at)))
        at += length + 7 + rng.uniform(0, 5)
    return tuple(found)


class Fleet:
    """A site whose root's keys were taken away, and its units; in a copy of a folder of one it begins like that."""

    def __init__(self, folder: Path, count: int) -> None:
        self.clock = SimulatedClock(START)
        self.folder, self._keys = folder / "site", folder / "units"
        names = [f"door-{number}" for number in range(1, count + 1)]
        if not self.folder.exists():
            self._make(folder, names)
        files = SiteFiles(self.folder)
        self.programs = {name: Credentials.in_folder(files.client(name)) for name in PROGRAMS}
        self._shown = {name: Shown(keys, self.clock, name=name) for name, keys in self.programs.items()}
        self._board: dict[str, bytes] = {}  # what the broker retains
        self.tally = Tally()
        self.desk = self._start_desk()
        self.units = {name: FleetUnit(self._keys / name, SITE, name, self.clock) for name in names}

    def _make(self, folder: Path, names: Sequence[str]) -> None:
        create_site(self.folder, SITE, clock=self.clock)
        issue_broker(self.folder, ["127.0.0.1"], clock=self.clock)
        delegate(self.folder, audiences=("canteen",), clock=self.clock)
        for program, role in PROGRAMS.items():
            issue_client(self.folder, program, role, clock=self.clock)
        (folder / "stick").mkdir()
        take_root_away(self.folder, folder / "stick", clock=self.clock)
        (folder / "stick").rename(folder / "safe")  # nobody reaches it any more
        for name in names:
            self._join(name)

    def _start_desk(self) -> Desk:
        return Desk(self.folder, clock=self.clock, random=os.urandom, tell=lambda text: self.tally.told.update([text]))

    def _join(self, name: str) -> None:
        text = joining.invite(self.folder, name, accepted=True, clock=self.clock)
        invitation = read_invitation(text)
        keys = self._keys / name
        request = new_unit_request(keys, SITE, name, invitation.token())
        reply = decode(joining.ask_to_join(self.folder, name, request, clock=self.clock), JoinReply)
        install(keys, (reply.answer or "").encode(), clock=self.clock)

    def live(self, days: int, away: tuple[Outage, ...], *, seed: int, step_s: int = STEP_S) -> Tally:
        """Let so many days pass, ``step_s`` seconds between two looks."""
        rng = random.Random(seed)
        serials = {name: unit.serial() for name, unit in self.units.items()}
        ends = {name: read_ends(keys)[0] for name, keys in self.programs.items()}
        was_there = True
        for _ in range(round(days * 86_400 / step_s)):
            self.clock.advance(step_s)
            day = (self.clock.now() - START) / timedelta(days=1)
            is_there = not any(one.day <= day < one.day + one.days for one in away)
            if is_there and not was_there:
                self.desk = self._start_desk()
                self.desk.show_again()  # of its first session
            was_there = is_there
            if is_there:
                self.desk.daily()
                self._look_at_the_board(rng)
            for name in self.units:
                self._step(name, rng, is_there=is_there)
        renewed = sum(unit.serial() != serials[name] for name, unit in self.units.items())
        self.tally.certificates = renewed
        self.tally.programs = sum(read_ends(keys)[0] > ends[name] for name, keys in self.programs.items())
        return self.tally

    def _look_at_the_board(self, rng: random.Random) -> None:
        """Each program sees what the broker retains, unless it is not there."""
        self._board.update({letter.topic: letter.payload for letter in self.desk.board()})
        for name, keys in self.programs.items():
            content = self._board.get(certificate_topic(SITE, name))
            if content is not None and rng.random() >= LOST:
                offer_certificate(keys, content, self.clock)
            self._shown[name].check()  # ends the run where it has ended

    def _step(self, name: str, rng: random.Random, *, is_there: bool) -> None:
        unit = self.units[name]
        if rng.random() < RESTARTS:
            unit.close()
            unit = self.units[name] = FleetUnit(unit.files.folder, SITE, name, self.clock)
        try:
            unit.check()
            self.tally.announced += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, the unit is silent
            self.tally.silent += 1
            self.tally.told.update([f"silent: {error}"])
        self.tally.fewest_weeks = min(self.tally.fewest_weeks, unit.weeks())
        self.tally.fewest_days = min(self.tally.fewest_days, unit.days() or 0)
        if is_there:
            self._exchange(unit, rng)

    def _exchange(self, unit: FleetUnit, rng: random.Random) -> None:
        """One health message and what comes of it, each of them lost now and then."""
        base = f"postern/{SITE}/{unit.name}"
        letters = [] if rng.random() < LOST else self.desk.take(f"{base}/health", unit.health())
        for _ in range(8):  # an answer may be followed by another command
            following = []
            for letter in letters:
                if rng.random() < LOST or (answer := unit.handle(RENEW, letter.payload)) is None or rng.random() < LOST:
                    continue
                following += self.desk.take(f"{base}/response/unit/renew", answer)
            letters = following
