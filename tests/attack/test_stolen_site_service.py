# SPDX-License-Identifier: Apache-2.0
"""Whoever has all that the site's service holds: what that gets, what it does not, and how the site ends it."""

from __future__ import annotations

import contextlib
import os
import shutil
import ssl
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agent.errors import KeyStoreError, PosternError, RefusedError, VerificationError
from agent.keys import PublicKey, SigningKey, load_private_key, load_public_key, save_private_key
from agent.match.policy import POLICY_TYPE, parse_policy
from agent.parse.strict_json import MAX_SAFE_INTEGER
from agent.protocol.command import RENEW, SIGNATURE_TYPE, Command
from agent.protocol.epoch_keys import SEAL_KEY_TYPE, seal_epoch_keys
from agent.protocol.grant import SEPARATOR, MandatedKey, make_mandate
from agent.protocol.joining import ANSWER_TYPE, UnitAnswer, unverified
from agent.protocol.names import round_down
from agent.protocol.pseudonym import EpochKey, epoch_of
from agent.protocol.record import encode
from agent.protocol.response import RESPONSE_TYPE, SignedResponse, command_digest
from agent.protocol.trust import TrustedUnits, TrustList
from agent.protocol.trust_file import TrustFile
from agent.site import policies, units
from agent.site.authority import Authority, check_chain, pem, read_certificate
from agent.site.delegation import delegate, finish_replacement
from agent.site.mandated import load_issuing, load_mandate
from agent.site.records import SiteFiles
from agent.unit.joining import install, install_epoch_keys
from tests.simulators.fleets import fleet_in
from tools.lib.lifetime.days import SITE, START, Fleet
from tools.lib.lifetime.unit import FleetUnit

COMMANDS = ("subject/revoke", "enrol/begin", "recognition/pause", "key/rotate", "unit/confirm", "verify", "config/get")


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return fleet_in(tmp_path, 2)


def root_back(fleet: Fleet) -> None:
    """The safe is opened."""
    (fleet.folder.parent / "safe").rename(fleet.folder.parent / "stick")


def loot(fleet: Fleet) -> MandatedKey:
    files = SiteFiles(fleet.folder)
    return load_mandate(files, load_public_key(files.site_jwk), SITE, fleet.clock.now())


def command(fleet: Fleet, verb: str, args: dict[str, object] | None = None, *, unit: str = "door-1") -> Command:
    now = int(fleet.clock.now().timestamp())
    fleet.clock.advance(1)
    return Command(
        site=SITE,
        unit=unit,
        verb=verb,
        cmd_seq=now * 1000,
        issued_at=now,
        expires_at=now + 60,
        transaction=os.urandom(8).hex(),
        args=args or {},
    )


def refusal(fleet: Fleet, payload: bytes, verb: str) -> str | None:
    """Reason by which a unit refuses what is sent as ``verb``; None when it is done."""
    unit = fleet.units["door-1"]
    answer = unit.handle(verb, payload)
    assert answer is not None
    content = msgspec.json.decode(load_key(unit).verify(answer.decode(), typ=RESPONSE_TYPE), type=SignedResponse)
    assert content.command == command_digest(payload)
    return content.error


def load_key(unit: FleetUnit) -> PublicKey:
    return SigningKey.load(unit.files.event_key).public


@pytest.mark.parametrize("verb", COMMANDS)
def test_it_sends_no_other_command_than_a_renewal(fleet: Fleet, verb: str) -> None:
    signer = loot(fleet)
    payload = signer.sign(msgspec.json.encode(command(fleet, verb)), typ=SIGNATURE_TYPE).encode()
    assert refusal(fleet, payload, verb) == "not_granted"
    assert refusal(fleet, payload, RENEW) == "wrong_verb"


