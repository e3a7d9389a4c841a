# SPDX-License-Identifier: Apache-2.0
"""The site kit: a unit joins by a token, gets what it needs and no more, and can be shut out again."""

from __future__ import annotations

import json
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.audit import verify_log
from agent.audit_chain import read_entries
from agent.errors import KeyStoreError, RefusedError, VerificationError
from agent.keys import UnitKey, load_public_key
from agent.outbox.pseudonym import EpochKeys, Resolver
from agent.outbox.trust import TrustedUnits
from agent.site import kit, programs
from agent.site.records import SiteFiles, UnitFiles
from tests.simulators.signing_unit import START
from tests.simulators.site_office import SiteOffice

SECRETS = ("ca.key", "site.key", "master.key", "tokens.json")


@pytest.fixture
def office(tmp_path: Path) -> SiteOffice:
    return SiteOffice(tmp_path)


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> SiteOffice:
    """A site with one unit, for tests that change neither."""
    office = SiteOffice(tmp_path_factory.mktemp("enrolled"))
    office.enrol("door-3")
    return office


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_new_site_has_its_keys_for_its_owner_alone(office: SiteOffice) -> None:
    assert mode(office.site) == 0o700
    for name in SECRETS:
        assert mode(office.site / name) == 0o600, name
    assert load_public_key(office.files.site_jwk).kid == kit.load_site_key(office.site).kid
    assert kit.trust(office.site).units() == ()
    assert "master.key" in office.files.explanation.read_text()


def test_existing_site_is_never_overwritten(office: SiteOffice) -> None:
    with pytest.raises(RefusedError, match="not empty"):
        kit.create_site(office.site, "hq", clock=office.clock)


@pytest.mark.parametrize("name", ["", "HQ", "a b", "a/b", "+", "#", "a" * 65, "höf", "a\n"])
def test_names_that_could_reach_into_other_topics_are_refused(office: SiteOffice, tmp_path: Path, name: str) -> None:
    with pytest.raises(RefusedError, match="name is not usable"):
        kit.create_site(tmp_path / "other", name)
    with pytest.raises(RefusedError, match="name is not usable"):
        kit.new_token(office.site, name)
    with pytest.raises(RefusedError, match="name is not usable"):
        programs.issue_client(office.site, name, "auditor", **office.options)


