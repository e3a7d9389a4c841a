# SPDX-License-Identifier: Apache-2.0
"""The power fails at any write while a unit joins, takes epoch keys and goes on to the next seal key: it can go on."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from agent.clock import SimulatedClock
from agent.keys import UnitKey, load_private_key
from agent.outbox.epoch_keys import EpochKeys
from agent.protocol.epoch_keys import read_seal_statement
from agent.protocol.pseudonym import epoch_of
from agent.unit.joining import install, install_epoch_keys
from agent.unit.key_files import UnitFiles
from agent.unit.seal_key import settle, statement
from tests.simulators.power import Crash, crashes, record
from tests.simulators.signing_unit import START

LIFE = """
import sys
from pathlib import Path
from agent.clock import SimulatedClock
from agent.site import units
from agent.site.creation import create_site
from agent.unit.joining import install, install_epoch_keys, new_unit_request
from agent.unit.key_files import UnitFiles
from agent.unit.seal_key import statement
from tests.simulators.power import mark
from tests.simulators.signing_unit import START

living, site = Path(sys.argv[1]), Path(sys.argv[2])
clock, keys = SimulatedClock(START), living / "keys"
create_site(site, "hq", clock=clock)
for joined in range(2):
    request = new_unit_request(keys, "hq", "door-1", units.new_token(site, "door-1", clock=clock))
    answer = units.add_unit(site, request, clock=clock, replace=joined > 0)
    mark("answer " + answer.decode())
    install(keys, answer, clock=clock)
    mark("joined -")
    for issue in range(2):
        clock.advance(7 * 86_400)  # each issue brings a week that the unit did not have
        old = (keys / "seal.key").read_text().splitlines()[1]
        sealed = units.issue_epoch_keys(site, "door-1", clock=clock)
        mark("issue " + sealed.decode())
        install_epoch_keys(keys, sealed, site="hq", unit="door-1", now=clock.now(), clock=clock.state())
        units.take_seal_key(site, statement(UnitFiles(keys), site="hq", unit="door-1"), clock=clock)
        mark("gone " + old)
"""


@pytest.mark.timeout(240)
def test_power_cut_while_epoch_keys_are_taken_leaves_a_unit_that_can_go_on(work: Path) -> None:
    living = work / "living"
    living.mkdir()
    steps = record(["-c", LIFE, str(living), str(work / "site")], living, work)
    tried = 0
    for crash in crashes(steps, seed=5, every=2, torn=1):
        if not crash.marks:
            continue
        crash.restore(work / "crashed")
        check(crash, UnitFiles(work / "crashed" / "keys"))
        tried += 1
    assert tried > 80


def check(crash: Crash, keys: UnitFiles) -> None:
    where = f"step {crash.step}, {crash.kind}"
    marks = [text.split(" ") for text in crash.marks]
    last, weeks = marks[-1], sum(word == "issue" for word, _ in marks)
    clock = SimulatedClock(START + timedelta(weeks=weeks))
    for gone in (value for word, value in marks if word == "gone"):
        assert gone.encode() not in b"".join(crash.files.values()), f"{where}: a spent key is on the disk"
    if last[0] == "answer":
        install(keys.folder, last[1].encode(), clock=clock)
        assert not any(keys.waiting.folder.glob("*")), where
    elif last[0] == "issue":
        held = install_epoch_keys(
            keys.folder, last[1].encode(), site="hq", unit="door-1", now=clock.now(), clock=clock.state()
        )
        assert epoch_of(clock.now() + timedelta(weeks=2)) in held.epochs("access"), where
    settle(keys)
    load_private_key(keys.seal_key)
    assert epoch_of(clock.now() + timedelta(weeks=2)) in EpochKeys.load(keys.epoch_keys).epochs("access"), where
    stated = statement(keys, site="hq", unit="door-1")
    numbers = 1 + weeks + sum(word == "answer" for word, _ in marks[1:])
    read = read_seal_statement(stated, UnitKey.load(keys.event_key).public, site="hq", unit="door-1")
    assert read.number == numbers, where
    assert not keys.next_seal_key.exists(), where