@pytest.mark.parametrize(
    "args", [{"references": "renew"}, {"site_key": "x", "policy": "y"}, {}, {"epoch_keys": "x", "seal_key": "show"}]
)
def test_a_renewal_changes_no_reference_and_no_key_of_the_site(fleet: Fleet, args: dict[str, object]) -> None:
    payload = loot(fleet).sign(msgspec.json.encode(command(fleet, RENEW, args)), typ=SIGNATURE_TYPE).encode()
    assert refusal(fleet, payload, RENEW) in ("not_granted", "bad_args")


def test_it_signs_no_policy_and_no_mandate(fleet: Fleet) -> None:
    signer, site_key = loot(fleet), load_public_key(SiteFiles(fleet.folder).site_jwk)
    with pytest.raises(VerificationError):
        site_key.verify(signer.sign(b"{}", typ=POLICY_TYPE), typ=POLICY_TYPE)
    own = make_mandate("site-service", SigningKey.generate(), signer.key, site=SITE, now=fleet.clock.now(), number=99)
    forged = MandatedKey(SigningKey.generate(), own)
    payload = forged.sign(msgspec.json.encode(command(fleet, RENEW, {"seal_key": "show"})), typ=SIGNATURE_TYPE)
    assert refusal(fleet, payload.encode(), RENEW) == "wrong_key"
    nested = f"{signer.mandate}{SEPARATOR}{signer.sign(b'{}', typ=SIGNATURE_TYPE)}"
    assert refusal(fleet, nested.encode(), RENEW) in ("malformed", "bad_signature")


def test_it_certifies_no_broker_and_nobody_who_certifies(fleet: Fleet, tmp_path: Path) -> None:
    """By OpenSSL's own rules, as units check their broker: the issuing certificate is for clients alone."""
    files = SiteFiles(fleet.folder)
    issuing = load_issuing(files)
    assert issuing is not None
    key = ec.generate_private_key(ec.SECP256R1())
    false = issuing.issue_broker(["127.0.0.1"], key.public_key(), fleet.clock.now())
    (tmp_path / "chain.pem").write_bytes(pem(false) + pem(issuing.certificate))
    save_private_key(key, tmp_path / "key.pem")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    client = ssl.create_default_context(cafile=str(files.ca_crt))
    client.check_hostname = False
    reason = handshake(server, client)
    assert "purpose" in reason
    below = Authority(key, issuing.delegate("hq postern below", fleet.clock.now(), key).certificate)
    leaf = below.issue_client("door-1", key.public_key(), fleet.clock.now())
    with pytest.raises(KeyStoreError):
        check_chain((leaf, below.certificate), read_certificate(files.ca_crt), "door-1")


@pytest.mark.parametrize("whose", ["the site's", "another"])
def test_it_gives_no_unit_another_key_of_the_site(fleet: Fleet, whose: str) -> None:
    """By an answer that renews a unit, which it may sign: whose key that names would command the unit from then on."""
    unit = fleet.units["door-1"]
    before = unit.files.site_jwk.read_bytes()
    answer = unverified(units.renew_unit(fleet.folder, "door-1", clock=fleet.clock).decode(), UnitAnswer)
    if whose == "another":
        answer = msgspec.structs.replace(answer, site_jwk=SigningKey.generate().public_jwk())
    token = loot(fleet).sign(encode(answer), typ=ANSWER_TYPE).encode()
    if whose == "another":
        with pytest.raises(VerificationError, match="names another site's key"):
            install(unit.files.folder, token, clock=fleet.clock)
    else:
        assert install(unit.files.folder, token, clock=fleet.clock) == "door-1"
    assert load_public_key(unit.files.site_jwk).jwk() == msgspec.json.decode(before)


