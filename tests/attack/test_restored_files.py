# SPDX-License-Identifier: Apache-2.0
"""Files put back from a backup: nobody is matched beside a log that says "erased", nothing is done or signed twice.

Until the site says so, the unit matches and enrols nobody, and tells of it.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import AbstractContextManager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from agent.audit.chain import read_entries
from agent.clock import SimulatedClock
from agent.config.load import load_config
from agent.config.schema import Config
from agent.door.rights import TokenUse
from agent.errors import RefusedError, StorageError
from agent.keys import SigningKey, decode_base64url
from agent.outbox.draft import make_unit
from agent.outbox.numbers import BLOCK
from agent.protocol.command import SIGNATURE_TYPE, Command
from agent.protocol.health import read_health
from agent.site.units import load_site_key
from agent.unit.confirm import Confirming
from agent.unit.doctor import examine
from agent.unit.forget import Forgetting
from agent.unit.service import Service
from agent.unit.stores import Stores
from tests.simulators.dark_unit import assembled, conditions, references
from tests.simulators.full_disk import Disk, generation_on
from tests.simulators.gallery_life import MODEL
from tests.simulators.power import crashes, record
from tests.simulators.quiet_unit import Premises
from tests.simulators.signing_unit import START
from tests.simulators.unit_life import agreed, enrol, opened, write_unit

EXHAUSTIVE = os.environ.get("POSTERN_EXHAUSTIVE") == "1"
FILES = {
    "gallery": ("gallery.db", "kek"),
    "command counter": ("commands.json",),
    "outbox": ("outbox.db",),
    "record of used rules": ("rights.db",),
    "audit log": ("audit.log",),
    "file of their common number": ("generation.json",),
}


class Unit:
    """A unit with three people, and a backup from before the first of them was erased and a command was taken."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.backup = folder / "unit", folder / "backup"
        self.clock, self.rng = SimulatedClock(), np.random.default_rng(1)
        self.config: Config = write_unit(folder / "config.yaml", self.folder)
        with self.open() as stores:
            self.people = [enrol(stores, self.config, self.clock, self.rng) for _ in range(3)]
            stores.counter.advance(10)
        shutil.copytree(self.folder, self.backup)
        with self.open() as stores:
            Forgetting(stores.gallery, stores.outbox, stores.audit, stores.rights).erase(self.people[0])
            stores.counter.advance(20)
            stores.outbox.append(make_unit("camera_lost", now=self.clock.now(), clock="synced"))
            self.head = stores.outbox.head()

    def open(self) -> AbstractContextManager[Stores]:
        return opened(self.config, self.clock)

    def put_back(self, *names: str) -> None:
        for name in names:
            for file in FILES[name]:
                shutil.copy(self.backup / file, self.folder / file)

    def confirming(self, stores: Stores) -> Confirming:
        return Confirming(stores.ageing, stores.generation, stores.audit, self.clock)


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    return Unit(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_one_file_put_back_is_noticed_until_the_site_says_so(unit: Unit, name: str) -> None:
    unit.put_back(name)
    for _ in range(2):
        with unit.open() as stores:
            assert stores.generation.doubted(), "also after a restart"
            assert name in str(stores.generation.doubt)
            assert unit.confirming(stores).asks() == ("files",)
    (finding,) = [one for one in examine("state", unit.config, unit.clock) if one.state == "fault"]
    assert name in finding.text
    with unit.open() as stores:
        with pytest.raises(RefusedError, match="reason"):
            unit.confirming(stores).files(" ")
        unit.confirming(stores).files("the card was exchanged")
        assert not stores.generation.doubted()
        with pytest.raises(RefusedError, match="nothing to confirm"):
            unit.confirming(stores).files("again")
    with unit.open() as stores:
        assert not stores.generation.doubted()
    told = [entry.facts for entry in read_entries(unit.config.audit.path) if entry.kind == "confirmed"]
    assert told == [{"what": "files", "reason": "the card was exchanged"}]


@pytest.mark.parametrize("together", [("gallery", "command counter"), ("gallery", "outbox", "command counter")])
def test_so_are_several_of_them(unit: Unit, together: tuple[str, ...]) -> None:
    unit.put_back(*together)
    with unit.open() as stores:
        assert all(name in str(stores.generation.doubt) for name in together)


def test_whoever_the_log_says_was_erased_is_erased_again(unit: Unit) -> None:
    unit.put_back("gallery")
    with unit.open() as stores:
        assert unit.people[0] in stores.gallery, "the backup holds them"
        forgetting = Forgetting(stores.gallery, stores.outbox, stores.audit, stores.rights)
        forgetting.settle(doubted=stores.generation.doubted())
        assert stores.gallery.subjects() == tuple(unit.people[1:])
        assert unit.people[0] not in stores.gallery.references(MODEL).subjects
        assert forgetting.erase(unit.people[0]).reason == "withdrawn"


def test_a_counter_put_back_takes_no_number_twice(unit: Unit) -> None:
    unit.put_back("command counter")
    with unit.open() as stores:
        assert stores.counter.last >= 20


TOKEN = TokenUse(b"t" * 12, SimulatedClock().now() + timedelta(days=30))
OWNER = "sha256:" + "0" * 64


@pytest.mark.parametrize("how", ["put back", "taken away"])
def test_a_record_of_used_rules_gives_no_right_again(unit: Unit, how: str) -> None:
    """A token that counts once, and a waiting time: used, then the record of before is put in its place."""
    with unit.open() as stores:
        assert stores.rights.take("gate", OWNER, 0, TOKEN)
        assert stores.rights.take("portion", OWNER, 540)
    if how == "put back":
        unit.put_back("record of used rules")
    else:
        (unit.folder / "rights.db").unlink()
    for _ in range(2):
        with unit.open() as stores:
            assert "record of used rules was put back" in str(stores.generation.doubt), "nobody is matched"
            unit.clock.advance(60)
    with unit.open() as stores:
        unit.confirming(stores).files("the card was exchanged")
    with unit.open() as stores:
        assert not stores.generation.doubted()


def test_the_record_of_a_release_before_is_taken_over_once(unit: Unit) -> None:
    """It carries no number yet, and the file of their common number says so."""
    with sqlite3.connect(unit.folder / "rights.db") as connection:
        connection.execute("DROP TABLE generation")
    connection.close()
    file = unit.folder / "generation.json"
    known = json.loads(file.read_bytes())
    file.write_text(json.dumps({name: value for name, value in known.items() if name != "rights"}))
    with unit.open() as stores:
        assert not stores.generation.doubted()
        number = stores.rights.generation()
        assert number == stores.gallery.generation() > 0
    unit.put_back("record of used rules")
    with unit.open() as stores:
        assert stores.generation.doubted()


@pytest.mark.timeout(900 if EXHAUSTIVE else 300)
def test_a_power_cut_is_not_taken_for_a_restored_file(work: Path) -> None:
    living, file = work / "living", work / "config.yaml"
    config = write_unit(file, living)
    keys = {path.name: path.read_bytes() for path in living.iterdir()}
    steps = record(["-m", "tests.simulators.unit_life", str(file), "1"], living, work)
    tried = 0
    for crash in crashes(steps, seed=3, every=1 if EXHAUSTIVE else 4, torn=2 if EXHAUSTIVE else 1):
        crash.restore(living)
        for name, content in keys.items():
            (living / name).write_bytes(content)
            (living / name).chmod(0o600)
        with opened(config, SimulatedClock()) as stores:
            assert stores.generation.doubt is None, crash
            assert stores.outbox.head().seq < BLOCK, "nor is a number left out"
        tried += 1
    assert tried > 50


WHEN_FULL = range(13)  # the last of them is before the last write


@pytest.mark.parametrize("at", WHEN_FULL)
def test_nor_is_a_disk_that_fills_up(unit: Unit, at: int) -> None:
    with unit.open() as stores:
        disk = Disk(at + 11)  # it rises once when it is made: five parts, before and after, and the beginning
        with disk, suppress(StorageError):
            generation_on(disk, stores, unit.folder / "generation.json").advance()
    with unit.open() as stores:
        assert stores.generation.doubt is None


@pytest.mark.parametrize("at", WHEN_FULL)
def test_a_full_disk_takes_no_word_of_the_site_for_given(unit: Unit, at: int) -> None:
    """The doubt ends with the last write of ``accept``; what was cut off can be said again."""
    unit.put_back("gallery")
    with unit.open() as stores:
        disk = Disk(at)
        generation = generation_on(disk, stores, unit.folder / "generation.json")
        with disk, pytest.raises(StorageError):
            generation.accept("the card was exchanged")
        assert disk.left < 0
        assert generation.doubted()
    with unit.open() as stores:
        assert stores.generation.doubted()
        stores.generation.accept("the card was exchanged")
    with unit.open() as stores:
        assert not stores.generation.doubted()


# -- the assembled unit -----------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_the_running_unit_matches_and_enrols_nobody_and_tells_of_it(tmp_path: Path) -> None:
    premises, clock = Premises(tmp_path), SimulatedClock(START)
    config = load_config(premises.config)
    with assembled(config, clock) as service:
        assert references(service) == 1
    for file in FILES["gallery"]:  # the premises' copy is from before the first start
        where = config.gallery.path.parent if file.endswith(".db") else config.keys.folder
        shutil.copy(tmp_path / "copy" / where.relative_to(premises.unit) / file, where / file)
    with assembled(config, clock) as service:
        assert references(service) == 0
        service.run(lambda: True)
        assert "tamper" in conditions(service)
        _, health = read_health(_health(service))
        assert (health.recognition, health.asks) == ("paused", ("files",))
        with pytest.raises(RefusedError, match="put back"):
            service._enrolment.begin("t", agreed(config, clock))
        service._confirming.files("restored after a disk failed")
        assert references(service) == 1
        _, health = read_health(_health(service))
        assert (health.recognition, health.asks) == ("running", ())
    with assembled(config, clock) as service:
        assert references(service) == 1


@pytest.mark.timeout(120)
def test_a_recorded_command_is_not_done_again_by_a_counter_put_back(tmp_path: Path) -> None:
    premises, clock = Premises(tmp_path), SimulatedClock(START)
    config = load_config(premises.config)
    operator = Operator(load_site_key(premises.site), clock)
    counter = config.outbox.path.with_name("commands.json")
    with assembled(config, clock) as service:
        assert operator.ask(service, "recognition/pause")["status"] == "ok"
    older = counter.read_bytes()
    with assembled(config, clock) as service:
        assert operator.ask(service, "recognition/resume")["status"] == "ok"
        recorded = operator.sent
    counter.write_bytes(older)
    with assembled(config, clock) as service:
        again = operator.deliver(service, "recognition/resume", recorded)
        assert again["error"] == "replayed"
        asked = operator.ask(service, "recognition/pause")
        assert (asked["error"], asked["transaction"]) == ("challenge", "t-3"), "what a recording cannot answer"
        assert operator.ask(service, "recognition/pause", nonce=asked["nonce"])["status"] == "ok"
        asked = operator.ask(service, "unit/confirm")
        told = operator.ask(service, "unit/confirm", {"what": "files", "reason": "a test"}, nonce=asked["nonce"])
        assert told["data"] == {"confirmed": "files"}
        assert operator.ask(service, "recognition/resume")["status"] == "ok"
        assert references(service) == 1


@pytest.mark.timeout(120)
def test_the_sites_word_about_the_time_is_that_of_the_operators_clock(tmp_path: Path) -> None:
    premises, clock = Premises(tmp_path), SimulatedClock(START)
    config = load_config(premises.config)
    with assembled(config, clock) as service:
        service._stores.ageing.confirm(clock.now())
    later = SimulatedClock(START + timedelta(days=200))
    operator = Operator(load_site_key(premises.site), later)
    later.step_wall(0, "unsynced")
    with assembled(config, later) as service:
        ageing = service._stores.ageing
        later.step_wall(0, "synced")
        service.run(lambda: True)
        assert "clock_step" in conditions(service)
        assert read_health(_health(service))[1].asks == ("time",)
        for args in ({}, {"what": "time", "reason": "x"}, {"what": "all"}, {"what": "files", "reason": "x"}):
            assert operator.ask(service, "unit/confirm", args)["error"] in ("bad_args", "not_asked")
        assert operator.ask(service, "unit/confirm", {"what": "time"})["data"] == {"confirmed": "time"}
        assert ageing.settled() is not None
        assert later.now() - timedelta(seconds=10) <= ageing.latest() <= later.now()
        assert read_health(_health(service))[1].asks == ()


class Operator:
    """Signs commands by the site's key, and brings them without a broker between."""

    def __init__(self, key: SigningKey, clock: SimulatedClock) -> None:
        self.key, self.clock, self.number, self.sent = key, clock, 0, b""

    def ask(
        self, service: Service, verb: str, args: dict[str, str] | None = None, nonce: str | None = None
    ) -> dict[str, Any]:
        self.number += 1
        now = int(self.clock.now().timestamp())
        command = Command(
            site="hq",
            unit="door-1",
            verb=verb,
            cmd_seq=now * 1000 + self.number,
            issued_at=now,
            expires_at=now + 60,
            transaction=f"t-{self.number}",
            args=args or {},
            nonce=nonce,
        )
        self.sent = self.key.sign(msgspec.json.encode(command), typ=SIGNATURE_TYPE).encode()
        return self.deliver(service, verb, self.sent)

    def deliver(self, service: Service, verb: str, request: bytes) -> dict[str, Any]:
        answer = service._uplink.on_request(verb, request)
        assert answer is not None
        content: dict[str, Any] = json.loads(decode_base64url(answer.split(b".")[1].decode()))
        return content


def _health(service: Service) -> bytes:
    assert service._uplink.health is not None
    return service._uplink.health()