def test_unit_joins_with_token_request_and_answer(office: SiteOffice) -> None:
    keys = office.enrol("door-3")
    for path in (keys.event_key, keys.tls_key, keys.seal_key, keys.epoch_keys):
        assert mode(path) == 0o600, path
    assert sorted(path.name for path in keys.folder.iterdir()) == sorted(
        ["unit.key", "tls.key", "tls.crt", "ca.crt", "site.jwk", "seal.key", "epoch-keys.json"]
    )
    certificate = x509.load_pem_x509_certificate(keys.tls_crt.read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=door-3"
    assert load_public_key(keys.site_jwk).kid == kit.load_site_key(office.site).kid
    listed = kit.trust(office.site).find(office.event_key("door-3").kid)
    assert listed is not None
    assert (listed.unit, listed.counts_at(START)) == ("door-3", True)
    name, epoch = EpochKeys.load(keys.epoch_keys).pseudonym(b"subject", "access", START)
    key = kit.epoch_key(office.site, "access", epoch, **office.options)
    assert Resolver(key, [b"subject"]).resolve(name, audience="access", epoch=epoch) == b"subject"


def test_private_keys_never_leave_the_unit(office: SiteOffice) -> None:
    request = office.request("door-3")
    waiting = office.keys("door-3").waiting
    for path in (waiting.event_key, waiting.tls_key, waiting.seal_key):
        lines = path.read_text().splitlines()[1:-1]
        assert not any(line in request.decode() for line in lines)
    payload = kit.decode_base64url(request.decode().split(".")[1])
    assert b'"d"' not in payload


def test_token_is_neither_kept_nor_sent(office: SiteOffice) -> None:
    token = kit.new_token(office.site, "door-3", clock=office.clock)
    request = kit.new_unit_request(office.keys("door-3").folder, "hq", "door-3", token)
    plain = token.replace("-", "")
    for path in office.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes().lower()
            assert token.encode() not in content, path
            assert plain.encode() not in content, path
    assert plain.encode() not in request.lower()


def test_token_works_once(office: SiteOffice) -> None:
    request = office.request("door-3")
    kit.add_unit(office.site, request, **office.options)
    with pytest.raises(VerificationError) as refusal:
        kit.add_unit(office.site, request, replace=True, **office.options)
    assert refusal.value.reason == "bad_token"


def test_token_expires(office: SiteOffice) -> None:
    request = office.request("door-3")
    office.clock.advance(kit.TOKEN_DAYS * 86_400 + 1)
    with pytest.raises(VerificationError) as refusal:
        kit.add_unit(office.site, request, **office.options)
    assert refusal.value.reason == "bad_token"


def test_token_of_another_unit_is_worthless(office: SiteOffice) -> None:
    token = kit.new_token(office.site, "door-4", clock=office.clock)
    request = kit.new_unit_request(office.keys("door-3").folder, "hq", "door-3", token)
    with pytest.raises(VerificationError) as refusal:
        kit.add_unit(office.site, request, **office.options)
    assert refusal.value.reason == "bad_token"


def test_newer_token_replaces_the_older(office: SiteOffice) -> None:
    old = office.request("door-3")
    new = office.request("door-3")
    with pytest.raises(VerificationError):
        kit.add_unit(office.site, old, **office.options)
    kit.add_unit(office.site, new, **office.options)


@pytest.mark.parametrize("token", ["", "hello", "aaaa-aaaa", "!" * 26, "a" * 27])
def test_mistyped_token_is_named(tmp_path: Path, token: str) -> None:
    with pytest.raises(RefusedError, match="copy all of its letters"):
        kit.new_unit_request(tmp_path / "keys", "hq", "door-3", token)


def test_token_may_be_typed_with_capitals_and_spaces(office: SiteOffice) -> None:
    token = kit.new_token(office.site, "door-3", clock=office.clock).upper().replace("-", " ")
    request = kit.new_unit_request(office.keys("door-3").folder, "hq", "door-3", token)
    kit.add_unit(office.site, request, **office.options)


def test_stranger_cannot_put_own_keys_into_a_request(office: SiteOffice, tmp_path: Path) -> None:
    """Whoever carries the request may read it and sign another one, but does not hold the token."""
    honest = office.request("door-3").decode()
    content = json.loads(kit.decode_base64url(honest.split(".")[1]))
    thief = UnitKey.generate()
    forged = {**content, "jwk": thief.public_jwk()}
    with pytest.raises(VerificationError) as refusal:
        kit.add_unit(office.site, thief.sign(json.dumps(forged).encode(), typ=kit.REQUEST_TYPE).encode())
    assert refusal.value.reason == "bad_token"
    with pytest.raises(VerificationError) as refusal:  # the unit's key named, the thief's used
        kit.add_unit(office.site, thief.sign(json.dumps(content).encode(), typ=kit.REQUEST_TYPE).encode())
    assert refusal.value.reason == "wrong_key"


def test_request_for_another_site_is_refused(office: SiteOffice) -> None:
    token = kit.new_token(office.site, "door-3", clock=office.clock)
    request = kit.new_unit_request(office.keys("door-3").folder, "annex", "door-3", token)
    with pytest.raises(VerificationError) as refusal:
        kit.add_unit(office.site, request, **office.options)
    assert refusal.value.reason == "wrong_site"


@pytest.mark.parametrize("content", [b"", b"x", b"a.b.c", b"\xff", b"e30.e30.e30"])
def test_broken_request_is_refused(office: SiteOffice, content: bytes) -> None:
    with pytest.raises(VerificationError) as refusal:
        kit.add_unit(office.site, content, **office.options)
    assert refusal.value.reason == "malformed"


def test_answer_of_another_site_is_refused(office: SiteOffice, tmp_path: Path) -> None:
    other = SiteOffice(tmp_path / "elsewhere")
    foreign = kit.add_unit(other.site, other.request("door-3"), **other.options)
    office.request("door-3")
    with pytest.raises(VerificationError) as refusal:
        kit.install(office.keys("door-3").folder, foreign, clock=office.clock)
    assert refusal.value.reason == "bad_proof"


def test_answer_for_another_unit_is_refused(office: SiteOffice) -> None:
    office.request("door-3")
    answer = kit.add_unit(office.site, office.request("door-4"), **office.options)
    with pytest.raises(VerificationError) as refusal:
        kit.install(office.keys("door-3").folder, answer, clock=office.clock)
    assert refusal.value.reason == "wrong_unit"


def test_answer_without_a_request_is_refused(office: SiteOffice, tmp_path: Path) -> None:
    answer = kit.add_unit(office.site, office.request("door-3"), **office.options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(KeyStoreError, match="make a request first"):
        kit.install(tmp_path / "empty", answer, clock=office.clock)


def test_answer_to_an_older_request_is_refused(office: SiteOffice) -> None:
    answer = kit.add_unit(office.site, office.request("door-3"), **office.options)
    office.request("door-3")
    with pytest.raises(VerificationError) as refusal:
        kit.install(office.keys("door-3").folder, answer, clock=office.clock)
    assert refusal.value.reason == "bad_proof"


def test_tampered_answer_is_refused(office: SiteOffice) -> None:
    answer = kit.add_unit(office.site, office.request("door-3"), **office.options).decode()
    header, payload, signature = answer.split(".")
    content = kit.decode_base64url(payload).replace(b'"unit":"door-3"', b'"unit":"door-4"')
    tampered = f"{header}.{kit.encode_base64url(content)}.{signature}"
    with pytest.raises(VerificationError) as refusal:
        kit.install(office.keys("door-3").folder, tampered.encode(), clock=office.clock)
    assert refusal.value.reason == "bad_signature"


def test_interrupted_installation_is_completed_by_repeating_it(office: SiteOffice) -> None:
    answer = kit.add_unit(office.site, office.request("door-3"), **office.options)
    keys = office.keys("door-3")
    keys.waiting.event_key.rename(keys.event_key)  # a power cut after the first of the moves
    kit.install(keys.folder, answer, clock=office.clock)
    assert not keys.waiting.folder.exists()
    assert kit.trust(office.site).find(office.event_key("door-3").kid) is not None


def test_taken_name_is_refused(office: SiteOffice) -> None:
    office.enrol("door-3")
    with pytest.raises(RefusedError, match="has a unit of this name"):
        kit.add_unit(office.site, office.request("door-3"), **office.options)
    with pytest.raises(RefusedError, match="unit has this name"):
        programs.issue_client(office.site, "door-3", "auditor", **office.options)
    programs.issue_client(office.site, "auditor-1", "auditor", **office.options)
    with pytest.raises(RefusedError, match="program has this name"):
        kit.add_unit(office.site, office.request("auditor-1"), **office.options)


def test_replaced_keys_leave_the_unit_working_until_installed_and_old_events_valid_for_a_while(
    office: SiteOffice,
) -> None:
    office.enrol("door-3")
    old = office.event_key("door-3")
    answer = kit.add_unit(office.site, office.request("door-3"), replace=True, **office.options)
    assert office.event_key("door-3").kid == old.kid
    kit.install(office.keys("door-3").folder, answer, clock=office.clock)
    new = office.event_key("door-3")
    assert new.kid != old.kid
    trusted = kit.trust(office.site)
    replaced, active = trusted.find(old.kid), trusted.find(new.kid)
    assert replaced is not None
    assert active is not None
    assert replaced.counts_at(START + timedelta(days=29))
    assert not replaced.counts_at(START + timedelta(days=31))
    assert active.counts_at(START + timedelta(days=3000))


def test_certificate_is_renewed_without_a_token(office: SiteOffice) -> None:
    keys = office.enrol("door-3")
    before, key = keys.tls_crt.read_bytes(), keys.event_key.read_bytes()
    office.clock.advance(86_400 * 300)
    assert (
        kit.install(keys.folder, kit.renew_unit(office.site, "door-3", **office.options), clock=office.clock)
        == "door-3"
    )
    assert keys.tls_crt.read_bytes() != before
    assert keys.event_key.read_bytes() == key
    assert EpochKeys.load(keys.epoch_keys).pseudonym(b"s", "access", office.clock.now())


def test_renewal_signed_by_another_site_is_refused(office: SiteOffice, tmp_path: Path) -> None:
    keys = office.enrol("door-3")
    other = SiteOffice(tmp_path / "elsewhere")
    other.enrol("door-3")
    with pytest.raises(VerificationError) as refusal:
        kit.install(keys.folder, kit.renew_unit(other.site, "door-3", **other.options), clock=office.clock)
    assert refusal.value.reason == "wrong_key"


def test_renewal_meant_for_another_unit_is_refused(office: SiteOffice) -> None:
    office.enrol("door-3")
    keys = office.enrol("door-4")
    with pytest.raises(KeyStoreError, match="another key"):
        kit.install(keys.folder, kit.renew_unit(office.site, "door-3", **office.options), clock=office.clock)


def test_epoch_keys_reach_their_unit_alone(office: SiteOffice) -> None:
    office.enrol("door-3")
    office.enrol("door-4")
    sealed = kit.issue_epoch_keys(office.site, "door-3", **office.options)
    with pytest.raises(VerificationError) as refusal:
        kit.install_epoch_keys(
            office.keys("door-4").folder, sealed, site="hq", unit="door-4", now=START, clock="synced"
        )
    assert refusal.value.reason == "not_for_us"


def test_issued_epoch_keys_carry_a_unit_over_the_weeks(office: SiteOffice) -> None:
    keys = office.enrol("door-3", audiences=("access", "canteen"))
    assert EpochKeys.load(keys.epoch_keys).epochs("canteen") == ("2026-W47", "2026-W48", "2026-W49")
    office.clock.advance(86_400 * 14)
    sealed = kit.issue_epoch_keys(office.site, "door-3", **office.options)
    held = kit.install_epoch_keys(keys.folder, sealed, site="hq", unit="door-3", now=office.clock.now(), clock="synced")
    held.pseudonym(b"s", "access", office.clock.now())
    assert EpochKeys.load(keys.epoch_keys).epochs("access") == ("2026-W49", "2026-W50", "2026-W51")


def test_same_site_gives_all_units_the_same_pseudonym_and_another_site_another(
    office: SiteOffice, tmp_path: Path
) -> None:
    other = SiteOffice(tmp_path / "elsewhere")
    names = {
        EpochKeys.load(made.enrol(unit).epoch_keys).pseudonym(b"s", "access", START)[0]
        for made, unit in ((office, "door-3"), (office, "door-4"), (other, "door-3"))
    }
    assert len(names) == 2


def test_epoch_keys_of_the_past_or_too_far_ahead_are_refused(office: SiteOffice) -> None:
    keys = office.enrol("door-3")
    sealed = kit.issue_epoch_keys(office.site, "door-3", **office.options)
    with pytest.raises(KeyStoreError, match="past epochs"):
        kit.install_epoch_keys(
            keys.folder, sealed, site="hq", unit="door-3", now=START + timedelta(weeks=4), clock="synced"
        )
    with pytest.raises(ValueError, match="at most 2"):
        kit.issue_epoch_keys(office.site, "door-3", ahead=3, **office.options)


@pytest.mark.parametrize("content", [b"", b"a.b.c.d.e", b"\xff\xfe", b"e30....", b"x" * 40_000])
def test_broken_epoch_keys_are_refused(office: SiteOffice, content: bytes) -> None:
    keys = office.enrol("door-3")
    with pytest.raises(VerificationError):
        kit.install_epoch_keys(keys.folder, content, site="hq", unit="door-3", now=START, clock="synced")


PARTS = st.text(alphabet="eyJhbGciOiJFQ0RILUVTIn0_-A", max_size=60)
HEADER = kit.encode_base64url(b'{"alg":"ECDH-ES","enc":"A256GCM","epk":{"kty":"EC","crv":"P-256","x":"A","y":"A"}}')


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=80)
    | st.lists(PARTS | st.just(HEADER), min_size=3, max_size=5).map(lambda p: ".".join(p).encode())
)
def test_no_bytes_raise_anything_but_a_refusal(enrolled: SiteOffice, content: bytes) -> None:
    keys = enrolled.keys("door-3").folder
    with pytest.raises(VerificationError):
        kit.install_epoch_keys(keys, content, site="hq", unit="door-3", now=START, clock="synced")
    with pytest.raises(VerificationError):
        kit.install(keys, content, clock=enrolled.clock)
    with pytest.raises(VerificationError):
        kit.add_unit(enrolled.site, content, **enrolled.options)


