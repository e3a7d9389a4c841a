# SPDX-License-Identifier: Apache-2.0
"""A subscriber hands over what is true, says why the rest is not, and survives restarts and outages."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.clock import SimulatedClock
from agent.disk.files import write_atomic
from agent.errors import BrokerError, KeyStoreError, StorageError, VerificationError
from agent.keys import SigningKey
from agent.subscribe.files import Kept, StateFile, TrustFile
from agent.subscribe.show import Screen, as_columns, as_json
from agent.subscribe.subscriber import Refusal, Subscriber
from agent.subscribe.verify import VerifiedEvent
from tests.simulators.broker import PATIENCE_S, RealBroker, connect, wait_until
from tests.simulators.pki import Authority
from tests.simulators.signing_unit import SigningUnit, presence_draft, trust_list, unit_draft, verifier_of
from tests.simulators.unit_on_broker import UnitOnBroker

BASE = "postern/hq/door-1"


class Site:
    """A broker, a unit, the site's key and its list of units."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = RealBroker(folder, Authority(folder / "pki"))
        self.broker.start()
        self.key = SigningKey.generate()
        self.unit = UnitOnBroker(folder, self.broker.settings(self.broker.authority.issue("door-1")))
        self.clock = self.unit.clock
        self.trust = folder / "trust.jws"
        self.say_trust(1)
        self.notices: list[str] = []

    def say_trust(self, serial: int, **changes: Any) -> None:
        token = trust_list(self.unit.unit, serial=serial, **changes).sign(self.key)
        write_atomic(self.trust, token.encode())

    def subscriber(self, **options: Any) -> Subscriber:
        trust = TrustFile(self.trust, self.key.public)
        settings = self.broker.settings(self.broker.authority.issue("auditor"))
        options = {"site": "hq"} | options
        return Subscriber(settings, trust=trust, clock=self.clock, on_notice=self.notices.append, **options)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.unit.uplink.stop()
    site.broker.stop()


def take(subscriber: Subscriber, count: int) -> list[VerifiedEvent | Refusal]:
    """The next outcomes; gives up through the subscriber's own ``stop``."""
    alarm = threading.Timer(PATIENCE_S, subscriber.stop)
    alarm.start()
    found = []
    for outcome in subscriber:
        found.append(outcome)
        if len(found) == count:
            break
    alarm.cancel()
    assert len(found) == count, "waited in vain"
    return found


@pytest.mark.broker
def test_live_events_are_verified_and_handed_over_in_order(site: Site) -> None:
    with site.subscriber() as events:
        site.unit.start()
        seqs = site.unit.say(5)
        outcomes = take(events, 5)
    assert [o.event.data.seq for o in outcomes if isinstance(o, VerifiedEvent)] == seqs
    assert all(o.fresh and not o.backlog and o.gap is None for o in outcomes if isinstance(o, VerifiedEvent))


@pytest.mark.broker
def test_site_that_the_list_of_units_does_not_know_is_refused_instead_of_silence(site: Site) -> None:
    with pytest.raises(VerificationError, match="list of units is of site hq, not annex"):
        site.subscriber(site="annex")


@pytest.mark.broker
def test_forged_and_replayed_messages_are_refused_with_their_reasons(site: Site) -> None:
    forger = SigningUnit(site.folder / "forger.db", "door-1", site.clock)  # type: ignore[arg-type]
    forged = forger.say().payload
    honest = site.unit.unit.say().payload
    with site.subscriber() as events:
        thief = connect(site.broker, site.broker.authority.issue("door-1"), "door-1")
        for payload in (b"junk", forged, honest, honest):
            thief.connection.publish(f"{BASE}/event/match", payload)
        thief.connection.publish(f"{BASE}/event/presence", honest)
        outcomes = take(events, 5)
        thief.connection.close()
    reasons = [o.reason if isinstance(o, Refusal) else "accepted" for o in outcomes]
    assert reasons == ["malformed", "unknown_unit", "accepted", "duplicate", "wrong_topic"]


@pytest.mark.broker
def test_restart_with_a_state_file_does_not_make_old_events_new(site: Site) -> None:
    state = StateFile(site.folder / "seen.json")
    honest = site.unit.unit.say().payload
    thief = connect(site.broker, site.broker.authority.issue("door-1"), "door-1")
    outcomes = []
    for _ in range(2):
        with site.subscriber(state=state) as events:
            thief.connection.publish(f"{BASE}/event/match", honest)
            thief.connection.poll(0.1)
            outcomes += take(events, 1)
    assert isinstance(outcomes[0], VerifiedEvent)
    assert isinstance(outcomes[1], Refusal)
    assert outcomes[1].reason == "duplicate"
    thief.connection.close()


@pytest.mark.broker
def test_durable_subscriber_gets_what_came_while_it_was_away(site: Site) -> None:
    state = StateFile(site.folder / "seen.json")
    with site.subscriber(state=state, durable=True) as events:
        site.unit.start()
        site.unit.say()
        take(events, 1)
    site.unit.say(3)
    wait_until(lambda: site.unit.outbox.depth() == 0)
    with site.subscriber(state=state, durable=True) as events:
        assert [o.event.data.seq for o in take(events, 3) if isinstance(o, VerifiedEvent)] == [2, 3, 4]


