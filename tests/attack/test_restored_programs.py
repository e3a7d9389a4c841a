# SPDX-License-Identifier: Apache-2.0
"""Older files put back under a subscriber, a bridge or a console: refused, or told in one sentence.

Those of a unit are tried in ``test_restored_files``, those of a site in ``test_restored_site``.
"""

from __future__ import annotations

import json
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.bridge.service import Bridge
from agent.bridge.settings import load_settings
from agent.bridge.store import Store
from agent.clock import SimulatedClock
from agent.console.opening import close, digest_of_code, make_opening, path_of, read_opening, write_opening
from agent.disk.files import write_atomic
from agent.disk.put_back import EVERY
from agent.errors import InUseError, VerificationError
from agent.subscribe.files import StateFile
from agent.subscribe.subscriber import Refusal, Subscriber
from agent.subscribe.verify import VerifiedEvent
from tests.fault.test_bridge_killed import Premises
from tests.simulators.broker import connect, wait_until
from tests.unit.test_bridge_outputs import OUTPUTS, Bench, bench  # noqa: F401 - a fixture
from tests.unit.test_console_desk import Unit
from tests.unit.test_uplink_subscribe import BASE, Site, take

broker = pytest.mark.broker


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.unit.uplink.stop()
    site.broker.stop()


def put_back(backup: Path, folder: Path, *names: str) -> None:
    """As somebody does who restores single files."""
    for name in names:
        for old in folder.glob(f"{name}*"):
            if old.name in (name, f"{name}-wal", f"{name}-shm"):
                old.unlink()
        shutil.copy(backup / name, folder / name)


def listen(site: Site, events: Subscriber, count: int) -> list[VerifiedEvent | Refusal]:
    site.unit.say(count)
    return take(events, count)


# -- a subscriber -----------------------------------------------------------------------------------------------------


@broker
@pytest.mark.timeout(120)
def test_a_subscribers_memory_put_back_is_told_and_opens_no_door_twice(site: Site) -> None:
    """A quarantine is in it, and which events were here: what a copy of yesterday says nothing of."""
    state, backup = StateFile(site.folder / "seen.db"), site.folder / "backup"
    backup.mkdir()
    thief = connect(site.broker, site.broker.authority.issue("door-1"), "door-1")

    def hear(events: Subscriber, payload: bytes) -> VerifiedEvent | Refusal:
        thief.connection.publish(f"{BASE}/event/match", payload)
        thief.acks(1)
        return take(events, 1)[0]

    with site.subscriber(state=state, durable=True) as events:
        hear(events, site.unit.unit.say().payload)
    shutil.copy(site.folder / "seen.db", backup)
    recorded = []
    with site.subscriber(state=state, durable=True) as events:
        for _ in range(EVERY + 4):
            recorded.append(site.unit.unit.say().payload)
            hear(events, recorded[-1])
    assert not [notice for notice in site.notices if "put back" in notice]
    put_back(backup, site.folder, "seen.db")
    site.clock.skipped_s += 120
    with site.subscriber(state=state, durable=True) as events:
        again = hear(events, recorded[-1])
        assert isinstance(again, VerifiedEvent)
        assert not again.fresh
        assert [notice for notice in site.notices if notice.startswith(f"{site.folder}/seen.db was put back")]
    site.notices.clear()
    with site.subscriber(state=state, durable=True) as events:
        hear(events, site.unit.unit.say().payload)
    assert not [notice for notice in site.notices if "put back" in notice], "told once"
    thief.connection.close()


@broker
@pytest.mark.timeout(120)
def test_a_quarantine_that_a_backup_forgets_is_told_at_the_next_start(site: Site) -> None:
    state, unit = StateFile(site.folder / "seen.db"), site.unit.unit
    rows = [unit.say() for _ in range(3)]
    thief = connect(site.broker, site.broker.authority.issue("door-1"), "door-1")

    def hear(payload: bytes) -> VerifiedEvent | Refusal:
        with site.subscriber(state=state, durable=True) as events:
            thief.connection.publish(f"{BASE}/event/match", payload)
            return take(events, 1)[0]

    assert isinstance(hear(rows[0].payload), VerifiedEvent)
    backup = site.folder / "backup"
    backup.mkdir()
    shutil.copy(site.folder / "seen.db", backup)
    members = json.loads(rows[0].payload) | {"id": "fedcba9876543210-1"}
    members["data"]["boot"] = "fedcba9876543210"
    forked = hear(unit.sign(members))
    assert isinstance(forked, Refusal)
    assert forked.reason == "fork"
    put_back(backup, site.folder, "seen.db")
    site.notices.clear()
    hear(rows[1].payload)
    assert [notice for notice in site.notices if "a quarantine since then is forgotten" in notice]
    thief.connection.close()


