# SPDX-License-Identifier: Apache-2.0
"""Attacks on tokens: another site's, cut, altered, replayed, revoked, a list withheld; a photographed code and a print.

The whole unit plays the last two: ``tools/scenarios/token-*.yaml`` in ``contract/test_scenarios.py``.
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from cbor2 import dumps, loads
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.disk.files import PUBLIC_MODE
from agent.door.token import Carried
from agent.errors import RefusedError, VerificationError
from agent.gallery.template import pack, unpack
from agent.keys import UnitKey, read_header
from agent.protocol.command import MAX_COMMAND_BYTES
from agent.protocol.subject import subject_digest
from agent.protocol.token import (
    MAX_TOKEN_BYTES,
    MAX_UNITS,
    check_signature,
    look_at,
    make_token,
    open_content,
    unit_mark,
)
from agent.protocol.token_list import MAX_REVOKED, read_token_list
from agent.site import rotation, units
from agent.site.folder import opened
from agent.site.token_list import issue_token_list, token_key
from agent.unit.tokens import GET_LIST, install_token_list, load_token_key, shortcomings
from tests.simulators.site_office import SiteOffice
from tests.simulators.token_desk import DESK, GATE, PURPOSE, SENTENCES, TokenDesk, reference_of

REST = 14


@pytest.fixture
def desk(tmp_path: Path) -> TokenDesk:
    return TokenDesk(tmp_path)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> TokenDesk:
    """One for tests that change nothing."""
    return TokenDesk(tmp_path_factory.mktemp("still"))


@pytest.fixture(scope="module")
def made(still: TokenDesk) -> bytes:
    return still.issue().token


def reason(desk: TokenDesk, data: bytes, **options: object) -> str:
    with pytest.raises(VerificationError) as caught:
        desk.gate(data, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert ": " in text, "what is wrong, and what to do"
    assert "\n" not in text
    assert len(text) < 250
    assert text == SENTENCES.get(caught.value.reason, text)
    return caught.value.reason


def again(carried: Carried) -> str:
    """Why a token that was taken counts no more."""
    with pytest.raises(VerificationError) as caught:
        carried.check_again()
    assert str(caught.value) == SENTENCES.get(caught.value.reason, str(caught.value))
    return caught.value.reason


def test_a_token_brings_its_bearers_reference_and_nobody_elses(still: TokenDesk) -> None:
    held = still.held()
    issued = still.issue(held, reference=reference_of(7))
    carried = still.gate(issued.token)
    assert carried.references.subjects == (held.subject,)
    assert carried.references.carried
    assert float(carried.references.matrix[0] @ reference_of(7)) > 0.9995
    assert len(issued.token) <= MAX_TOKEN_BYTES
    carried.wipe()
    assert not carried.references.matrix.any()


def test_nothing_of_the_reference_or_the_person_can_be_read_without_the_key(still: TokenDesk) -> None:
    held = still.held()
    token = still.issue(held, reference=reference_of(3)).token
    packed = np.rint(reference_of(3) / np.abs(reference_of(3)).max() * 127).astype(np.int8).tobytes()
    for secret in (held.subject, packed[:16], PURPOSE.encode(), GATE.encode(), unit_mark(GATE)):
        assert secret not in token
    with pytest.raises(VerificationError):
        open_content(look_at(token), secrets.token_bytes(32), site="hq")
    assert look_at(still.issue(held).token).token_id != look_at(token).token_id, "no two tokens can be linked"
    assert look_at(still.issue(held).token).ciphertext[:32] != look_at(token).ciphertext[:32]


def test_a_token_of_another_site_is_refused(still: TokenDesk, tmp_path: Path) -> None:
    other = TokenDesk(tmp_path)
    assert reason(still, other.issue().token) == "unknown_issuer"


def test_a_token_that_another_unit_of_the_site_signed_is_refused(still: TokenDesk) -> None:
    with pytest.raises(RefusedError) as refusal:
        still.issue(unit=GATE)
    assert str(refusal.value) == (
        "this unit may not issue tokens: postern site token-list --issuer gate-1, and carry the list here"
    )
    key, gate = load_token_key(still.office.keys(GATE)), still.office.event_key(GATE)
    content = open_content(look_at(still.issue().token), key, site="hq")
    forged = make_token(content, token_id=secrets.token_bytes(12), key=key, issuer=gate, site="hq")
    assert reason(still, forged) == "unknown_issuer"


def test_who_holds_the_key_of_tokens_and_no_desks_key_makes_none(still: TokenDesk, made: bytes) -> None:
    """A stolen gate opens tokens; it forges none."""
    key = load_token_key(still.office.keys(GATE))
    content = open_content(look_at(made), key, site="hq")
    forged = make_token(content, token_id=secrets.token_bytes(12), key=key, issuer=UnitKey.generate(), site="hq")
    outside = look_at(made)
    claimed = forged.replace(look_at(forged).issuer, outside.issuer, 1)  # names the desk, signed by the thief
    assert reason(still, claimed) == "damaged"


def test_a_signed_token_of_another_sites_name_does_not_verify_here(still: TokenDesk, made: bytes) -> None:
    issuer = [still.office.event_key(DESK).public]
    check_signature(look_at(made), issuer, site="hq")
    with pytest.raises(VerificationError, match="damaged or forged"):
        check_signature(look_at(made), issuer, site="annex")


def test_a_cut_token_is_refused_at_every_length(still: TokenDesk, made: bytes) -> None:
    for length in range(len(made)):
        assert reason(still, made[:length]) == "no_token"
    assert reason(still, made + b"\0") == "no_token"


def test_a_token_with_any_bit_flipped_is_refused(still: TokenDesk, made: bytes) -> None:
    for bit in range(8 * len(made)):
        altered = bytearray(made)
        altered[bit // 8] ^= 1 << bit % 8
        assert reason(still, bytes(altered)) in {"no_token", "unknown_issuer", "damaged"}


def test_a_signature_over_swapped_contents_does_not_hold(still: TokenDesk, made: bytes) -> None:
    outside, other = look_at(made), look_at(still.issue().token)
    assert reason(still, made.replace(outside.ciphertext, other.ciphertext)) == "damaged"
    assert reason(still, made.replace(outside.token_id, other.token_id)) == "damaged"


@settings(deadline=None, max_examples=120)
@given(data=st.one_of(st.binary(max_size=400), st.binary(min_size=20, max_size=320).map(lambda rest: PREFIX + rest)))
def test_no_bytes_of_strangers_do_anything_but_be_refused(still: TokenDesk, data: bytes) -> None:
    with pytest.raises(VerificationError) as caught:
        still.gate(data)
    assert caught.value.reason in {"no_token", "unknown_issuer"}


PREFIX = b"\x84\x49\xa2\x01\x26\x04\x44"


@settings(deadline=None, max_examples=60)
@given(plain=st.binary(max_size=220))
def test_what_an_issuer_signs_wrongly_is_refused_too(still: TokenDesk, plain: bytes) -> None:
    """Behind a good signature stands a general CBOR reader: whatever it meets, one refusal comes out."""
    key, token_id = load_token_key(still.office.keys(GATE)), secrets.token_bytes(12)
    outside = look_at(still.issue().token)
    protected = b"\xa2\x01\x03\x04\x44" + outside.key
    ciphertext = AESGCM(key).encrypt(token_id, plain, dumps(["Encrypt0", protected, b"hq"]))
    with pytest.raises(VerificationError) as caught:
        open_content(outside._replace(token_id=token_id, ciphertext=ciphertext), key, site="hq")
    assert caught.value.reason == "damaged"


def test_an_independent_reader_of_cose_agrees(still: TokenDesk, made: bytes) -> None:
    signed_by, empty, sealed, signature = loads(made)
    protected, unprotected, ciphertext = loads(sealed)
    kid = look_at(made).issuer
    assert (loads(signed_by), empty, len(signature)) == ({1: -7, 4: kid}, {}, 64)
    assert (loads(protected), list(unprotected)) == ({1: 3, 4: look_at(made).key}, [5])
    assert dumps(loads(made), canonical=True) == made
    assert len(ciphertext) == len(look_at(made).ciphertext)


# -- what ends a token ---------------------------------------------------------------------------------------------


def test_an_expired_token_is_refused_to_the_second(desk: TokenDesk) -> None:
    issued = desk.issue(until=desk.clock.now() + timedelta(days=3))
    desk.clock.advance((issued.expires_at - desk.clock.now()).total_seconds() - 1)
    carried = desk.gate(issued.token)
    carried.check_again()
    desk.clock.advance(1)
    assert reason(desk, issued.token) == "expired"
    assert again(carried) == "expired"


def test_a_token_ends_with_its_consent_and_never_later(desk: TokenDesk) -> None:
    consent_ends = desk.clock.now() + timedelta(days=9)
    held = desk.held(expires_at=consent_ends)
    assert desk.issue(held).expires_at == consent_ends
    assert desk.issue(held, until=desk.clock.now() + timedelta(days=200)).expires_at == consent_ends
    sooner = desk.clock.now() + timedelta(days=2, milliseconds=700)
    assert desk.issue(held, until=sooner).expires_at == sooner.replace(microsecond=0), "whole seconds, never later"
    far = desk.held(expires_at=desk.clock.now() + timedelta(days=1000))
    assert desk.issue(far).expires_at == desk.clock.now() + timedelta(days=366)
    over = "the token would have ended already: give a later --until, or ask for a new consent"
    for ended in (desk.held(expires_at=desk.clock.now()), desk.held(expires_at=desk.clock.now() - timedelta(days=1))):
        with pytest.raises(RefusedError) as refusal:
            desk.issue(ended)
        assert str(refusal.value) == over
    soonest = desk.clock.now() + timedelta(seconds=1)
    assert desk.issue(desk.held(expires_at=soonest)).expires_at == soonest


def test_while_the_clock_is_unproven_no_token_is_taken_or_issued(desk: TokenDesk) -> None:
    token = desk.issue().token
    desk.clock.step_wall(-300 * 86_400.0, "unsynced")
    assert reason(desk, token) == "clock"
    with pytest.raises(RefusedError) as refusal:
        desk.issue()
    assert str(refusal.value) == SENTENCES["clock"]
    assert shortcomings(desk.config(GATE), desk.clock)[0] == SENTENCES["clock"]


def test_a_revoked_token_is_refused_and_others_of_the_person_are_not(desk: TokenDesk) -> None:
    held = desk.held()
    lost, kept = desk.issue(held), desk.issue(held)
    desk.renew_list(tokens=[lost.token_id])
    assert reason(desk, lost.token) == "revoked"
    assert desk.gate(kept.token)


def test_a_withdrawn_consent_revokes_every_token_of_the_person(desk: TokenDesk) -> None:
    held, other = desk.held(), desk.issue()
    tokens = [desk.issue(held).token for _ in range(3)]
    desk.renew_list(subjects=[held.subject])
    assert [reason(desk, token) for token in tokens] == ["revoked"] * 3
    assert desk.gate(other.token)


def test_where_somebody_was_erased_their_token_counts_no_more_even_before_a_list_comes(desk: TokenDesk) -> None:
    held = desk.held()
    token = desk.issue(held).token
    carried = desk.gate(token)
    desk.erased = (subject_digest(held.subject),)
    assert reason(desk, token) == "revoked"
    assert again(carried) == "revoked"


def test_a_withheld_list_gains_days_and_then_nothing_is_taken(desk: TokenDesk) -> None:
    lost = desk.issue()
    issue_token_list(desk.office.site, tokens=[lost.token_id], clock=desk.clock)  # the broker keeps it from the gate
    desk.clock.advance(REST * 86_400 - 1)
    assert desk.gate(lost.token)
    desk.clock.advance(1)
    assert reason(desk, lost.token) == "list_ended"
    assert shortcomings(desk.config(GATE), desk.clock) == [f"the list of tokens of this unit has ended: {GET_LIST}"]
    with pytest.raises(RefusedError) as refusal:
        desk.issue()
    assert str(refusal.value) == SENTENCES["list_ended"]


def test_an_older_list_is_not_taken_again(desk: TokenDesk) -> None:
    lost = desk.issue()
    before = desk.office.files.token_list.read_bytes()
    desk.renew_list(tokens=[lost.token_id])
    with pytest.raises(VerificationError) as caught:
        install_token_list(desk.office.keys(GATE).folder, before, site="hq")
    assert caught.value.reason == "replayed"
    assert str(caught.value) == "this unit has list 2 of tokens, which is newer: copy that"
    files = desk.office.keys(GATE)
    newest = desk.office.files.token_list.read_bytes()
    assert install_token_list(files.folder, newest + b"\n", site="hq").serial == 2, "the same one again"
    assert files.token_list.read_bytes() == newest.strip()
    assert files.token_list.stat().st_mode & 0o777 == PUBLIC_MODE
    assert reason(desk, lost.token) == "revoked"


def test_a_list_that_the_site_did_not_sign_is_not_taken(
    desk: TokenDesk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = TokenDesk(tmp_path_factory.mktemp("other"))
    folder = desk.office.keys(GATE).folder
    before = desk.office.keys(GATE).token_list.read_bytes()
    for hostile in (other.office.files.token_list.read_bytes(), b"", b"\xff\xfe", b"a.b.c", before[:-3] + b"AAA"):
        with pytest.raises(VerificationError):
            install_token_list(folder, hostile, site="hq")
    assert desk.office.keys(GATE).token_list.read_bytes() == before


def test_a_signature_for_another_purpose_is_no_list(desk: TokenDesk) -> None:
    trust = desk.office.files.trust.read_text()
    assert read_header(trust).typ == "postern-trust+jws"
    with pytest.raises(VerificationError) as caught:
        install_token_list(desk.office.keys(GATE).folder, trust.encode(), site="hq")
    assert caught.value.reason == "wrong_type"


def test_after_a_theft_new_keys_end_every_token(desk: TokenDesk) -> None:
    token = desk.issue().token
    carried = desk.gate(token)
    rotation.rotate_epoch_keys(desk.office.site, clock=desk.clock)
    for unit in (DESK, GATE):
        desk.bring_keys(unit)
    assert reason(desk, token) == "replaced_key"
    assert again(carried) == "replaced_key"
    assert desk.gate(desk.issue().token)


def test_a_desk_that_was_stolen_issues_nothing_any_more(desk: TokenDesk) -> None:
    token = desk.issue().token
    units.revoke_unit(desk.office.site, DESK, clock=desk.clock)
    desk.renew_list()
    assert reason(desk, token) == "unknown_issuer"


# -- whom a token is for -------------------------------------------------------------------------------------------


def test_a_token_for_another_unit_model_purpose_or_notice_is_refused(still: TokenDesk) -> None:
    assert reason(still, still.issue(units=(DESK,)).token) == "wrong_unit"
    token = still.issue().token
    assert reason(still, token, model="sha256:" + "cd" * 32) == "wrong_model"
    assert reason(still, token, purpose="Something that nobody has agreed to") == "wrong_terms"
    notice = {"version": "2027-1", "operator": "A. B., Example Street 1", "alternative": "the desk beside it"}
    assert reason(still, token, notice=notice) == "wrong_terms"


def test_a_desk_names_no_unit_that_the_consent_does_not(still: TokenDesk) -> None:
    with pytest.raises(RefusedError) as refusal:
        still.issue(units=("hut-9", GATE, "vault-1"))
    assert str(refusal.value) == "the consent does not name hut-9, vault-1: it names desk-1, gate-1"
    assert still.issue(units=(GATE,)).units == (GATE,)
    assert still.issue().units == (DESK, GATE), "without a choice all that it names"
    many = tuple(f"gate-{n}" for n in range(MAX_UNITS + 1))
    with pytest.raises(RefusedError) as refusal:
        still.issue(still.held(units=many))
    assert str(refusal.value) == "the consent names 11 units and a token holds 10: choose with --unit"
    assert len(still.issue(still.held(units=many[:-1])).token) <= MAX_TOKEN_BYTES


def test_a_full_list_still_fits_into_a_command(desk: TokenDesk) -> None:
    ids = [secrets.token_hex(12) for _ in range(MAX_REVOKED)]
    for number in range(2, 6):
        desk.office.enrol(f"desk-{number}")
    issuers = [f"desk-{number}" for number in range(2, 6)]
    listed = desk.renew_list(tokens=ids, issuers=issuers)
    assert len(listed) * 4 / 3 + 1200 < MAX_COMMAND_BYTES
    with pytest.raises(RefusedError, match="more than 200"):
        desk.renew_list(tokens=[secrets.token_hex(12)])
    desk.clock.advance(367 * 86_400)
    again = read_token_list(desk.renew_list(), units.load_site_key(desk.office.site).public, site="hq")
    assert again.tokens == (), "what can be valid no more is dropped"


def test_units_of_an_older_release_get_no_key_of_tokens_before_the_site_has_any(tmp_path: Path) -> None:
    office = SiteOffice(tmp_path)
    files = office.enrol("door-1")
    assert not files.token_key.exists()
    with opened(office.site, clock=office.clock) as site:
        assert token_key(site) is None


def test_a_packed_reference_scores_as_the_whole_one() -> None:
    rng = np.random.default_rng(0)
    moved = []
    for _ in range(200):
        a, b = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 128)))
        moved.append(float(unpack(pack(a.astype(np.float32))) @ b) - float(a @ b))
    assert np.std(moved) < 0.001
    for nothing in (bytes(128), b"\1" * 127):
        with pytest.raises(ValueError, match="no reference"):
            unpack(nothing)
