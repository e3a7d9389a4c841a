# SPDX-License-Identifier: Apache-2.0
"""How a unit joins a site: by a token that both sides prove to hold, with keys that never leave the unit."""

from __future__ import annotations

import json
import stat
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from agent.errors import KeyStoreError, RefusedError, VerificationError
from agent.keys import UnitKey, load_public_key
from agent.outbox.epoch_keys import EpochKeys
from agent.protocol.joining import REQUEST_TYPE, UnitRequest, prove, token_key
from agent.protocol.pseudonym import Resolver
from agent.protocol.record import encode
from agent.site import programs, units
from agent.unit.joining import install, new_unit_request
from tests.simulators.signing_unit import START
from tests.simulators.site_office import SiteOffice, listed_units


@pytest.fixture
def office(tmp_path: Path) -> SiteOffice:
    return SiteOffice(tmp_path)


def test_unit_joins_with_token_request_and_answer(office: SiteOffice) -> None:
    keys = office.enrol("door-3")
    for path in (keys.event_key, keys.tls_key, keys.seal_key, keys.epoch_keys):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert sorted(path.name for path in keys.folder.iterdir()) == sorted(
        ["unit.key", "tls.key", "tls.crt", "ca.crt", "site.jwk", "seal.key", "seal.json", "epoch-keys.json"]
    )
    certificate = x509.load_pem_x509_certificate(keys.tls_crt.read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=door-3"
    assert load_public_key(keys.site_jwk).kid == units.load_site_key(office.site).kid
    listed = listed_units(office.site).find(office.event_key("door-3").kid)
    assert listed is not None
    assert (listed.unit, listed.counts_at(START)) == ("door-3", True)
    name, epoch = EpochKeys.load(keys.epoch_keys).pseudonym(b"subject", "access", START, settled=None)
    key = units.epoch_key(office.site, "access", epoch, **office.options)
    assert Resolver(key, [b"subject"]).resolve(name, audience="access", epoch=epoch) == b"subject"


def test_private_keys_never_leave_the_unit(office: SiteOffice) -> None:
    request = office.request("door-3")
    waiting = office.keys("door-3").waiting
    for path in (waiting.event_key, waiting.tls_key, waiting.seal_key):
        lines = path.read_text().splitlines()[1:-1]
        assert not any(line in request.decode() for line in lines)
    payload = units.decode_base64url(request.decode().split(".")[1])
    assert b'"d"' not in payload


def test_token_is_neither_kept_nor_sent(office: SiteOffice) -> None:
    token = units.new_token(office.site, "door-3", clock=office.clock)
    request = new_unit_request(office.keys("door-3").folder, "hq", "door-3", token)
    plain = token.replace("-", "")
    for path in office.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes().lower()
            assert token.encode() not in content, path
            assert plain.encode() not in content, path
    assert plain.encode() not in request.lower()


def test_token_works_for_one_request(office: SiteOffice) -> None:
    token = units.new_token(office.site, "door-3", clock=office.clock)
    first, second = (new_unit_request(office.folder / name, "hq", "door-3", token) for name in ("first", "second"))
    units.add_unit(office.site, first, **office.options)
    with pytest.raises(VerificationError) as refusal:
        units.add_unit(office.site, second, replace=True, **office.options)
    assert refusal.value.reason == "bad_token"


def test_an_answer_that_was_lost_is_given_again_to_the_same_request(office: SiteOffice) -> None:
    request = office.request("door-3")
    lost = units.add_unit(office.site, request, **office.options)
    kid = office.files.all_units()[0].keys[-1].jwk
    answer = units.add_unit(office.site, request, **office.options)
    assert answer != lost
    assert install(office.keys("door-3").folder, answer, clock=office.clock) == "door-3"
    (unit,) = office.files.all_units()
    assert [key.jwk for key in unit.keys] == [kid]
    assert [certificate.revoked_at for certificate in unit.certificates] == [None, None]


def test_a_revoked_unit_gets_no_answer_to_its_old_request(office: SiteOffice) -> None:
    request = office.request("door-3")
    units.add_unit(office.site, request, **office.options)
    units.revoke_unit(office.site, "door-3", **office.options)
    with pytest.raises(VerificationError) as refusal:
        units.add_unit(office.site, request, replace=True, **office.options)
    assert refusal.value.reason == "bad_token"


def test_a_key_that_another_unit_has_is_refused_and_the_list_stays_readable(office: SiteOffice) -> None:
    """Who holds the token of door-4 and the keys of door-3 could otherwise make every subscriber refuse the list."""
    office.enrol("door-3")
    stolen = office.event_key("door-3")
    token = units.new_token(office.site, "door-4", clock=office.clock)
    honest = new_unit_request(office.keys("door-4").folder, "hq", "door-4", token).decode()
    content = msgspec.json.decode(units.decode_base64url(honest.split(".")[1]), type=UnitRequest)
    content = msgspec.structs.replace(content, jwk=stolen.public_jwk(), proof=None)
    content = msgspec.structs.replace(content, proof=prove(token_key(token), content))
    before = office.files.trust.read_bytes()
    with pytest.raises(RefusedError, match="another unit has this key"):
        units.add_unit(office.site, stolen.sign(encode(content), typ=REQUEST_TYPE).encode(), **office.options)
    assert office.files.trust.read_bytes() == before
    assert [unit.unit for unit in office.files.all_units()] == ["door-3"]


def test_token_expires(office: SiteOffice) -> None:
    request = office.request("door-3")
    office.clock.advance(units.TOKEN_DAYS * 86_400 + 1)
    with pytest.raises(VerificationError) as refusal:
        units.add_unit(office.site, request, **office.options)
    assert refusal.value.reason == "bad_token"


def test_token_of_another_unit_is_worthless(office: SiteOffice) -> None:
    token = units.new_token(office.site, "door-4", clock=office.clock)
    request = new_unit_request(office.keys("door-3").folder, "hq", "door-3", token)
    with pytest.raises(VerificationError) as refusal:
        units.add_unit(office.site, request, **office.options)
    assert refusal.value.reason == "bad_token"


def test_newer_token_replaces_the_older(office: SiteOffice) -> None:
    old = office.request("door-3")
    new = office.request("door-3")
    with pytest.raises(VerificationError):
        units.add_unit(office.site, old, **office.options)
    units.add_unit(office.site, new, **office.options)


@pytest.mark.parametrize("token", ["", "hello", "aaaa-aaaa", "!" * 26, "a" * 27])
def test_mistyped_token_is_named(tmp_path: Path, token: str) -> None:
    with pytest.raises(RefusedError, match="copy all of its letters"):
        new_unit_request(tmp_path / "keys", "hq", "door-3", token)


def test_token_may_be_typed_with_capitals_and_spaces(office: SiteOffice) -> None:
    token = units.new_token(office.site, "door-3", clock=office.clock).upper().replace("-", " ")
    request = new_unit_request(office.keys("door-3").folder, "hq", "door-3", token)
    units.add_unit(office.site, request, **office.options)


def test_stranger_cannot_put_own_keys_into_a_request(office: SiteOffice, tmp_path: Path) -> None:
    """Whoever carries the request may read it and sign another one, but does not hold the token."""
    honest = office.request("door-3").decode()
    content = json.loads(units.decode_base64url(honest.split(".")[1]))
    thief = UnitKey.generate()
    forged = {**content, "jwk": thief.public_jwk()}
    with pytest.raises(VerificationError) as refusal:
        units.add_unit(office.site, thief.sign(json.dumps(forged).encode(), typ=REQUEST_TYPE).encode())
    assert refusal.value.reason == "bad_token"
    with pytest.raises(VerificationError) as refusal:  # the unit's key named, the thief's used
        units.add_unit(office.site, thief.sign(json.dumps(content).encode(), typ=REQUEST_TYPE).encode())
    assert refusal.value.reason == "wrong_key"


def test_request_for_another_site_is_refused(office: SiteOffice) -> None:
    token = units.new_token(office.site, "door-3", clock=office.clock)
    request = new_unit_request(office.keys("door-3").folder, "annex", "door-3", token)
    with pytest.raises(VerificationError) as refusal:
        units.add_unit(office.site, request, **office.options)
    assert refusal.value.reason == "wrong_site"


@pytest.mark.parametrize("content", [b"", b"x", b"a.b.c", b"\xff", b"e30.e30.e30"])
def test_broken_request_is_refused(office: SiteOffice, content: bytes) -> None:
    with pytest.raises(VerificationError) as refusal:
        units.add_unit(office.site, content, **office.options)
    assert refusal.value.reason == "malformed"


def test_answer_of_another_site_is_refused(office: SiteOffice, tmp_path: Path) -> None:
    other = SiteOffice(tmp_path / "elsewhere")
    foreign = units.add_unit(other.site, other.request("door-3"), **other.options)
    office.request("door-3")
    with pytest.raises(VerificationError) as refusal:
        install(office.keys("door-3").folder, foreign, clock=office.clock)
    assert refusal.value.reason == "bad_proof"


def test_answer_for_another_unit_is_refused(office: SiteOffice) -> None:
    office.request("door-3")
    answer = units.add_unit(office.site, office.request("door-4"), **office.options)
    with pytest.raises(VerificationError) as refusal:
        install(office.keys("door-3").folder, answer, clock=office.clock)
    assert refusal.value.reason == "wrong_unit"


def test_answer_without_a_request_is_refused(office: SiteOffice, tmp_path: Path) -> None:
    answer = units.add_unit(office.site, office.request("door-3"), **office.options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(KeyStoreError, match="make a request first"):
        install(tmp_path / "empty", answer, clock=office.clock)


def test_answer_to_an_older_request_is_refused(office: SiteOffice) -> None:
    answer = units.add_unit(office.site, office.request("door-3"), **office.options)
    office.request("door-3")
    with pytest.raises(VerificationError) as refusal:
        install(office.keys("door-3").folder, answer, clock=office.clock)
    assert refusal.value.reason == "bad_proof"


def test_tampered_answer_is_refused(office: SiteOffice) -> None:
    answer = units.add_unit(office.site, office.request("door-3"), **office.options).decode()
    header, payload, signature = answer.split(".")
    content = units.decode_base64url(payload).replace(b'"unit":"door-3"', b'"unit":"door-4"')
    tampered = f"{header}.{units.encode_base64url(content)}.{signature}"
    with pytest.raises(VerificationError) as refusal:
        install(office.keys("door-3").folder, tampered.encode(), clock=office.clock)
    assert refusal.value.reason == "bad_signature"


def test_interrupted_installation_is_completed_by_repeating_it(office: SiteOffice) -> None:
    answer = units.add_unit(office.site, office.request("door-3"), **office.options)
    keys = office.keys("door-3")
    keys.waiting.event_key.rename(keys.event_key)  # a power cut after the first of the moves
    install(keys.folder, answer, clock=office.clock)
    assert not keys.waiting.folder.exists()
    assert listed_units(office.site).find(office.event_key("door-3").kid) is not None


def test_taken_name_is_refused(office: SiteOffice) -> None:
    office.enrol("door-3")
    with pytest.raises(RefusedError, match="has a unit of this name"):
        units.add_unit(office.site, office.request("door-3"), **office.options)
    with pytest.raises(RefusedError, match="unit has this name"):
        programs.issue_client(office.site, "door-3", "auditor", **office.options)
    programs.issue_client(office.site, "auditor-1", "auditor", **office.options)
    with pytest.raises(RefusedError, match="program has this name"):
        units.add_unit(office.site, office.request("auditor-1"), **office.options)


def test_replaced_keys_leave_the_unit_working_until_installed_and_old_events_valid_for_a_while(
    office: SiteOffice,
) -> None:
    office.enrol("door-3")
    old = office.event_key("door-3")
    answer = units.add_unit(office.site, office.request("door-3"), replace=True, **office.options)
    assert office.event_key("door-3").kid == old.kid
    install(office.keys("door-3").folder, answer, clock=office.clock)
    new = office.event_key("door-3")
    assert new.kid != old.kid
    trusted = listed_units(office.site)
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
        install(keys.folder, units.renew_unit(office.site, "door-3", **office.options), clock=office.clock) == "door-3"
    )
    assert keys.tls_crt.read_bytes() != before
    assert keys.event_key.read_bytes() == key
    assert EpochKeys.load(keys.epoch_keys).pseudonym(b"s", "access", office.clock.now(), settled=None)


def test_renewal_signed_by_another_site_is_refused(office: SiteOffice, tmp_path: Path) -> None:
    keys = office.enrol("door-3")
    other = SiteOffice(tmp_path / "elsewhere")
    other.enrol("door-3")
    with pytest.raises(VerificationError) as refusal:
        install(keys.folder, units.renew_unit(other.site, "door-3", **other.options), clock=office.clock)
    assert refusal.value.reason == "wrong_key"


def test_renewal_meant_for_another_unit_is_refused(office: SiteOffice) -> None:
    office.enrol("door-3")
    keys = office.enrol("door-4")
    with pytest.raises(KeyStoreError, match="another key"):
        install(keys.folder, units.renew_unit(office.site, "door-3", **office.options), clock=office.clock)
