# SPDX-License-Identifier: Apache-2.0
"""The power fails at any write while a unit takes settings and a policy, and while its site applies them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.clock import SimulatedClock
from agent.config.load import load_file
from agent.keys import load_public_key
from agent.match.policy import verify_policy
from agent.protocol.record import load
from agent.site.configuration import applied
from agent.site.records import SiteFiles
from agent.unit.configuring import Configuring
from agent.unit.new_policy import TakenPolicy
from tests.simulators.configured import UNIT
from tests.simulators.power import Crash, crashes, record

EXHAUSTIVE = os.environ.get("POSTERN_EXHAUSTIVE") == "1"

LIFE = """
import sys
from pathlib import Path
from agent.site.policies import issue_policy, newest_policy
from agent.unit.new_policy import install_policy
from agent.keys import load_public_key
from tests.simulators.configured import Configured
from tests.simulators.power import mark
from tests.unit.test_match_policy import policy

site = Configured(Path(sys.argv[1]))
site.unit.begin()
fresh = policy(model="sha256:" + "1" * 64)
for number, dwell in enumerate((700, 800, 900), start=1):
    mark(f"apply {number}")
    site.apply({"activation": {"dwell_ms": dwell}})
    mark(f"applied {number}")
    site.unit.take(site.signed())
    mark(f"taken {number}")
    site.start().begin()
    mark(f"begun {number}")
    site.live(400, pictures=number != 2)
    mark(f"ended {number}")
    issue_policy(site.site, fresh, clock=site.clock)
    newest = newest_policy(site.office.files)
    install_policy(
        newest.token, newest.issue, path=site.folder / "policy.jws", record=site.folder / "policy.json",
        site_key=load_public_key(site.office.files.site_jwk), site="hq", now=None,
        model=fresh.model, detector=fresh.detectors[0],
    )
    mark(f"policy {number}")
"""
DWELL = {1: 700, 2: 800, 3: 900}


@pytest.mark.timeout(1800 if EXHAUSTIVE else 300)
def test_a_power_cut_leaves_the_settings_of_before_or_those_of_after(work: Path) -> None:
    living = work / "living"
    living.mkdir()
    tried = 0
    for crash in crashes(record(["-c", LIFE, str(living)], living, work), seed=3, every=1 if EXHAUSTIVE else 2, torn=1):
        if not any(text.startswith("apply") for text in crash.marks):
            continue
        crash.restore(living)
        check(crash, living)
        tried += 1
    assert tried > 60


def check(crash: Crash, folder: Path) -> None:
    word, number = crash.marks[-1].split(" ")
    n, where = int(number), f"{crash.marks[-1]}, step {crash.step}, {crash.kind}"
    serial = applied(SiteFiles(folder / "site")).serial
    assert serial in ({n - 1, n} if word == "apply" else {n}), where
    local = load_file(folder / "config.yaml")
    unit = Configuring(local, SimulatedClock())
    told = unit.state()
    config = unit.begin()
    dwell = config.activation.dwell_ms  # type: ignore[union-attr]
    good = {1: 600, 2: 700, 3: 700}[n]  # what is in force before number ``n``: the second was taken back
    match word:
        case "apply" | "applied":
            assert dwell in (good, DWELL[n]), where
        case "taken" | "begun":
            assert dwell in (DWELL[n], good), where
            assert told is not None
            assert told.serial == n, where
        case _:
            assert dwell == (700 if n == 2 else DWELL[n]), where
            assert told is not None
            assert told.state == ("rolled_back" if n == 2 else "applied"), where
    if (record_ := folder / "policy.json").exists():
        taken = load(record_, TakenPolicy)
        assert taken.serial >= n - 1, where
        if word == "policy":
            key = load_public_key(folder / UNIT / "site.jwk")
            held = verify_policy((folder / "policy.jws").read_text(), key, model="sha256:" + "1" * 64)
            assert (taken.serial, taken.digest) == (n, held.digest), where
