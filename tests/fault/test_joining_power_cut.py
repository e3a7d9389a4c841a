# SPDX-License-Identifier: Apache-2.0
"""The power fails at any write of a site's service and of a unit that joins it: repeated, both are as they would be.

One life of both is recorded write by write: delegation, invitation, joining, a renewed certificate, another delegation.
Each has a disk of its own, and one of them is cut. After each cut what was under way is done once more.
POSTERN_EXHAUSTIVE=1 tries every step.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.audit.chain import verify_log
from agent.clock import SimulatedClock
from agent.protocol.invitation import read_invitation
from agent.protocol.joining import JoinReply
from agent.protocol.record import decode
from agent.site import joining, units
from agent.site.creation import create_site
from agent.site.delegation import delegate
from agent.site.programs import issue_broker
from agent.site.published import unfinished
from agent.site.records import SiteFiles
from agent.unit.certificate import renew_certificate
from agent.unit.invited import go_on
from tests.simulators.power import Crash, crashes, record
from tests.simulators.signing_unit import START
from tools.lib.lifetime.unit import FleetUnit

EXHAUSTIVE = os.environ.get("POSTERN_EXHAUSTIVE") == "1"

LIFE = """
import sys
from pathlib import Path
from tests.fault.test_joining_power_cut import Both
from tests.simulators.power import mark

both = Both(Path(sys.argv[1]))
both.create()
mark("created")
both.delegate()
mark("delegated")
mark("invited " + both.invite())
both.join()
mark("joined")
both.renew()
mark("renewed")
both.delegate()
mark("delegated again")
"""


class Both:
    """A site and one unit in one folder."""

    def __init__(self, folder: Path) -> None:
        self.clock = SimulatedClock(START)
        self.site, self.keys = folder / "site", folder / "unit"
        self.files = SiteFiles(self.site)
        self.text = ""

    def create(self) -> None:
        create_site(self.site, "hq", clock=self.clock)
        issue_broker(self.site, ["127.0.0.1"], clock=self.clock)

    def delegate(self) -> None:
        delegate(self.site, clock=self.clock)

    def invite(self) -> str:
        self.text = joining.invite(self.site, "door-1", accepted=True, clock=self.clock)
        return self.text

    def join(self) -> None:
        def ask(request: bytes) -> JoinReply:
            return decode(joining.ask_to_join(self.site, "door-1", request, clock=self.clock), JoinReply)

        invitation = read_invitation(self.text)
        go_on(invitation, self.keys, policy=self.keys / "policy.jws", clock=self.clock, ask=ask)

    def renew(self) -> None:
        chain = units.certify_unit(self.site, "door-1", below=400, clock=self.clock)
        renew_certificate(self.keys, "door-1", chain, now=self.clock.now())

    def check(self, where: str) -> None:
        """The unit announces, the site knows it once, and its papers say the same."""
        unit = FleetUnit(self.keys, "hq", "door-1", self.clock)
        unit.check()
        unit.close()
        assert not (self.keys / "waiting").exists(), where
        (known,) = self.files.all_units()
        assert f"{unit.serial():x}" in {one.serial for one in known.certificates}, where
        assert not unfinished(self.files).files, where
        verify_log(self.files.audit)


@pytest.mark.timeout(1800 if EXHAUSTIVE else 240)
def test_whatever_a_power_cut_left_of_joining_and_renewing_is_completed_by_repeating_it(work: Path) -> None:
    living = work / "living"
    living.mkdir()
    steps = record(["-c", LIFE, str(living)], living, work)
    assert [step.data for step in steps if step.op == "mark"][-1] == b"delegated again"
    stages, tried = set(), 0
    for crash in crashes(steps, seed=7, every=1 if EXHAUSTIVE else 15, torn=1, machines=("site", "unit")):
        stages.add(len(crash.marks))
        tried += 1
        repeat(crash, work / "crashed")
    print(tried, "disks of", len(steps), "steps")
    assert stages == set(range(6))


def repeat(crash: Crash, folder: Path) -> None:
    """Do once more what was under way when the power failed, and all that was to come."""
    where = f"step {crash.step}, {crash.kind}, after {[mark[:12] for mark in crash.marks]}"
    crash.restore(folder)
    both = Both(folder)
    done = {mark.partition(" ")[0]: mark.partition(" ")[2] for mark in crash.marks}
    if "created" not in done:
        if not both.files.acl.exists():
            both.create()
        issue_broker(both.site, ["127.0.0.1"], clock=both.clock)
    if "delegated" not in done or not both.files.issuing_crt.exists() or "joined" in done:
        both.delegate()
    both.text = done.get("invited", "")
    if not both.text:
        both.invite()
    both.join()
    both.renew()
    both.check(where)
