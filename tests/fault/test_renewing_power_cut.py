# SPDX-License-Identifier: Apache-2.0
"""The power fails at a unit or at its site while one waits, is accepted, joins, and lives by the site's service.

Nineteen weeks are recorded write by write: each brings epoch keys, each ninth a certificate. Both have a disk of
their own, and one of them is cut; then service and unit start anew, the unit asks on, and nobody types anything but
what had not been answered. POSTERN_EXHAUSTIVE=1 tries every step.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import pytest

from agent.audit.chain import verify_log
from agent.clock import SimulatedClock
from agent.protocol.command import RENEW
from agent.protocol.invitation import read_invitation
from agent.protocol.joining import JoinReply
from agent.protocol.names import JOINING_ROOT, JOINING_SUFFIX
from agent.protocol.record import decode
from agent.site import joining
from agent.site.creation import create_site
from agent.site.delegation import delegate
from agent.site.desk import Desk
from agent.site.programs import issue_broker
from agent.site.published import unfinished
from agent.site.records import SiteFiles
from agent.unit.invited import go_on
from tests.simulators.power import Crash, crashes, record
from tests.simulators.signing_unit import START
from tools.lib.lifetime.unit import FleetUnit

EXHAUSTIVE = os.environ.get("POSTERN_EXHAUSTIVE") == "1"
LATER_ONE_IN = 1 if EXHAUSTIVE else 4  # of the cuts in the 19 weeks by the service, which are nine tenths of all
UNIT = "door-1"
LOOKS = 19  # at the site, a week apart
AFTERWARDS = 4  # two days apart, once the power is back

LIFE = """
import sys
from pathlib import Path
from tests.fault.test_renewing_power_cut import LOOKS, Served
from tests.simulators.power import mark

both = Served(Path(sys.argv[1]))
both.create()
mark("invited " + both.invite())
assert both.join() == "waiting"
mark("waits")
both.accept()
mark("accepted")
assert both.join() == "joined"
mark("joined")
both.start()
for look in range(LOOKS):
    both.clock.advance(7 * 86_400)
    mark("at " + both.clock.now().isoformat())
    both.look()
"""


class _Waits(Exception):  # noqa: N818 - no fault: the site was asked and has not decided
    pass


class Served:
    """A site with its service, and one unit, in one folder."""

    def __init__(self, folder: Path, at: datetime = START) -> None:
        self.clock = SimulatedClock(at)
        self.site, self.keys = folder / "site", folder / "unit"
        self.files = SiteFiles(self.site)
        self.text = ""
        self.told: list[str] = []

    def create(self) -> None:
        create_site(self.site, "hq", clock=self.clock)
        issue_broker(self.site, ["127.0.0.1"], clock=self.clock)
        delegate(self.site, clock=self.clock)

    def invite(self) -> str:
        self.text = joining.invite(self.site, UNIT, clock=self.clock)
        return self.text

    def accept(self) -> None:
        joining.accept(self.site, UNIT, clock=self.clock)

    def join(self) -> str:
        """Ask the service once, as a first boot does until it has its answer; what it said."""
        desk = self._desk()

        def ask(request: bytes) -> JoinReply:
            (letter,) = desk.take(f"{JOINING_ROOT}/hq/{UNIT}{JOINING_SUFFIX}/request", request)
            reply = decode(letter.payload, JoinReply)
            if reply.state == "waiting":
                raise _Waits
            assert reply.state == "joined", reply
            return reply

        try:
            go_on(read_invitation(self.text), self.keys, policy=self.keys / "policy.jws", clock=self.clock, ask=ask)
        except _Waits:
            return "waiting"
        return "joined"

    def start(self) -> None:
        self.desk, self.unit = self._desk(), FleetUnit(self.keys, "hq", UNIT, self.clock)

    def look(self) -> None:
        """The unit says how it is, and gets what falls due, until nothing does."""
        self.desk.daily()
        self.desk.board()
        for _ in range(4):
            self.clock.advance(60)
            letters = self.desk.take(f"postern/hq/{UNIT}/health", self.unit.health())
            while letters:
                answers = [answer for one in letters if (answer := self.unit.handle(RENEW, one.payload)) is not None]
                letters = [
                    one for each in answers for one in self.desk.take(f"postern/hq/{UNIT}/response/unit/renew", each)
                ]

    def _desk(self) -> Desk:
        return Desk(self.site, clock=self.clock, random=os.urandom, tell=self.told.append)


@pytest.mark.timeout(3600 if EXHAUSTIVE else 300)
def test_whatever_a_power_cut_at_the_unit_or_at_its_site_left_the_service_goes_on_by_itself(work: Path) -> None:
    living = work / "living"
    living.mkdir()
    steps = record(["-c", LIFE, str(living)], living, work)
    begun = next(number for number, step in enumerate(steps) if step.data.startswith(b"invited"))
    stages: dict[str, int] = {}
    later = 0
    for crash in crashes(steps, seed=9, every=1 if EXHAUSTIVE else 43, torn=1, machines=("site", "unit")):
        if crash.step > begun:
            later += crash.marks[-1].startswith("at ")
            if later % LATER_ONE_IN:
                continue
            stage = go_on_after(crash, work / "crashed")
            stages[stage] = stages.get(stage, 0) + 1
    print(sum(stages.values()), "disks of", len(steps), "steps:", stages)
    assert {"invited", "waits", "accepted", "at"} <= set(stages)


def go_on_after(crash: Crash, folder: Path) -> str:
    """Start both anew, and do what had not been answered; the stage in which the power failed."""
    crash.restore(folder)
    done = {mark.partition(" ")[0]: mark.partition(" ")[2] for mark in crash.marks}
    stage = list(done)[-1]
    where = f"step {crash.step}, {crash.kind}, after {stage} {done[stage][:10]}"
    both = Served(folder, datetime.fromisoformat(done["at"]) if "at" in done else START)
    both.text = done["invited"]
    if "joined" not in done:
        if both.join() == "waiting":
            assert "accepted" not in done, where
            both.accept()
        assert both.join() == "joined", where
    both.start()
    serial = both.unit.serial()
    for _ in range(AFTERWARDS):
        both.clock.advance(2 * 86_400)
        both.unit.check()
        both.look()
    assert both.unit.weeks() == 3, where
    days = both.unit.days()
    assert days is not None
    assert days >= 116, where
    (known,) = both.files.all_units()
    assert f"{both.unit.serial():x}" == known.certificates[-1].serial, where
    assert f"{serial:x}" in {one.serial for one in known.certificates}, where
    assert not (both.keys / "waiting").exists(), where
    assert not unfinished(both.files).files, where
    both.unit.close()
    for log in (both.files.audit, both.keys / "audit.log"):
        verify_log(log)
    return stage
