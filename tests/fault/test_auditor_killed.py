# SPDX-License-Identifier: Apache-2.0
"""kill -9 of a durable subscriber while units speak: no event is lost, each is handed over once or marked as a repeat.

POSTERN_KILLS=1000 POSTERN_UNITS=20 runs the long form.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from agent.disk.files import write_atomic
from agent.keys import SigningKey
from tests.simulators.broker import RealBroker, wait_until, wait_while_more_comes
from tests.simulators.nursery import Nursery
from tests.simulators.pki import Authority
from tests.simulators.signing_unit import trust_list
from tests.simulators.unit_on_broker import UnitOnBroker

KILLS = int(os.environ.get("POSTERN_KILLS", "20"))
UNITS = int(os.environ.get("POSTERN_UNITS", "5"))
LIFE_S = 0.5  # a subscriber is killed at a random moment up to this: as it starts, connects, commits or hands over
PAUSE_S = 0.02  # between two events
CATCH_UP = 10  # kills after which one lives until it has all


class Auditors(Nursery):
    """Starts subscribers and kills them; reads what they handed over."""

    def __init__(self, folder: Path, broker: RealBroker, units: list[UnitOnBroker]) -> None:
        self.folder = folder / "auditor"
        self.folder.mkdir()
        files, key = broker.authority.issue("auditor"), SigningKey.generate()
        for source, name in ((files.ca, "ca.crt"), (files.certificate, "tls.crt"), (files.key, "tls.key")):
            shutil.copy(source, self.folder / name)
        (self.folder / "site.jwk").write_text(json.dumps(key.public_jwk()))
        write_atomic(self.folder / "trust.jws", trust_list(*(unit.unit for unit in units)).sign(key).encode())
        super().__init__("tests.simulators.auditor_worker", str(broker.port), str(self.folder))

    def listened(self) -> int:
        told = self.folder / "told"
        return told.read_text().count("listening") if told.exists() else 0

    def handed(self) -> list[dict[str, Any]]:
        """Every whole line; one that a kill cut short was not handed over."""
        time.sleep(0.1)  # it is read as a whole, each time
        found = []
        for line in (self.folder / "handed.jsonl").read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found


def events(lines: list[dict[str, Any]]) -> dict[tuple[str, int], list[bool]]:
    """For each event, unit and number: whether it was marked, each time that it was handed over."""
    found: dict[tuple[str, int], list[bool]] = defaultdict(list)
    for line in lines:
        if line["outcome"] == "accepted":
            found[line["unit"], line["event"]["data"]["seq"]].append(line["repeat"])
    return found


def signed_by(units: list[UnitOnBroker]) -> set[tuple[str, int]]:
    return {(unit.unit.name, seq) for unit in units for seq in range(1, unit.outbox.head().seq + 1)}


@pytest.mark.broker
@pytest.mark.timeout(120 + 4 * KILLS)
def test_killed_subscriber_loses_nothing_and_marks_what_it_hands_over_again(tmp_path: Path) -> None:
    broker = RealBroker(tmp_path, Authority(tmp_path / "pki"))
    broker.start()
    names = [f"door-{number}" for number in range(1, UNITS + 1)]
    units = [UnitOnBroker(tmp_path, broker.settings(broker.authority.issue(name)), name) for name in names]
    nursery = Auditors(tmp_path, broker, units)
    stop = threading.Event()
    whom, when = random.Random(KILLS), random.Random(KILLS)  # of a thread each

    def speak() -> None:
        while not stop.wait(PAUSE_S):
            whom.choice(units).say()

    speaker = threading.Thread(target=speak)
    try:
        nursery.start()
        wait_until(nursery.listened)  # from here on the broker keeps its session
        for unit in units:
            unit.start()
        speaker.start()
        for number in range(1, KILLS + 1):
            time.sleep(when.random() * LIFE_S)
            if number % CATCH_UP == 0:  # a broker drops a live event after a minute: it must not wait so long
                so_far = signed_by(units)
                wait_while_more_comes(lambda: set(events(nursery.handed())), so_far)
            nursery.kill()
            nursery.start()
        stop.set()
        speaker.join()
        wait_until(lambda: not any(unit.outbox.depth() for unit in units))
        signed = signed_by(units)
        assert len(signed) > KILLS, "the units hardly spoke"
        wait_while_more_comes(lambda: set(events(nursery.handed())), signed)
        nursery.kill()
    finally:
        stop.set()
        for unit in units:
            unit.uplink.stop()
        nursery.close()
        broker.stop()
    lines = nursery.handed()
    found = events(lines)
    assert not (nursery.folder / "failed").exists(), (nursery.folder / "failed").read_text()
    assert found.keys() == signed, "lost, or never said"
    twice = {event: marks for event, marks in found.items() if marks.count(False) > 1}
    assert not twice, "handed over again without a mark"
    assert {line["reason"] for line in lines if line["outcome"] == "refused"} <= {"duplicate"}
    assert not any(line.get("gap") for line in lines)
    again = sum(len(marks) - 1 for marks in found.values())
    print(f"{KILLS} kills, {UNITS} units: {len(found)} events, none lost, {again} handed over again and marked")
