# SPDX-License-Identifier: Apache-2.0
"""What the site's service listens to, when it sends the next thing, and from which day on a certificate is renewed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from agent.clock import SimulatedClock
from agent.mqtt.connection import Connection
from agent.mqtt.records import BrokerSettings, Polled
from agent.protocol.list_parts import MAX_PARTS, in_parts
from agent.protocol.record import load
from agent.site.authority import ISSUED_LEAF_DAYS, read_certificate, validity
from agent.site.delegation import delegate, hand_epoch_keys, service_settings
from agent.site.desk import ANSWER_S, RETRY_S, Desk
from agent.site.folder import changing
from agent.site.mandated import ServiceEpochs
from agent.site.programs import issue_broker
from agent.site.records import CertificateRecord, SiteFiles
from agent.site.renewal import GAIN_DAYS, LAST_DAYS, RENEW_DAYS, has_to_last, is_old
from agent.site.service import SiteService
from tests.simulators.fleets import fleet_in
from tests.simulators.site_office import START, SiteOffice, let_in
from tools.lib.lifetime.days import SITE

DAY_S = 86_400.0


@pytest.fixture
def office(tmp_path: Path) -> SiteOffice:
    made = SiteOffice(tmp_path)
    delegate(made.site, clock=made.clock)
    return made


def test_the_service_listens_to_what_units_say_of_themselves_to_their_answers_and_to_who_joins(
    office: SiteOffice,
) -> None:
    desk = Desk(office.site, clock=office.clock, random=os.urandom, tell=pytest.fail)
    assert set(desk.filters()) == {
        "postern/hq/+/availability",
        "postern/hq/+/info",
        "postern/hq/+/health",
        "postern/hq/+/response/unit/renew",
        "postern/hq/+/response/unit/configure",
        "postern-join/hq/+/request",
    }


def test_one_thing_is_sent_at_a_time_and_the_next_once_no_answer_came(tmp_path: Path) -> None:
    fleet = fleet_in(tmp_path, 1)
    unit = fleet.units["door-1"]

    def hears() -> int:
        return len(fleet.desk.take(f"postern/{SITE}/door-1/health", unit.health()))

    fleet.clock.advance(14 * DAY_S)  # epoch keys are due
    assert hears() == 1
    for later_s in (1, ANSWER_S - 2):  # whatever else is due waits for the answer
        fleet.clock.advance(later_s)
        assert hears() == 0
    assert not [text for text in fleet.tally.told if "no answer" in text]
    fleet.clock.advance(1)
    hears()
    assert [text for text in fleet.tally.told if "no answer" in text] == ["door-1: epoch_keys: no answer"]
    fleet.clock.advance(RETRY_S - ANSWER_S - 1)
    assert hears() == 0, "the same is not tried a moment later"
    fleet.clock.advance(1)
    assert hears() == 1


def test_a_certificate_is_renewed_where_the_next_lasts_longer_by_enough(office: SiteOffice) -> None:
    """Near the end of the service's own certificate all end with that, and every one that is made may be revoked."""
    service_ends = validity(read_certificate(office.files.issuing_crt))[1]

    def worth(gain: int, left: int, *, by: str) -> bool:
        """Whether one is issued ``left`` days before the end of one that the next outlasts by ``gain`` days."""
        ends = START + timedelta(days=left) if by == "its own days" else service_ends - timedelta(days=gain)
        now = START if by == "its own days" else ends - timedelta(days=left)
        newest = CertificateRecord(serial="1", expires_at=f"{ends:%Y-%m-%dT%H:%M:%SZ}", issued=True)
        least = has_to_last(newest, office.files, now)
        assert least in (0, RENEW_DAYS)
        return bool(least)

    assert worth(GAIN_DAYS, 100, by="the service's end")
    assert not worth(GAIN_DAYS - 1, 100, by="the service's end")
    assert worth(1, LAST_DAYS - 1, by="the service's end")
    assert not worth(1, LAST_DAYS, by="the service's end")
    assert not worth(0, LAST_DAYS - 1, by="the service's end")
    assert worth(GAIN_DAYS, ISSUED_LEAF_DAYS - GAIN_DAYS, by="its own days")
    assert not worth(GAIN_DAYS - 1, ISSUED_LEAF_DAYS - GAIN_DAYS + 1, by="its own days")


