# SPDX-License-Identifier: Apache-2.0
"""Somebody has the broker's own key and certificate, and stands between units, programs and the real broker."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from agent.cli import main
from agent.clock import SimulatedClock, SystemClock
from agent.errors import BrokerError, RefusedError, VerificationError
from agent.mqtt.connection import Connection
from agent.mqtt.credentials import Credentials
from agent.site import units
from agent.site.programs import issue_broker, issue_client, revoke_broker, revoke_client
from agent.site.published import list_number
from agent.site.retire import retire
from agent.unit.assemble import credentials_of
from agent.unit.joining import install
from agent.unit.revocations import install_revocations
from tests.simulators.broker import RealBroker, connect, wait_until
from tests.simulators.pki import Authority
from tests.simulators.site_office import SiteOffice, listed_units
from tests.simulators.unit_life import write_unit

pytestmark = pytest.mark.broker
UNIT = "door-1"


class Site:
    """A site with one unit, two programs and a broker."""

    def __init__(self, folder: Path) -> None:
        self.office = SiteOffice(folder, clock=SystemClock())  # type: ignore[arg-type]  # Mosquitto has the real clock
        issue_broker(self.office.site, ["127.0.0.1"], **self.office.options)
        self.keys = self.office.enrol(UNIT).folder
        self.guard = issue_client(self.office.site, "guard", "auditor", **self.office.options)
        self.desk = issue_client(self.office.site, "desk", "operator", **self.office.options)
        self.broker = RealBroker(folder, Authority(folder / "replaced"))
        self.broker.use_site(self.office.files)
        self.broker.start()

    @staticmethod
    def files(folder: Path) -> Credentials:
        return Credentials.in_folder(folder)

    def open(self, folder: Path, name: str) -> None:
        connection = Connection(self.broker.settings(self.files(folder)), client_id=name, clock=SystemClock())
        connection.open()
        connection.close()

    def retained(self) -> dict[str, bytes]:
        """What the broker tells somebody new about the unit."""
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="guard", protocol=paho.MQTTv5)
        files, found = self.files(self.guard), {}
        client.tls_set(str(files.ca), str(files.certificate), str(files.key))
        client.on_message = lambda _c, _u, message: found.update({message.topic: message.payload})
        client.connect("127.0.0.1", self.broker.port)
        client.on_connect = lambda *_: client.subscribe(
            [(f"postern/hq/+/{leaf}", 1) for leaf in ("availability", "info")]
        )
        client.loop_start()
        wait_until(lambda: found)
        client.loop_stop()
        return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.broker.stop()


def test_revoked_broker_certificate_is_refused_by_units_and_programs_and_the_new_one_is_taken(site: Site) -> None:
    site.open(site.keys, UNIT)
    site.open(site.guard, "guard")
    listed = revoke_broker(site.office.site, **site.office.options)
    assert install_revocations(site.keys, listed.read_bytes()) == 1
    shutil.copy(listed, site.guard / listed.name)
    for folder, name in ((site.keys, UNIT), (site.guard, "guard")):
        with pytest.raises(BrokerError, match="revoked"):
            site.open(folder, name)
    issue_broker(site.office.site, ["127.0.0.1"], **site.office.options)
    site.broker.stop()
    site.broker.use_site(site.office.files)
    site.broker.start()
    site.open(site.keys, UNIT)
    site.open(site.guard, "guard")


def test_unit_or_program_that_joins_or_renews_later_knows_of_it(site: Site) -> None:
    revoke_broker(site.office.site, **site.office.options)
    answer = units.renew_unit(site.office.site, UNIT, **site.office.options)
    install(site.keys, answer, clock=site.office.clock)
    for folder, name in (
        (site.keys, UNIT),
        (site.office.enrol("door-2").folder, "door-2"),
        (issue_client(site.office.site, "late", "auditor", **site.office.options), "late"),
    ):
        with pytest.raises(BrokerError, match="revoked"):
            site.open(folder, name)


def test_list_of_another_site_an_older_one_and_nonsense_are_refused(site: Site, tmp_path: Path) -> None:
    first = revoke_broker(site.office.site, **site.office.options).read_bytes()
    later = SimulatedClock(SystemClock().now() + timedelta(hours=1))
    newer = revoke_broker(site.office.site, clock=later).read_bytes()
    install_revocations(site.keys, newer)
    held = (site.keys / "brokers.crl").read_bytes()
    other = SiteOffice(tmp_path / "elsewhere", clock=SystemClock())  # type: ignore[arg-type]
    issue_broker(other.site, ["127.0.0.1"], **other.options)
    foreign = revoke_broker(other.site, **other.options).read_bytes()
    for content, reason in ((first, "replayed"), (foreign, "bad_signature"), (b"nothing", "malformed")):
        with pytest.raises(VerificationError) as refusal:
            install_revocations(site.keys, content)
        assert refusal.value.reason == reason
        assert (site.keys / "brokers.crl").read_bytes() == held


def test_answer_from_before_a_newer_list_is_installed_whole_and_the_newer_list_stays(site: Site) -> None:
    revoke_broker(site.office.site, **site.office.options)
    answer = units.renew_unit(site.office.site, UNIT, **site.office.options)
    certificate = (site.keys / "tls.crt").read_bytes()
    newer = revoke_broker(site.office.site, clock=SimulatedClock(SystemClock().now() + timedelta(hours=1))).read_bytes()
    install_revocations(site.keys, newer)
    assert install(site.keys, answer, clock=site.office.clock) == UNIT
    assert (site.keys / "tls.crt").read_bytes() != certificate
    assert (site.keys / "brokers.crl").read_bytes() == newer


def test_list_counts_too_where_the_authority_was_put_elsewhere(site: Site, tmp_path: Path) -> None:
    config = write_unit(tmp_path / "config.yaml", site.keys)
    moved = tmp_path / "elsewhere.crt"
    shutil.copy(site.keys / "ca.crt", moved)
    tls = msgspec.structs.replace(config.broker.tls, ca=moved)
    config = msgspec.structs.replace(config, broker=msgspec.structs.replace(config.broker, tls=tls))
    listed = revoke_broker(site.office.site, **site.office.options).read_bytes()
    install_revocations(site.keys, listed)
    for _ in range(2):
        connection = Connection(site.broker.settings(credentials_of(config)), client_id=UNIT, clock=SystemClock())
        with pytest.raises(BrokerError, match="revoked"):
            connection.open()
        (site.keys / "brokers.crl").unlink(missing_ok=True)
        moved.with_name("brokers.crl").write_bytes(listed)  # put there by hand, it counts as well


def test_damaged_list_is_replaced_by_the_next_one_of_the_site(site: Site) -> None:
    (site.keys / "brokers.crl").write_bytes(bytes(600))
    listed = revoke_broker(site.office.site, **site.office.options).read_bytes()
    assert install_revocations(site.keys, listed) == 1
    assert (site.keys / "brokers.crl").read_bytes() == listed


def test_revoked_certificates_of_unit_and_program_are_refused_once_the_broker_reread_its_list(
    site: Site, tmp_path: Path
) -> None:
    stolen = Path(
        shutil.copytree(site.guard, tmp_path / "stolen")
    )  # the site keeps no key of a program that it revoked
    units.revoke_unit(site.office.site, UNIT, **site.office.options)
    revoke_client(site.office.site, "guard", **site.office.options)
    site.broker.use_site(site.office.files)  # carries acl and ca.crl, sends SIGHUP
    for folder, name in ((site.keys, UNIT), (stolen, "guard")):
        with pytest.raises(BrokerError, match=r"revoked|may not accept"):
            site.open(folder, name)
    site.open(site.desk, "desk")


def test_revoked_unit_does_not_stay_online_for_ever(site: Site) -> None:
    """The retained word of a unit that cannot say any more that it is gone."""
    unit = connect(site.broker, site.files(site.keys), UNIT)
    unit.connection.publish(f"postern/hq/{UNIT}/availability", b"online", retain=True)
    unit.connection.publish(f"postern/hq/{UNIT}/info", b"{}", retain=True)
    unit.acks(2)
    unit.connection.abandon()
    settings = site.broker.settings(site.files(site.desk))
    with pytest.raises(RefusedError, match="was revoked"):
        retire(settings, UNIT, trusted=listed_units(site.office.site), clock=SystemClock())
    units.revoke_unit(site.office.site, UNIT, **site.office.options)
    with pytest.raises(BrokerError, match="carry acl"):
        retire(settings, UNIT, trusted=listed_units(site.office.site), clock=SystemClock())
    site.broker.use_site(site.office.files)
    site_key = site.office.files.site_key
    words = ["--broker", "127.0.0.1", "--port", str(site.broker.port), "--site", "hq", "--keys", str(site.desk)]
    assert main(["retire", UNIT, "--site-key", str(site_key), *words]) == 0
    assert site.retained() == {f"postern/hq/{UNIT}/availability": b"offline"}


def test_operator_speaks_for_no_unit_that_is_in_service(site: Site) -> None:
    desk = connect(site.broker, site.files(site.desk), "desk")
    desk.connection.publish(f"postern/hq/{UNIT}/availability", b"offline", retain=True)
    (ack,) = desk.acks(1)
    assert not ack.accepted


def test_a_list_of_a_site_whose_clock_went_back_is_newer_all_the_same(tmp_path: Path) -> None:
    office = SiteOffice(tmp_path)
    keys = office.enrol(UNIT).folder
    lists, numbers = [], []
    for unit, step in (("door-2", 3600 * 86_400), ("door-3", -3600 * 86_400)):
        office.clock.step_wall(step)
        issue_broker(office.site, ["127.0.0.1"], **office.options)
        lists.append(revoke_broker(office.site, **office.options).read_bytes())
        office.enrol(unit)
        units.revoke_unit(office.site, unit, **office.options)
        numbers.append(list_number(office.files.crl))
    assert 0 < numbers[0] < numbers[1]
    for listed in lists:
        install_revocations(keys, listed)
    with pytest.raises(VerificationError) as refusal:
        install_revocations(keys, lists[0])
    assert refusal.value.reason == "replayed"
