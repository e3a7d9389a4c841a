# SPDX-License-Identifier: Apache-2.0
"""The power may fail at any write of what a command does: enrolment, erasure, rotation, the command's own number.

A unit's life is recorded write by write and cut after each of them, with what was not yet fsynced kept, lost or torn.
POSTERN_EXHAUSTIVE=1 tries every step with more mixtures.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

import pytest

from agent.audit.log import AuditLog
from agent.clock import SimulatedClock
from agent.keys import load_public_key
from agent.match.policy import verify_policy
from agent.outbox.epoch_keys import EpochKeys
from agent.protocol.subject import subject_digest
from agent.unit.key_files import UnitFiles
from agent.unit.site_key import complete
from agent.uplink.commands import CommandCounter
from tests.simulators.auditor import audited
from tests.simulators.gallery_life import MODEL, open_store
from tests.simulators.power import Crash, crashes, record
from tests.simulators.signing_unit import START
from tests.unit.test_match_policy import policy

EXHAUSTIVE = os.environ.get("POSTERN_EXHAUSTIVE") == "1"

LIFE = """
import json, secrets, sys
import numpy as np
from pathlib import Path
from agent.audit.log import AuditLog
from agent.clock import SimulatedClock
from agent.unit.enrolment import Registrar
from agent.disk.files import write_atomic
from agent.gallery.consent import Terms
from agent.unit.key_rotation import KeyRotation
from agent.match.policy import sign_policy
from agent.outbox.epoch_keys import EpochKeys
from agent.site import rotation, units
from agent.site.creation import create_site
from agent.unit.joining import install, new_unit_request
from agent.uplink.commands import CommandCounter
from tests.simulators.gallery_life import MODEL, PURPOSE, SITE, UNIT, captures, consent, open_store
from tests.simulators.power import mark
from tests.simulators.signing_unit import START
from tests.unit.test_match_policy import policy

living, site = Path(sys.argv[1]), Path(sys.argv[2])
clock, keys = SimulatedClock(START), living / "keys"
create_site(site, SITE, clock=clock)
request = new_unit_request(keys, SITE, UNIT, units.new_token(site, UNIT, clock=clock))
install(keys, units.add_unit(site, request, clock=clock), clock=clock)
write_atomic(keys / "policy.jws", sign_policy(policy(), units.load_site_key(site)).encode())
counter = CommandCounter(living / "commands.json")
gallery = open_store(living, clock)
audit = AuditLog(living / "audit.log", clock=clock, random=secrets.token_bytes)
epoch_keys = EpochKeys.load(keys / "epoch-keys.json")
registrar = Registrar(
    gallery=gallery, audit=audit, embedder=None, model=MODEL, policy=policy(),
    terms=Terms(SITE, UNIT, PURPOSE), notice_version="2026-1", clock=clock, random=secrets.token_bytes,
)
rotate = KeyRotation(
    keys=keys, policy=keys / "policy.jws", site=SITE, unit=UNIT, audience="access", epoch_keys=epoch_keys,
    gallery=gallery, audit=audit, clock=clock, on_site_key=lambda key: None,
).rotate
mark("installed " + units.load_site_key(site).kid)
rng = np.random.default_rng(7)
subjects = []
for number in range(1, 4):
    counter.advance(number)
    mark(f"seq {number}")
    subjects.append(registrar.keep(captures(rng), consent(clock.now()), None))
    mark("enrolled " + subjects[-1].hex())
