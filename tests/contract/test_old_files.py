# SPDX-License-Identifier: Apache-2.0
"""Files on disk are a contract: what version 0.1.0 wrote, at a unit and at a site, is opened and goes on.

``tests/assets/unit-0.1.0.tar.gz`` was written by that version: site ``hq`` with unit ``door-1``, four people enrolled,
the second of them erased, their events still waiting, a command counter, and ``expected.json`` with what was promised.
"""

from __future__ import annotations

import json
import tarfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from agent.audit.chain import parse_head, verify_log
from agent.clock import SimulatedClock
from agent.config.load import load_config
from agent.config.schema import Config
from agent.keys import load_public_key
from agent.outbox.draft import make_unit
from agent.outbox.epoch_keys import EpochKeys
from agent.protocol.subject import parse_subject
from agent.protocol.trust import TrustedUnits
from agent.site import units
from agent.subscribe.verify import Verifier
from agent.unit.joining import install_epoch_keys
from agent.uplink.commands import CommandCounter
from tests.simulators.unit_life import enrol, opened

ARCHIVE = Path(__file__).parents[1] / "assets" / "unit-0.1.0.tar.gz"


class Old:
    """The unpacked files."""

    def __init__(self, folder: Path) -> None:
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(folder, filter="data")
        self.folder, self.unit, self.site = folder, folder / "unit", folder / "site"
        self.promised: dict[str, Any] = json.loads((folder / "expected.json").read_text())
        self.clock = SimulatedClock(datetime.fromisoformat(self.promised["clock"]) + timedelta(minutes=5))

    @property
    def config(self) -> Config:
        return load_config(self.folder / "config.yaml")


@pytest.fixture
def old(tmp_path: Path) -> Old:
    return Old(tmp_path)


def test_the_old_configuration_is_still_valid(old: Old) -> None:
    assert yaml.safe_load((old.folder / "config.yaml").read_text())["unit"]["id"] == old.config.unit.id == "door-1"


def test_everybody_enrolled_is_held_and_the_erased_person_has_the_same_receipt(old: Old) -> None:
    with opened(old.config, old.clock) as stores:
        there = {one.subject.hex() for one in stores.gallery.list()}
        assert there == set(old.promised["subjects"]) - {old.promised["erased"]}
        assert not stores.gallery.damaged
        receipt = stores.gallery.erase(parse_subject(old.promised["erased"]))
    told = old.promised["receipt"]
    assert (receipt.subject, receipt.erased_at, receipt.reason) == (told["subject"], told["erased_at"], told["reason"])


def test_events_that_waited_verify_and_the_chain_goes_on_from_them(old: Old) -> None:
    trust = TrustedUnits.from_signed((old.site / "trust.jws").read_bytes(), load_public_key(old.site / "site.jwk"))
    verifier = Verifier(trust)
    with opened(old.config, old.clock) as stores:
        assert list(stores.outbox.head()) == old.promised["outbox_head"]
        stores.outbox.append(make_unit("started", now=old.clock.now(), clock="synced"))
        rows = stores.outbox.pending(100)
    seen = [
        verifier.check(f"postern/hq/door-1/backlog/{row.kind}", row.payload, old.clock.now()).event.data.seq
        for row in rows
    ]
    assert seen[-1] == old.promised["outbox_head"][0] + 1
    assert verifier.missing("door-1") == ()


def test_the_audit_log_verifies_to_its_promised_head_and_takes_more(old: Old) -> None:
    log = old.unit / "audit.log"
    before = verify_log(log, parse_head(old.promised["audit_head"]))
    assert before.erased > 0, "what concerned the erased person is gone"
    with opened(old.config, old.clock) as stores:
        enrol(stores, old.config, old.clock, np.random.default_rng(3))
    assert verify_log(log, parse_head(old.promised["audit_head"])).head.seq > before.head.seq


def test_the_command_counter_stands_where_it_stood(old: Old) -> None:
    assert CommandCounter(old.unit / "commands.json").last == old.promised["cmd_seq"]


def test_the_old_site_issues_keys_that_the_old_unit_takes(old: Old) -> None:
    old.clock.advance(14 * 86_400)
    sealed = units.issue_epoch_keys(old.site, "door-1", clock=old.clock)
    keys = old.unit / "keys"
    held = install_epoch_keys(keys, sealed, site="hq", unit="door-1", now=old.clock.now(), clock="synced")
    assert len(held.epochs("access")) == len(EpochKeys.load(keys / "epoch-keys.json").epochs("access")) >= 3
