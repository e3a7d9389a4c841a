# SPDX-License-Identifier: Apache-2.0
"""Attacks across topics on the access list that the site kit writes, name by name, with the certificates it issues."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.mqtt.credentials import Credentials
from agent.mqtt.refusals import NOT_AUTHORISED
from agent.protocol.program import Role
from agent.site.programs import issue_broker, issue_client
from tests.attack.test_broker_acl import BASE, NOT_DOOR_1
from tests.simulators.broker import Listener, RealBroker, connect
from tests.simulators.pki import Authority
from tests.simulators.site_office import SiteOffice

pytestmark = pytest.mark.broker

PROGRAMS: dict[str, Role] = {"guard": "auditor", "home": "home-assistant", "office": "operator", "desk": "operator"}
LATE = "door-9"  # has a certificate, but the access list that names it was not carried to the broker yet
LEAVES = ("availability", "info", "health", "event/match", "backlog/match", "response/health")


@dataclass
class Installed:
    """A broker with the files of a site: two units, programs of each role, and a unit it was not told of."""

    broker: RealBroker
    certificates: dict[str, Credentials]

    def connect(self, name: str, *filters: str) -> Listener:
        return connect(self.broker, self.certificates[name], name, *filters)

    def publish(self, name: str, topic: str) -> int:
        """Publish as ``name`` and return the broker's reason code."""
        listener = self.connect(name)
        listener.connection.publish(topic, b"forged")
        (ack,) = listener.acks(1)
        listener.connection.close()
        return ack.reason


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("site")
    office = SiteOffice(folder, clock=SystemClock())  # type: ignore[arg-type]  # Mosquitto looks at the real clock
    issue_broker(office.site, ["127.0.0.1"], **office.options)
    folders: dict[str, Path] = {unit: office.enrol(unit).folder for unit in ("door-1", "door-2")}
    for name, role in PROGRAMS.items():
        folders[name] = issue_client(office.site, name, role, **office.options)
    broker = RealBroker(folder, Authority(folder / "replaced"))
    broker.use_site(office.files)
    folders[LATE] = office.enrol(LATE).folder
    broker.start()
    yield Installed(broker, {name: Credentials.in_folder(at) for name, at in folders.items()})
    broker.stop()


@pytest.mark.parametrize("leaf", LEAVES)
def test_unit_speaks_on_its_own_branch_and_on_no_other(site: Installed, leaf: str) -> None:
    assert site.publish("door-1", f"{BASE}/{leaf}") < 0x80
    assert site.publish("door-2", f"{BASE}/{leaf}") == NOT_AUTHORISED


@pytest.mark.parametrize("topic", NOT_DOOR_1)
def test_unit_commands_nobody_and_writes_no_leaf_that_is_not_its_own(site: Installed, topic: str) -> None:
    assert site.publish("door-1", topic) == NOT_AUTHORISED


def test_unit_hears_its_own_requests_and_nothing_of_others(site: Installed) -> None:
    spy = site.connect("door-2", "#", "postern/#", "postern/hq/+/request/#", f"{BASE}/#", "$SYS/#", "+/+/door-1/+/+")
    for leaf in LEAVES:
        assert site.publish("door-1", f"{BASE}/{leaf}") < 0x80
    for topic in (f"{BASE}/request/health", "postern/hq/door-2/request/health"):
        assert site.publish("office", topic) < 0x80
    spy.pump(lambda: spy.messages)
    spy.messages += spy.connection.poll(0.1).messages
    spy.connection.close()
    assert set(spy.topics()) == {"postern/hq/door-2/request/health"}


READS = {
    "guard": {"availability", "info", "health", "event/match", "backlog/match"},
    "home": {"availability", "health", "event/match"},
    "office": {"availability", "info", "health", "response/health"},
    LATE: set(),
}


@pytest.mark.parametrize("name", READS)
def test_program_hears_what_its_role_needs_and_no_more(site: Installed, name: str) -> None:
    spy = site.connect(name, "postern/#", "$SYS/#")
    for leaf in LEAVES:
        assert site.publish("door-1", f"{BASE}/{leaf}") < 0x80
    assert site.publish("desk", f"{BASE}/request/health") < 0x80
    expected = {f"{BASE}/{leaf}" for leaf in READS[name]}
    if expected:
        spy.pump(lambda: expected <= set(spy.topics()))
    spy.messages += spy.connection.poll(0.2).messages
    spy.connection.close()
    assert set(spy.topics()) == expected


@pytest.mark.parametrize("name", [*PROGRAMS, LATE])
def test_no_program_speaks_for_a_unit(site: Installed, name: str) -> None:
    for leaf in ("event/match", "backlog/match", "availability", "health", "response/health"):
        assert site.publish(name, f"{BASE}/{leaf}") == NOT_AUTHORISED


@pytest.mark.parametrize("name", ["guard", "home", LATE])
def test_only_an_operator_sends_commands(site: Installed, name: str) -> None:
    assert site.publish(name, f"{BASE}/request/recognition/pause") == NOT_AUTHORISED
    assert site.publish("office", f"{BASE}/request/recognition/pause") < 0x80


def test_unit_that_the_broker_was_not_told_of_has_no_branch(site: Installed) -> None:
    assert site.publish(LATE, f"postern/hq/{LATE}/event/match") == NOT_AUTHORISED
