# SPDX-License-Identifier: Apache-2.0
"""The site's certificates hold before other people's software: OpenSSL, Python's strict checks, Mosquitto."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agent.clock import SimulatedClock, SystemClock
from agent.errors import BrokerError, KeyStoreError, RefusedError
from agent.mqtt.credentials import Credentials, load_identity
from agent.site import programs, revocation, units
from agent.site.authority import Authority, make_csr, read_csr, read_public_pem
from agent.site.delegation import delegate, take_root_away
from agent.unit.key_files import UnitFiles
from tests.simulators.broker import RealBroker, connect
from tests.simulators.signing_unit import START
from tests.simulators.site_office import SiteOffice, listed_units


@pytest.fixture
def office(tmp_path: Path) -> SiteOffice:
    """A site of today: other software looks at the real clock."""
    return SiteOffice(tmp_path, clock=SystemClock())  # type: ignore[arg-type]


def openssl(*words: object) -> subprocess.CompletedProcess[str]:
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is not installed")
    return subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=False, timeout=20)


def verify(office: SiteOffice, certificate: Path, purpose: str) -> str:
    """What OpenSSL's strictest check says; empty when it is content."""
    crl = ["-crl_check", "-CRLfile", office.files.crl]
    options = ["-x509_strict", "-purpose", purpose, *crl, "-CAfile", office.files.ca_crt]
    done = openssl("verify", *options, certificate)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_openssl_accepts_every_kind_of_certificate_for_its_purpose_alone(office: SiteOffice) -> None:
    unit = office.enrol("door-3").tls_crt
    client = programs.issue_client(office.site, "auditor-1", "auditor", **office.options) / "tls.crt"
    broker = programs.issue_broker(office.site, ["broker.example.org", "192.0.2.7"], **office.options) / "broker.crt"
    for certificate in (unit, client):
        assert verify(office, certificate, "sslclient") == ""
        assert "purpose" in verify(office, certificate, "sslserver")
    assert verify(office, broker, "sslserver") == ""
    assert "purpose" in verify(office, broker, "sslclient")
    names = openssl("x509", "-in", broker, "-noout", "-ext", "subjectAltName").stdout
    assert "DNS:broker.example.org" in names
    assert "IP Address:192.0.2.7" in names


def test_openssl_refuses_revoked_certificates(office: SiteOffice) -> None:
    unit = office.enrol("door-3").tls_crt
    client = programs.issue_client(office.site, "auditor-1", "auditor", **office.options) / "tls.crt"
    units.revoke_unit(office.site, "door-3", **office.options)
    programs.revoke_client(office.site, "auditor-1", **office.options)
    for certificate in (unit, client):
        assert "certificate revoked" in verify(office, certificate, "sslclient")


def test_openssl_reads_the_unit_key(office: SiteOffice) -> None:
    key = office.enrol("door-3").event_key
    assert (
        "prime256v1"
        in openssl("ec", "-in", key, "-noout", "-text").stderr + openssl("pkey", "-in", key, "-noout", "-text").stdout
    )


@pytest.mark.parametrize(
    "hostnames",
    [[], ["*"], ["a b"], ["-x"], ["host:8883"], ["x" * 254], ["ok"] * 17, ["über"], ["10.0.0.300"], ["10.1"]],
)
def test_wrong_broker_names_are_refused(office: SiteOffice, hostnames: list[str]) -> None:
    with pytest.raises(RefusedError, match="host name"):
        programs.issue_broker(office.site, hostnames, **office.options)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "224.0.0.1", "fe80::1%eth0"])
def test_an_address_at_which_no_client_reaches_a_broker_is_refused(office: SiteOffice, address: str) -> None:
    """Where it listens was taken for what it is called: each invitation named a broker that nobody can reach."""
    with pytest.raises(RefusedError, match="give the one that the broker has"):
        programs.issue_broker(office.site, [address], **office.options)


def test_program_may_be_issued_again_after_revocation(office: SiteOffice) -> None:
    target = programs.issue_client(office.site, "auditor-1", "auditor", **office.options)
    programs.revoke_client(office.site, "auditor-1", **office.options)
    assert "user auditor-1\n" not in office.files.acl.read_text()
    programs.issue_client(office.site, "auditor-1", "operator", **office.options)
    assert verify(office, target / "tls.crt", "sslclient") == ""
    assert "user auditor-1\ntopic write postern/hq/+/request/#\n" in office.files.acl.read_text()


def test_request_for_another_name_or_curve_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert read_csr(make_csr("door-3", key), "door-3").public_numbers() == key.public_key().public_numbers()
    wrong = [
        make_csr("door-4", key),
        make_csr("door-3", ec.generate_private_key(ec.SECP384R1())),
        make_csr("door-3", key).replace(b"A", b"B", 1),
        b"nonsense",
    ]
    for content in wrong:
        with pytest.raises(RefusedError, match="at the unit"):
            read_csr(content, "door-3")


def test_authoritys_key_and_certificate_must_belong_together(tmp_path: Path) -> None:
    Authority.create("hq", START).save(tmp_path / "a.key", tmp_path / "a.crt", None)
    Authority.create("hq", START).save(tmp_path / "b.key", tmp_path / "b.crt", None)
    with pytest.raises(KeyStoreError, match="restore the pair"):
        Authority.load(tmp_path / "a.key", tmp_path / "b.crt", None)
    (tmp_path / "b.crt").write_bytes(b"nonsense")
    with pytest.raises(KeyStoreError, match="not a certificate"):
        Authority.load(tmp_path / "b.key", tmp_path / "b.crt", None)
    with pytest.raises(KeyStoreError, match="damaged"):
        read_public_pem("nonsense")