def test_revoked_unit_is_out_everywhere(office: SiteOffice) -> None:
    office.enrol("door-3")
    office.enrol("door-4")
    before = kit.trust(office.site)
    kid = office.event_key("door-3").kid
    kit.revoke_unit(office.site, "door-3", **office.options)
    after = kit.trust(office.site)
    listed = after.find(kid)
    assert listed is not None
    assert not listed.counts_at(START)
    assert after.serial > before.serial
    crl = x509.load_pem_x509_crl(office.files.crl.read_bytes())
    serials = {
        unit: x509.load_pem_x509_certificate(office.keys(unit).tls_crt.read_bytes()).serial_number
        for unit in ("door-3", "door-4")
    }
    assert [revoked.serial_number for revoked in crl] == [serials["door-3"]]
    assert "user door-3\n" not in office.files.acl.read_text()
    assert "user door-4\n" in office.files.acl.read_text()
    for act in (kit.issue_epoch_keys, kit.renew_unit):
        with pytest.raises(RefusedError, match="revoked"):
            act(office.site, "door-3", **office.options)
    kit.revoke_unit(office.site, "door-3", **office.options)
    with pytest.raises(VerificationError):
        TrustedUnits.from_signed(
            office.files.trust.read_bytes(), kit.load_site_key(office.site).public, minimum_serial=after.serial + 2
        )