@pytest.mark.parametrize(("issued_s", "until_s"), [(3 * 86_400, 90 * 86_400), (-60, -1), (0, 60), (0, 29 * 86_400)])
def test_it_ends_no_unit_by_a_certificate_that_is_not_valid_or_not_for_long(
    fleet: Fleet, issued_s: int, until_s: int
) -> None:
    """From the next connection on the unit would be away, until somebody came."""
    unit = fleet.units["door-1"]
    issuing = load_issuing(SiteFiles(fleet.folder))
    assert issuing is not None
    before = unit.files.tls_crt.read_bytes()
    fleet.clock.advance(3600)
    now = fleet.clock.now()
    certified = load_private_key(unit.files.tls_key).public_key()
    begins, until = now + timedelta(seconds=issued_s), now + timedelta(seconds=until_s)
    leaf = issuing.issue_client("door-1", certified, begins, until=until)
    args: dict[str, object] = {"certificate": (pem(leaf) + pem(issuing.certificate)).decode()}
    payload = loot(fleet).sign(msgspec.json.encode(command(fleet, RENEW, args)), typ=SIGNATURE_TYPE).encode()
    assert refusal(fleet, payload, RENEW) == "not_valid"
    assert unit.files.tls_crt.read_bytes() == before


@pytest.mark.parametrize("kind", ["for a broker", "a critical extension that nobody knows"])
def test_it_ends_no_unit_by_a_certificate_that_no_broker_takes(fleet: Fleet, kind: str) -> None:
    unit = fleet.units["door-1"]
    issuing = load_issuing(SiteFiles(fleet.folder))
    assert issuing is not None
    certified, now = load_private_key(unit.files.tls_key).public_key(), fleet.clock.now()
    leaf = issuing.issue_client("door-1", certified, now)
    if kind == "for a broker":
        usage: x509.ExtensionType = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH])
    else:
        usage = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.32473.1"), b"\x05\x00")
    made = (
        x509.CertificateBuilder()
        .subject_name(leaf.subject)
        .issuer_name(leaf.issuer)
        .public_key(certified)
        .serial_number(leaf.serial_number)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=90))
        .add_extension(usage, critical=kind != "for a broker")
        .sign(load_private_key(SiteFiles(fleet.folder).issuing_key), hashes.SHA256())
    )
    before = unit.files.tls_crt.read_bytes()
    args: dict[str, object] = {"certificate": (pem(made) + pem(issuing.certificate)).decode()}
    payload = loot(fleet).sign(msgspec.json.encode(command(fleet, RENEW, args)), typ=SIGNATURE_TYPE).encode()
    assert refusal(fleet, payload, RENEW) is not None
    assert unit.files.tls_crt.read_bytes() == before


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
    """Why the client ends a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server)
    other = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(8):
        for side in (one, other):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return str(error.verify_message)
    return ""


def test_past_weeks_are_not_among_what_it_holds(fleet: Fleet) -> None:
    """They are destroyed, not only left out: the bytes of their keys are in no file of the service."""
    files = SiteFiles(fleet.folder)
    path = files.service_epochs("access")
    before = {key["epoch"]: key["key"] for key in msgspec.json.decode(path.read_bytes())["keys"]}
    first = epoch_of(START)
    assert first in before
    fleet.live(21, (), seed=1)
    held = path.read_bytes()
    assert before[first].encode() not in held
    assert before[epoch_of(fleet.clock.now())].encode() in held
    assert not (files.service / "master.key").exists()
    assert all(before[first].encode() not in one.read_bytes() for one in files.service.rglob("*") if one.is_file())


def test_a_new_mandate_ends_what_the_stolen_keys_sign_where_it_was_seen(fleet: Fleet, tmp_path: Path) -> None:
    stolen, files = loot(fleet), SiteFiles(fleet.folder)
    old_list = tmp_path / "old.jws"
    shutil.copy(files.trust, old_list)
    root_back(fleet)
    delegate(fleet.folder, replace=True, clock=fleet.clock)
    fleet.live(2, (), seed=1)  # every unit hears of it with its new certificate
    payload = stolen.sign(msgspec.json.encode(command(fleet, RENEW, {"seal_key": "show"})), typ=SIGNATURE_TYPE)
    assert refusal(fleet, payload.encode(), RENEW) == "superseded"
    keys = seal_epoch_keys(
        site=SITE,
        unit="door-1",
        seal_jwk=SigningKey.load(fleet.units["door-1"].files.seal_key).public_jwk(),
        audiences=("access",),
        now=fleet.clock.now(),
        ahead=2,
        number=10_000,
        key_of=lambda audience, epoch: EpochKey(SITE, audience, epoch, "A" * 43),
        signer=stolen,
    )
    with pytest.raises(VerificationError, match="newer mandate") as refused:
        install_epoch_keys(
            fleet.units["door-1"].files.folder,
            keys.encode(),
            site=SITE,
            unit="door-1",
            now=fleet.clock.now(),
            clock="synced",
        )
    assert refused.value.reason == "superseded"
    site_key = load_public_key(files.site_jwk)
    shown = tmp_path / "trust.jws"
    units.certify_unit(fleet.folder, "door-1", below=400, clock=fleet.clock)
    shutil.copy(files.trust, shown)
    assert TrustFile(shown, site_key).load().mandate == 2
    forged = TrustedUnits.from_signed(old_list.read_bytes(), site_key)
    assert forged.mandate == 1
    shutil.copy(old_list, shown)
    with pytest.raises(VerificationError):
        TrustFile(shown, site_key).load()


def test_certificates_of_the_stolen_issuing_key_are_out_once_the_replacement_is_finished(fleet: Fleet) -> None:
    files = SiteFiles(fleet.folder)
    thief = load_issuing(files)
    assert thief is not None
    false = thief.issue_client("door-1", ec.generate_private_key(ec.SECP256R1()).public_key(), fleet.clock.now())
    root_back(fleet)
    with pytest.raises(RefusedError, match="nothing to finish"):
        finish_replacement(fleet.folder, clock=fleet.clock)
    delegate(fleet.folder, replace=True, clock=fleet.clock)
    assert issuers(files) == 3  # root, the new one, the former one: nobody is shut out yet
    before = {name: unit.serial() for name, unit in fleet.units.items()}
    fleet.live(2, (), seed=1)
    assert all(unit.serial() != before[name] for name, unit in fleet.units.items())
    finish_replacement(fleet.folder, clock=fleet.clock)
    # Without a list by its issuer a certificate is refused (RFC 5280 sec. 6.3; OpenSSL: unable to get certificate CRL).
    assert issuers(files) == 2
    assert not any(listed.issuer == false.issuer for listed in lists(files))
    for unit in fleet.units.values():
        unit.check()


def lists(files: SiteFiles) -> list[x509.CertificateRevocationList]:
    blocks = files.crl.read_bytes().split(b"-----END X509 CRL-----\n")[:-1]
    return [x509.load_pem_x509_crl(block + b"-----END X509 CRL-----\n") for block in blocks]


def issuers(files: SiteFiles) -> int:
    return len({listed.issuer.rfc4514_string() for listed in lists(files)})


def test_without_the_root_the_site_signs_no_policy_and_says_where_its_keys_are(fleet: Fleet) -> None:
    policy = parse_policy((Path(__file__).parents[2] / "models" / "policy.json").read_bytes())
    with pytest.raises(KeyStoreError, match="stick"):
        policies.issue_policy(fleet.folder, policy, clock=fleet.clock)
    units.revoke_unit(fleet.folder, "door-2", clock=fleet.clock)
    assert "user door-2" not in SiteFiles(fleet.folder).acl.read_text()


def test_a_mandate_that_has_ended_signs_nothing(fleet: Fleet) -> None:
    fleet.clock.advance(timedelta(days=401).total_seconds())
    with pytest.raises(PosternError, match="postern site delegate"):
        units.issue_epoch_keys(fleet.folder, "door-1", clock=fleet.clock)


def test_it_exhausts_no_serial_a_list_by_the_new_mandate_is_believed(fleet: Fleet, tmp_path: Path) -> None:
    """A thief signs the list with the highest serial there is: were it the end, no revocation would count any more."""
    stolen, files = loot(fleet), SiteFiles(fleet.folder)
    site_key, shown = load_public_key(files.site_jwk), tmp_path / "trust.jws"
    poisoned = TrustList(
        version=2,
        site=SITE,
        serial=MAX_SAFE_INTEGER,
        issued_at=round_down(fleet.clock.now(), 1),
        expires_at=round_down(fleet.clock.now() + timedelta(days=400), 1),
        units={},
    )
    shown.write_bytes(poisoned.sign(stolen).encode())
    assert TrustFile(shown, site_key).load().serial == MAX_SAFE_INTEGER
    root_back(fleet)
    delegate(fleet.folder, replace=True, clock=fleet.clock)
    subscriber = TrustFile(shown, site_key)
    subscriber.load()
    assert subscriber.offer(files.trust.read_bytes())
    shutil.copy(files.trust, shown)
    assert subscriber.load().mandate == 2
    again = TrustFile(shown, site_key)
    assert again.load().mandate == 2, "after a restart, too"
    shown.write_bytes(poisoned.sign(stolen).encode())
    with pytest.raises(VerificationError) as refused:
        again.load()
    assert refused.value.reason in ("replayed", "superseded")


def issue_by(fleet: Fleet, signer: MandatedKey, *, number: int, token_key: str | None = None) -> None:
    """What a thief of the service's keys issues to a unit."""
    files = fleet.units["door-1"].files
    keys = seal_epoch_keys(
        site=SITE,
        unit="door-1",
        seal_jwk=SigningKey.load(files.seal_key).public_jwk(),
        audiences=("access",),
        now=fleet.clock.now(),
        ahead=2,
        number=number,
        key_of=lambda audience, epoch: EpochKey(SITE, audience, epoch, "A" * 43),
        signer=signer,
        token_key=token_key,
    )
    install_epoch_keys(files.folder, keys.encode(), site=SITE, unit="door-1", now=fleet.clock.now(), clock="synced")