old = json.loads((keys / "epoch-keys.json").read_bytes())["keys"][0]["key"]
rotation.rotate_epoch_keys(site, clock=clock)
rotate({"epoch_keys": units.issue_epoch_keys(site, UNIT, clock=clock).decode()})
mark("epochs " + old)
rotate({"references": "renew"})
mark("renewed -")
change = json.loads(rotation.begin_site_key_change(site, policy(), clock=clock))
new = rotate(change)["kid"]
mark("changed " + new)
mark("begin " + subjects[0].hex())
gallery.erase(subjects[0])
audit.forget(subjects[0])
mark("erased " + subjects[0].hex())
"""


@pytest.mark.timeout(1200 if EXHAUSTIVE else 240)
def test_power_cut_at_any_write_of_a_command_leaves_the_old_state_or_the_new_one(work: Path) -> None:
    living = work / "living"
    living.mkdir()
    steps = record(["-c", LIFE, str(living), str(work / "site")], living, work)
    begun = next(n for n, step in enumerate(steps) if step.data.startswith(b"installed "))
    assert len([step for step in steps[begun:] if step.op == "fsync"]) > 40, "the record shows no fsync"
    tried = 0
    for crash in crashes(steps, seed=3, every=1 if EXHAUSTIVE else 6, torn=4 if EXHAUSTIVE else 1):
        if not crash.marks:
            continue  # the unit is still being installed: ``test_site_enrolment`` is about that
        crash.restore(work / "crashed")
        check(crash, work / "crashed")
        tried += 1
    assert tried > 60


def check(crash: Crash, folder: Path) -> None:
    where = f"step {crash.step}, {crash.kind}"
    promised = [text.split(" ") for text in crash.marks]
    said = dict(promised)
    keys = UnitFiles(folder / "keys")
    # The command's number never goes back: what was obeyed cannot be sent again.
    last = CommandCounter(folder / "commands.json").last
    assert last >= int(said.get("seq", "0")), where
    # Command key and policy change together, or neither does.
    complete(keys.folder, keys.folder / "policy.jws")
    held = load_public_key(keys.site_jwk)
    assert verify_policy((keys.folder / "policy.jws").read_text(), held, model=MODEL) == policy(), where
    assert (held.kid == said["installed"]) or "renewed" in said, where
    if "changed" in said:
        assert held.kid == said["changed"], where
    # Epoch keys are the old ones or the new ones, and replaced ones are gone.
    assert len(EpochKeys.load(keys.epoch_keys).epochs("access")) == 3, where
    if "epochs" in said:
        assert said["epochs"].encode() not in b"".join(crash.files.values()), where
    _check_people(promised, folder, where)


def _check_people(promised: list[list[str]], folder: Path, where: str) -> None:
    """No half enrolment: a reference has its consent, matches, and the log knows of nobody else."""
    clock = SimulatedClock(START)
    enrolled = {bytes.fromhex(value) for word, value in promised if word == "enrolled"}
    asked = {bytes.fromhex(value) for word, value in promised if word == "begin"}
    erased = {bytes.fromhex(value) for word, value in promised if word == "erased"}
    with open_store(folder, clock) as gallery:
        subjects = set(gallery.subjects())
        assert enrolled - asked <= subjects, where
        assert not erased & subjects, where
        assert not gallery.damaged, where
        assert {held.subject for held in gallery.list()} == subjects, where
        assert set(gallery.references(MODEL).subjects) == subjects, where
        audit = AuditLog(folder / "audit.log", clock=clock, random=secrets.token_bytes)
        audit.forget_others(gallery.subjects())  # as each start does
        audited(audit)
        audit.close()
        known = {path.stem for path in (folder / "audit.log.personal").glob("*.jsonl")}
        expected = {subject_digest(subject).removeprefix("sha256:")[:32] for subject in subjects}
        assert known == expected, where


def test_the_recorded_life_ends_with_everything_in_force(work: Path) -> None:
    living = work / "living"
    living.mkdir()
    steps = record(["-c", LIFE, str(living), str(work / "site")], living, work)
    marks = [step.data.decode().split(" ")[0] for step in steps if step.op == "mark"]
    assert marks[-4:] == ["renewed", "changed", "begin", "erased"]
    assert json.loads((living / "commands.json").read_text())["cmd_seq"] == 3
