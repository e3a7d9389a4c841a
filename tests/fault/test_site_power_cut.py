# SPDX-License-Identifier: Apache-2.0
"""The power may fail at any write of the site kit: nobody is half let in or half shut out without being told.

A site's life is recorded write by write and cut after each of them, with what was not yet fsynced kept, lost or torn.
Then the interrupted act is repeated, or another one is done; either completes it. POSTERN_EXHAUSTIVE=1 tries every
step.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from cryptography import x509

from agent.audit.chain import read_entries, verify_log
from agent.clock import SimulatedClock
from agent.site import programs, units
from agent.site.creation import create_site
from agent.site.published import unfinished
from agent.site.records import SiteFiles
from agent.unit.joining import install
from tests.simulators.power import Crash, crashes, record
from tests.simulators.signing_unit import START
from tests.simulators.site_office import listed_units

EXHAUSTIVE = os.environ.get("POSTERN_EXHAUSTIVE") == "1"

LIFE = """
import sys
from pathlib import Path
from agent.clock import SimulatedClock
from agent.site import programs, units
from agent.site.creation import create_site
from agent.unit.joining import new_unit_request
from tests.simulators.power import mark
from tests.simulators.signing_unit import START

site, work = Path(sys.argv[1]), Path(sys.argv[2])
clock = SimulatedClock(START)
create_site(site, "hq", clock=clock)
mark("created")
for unit in ("door-1", "door-2"):
    request = new_unit_request(work / unit, "hq", unit, units.new_token(site, unit, clock=clock))
    (work / f"{unit}.request").write_bytes(request)
    mark(f"{unit} asked")
    units.add_unit(site, request, clock=clock)
    mark(f"{unit} in")
programs.issue_client(site, "guard", "auditor", clock=clock)
mark("guard in")
units.revoke_unit(site, "door-1", clock=clock)
mark("door-1 out")
programs.revoke_client(site, "guard", clock=clock)
mark("guard out")
"""


@pytest.mark.timeout(1200 if EXHAUSTIVE else 240)
def test_an_act_that_a_power_cut_interrupted_is_completed_by_repeating_it_and_by_any_other_act(work: Path) -> None:
    site = work / "site"
    site.mkdir()
    steps = record(["-c", LIFE, str(site), str(work)], site, work)
    assert [step.data for step in steps if step.op == "mark"][-1] == b"guard out"
    told = 0
    for crash in crashes(steps, seed=5, every=1 if EXHAUSTIVE else 4, torn=3 if EXHAUSTIVE else 1):
        where = f"step {crash.step}, {crash.kind}, after {crash.marks}"
        for complete in (repeat, do_something_else):
            files = SiteFiles(work / "crashed")
            crash.restore(files.folder)
            if not files.record.exists():
                assert "created" not in crash.marks, where
                create(files)
                assert state(files) == {}, where
                continue
            told += bool(unfinished(files).files)
            complete(files, crash, work)
            assert not unfinished(files).files, where
            check(files, crash, where)
    assert told > 20, "the cuts never came between a record and what follows from it"


def create(files: SiteFiles) -> None:
    create_site(files.folder, "hq", clock=SimulatedClock(START))


def repeat(files: SiteFiles, crash: Crash, work: Path) -> None:
    """Do once more what was being done, as somebody does who saw no end of it."""
    clock, marks = SimulatedClock(START), set(crash.marks)
    if "created" not in marks and not files.acl.exists():  # else the site is whole, and is refused as one that exists
        create(files)
    for unit in ("door-1", "door-2"):
        if f"{unit} asked" in marks and f"{unit} in" not in marks:
            install(
                _unit_keys(work, files, unit),
                units.add_unit(files.folder, (work / f"{unit}.request").read_bytes(), clock=clock),
                clock=clock,
            )
            assert state(files)[unit] == "in"
    if "door-2 in" in marks and "guard in" not in marks:
        folder = programs.issue_client(files.folder, "guard", "auditor", clock=clock)
        assert {path.name for path in folder.iterdir()} >= {"ca.crt", "tls.crt", "tls.key", "site.jwk", "trust.jws"}
        assert state(files)["guard"] == "in"
    if "guard in" in marks and "door-1 out" not in marks:
        units.revoke_unit(files.folder, "door-1", clock=clock)
        assert state(files)["door-1"] == "out"
    if "door-1 out" in marks:
        programs.revoke_client(files.folder, "guard", clock=clock)
        assert state(files)["guard"] == "out"


def _unit_keys(work: Path, files: SiteFiles, unit: str) -> Path:
    """The unit's folder as it waits for an answer; each crash has its own copy."""
    copied = files.folder.parent / f"{unit}-waiting"
    shutil.rmtree(copied, ignore_errors=True)
    shutil.copytree(work / unit, copied)
    return copied


def do_something_else(files: SiteFiles, crash: Crash, work: Path) -> None:
    del crash, work
    programs.issue_broker(files.folder, ["localhost"], clock=SimulatedClock(START))


def state(files: SiteFiles) -> dict[str, str]:
    """Who is in or out by the records alone."""
    holders = {unit.unit: unit.revoked for unit in files.all_units()}
    holders |= {client.name: client.revoked for client in files.all_clients()}
    return {name: "out" if revoked else "in" for name, revoked in holders.items()}


def check(files: SiteFiles, crash: Crash, where: str) -> None:
    """Records, revocation list, list of units, access list and log say the same, and nothing promised is undone."""
    now, trusted = state(files), listed_units(files.folder)
    promised = dict(mark.split(" ") for mark in crash.marks if mark.endswith((" in", " out")))
    for name, how in promised.items():
        assert now[name] in (how, "out"), where
    crl = x509.load_pem_x509_crl(files.crl.read_bytes())
    shut_out = {revoked.serial_number for revoked in crl}
    acl = files.acl.read_text()
    for holder in (*files.all_units(), *files.all_clients()):
        name = holder.unit if hasattr(holder, "unit") else holder.name
        serials = {int(one.serial, 16) for one in holder.certificates}
        assert (serials <= shut_out) == holder.revoked, where
        assert (f"user {name}\n" in acl) != holder.revoked, where
    for unit in files.all_units():
        assert (unit.unit in trusted.units_in_service()) != unit.revoked, where
    verify_log(files.audit)
    logged = [entry.facts for entry in read_entries(files.audit)]
    assert "site_created" in {facts.get("step") for facts in logged}, where
    for name, how in now.items():
        steps = ("unit_added", "client_issued") if how == "in" else ("unit_revoked", "client_revoked")
        assert any(
            (facts.get("step") in steps and name in facts.values())
            or (facts.get("step") == "act_completed" and name in str(facts.get("names")).split())
            for facts in logged
        ), where
