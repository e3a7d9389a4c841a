# SPDX-License-Identifier: Apache-2.0
"""A wrong certificate is one clear sentence that says what to do; a right one makes a session that is checked."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from msgspec.structs import replace

from agent.clock import SimulatedClock, SystemClock
from agent.errors import BrokerError, KeyStoreError
from agent.mqtt.connection import Connection
from agent.mqtt.credentials import Credentials, load_identity
from tests.simulators.broker import wait_until
from tests.simulators.pki import DAY, Authority
from tests.simulators.scripted_broker import ScriptedBroker
from tests.simulators.unit_on_broker import UnitOnBroker

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


def encrypt(key: Path) -> Path:
    private = ec.generate_private_key(ec.SECP256R1())
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
    return key


def write(path: Path, content: bytes) -> Path:
    path.touch(0o600)
    path.write_bytes(content)
    return path


Spoil = Callable[[Authority, Path], Credentials]

FAULTS: dict[str, tuple[Spoil, str]] = {
    "missing key": (lambda a, d: replace(a.issue("u"), key=d / "no.key"), "cannot read .*no.key"),
    "missing certificate": (lambda a, d: replace(a.issue("u"), certificate=d / "no.crt"), "cannot read .*no.crt"),
    "missing authority": (lambda a, d: replace(a.issue("u"), ca=d / "no.crt"), "cannot read .*no.crt"),
    "empty certificate": (lambda a, d: replace(a.issue("u"), certificate=write(d / "e.crt", b"")), "holds no PEM"),
    "damaged certificate": (
        lambda a, d: replace(
            a.issue("u"),
            certificate=write(d / "x.crt", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ),
        "holds a damaged certificate",
    ),
    "damaged key": (lambda a, d: replace(a.issue("u"), key=write(d / "x.key", b"no key")), "no usable PEM private key"),
    "encrypted key": (lambda a, d: replace(a.issue("u"), key=encrypt(write(d / "c.key", b""))), "is encrypted"),
    "key of another certificate": (
        lambda a, _: replace(a.issue("u"), key=a.issue("u", file="other").key),
        "is not the key of",
    ),
    "certificate of another authority": (
        lambda a, d: replace(Authority(d, "other site").issue("u"), ca=a.ca),
        "not issued by an authority in",
    ),
    "certificate of another authority of the same name": (
        lambda a, d: replace(Authority(d).issue("u"), ca=a.ca),
        "not issued by an authority in",
    ),
    "expired": (lambda a, _: a.issue("u", begins=NOW - 9 * DAY, ends=NOW - 2 * DAY), "expired on .* have a new one"),
    "not yet valid": (
        lambda a, _: a.issue("u", begins=NOW + DAY, ends=NOW + 2 * DAY),
        "correct the clock",
    ),
    "another unit's": (lambda a, _: a.issue("door-9"), "is for 'door-9', this is 'u'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_the_files_says_what_to_do(site: Authority, tmp_path: Path, fault: str) -> None:
    spoil, words = FAULTS[fault]
    credentials = spoil(site, tmp_path)
    with pytest.raises(KeyStoreError, match=words) as caught:
        load_identity(credentials, SimulatedClock(NOW), common_name="u")
    assert ": " in str(caught.value)  # what is wrong, then what to do


def test_key_that_others_can_read_is_refused(site: Authority) -> None:
    credentials = site.issue("u", file="loose")
    credentials.key.chmod(0o644)
    with pytest.raises(KeyStoreError, match="chmod 600"):
        load_identity(credentials, SimulatedClock(NOW))


def test_clock_before_the_certificate_is_a_matter_of_waiting_while_it_is_unsynchronised(site: Authority) -> None:
    """A board without a battery starts in the past; the session must be tried again, not given up."""
    clock = SimulatedClock(datetime(2020, 1, 1, tzinfo=UTC), "unsynced")
    with pytest.raises(BrokerError, match="never synchronised: wait for the time server"):
        load_identity(site.issue("u"), clock)


def test_good_files_make_a_checked_session_of_tls_1_2_or_newer(site: Authority) -> None:
    identity = load_identity(site.issue("u"), SystemClock(), common_name="u")
    assert identity.common_name == "u"
    assert timedelta(0) < identity.expires - NOW < 4 * DAY
    assert identity.context.verify_mode is ssl.CERT_REQUIRED
    assert identity.context.check_hostname
    assert identity.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert identity.context.maximum_version is ssl.TLSVersion.MAXIMUM_SUPPORTED


def test_renewed_certificate_is_used_without_a_restart(site: Authority, tmp_path: Path) -> None:
    broker = ScriptedBroker(site)
    expired = site.issue("door-1", begins=NOW - 9 * DAY, ends=NOW - 2 * DAY)
    unit = UnitOnBroker(tmp_path, broker.settings(expired))
    unit.start(connected=False)
    wait_until(lambda: "credentials" in unit.kinds())
    site.issue("door-1")  # the same files
    wait_until(lambda: unit.connected)
    assert unit.uplink.stop()
    broker.close()


def test_broker_of_another_authority_is_not_spoken_to(site: Authority, tmp_path: Path) -> None:
    impostor = ScriptedBroker(Authority(tmp_path / "foreign"))
    unit = UnitOnBroker(tmp_path, impostor.settings(site.issue("door-1")))
    unit.start(connected=False)
    wait_until(lambda: unit.told("is not accepted"))
    assert impostor.connections == 0
    assert unit.uplink.stop()
    impostor.close()


def test_broker_of_another_name_is_not_spoken_to(site: Authority, tmp_path: Path) -> None:
    broker = ScriptedBroker(site)
    settings = replace(broker.settings(site.issue("door-1")), host="127.0.0.2")
    unit = UnitOnBroker(tmp_path, settings)
    unit.start(connected=False)
    wait_until(lambda: unit.notices)
    assert unit.told("is not accepted") or unit.told("nothing listens")
    assert unit.uplink.stop()
    broker.close()


def test_broker_whose_certificate_has_expired_is_said_to_need_a_new_one(site: Authority) -> None:
    """Before, the sentence spoke of ca.crt, invitations and names."""
    broker = ScriptedBroker(site, ends=datetime.now(UTC) - timedelta(hours=1))
    with pytest.raises(BrokerError, match=r"has expired, or this clock is ahead: make a new one at the site"):
        Connection(broker.settings(site.issue("door-1")), client_id="door-1", clock=SystemClock()).open()
    broker.close()