@broker
@pytest.mark.timeout(120)
@pytest.mark.parametrize("names", [("trust.jws",), ("trust.jws", "trust.jws.seen")])
def test_a_list_of_units_put_back_is_refused_also_with_what_remembers_it(site: Site, names: tuple[str, ...]) -> None:
    """The list of before a revocation, with the file beside it; the memory of the subscriber knows it, too."""
    state, backup = StateFile(site.folder / "seen.db"), site.folder / "backup"
    backup.mkdir()
    with site.subscriber(state=state):
        pass
    for name in ("trust.jws", "trust.jws.seen"):
        shutil.copy(site.folder / name, backup)
    site.say_trust(2)
    with site.subscriber(state=state) as events:
        site.unit.start()
        listen(site, events, 1)
    put_back(backup, site.folder, *names)
    with pytest.raises(VerificationError, match="the site's list of units is older than the one") as refused:
        site.subscriber(state=state)
    assert refused.value.reason == "replayed"
    site.say_trust(3)
    with site.subscriber(state=state) as events:
        listen(site, events, 1)


# -- a bridge ---------------------------------------------------------------------------------------------------------


def test_a_bridges_store_put_back_is_noticed(bench: Bench) -> None:  # noqa: F811
    path = bench.folder / "bridge.db"
    bench.hear()
    bench.store.close()
    shutil.copy(path, bench.folder / "backup.db")
    bench.store = Store(path, outputs=OUTPUTS, clock=bench.clock)
    assert bench.store.put_back is None
    for _ in range(EVERY):
        bench.hear()
    bench.store.close()
    shutil.copy(bench.folder / "backup.db", path)
    bench.store = Store(path, outputs=OUTPUTS, clock=bench.clock)
    assert "put back to an older state" in str(bench.store.put_back)
    bench.hear()
    bench.store.close()
    bench.store = Store(path, outputs=OUTPUTS, clock=bench.clock)
    assert bench.store.put_back is None, "told once"


@broker
@pytest.mark.timeout(120)
def test_a_bridge_tells_what_was_put_back_and_a_second_one_on_its_store_is_refused(tmp_path: Path) -> None:
    premises = Premises(tmp_path)
    told: list[str] = []

    def made() -> Bridge:
        settings = load_settings(premises.folder / "bridge.yaml")
        return Bridge(settings, clock=premises.units[0].clock, random=secrets.token_bytes, on_notice=told.append)

    def listening() -> int:
        return sum(text.startswith("listening") for text in told)

    def run(until: int) -> None:
        bridge = made()
        with pytest.raises(InUseError, match=r"stop the bridge \(systemctl stop postern-bridge\)"):
            made()
        thread = threading.Thread(target=bridge.run)
        before = listening()
        thread.start()
        try:
            wait_until(lambda: listening() > before)
            unit = premises.units[0]
            while unit.outbox.head().seq < until:
                unit.say()
                wait_until(lambda: len(premises.archived()) >= unit.outbox.head().seq)
        finally:
            bridge.stop()
            thread.join(30)

    try:
        premises.units[0].start()
        state = premises.folder / "state"
        run(2)
        shutil.copytree(state, tmp_path / "backup")
        run(EVERY + 4)
        assert not [text for text in told if "put back" in text]
        put_back(tmp_path / "backup", state, "bridge.db", "seen.db")
        run(EVERY + 6)
        sentences = [text for text in told if "put back" in text]
        assert len(sentences) == 2, "one of each file"
        keys = [(unit, seq) for unit, seq, _ in premises.archived()]
        assert len(keys) == len(set(keys)), "what comes again has the same key, so nobody counts it twice"
    finally:
        premises.close()


# -- a console --------------------------------------------------------------------------------------------------------


def test_an_opening_of_a_console_put_back_opens_nothing(tmp_path: Path) -> None:
    """Its code was typed once, before others perhaps; the file of it is there again."""
    unit = Unit(tmp_path)
    folder, looks = unit.settings.folder, unit.desk._look
    opening = make_opening(unit.clock, code=digest_of_code("x"), minutes=15, scope="install", by="command")
    write_opening(folder, opening)
    content = path_of(folder).read_bytes()
    assert looks() == opening
    close(folder)
    assert looks() is None
    write_atomic(path_of(folder), content)
    assert looks() is None
    assert not path_of(folder).exists()
    assert looks() is None
    assert unit.noticed == [opening, None]
    assert [str(one) for one in unit.problems] == [
        "an opening of the console that was over was put back: it opens nothing"
    ]
    again = make_opening(unit.clock, code=digest_of_code("y"), minutes=15, scope="install", by="command")
    write_opening(folder, again)
    assert looks() == again


def test_an_opening_put_back_after_its_time_or_in_another_run_of_the_machine_is_none(tmp_path: Path) -> None:
    clock = SimulatedClock()
    opening = make_opening(clock, code=digest_of_code("x"), minutes=15, scope="install", by="command")
    write_opening(tmp_path, replace(opening, boot="another run"))
    assert read_opening(tmp_path, clock) is None
    write_opening(tmp_path, opening)
    assert read_opening(tmp_path, clock) == opening
    clock.advance(15 * 60)
    assert read_opening(tmp_path, clock) is None