@pytest.mark.parametrize("number", [MAX_SAFE_INTEGER, 2**52, 2_000_000])
def test_it_uses_up_no_units_numbers(fleet: Fleet, number: int) -> None:
    """A unit that took the highest number of an issue would take no epoch key any more, from anybody."""
    with pytest.raises(VerificationError) as refused:
        issue_by(fleet, loot(fleet), number=number)
    assert refused.value.reason == "number_ahead"


def test_it_gives_no_unit_a_key_of_tokens(fleet: Fleet) -> None:
    """With a key of the thief's own desks would seal references to the thief."""
    files = fleet.units["door-1"].files
    with pytest.raises(VerificationError) as refused:
        issue_by(fleet, loot(fleet), number=10, token_key="A" * 43)
    assert refused.value.reason == "not_granted"
    assert not files.token_key.exists()


@pytest.mark.parametrize("number", [MAX_SAFE_INTEGER, 2**52])
def test_a_unit_that_states_an_impossible_number_makes_no_record_of_the_site_unreadable(
    fleet: Fleet, number: int
) -> None:
    unit = fleet.units["door-1"].files
    key = SigningKey.load(unit.event_key)
    stated = {"version": 1, "site": SITE, "unit": "door-1", "number": number, "jwk": SigningKey.generate().public_jwk()}
    token = key.sign(msgspec.json.encode(stated), typ=SEAL_KEY_TYPE)
    with contextlib.suppress(VerificationError):
        units.take_seal_key(fleet.folder, token, clock=fleet.clock)
    for name in ("door-1", "door-2"):
        with contextlib.suppress(PosternError):
            units.issue_epoch_keys(fleet.folder, name, clock=fleet.clock)
        units.certify_unit(fleet.folder, name, below=400, clock=fleet.clock)
    assert len(SiteFiles(fleet.folder).all_units()) == 2