def test_revoked_unit_may_join_again_with_new_keys(office: SiteOffice) -> None:
    office.enrol("door-3")
    old = office.event_key("door-3").kid
    kit.revoke_unit(office.site, "door-3", **office.options)
    office.enrol("door-3")
    trusted = kit.trust(office.site)
    entries = [trusted.find(kid) for kid in (old, office.event_key("door-3").kid)]
    assert [entry is not None and entry.counts_at(START) for entry in entries] == [False, True]


@pytest.mark.parametrize("act", [kit.revoke_unit, kit.renew_unit, kit.issue_epoch_keys, programs.revoke_client])
def test_unknown_name_is_refused(office: SiteOffice, act: object) -> None:
    with pytest.raises(RefusedError, match="of that name"):
        act(office.site, "nobody", **office.options)  # type: ignore[operator]


def test_folder_that_is_no_site_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="not the folder of a site"):
        kit.new_token(tmp_path, "door-3")


def test_passphrase_protects_all_three_keys(tmp_path: Path) -> None:
    office = SiteOffice(tmp_path, passphrase=b"correct horse")
    for path in (office.files.ca_key, office.files.site_key, office.files.master_key):
        assert b"ENCRYPTED" in path.read_bytes()
    office.enrol("door-3")
    with pytest.raises(KeyStoreError, match="passphrase"):
        kit.renew_unit(office.site, "door-3", clock=office.clock)


