# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the bridge while units speak: every event reaches every output, again only with the same key.

POSTERN_KILLS=1000 POSTERN_UNITS=20 runs the long form.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import threading
import time
from collections import defaultdict
from pathlib import Path

import pytest

from agent.disk.files import write_atomic
from agent.keys import SigningKey
from agent.protocol.grant import make_grant
from tests.simulators.broker import RealBroker, wait_until, wait_while_more_comes
from tests.simulators.nursery import Nursery
from tests.simulators.pki import Authority
from tests.simulators.receiver import SECRET, Receiver
from tests.simulators.replaying import AskedUnit
from tests.simulators.signing_unit import trust_list

KILLS = int(os.environ.get("POSTERN_KILLS", "24"))
UNITS = int(os.environ.get("POSTERN_UNITS", "5"))
LIFE_S = 0.7  # a bridge is killed at a random moment up to this: as it starts, connects, commits or hands over
PAUSE_S = 0.02  # between two events
CONFIG = """\
site: hq
broker: {{host: 127.0.0.1, port: {broker}}}
keys: keys
state: state
outputs:
  - {{kind: webhook, name: hook, url: "{url}", secret: secret}}
  - {{kind: sql, name: archive, url: "sqlite:///{archive}"}}
"""


class Premises:
    """A broker, units that can be asked, a receiver, and a nursery of bridges."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "bridge"
        self.broker = RealBroker(folder, Authority(folder / "pki"))
        self.broker.start()
        self.key, self.receiver = SigningKey.generate(), Receiver()
        names = [f"door-{number}" for number in range(1, UNITS + 1)]
        self.units = [AskedUnit(folder, self.broker, self.key, name) for name in names]
        self.archive = self.folder / "archive.db"
        self._lay_down()
        self.bridges = Nursery("tests.simulators.bridge_worker", str(self.folder / "bridge.yaml"))

    def _lay_down(self) -> None:
        keys = self.folder / "keys"
        for one in (self.folder, keys, self.folder / "state"):
            one.mkdir(mode=0o700)
        files, ask = self.broker.authority.issue("auditor"), SigningKey.generate()
        for source, name in ((files.ca, "ca.crt"), (files.certificate, "tls.crt"), (files.key, "tls.key")):
            shutil.copy(source, keys / name)
        write_atomic(keys / "site.jwk", json.dumps(self.key.public_jwk()).encode())
        write_atomic(keys / "trust.jws", trust_list(*(unit.unit for unit in self.units)).sign(self.key).encode())
        ask.save(keys / "ask.key")
        grant = make_grant("auditor", ask, self.key, site="hq", now=self.units[0].clock.now())
        write_atomic(keys / "grant.jws", grant.encode())
        write_atomic(self.folder / "secret", SECRET)
        text = CONFIG.format(broker=self.broker.port, url=self.receiver.url, archive=self.archive)
        (self.folder / "bridge.yaml").write_text(text)

    def close(self) -> None:
        self.bridges.close()
        for unit in self.units:
            unit.uplink.stop()
        self.receiver.stop()
        self.broker.stop()

    def told(self, words: str) -> int:
        file = self.folder / "told"
        return file.read_text().count(words) if file.exists() else 0

    def signed(self) -> set[tuple[str, int]]:
        return {(unit.unit.name, seq) for unit in self.units for seq in range(1, unit.outbox.head().seq + 1)}

    def archived(self) -> list[tuple[str, int, bool]]:
        if not self.archive.exists():
            return []
        connection = sqlite3.connect(self.archive, timeout=10)
        try:
            query = "SELECT unit, seq, late FROM postern_record WHERE kind = 'match' ORDER BY number"
            return [(unit, seq, bool(late)) for unit, seq, late in connection.execute(query)]
        except sqlite3.OperationalError:  # no table yet
            return []
        finally:
            connection.close()


@pytest.mark.broker
@pytest.mark.timeout(180 + 4 * KILLS)
def test_killed_bridge_hands_every_event_to_every_output_and_again_only_with_its_key(tmp_path: Path) -> None:
    premises = Premises(tmp_path)
    stop = threading.Event()
    whom, when = random.Random(KILLS), random.Random(KILLS)  # of a thread each

    def speak() -> None:
        while not stop.wait(PAUSE_S):
            whom.choice(premises.units).say()

    speaker = threading.Thread(target=speak)
    try:
        premises.bridges.start()
        wait_until(lambda: premises.told("listening"))  # from here on the broker keeps its session
        for unit in premises.units:
            unit.report_health()  # by which a bridge that could hardly listen hears what it missed
            unit.start()
        speaker.start()
        for _ in range(KILLS):
            time.sleep(when.random() * LIFE_S)
            premises.bridges.kill()
            premises.bridges.start()
        stop.set()
        speaker.join()
        wait_until(lambda: not any(unit.outbox.depth() for unit in premises.units))
        signed = premises.signed()
        assert len(signed) > KILLS, "the units hardly spoke"
        wait_while_more_comes(lambda: set(premises.receiver.events()), signed)
        wait_while_more_comes(lambda: {(unit, seq) for unit, seq, _ in premises.archived()}, signed)
        premises.bridges.kill()
        archived = premises.archived()
    finally:
        stop.set()
        premises.close()
    failed = premises.folder / "failed"
    assert not failed.exists(), failed.read_text()
    assert {(unit, seq) for unit, seq, _ in archived} == signed, "lost, or never said"
    assert len(archived) == len(signed), "twice in the database"
    keys: dict[tuple[str, int], set[str]] = defaultdict(set)
    for one in premises.receiver.taken:
        if one["kind"] == "match":
            keys[one["unit"], one["seq"]].add(one["key"])
    assert keys.keys() == signed
    assert all(len(found) == 1 for found in keys.values()), "again, with another key"
    assert premises.receiver.forged == 0
    for unit in premises.units:
        order = [seq for name, seq, late in archived if name == unit.unit.name and not late]
        assert order == sorted(order), "out of order"
    again = len(premises.receiver.events()) - len(signed)
    print(f"{KILLS} kills, {UNITS} units: {len(signed)} events in both outputs, none lost, {again} posted again")