def test_python_builds_a_tls_identity_of_an_installed_unit(office: SiteOffice) -> None:
    keys = office.enrol("door-3")
    credentials = Credentials(keys.ca_crt, keys.tls_crt, keys.tls_key)
    identity = load_identity(credentials, SystemClock(), common_name="door-3")
    assert identity.context.minimum_version >= ssl.TLSVersion.TLSv1_2


class KitAuthority:
    """The site kit behind the interface of the throw-away authority, for the broker's simulator."""

    def __init__(self, office: SiteOffice) -> None:
        self._office = office
        self.ca, self.crl = office.files.ca_crt, office.files.crl

    def issue(self, common_name: str, **_: object) -> Credentials:
        folder = programs.issue_broker(self._office.site, ["127.0.0.1", common_name], **self._office.options)
        return Credentials(self.ca, folder / "broker.crt", folder / "broker.key")


def credentials_of(keys: UnitFiles) -> Credentials:
    return Credentials(keys.ca_crt, keys.tls_crt, keys.tls_key)


@pytest.mark.broker
def test_mosquitto_lets_in_whom_the_site_added_and_nobody_whom_it_revoked(office: SiteOffice, tmp_path: Path) -> None:
    unit = credentials_of(office.enrol("door-3"))
    other = credentials_of(office.enrol("door-4"))
    folder = programs.issue_client(office.site, "auditor-1", "auditor", **office.options)
    auditor = Credentials.in_folder(folder)
    broker = RealBroker(tmp_path / "broker", KitAuthority(office))  # type: ignore[arg-type]
    shutil.copy(office.files.acl, broker.acl)
    broker.start()
    try:
        listener = connect(broker, auditor, "auditor-1", "postern/hq/+/event/+", "postern/hq/+/request/#")
        speaker = connect(broker, unit, "door-3")
        thief = connect(broker, other, "door-4")
        thief.connection.publish("postern/hq/door-3/event/match", b"forged")
        thief.connection.publish("postern/hq/door-3/request/health", b"forged")
        speaker.connection.publish("postern/hq/door-3/event/match", b"honest")
        acks = thief.acks(2)
        speaker.acks(1)
        listener.pump(lambda: listener.messages)
        assert [ack.accepted for ack in acks] == [False, False]
        assert [message.payload for message in listener.messages] == [b"honest"]
        speaker.connection.close()

        units.revoke_unit(office.site, "door-3", **office.options)
        shutil.copy(office.files.acl, broker.acl)
        broker.renew_crl()
        with pytest.raises((BrokerError, KeyStoreError)):
            connect(broker, unit, "door-3")
        connect(broker, credentials_of(office.keys("door-4")), "door-4").connection.close()
    finally:
        broker.stop()


@pytest.mark.parametrize(
    ("days", "said"), [(-400, "before the site's authority began"), (3700, "after the site's authority ended")]
)
def test_no_certificate_is_made_by_a_clock_outside_of_the_authoritys_time(tmp_path: Path, days: int, said: str) -> None:
    """A board without a clock of its own certified for 2019; one that was ahead ended in a fault of the program."""
    office = SiteOffice(tmp_path)
    programs.issue_broker(office.site, ["broker.example.org"], clock=office.clock)
    office.enrol("door-3")
    wrong = SimulatedClock(office.clock.now() + timedelta(days=days))
    before = {path: path.read_bytes() for path in office.site.rglob("*.crt")}
    acts = (
        lambda: programs.issue_broker(office.site, ["broker.example.org"], clock=wrong),
        lambda: programs.issue_client(office.site, "wall", "auditor", clock=wrong),
        lambda: units.renew_unit(office.site, "door-3", clock=wrong),
        lambda: delegate(office.site, clock=wrong),
    )
    for act in acts:
        with pytest.raises(RefusedError, match=f"{said}.*set the clock right"):
            act()
    assert {path: path.read_bytes() for path in office.site.rglob("*.crt")} == before
    units.revoke_unit(office.site, "door-3", clock=wrong)  # what shuts somebody out waits for no clock


def test_once_the_services_mandate_is_over_the_root_shuts_out_and_says_how_the_service_goes_on(tmp_path: Path) -> None:
    office = SiteOffice(tmp_path)
    office.enrol("door-3")
    programs.issue_client(office.site, "wall", "auditor", **office.options)
    delegate(office.site, clock=office.clock)
    away = tmp_path / "stick"
    office.clock.advance(500 * 86_400)
    with pytest.raises(RefusedError) as over:
        programs.issue_client(office.site, "hall", "auditor", **office.options)
    assert "after the service's authority ended" in str(over.value)
    assert str(over.value).endswith("set the clock right; where it is, run 'postern site delegate'")
    assert not revocation.revoke(office.site, "door-3", clock=office.clock)
    assert not revocation.revoke(office.site, "wall", clock=office.clock)
    with pytest.raises(RefusedError, match="nobody of that name"):
        revocation.revoke(office.site, "hall", clock=office.clock)
    (unit,) = office.files.all_units()
    assert unit.revoked
    assert [one.revoked for one in office.files.all_clients() if one.name == "wall"] == [True]
    listed = listed_units(office.site).find(office.event_key("door-3").kid)
    assert listed is None or not listed.counts_at(office.clock.now())
    delegate(office.site, clock=office.clock)
    take_root_away(office.site, away, clock=office.clock)
    away.rename(tmp_path / "in the safe")
    office.clock.advance(500 * 86_400)
    with pytest.raises(RefusedError, match=r"mandate of the site's service has ended: .*postern site delegate"):
        revocation.revoke(office.site, "wall", clock=office.clock)