@pytest.mark.parametrize(
    ("left", "told", "issued", "old"),
    [
        (RENEW_DAYS, RENEW_DAYS, True, False),
        (RENEW_DAYS - 1, RENEW_DAYS - 1, True, True),
        (200, 199, True, False),
        (200, 198, True, True),
        (200, 200, False, True),
    ],
    ids=["on the day", "a day later", "a day is rounding", "it has an older one", "by the root"],
)
def test_a_unit_has_a_certificate_renewed_by_its_end_or_as_it_has_not_the_newest(
    left: int, told: int, issued: bool, old: bool
) -> None:
    newest = CertificateRecord(
        serial="1", expires_at=f"{START + timedelta(days=left):%Y-%m-%dT%H:%M:%SZ}", issued=issued
    )
    assert is_old(newest, told, least=RENEW_DAYS, now=START) == old


def test_an_audience_that_once_had_keys_is_kept_supplied_though_no_unit_speaks_for_it_now(office: SiteOffice) -> None:
    def held() -> set[str]:
        kept = load(office.files.service_epochs("canteen"), ServiceEpochs, secret=True)
        return {key.epoch for key in kept.keys}

    with changing(office.site, clock=office.clock) as site:
        hand_epoch_keys(site, ["canteen"])
    before = held()
    office.clock.advance(7 * DAY_S)
    with changing(office.site, clock=office.clock) as site:
        hand_epoch_keys(site)
    assert max(held()) > max(before)


def test_a_list_in_parts_takes_away_what_is_retained_of_a_longer_one_and_of_a_whole_one(office: SiteOffice) -> None:
    let_in(office.site, 150, clock=office.clock)
    desk = Desk(office.site, clock=office.clock, random=os.urandom, tell=pytest.fail)
    said = {letter.topic: letter.payload for letter in desk.board() if "/trust" in letter.topic}
    parts = in_parts(office.files.trust.read_bytes())
    assert len(parts) > 1
    assert said == {
        "postern-site/hq/trust": b"",
        **{f"postern-site/hq/trust/{number}": part for number, part in enumerate(parts, 1)},
        **{f"postern-site/hq/trust/{number}": b"" for number in range(len(parts) + 1, MAX_PARTS + 1)},
    }


class NoBroker(Connection):
    """A broker that takes all and says nothing; ``events`` are what happens at each look of the service."""

    def __init__(self, settings: BrokerSettings, clock: SimulatedClock, events: Iterator[object]) -> None:
        self.passed, self._events = clock, events
        self.settings, self.filters = settings, set[str]()

    def open(self) -> None: ...
    def close(self, *, keep_session: bool = False) -> None: ...
    def fits(self, topic: str, payload: bytes) -> bool:
        return False

    def subscribe(self, *filters: str, retained: bool = False) -> None:
        self.filters |= set(filters)

    def poll(self, timeout_s: float, wake: object = None) -> Polled:
        self.passed.advance(timeout_s)
        next(self._events, None)
        return Polled()


def test_a_running_service_follows_its_broker_to_another_place(office: SiteOffice) -> None:
    """``postern site broker`` sent invitations to the new address, and the service stayed at the old one."""
    clock, told, met = SimulatedClock(office.clock.now()), list[str](), list[NoBroker]()
    record, left = SiteFiles(office.site).broker_record, iter(range(12))

    def connect(settings: BrokerSettings, **_: object) -> Connection:
        met.append(NoBroker(settings, clock, events))
        return met[-1]

    def happen() -> Iterator[object]:
        yield None
        yield issue_broker(office.site, ["127.0.0.1"], clock=clock)  # a new certificate: no move
        yield issue_broker(office.site, ["broker.example"], port=8884, kind="rabbitmq", clock=clock)
        yield None
        yield record.write_bytes(b"{")
        yield None

    events = happen()
    issue_broker(office.site, ["127.0.0.1"], clock=clock)
    reach = partial(service_settings, office.site)
    desk = Desk(office.site, clock=clock, random=os.urandom, tell=told.append)
    SiteService(
        desk, reach(), reach, clock=clock, random=os.urandom, tell=told.append, renew=lambda: None, connect=connect
    ).run(lambda: next(left, None) is not None)
    assert [(one.settings.host, one.settings.port) for one in met] == [("127.0.0.1", 8883), ("broker.example", 8884)]
    assert [
        "postern-join/hq/+/join/request" in one.filters or "postern-join/hq/+/+/request" in one.filters for one in met
    ] == [False, True]
    assert "the site's broker is broker.example:8884 now: the service goes on there" in told
    assert len([one for one in told if str(record) in one]) == 1, "a damaged file is told once, and the session stays"


def test_a_broker_that_gets_a_new_certificate_keeps_its_port(office: SiteOffice) -> None:
    issue_broker(office.site, ["broker.example"], port=8884, clock=office.clock)
    issue_broker(office.site, ["broker.example"], clock=office.clock)
    assert service_settings(office.site).port == 8884