def test_every_act_stands_in_the_audit_log_and_no_secret_does(office: SiteOffice) -> None:
    office.enrol("door-3")
    programs.issue_client(office.site, "auditor-1", "auditor", **office.options)
    programs.revoke_client(office.site, "auditor-1", **office.options)
    programs.issue_broker(office.site, ["localhost"], **office.options)
    kit.issue_epoch_keys(office.site, "door-3", **office.options)
    kit.revoke_unit(office.site, "door-3", **office.options)
    verify_log(office.files.audit)
    steps = [entry.facts["step"] for entry in read_entries(office.files.audit)]
    assert steps == [
        "site_created",
        "token_issued",
        "unit_added",
        "client_issued",
        "client_revoked",
        "broker_issued",
        "epoch_keys_issued",
        "unit_revoked",
    ]
    assert b"PRIVATE" not in office.files.audit.read_bytes()


def test_damaged_record_is_named(office: SiteOffice) -> None:
    office.enrol("door-3")
    office.files.unit("door-3").write_bytes(b"{}")
    with pytest.raises(KeyStoreError, match="restore the folder from its backup"):
        kit.renew_unit(office.site, "door-3", **office.options)


def test_site_folder_can_be_moved(office: SiteOffice, tmp_path: Path) -> None:
    moved = office.site.rename(tmp_path / "backup")
    assert SiteFiles(moved).record.exists()
    kit.new_token(moved, "door-9", clock=office.clock)


def test_unit_key_folder_has_the_names_that_the_agent_expects() -> None:
    files = UnitFiles(Path("keys"))
    names = [files.event_key, files.tls_key, files.tls_crt, files.ca_crt, files.site_jwk, files.epoch_keys]
    assert [path.name for path in names] == ["unit.key", "tls.key", "tls.crt", "ca.crt", "site.jwk", "epoch-keys.json"]