@pytest.mark.broker
def test_outage_of_the_broker_is_told_and_survived(site: Site) -> None:
    with site.subscriber(random=bytes) as events:
        site.unit.start()
        site.unit.say()
        take(events, 1)
        site.broker.kill()

        def come_back() -> None:
            wait_until(lambda: site.notices)
            site.broker.start()
            wait_until(lambda: "connected again" in site.notices)
            site.unit.say()

        threading.Thread(target=come_back).start()
        (outcome,) = take(events, 1)
    assert isinstance(outcome, VerifiedEvent)
    assert any("closed the connection" in notice for notice in site.notices)
    assert "connected again" in site.notices


@pytest.mark.broker
def test_revocation_in_a_new_list_counts_without_a_restart(site: Site) -> None:
    with site.subscriber() as events:
        site.unit.start()
        site.unit.say()
        take(events, 1)
        site.say_trust(2)
        write_atomic(site.trust, trust_list(site.unit.unit, serial=3).sign(SigningKey.generate()).encode())
        site.clock.skipped_s += 6
        site.unit.say()
        take(events, 1)  # a list that the site did not sign changes nothing
        revoked = trust_list(site.unit.unit, serial=4)
        entry = revoked.units["door-1"][0]
        units = {"door-1": (type(entry)(jwk=entry.jwk, status="revoked"),)}
        token = type(revoked)(version=1, site="hq", serial=4, issued_at=revoked.issued_at, units=units).sign(site.key)
        write_atomic(site.trust, token.encode())
        site.clock.skipped_s += 6
        wait_until(lambda: site.unit.say() and isinstance(take(events, 1)[0], Refusal))
    assert any("serial 4" in notice for notice in site.notices)


@pytest.mark.broker
def test_broker_that_is_not_there_is_said_at_once(site: Site) -> None:
    site.broker.stop()
    with pytest.raises(BrokerError, match="nothing listens"), site.subscriber():
        pass
    site.broker.start()


def test_missing_and_foreign_trust_are_said_at_once(tmp_path: Path) -> None:
    key = SigningKey.generate()
    with pytest.raises(KeyStoreError, match="cannot read"):
        TrustFile(tmp_path / "none", key.public).load()
    unit = SigningUnit(tmp_path / "o.db")
    (tmp_path / "trust").write_text(trust_list(unit).sign(SigningKey.generate()))
    with pytest.raises(VerificationError):
        TrustFile(tmp_path / "trust", key.public).load()


def test_older_list_is_not_taken_back(tmp_path: Path) -> None:
    key, unit, path = SigningKey.generate(), SigningUnit(tmp_path / "o.db"), tmp_path / "trust"
    write_atomic(path, trust_list(unit, serial=5).sign(key).encode())
    trust = TrustFile(path, key.public)
    trust.load()
    assert trust.load_if_changed() is None
    write_atomic(path, trust_list(unit, serial=4).sign(key).encode())
    assert trust.load_if_changed() is None
    write_atomic(path, trust_list(unit, serial=6).sign(key).encode())
    newer = trust.load_if_changed()
    assert newer is not None
    assert newer.serial == 6


def test_state_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    assert StateFile(tmp_path / "none").load() == Kept()
    with pytest.raises(StorageError):
        StateFile(tmp_path).load()


def outcomes(folder: Path) -> list[VerifiedEvent | Refusal]:
    unit = SigningUnit(folder / "o.db", clock=SimulatedClock())
    rows = [unit.say(draft) for draft in (None, presence_draft(unit.clock), unit_draft(unit.clock), None)]
    verifier, arrivals = verifier_of(unit), ((0, "event"), (1, "event"), (3, "event"), (2, "backlog"))
    found = [
        verifier.check(unit.topic(rows[index], leaf), rows[index].payload, unit.clock.now()) for index, leaf in arrivals
    ]
    return [*found, Refusal("bad_signature", "postern/hq/door-3/event/match", "the signature does not fit the content")]


def test_columns_say_what_a_person_needs_to_know(tmp_path: Path) -> None:
    match, presence, gap, late, refusal = map(as_columns, outcomes(tmp_path))
    assert "door-3" in match
    assert "p1_9c419c41…" in match
    assert "arrived" in presence
    assert "GAP: 3 to 3 missing" in gap
    assert "backlog, late, fills a gap" in late
    assert refusal.startswith("REFUSED")
    assert "bad_signature" in refusal


def test_json_lines_hold_the_whole_event(tmp_path: Path) -> None:
    lines = [json.loads(as_json(outcome)) for outcome in outcomes(tmp_path)]
    assert lines[0]["outcome"] == "accepted"
    assert lines[0]["event"]["data"]["event_type"] == "match"
    assert lines[2]["gap"] == [3, 3]
    assert lines[4] == {"outcome": "refused", "reason": "bad_signature", "topic": "postern/hq/door-3/event/match"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "json_lines", "is_json"),
    [(Terminal(), False, False), (Terminal(), True, True), (io.StringIO(), False, True)],
)
def test_screen_writes_columns_to_a_terminal_and_json_elsewhere(
    tmp_path: Path, stream: io.StringIO, json_lines: bool, is_json: bool
) -> None:
    screen = Screen(stream, json_lines=json_lines)
    for outcome in outcomes(tmp_path):
        screen.show(outcome)
    assert stream.getvalue().startswith("{") is is_json
    assert "bad_signature" in stream.getvalue()


def test_subscriber_needs_no_numpy_and_no_model() -> None:
    script = "import sys, agent.subscribe.subscriber, agent.subscribe.show; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "PIL", "av", "ai_edge_litert"} & set(loaded)
