# SPDX-License-Identifier: Apache-2.0
"""Keys are renewed on a running unit as the site kit issues them; everything else is refused and changes nothing."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.audit.chain import read_entries
from agent.audit.log import AuditLog
from agent.errors import KeyStoreError, PolicyError, RefusedError, VerificationError
from agent.keys import PublicKey, SigningKey, load_public_key, read_header
from agent.match.policy import sign_policy, verify_policy
from agent.outbox.epoch_keys import EpochKeys
from agent.protocol.joining import UnitAnswer, unverified
from agent.protocol.site_key import CHANGE_TYPE, accept, propose
from agent.protocol.token_list import read_token_list
from agent.site import rotation, units
from agent.site.token_list import issue_token_list
from agent.unit.joining import install
from agent.unit.key_rotation import KeyRotation, change_site_key
from agent.unit.site_key import complete
from tests.simulators.gallery_life import MODEL, captures, consent, open_store
from tests.simulators.signing_unit import START
from tests.simulators.site_office import SiteOffice, listed_units
from tests.unit.test_match_policy import policy

UNIT = "door-3"
LASTS_DAYS = 365


class Rotating:
    """A unit of site ``hq`` with one enrolled person, and the office of its site."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.office = SiteOffice(folder)
        self.clock = self.office.clock
        self.keys = self.office.enrol(UNIT)
        self.policy = self.keys.folder / "policy.jws"
        self.policy.write_text(sign_policy(policy(), units.load_site_key(self.office.site)))
        self.gallery = stack.enter_context(open_store(folder, self.clock))
        self.subject = self.gallery.enrol(
            captures(np.random.default_rng(1)), consent=consent(self.clock.now()), model=MODEL
        )
        self.audit = AuditLog(folder / "audit.log", clock=self.clock, random=secrets.token_bytes)
        stack.callback(self.audit.close)
        self.log = folder / "audit.log"
        self.epoch_keys = EpochKeys.load(self.keys.epoch_keys)
        self.obeyed: list[PublicKey] = []
        self.rotation = KeyRotation(
            keys=self.keys.folder,
            policy=self.policy,
            site="hq",
            unit=UNIT,
            audience="access",
            epoch_keys=self.epoch_keys,
            gallery=self.gallery,
            audit=self.audit,
            clock=self.clock,
            on_site_key=self.obeyed.append,
        )

    def begin_change(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(
            rotation.begin_site_key_change(self.office.site, policy(), **self.office.options)
        )
        return found

    def held(self) -> PublicKey:
        return load_public_key(self.keys.site_jwk)

    def state(self) -> tuple[bytes, ...]:
        files = (self.keys.site_jwk, self.policy, self.keys.epoch_keys, self.keys.folder.parent / "kek")
        return tuple(path.read_bytes() for path in files)


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Rotating]:
    with ExitStack() as stack:
        yield Rotating(tmp_path, stack)


def test_sealed_epoch_keys_carry_a_running_unit_over_the_weeks(unit: Rotating) -> None:
    unit.clock.advance(86_400 * 14)
    sealed = units.issue_epoch_keys(unit.office.site, UNIT, **unit.office.options).decode()
    answer = unit.rotation.rotate({"epoch_keys": sealed})
    assert answer["rotated"] == "epoch_keys"
    assert answer["epochs"] == [f"2026-W{n}" for n in (47, 48, 49, 50, 51)]
    unit.epoch_keys.pseudonym(unit.subject, "access", unit.clock.now(), settled=unit.clock.now())
    assert EpochKeys.load(unit.keys.epoch_keys).epochs("access") == ("2026-W49", "2026-W50", "2026-W51")
    assert [entry.facts for entry in read_entries(unit.log)] == [{"what": "epoch_keys"}]


def test_epoch_keys_that_a_thief_has_are_replaced_before_their_week_is_over(unit: Rotating) -> None:
    before, epoch = unit.epoch_keys.pseudonym(unit.subject, "access", START, settled=None)
    assert rotation.rotate_epoch_keys(unit.office.site, **unit.office.options) == 1
    sealed = units.issue_epoch_keys(unit.office.site, UNIT, **unit.office.options).decode()
    unit.rotation.rotate({"epoch_keys": sealed})
    after, _ = unit.epoch_keys.pseudonym(unit.subject, "access", START, settled=None)
    assert after != before
    keys = [units.epoch_key(unit.office.site, "access", epoch, generation=n, **unit.office.options) for n in (0, 1)]
    held = unit.keys.epoch_keys.read_text()
    assert keys[0].key not in held
    assert keys[1].key in held
    assert units.epoch_key(unit.office.site, "access", epoch, **unit.office.options) == keys[1]
    with pytest.raises(RefusedError, match="generations 0 to 1"):
        units.epoch_key(unit.office.site, "access", epoch, generation=2, **unit.office.options)


def test_renewed_references_have_new_keys_and_still_match(unit: Rotating) -> None:
    before = unit.gallery.references(MODEL).matrix.copy()
    kek = (unit.keys.folder.parent / "kek").read_bytes()
    database = unit.keys.folder.parent / "gallery.db"
    ciphertext = database.read_bytes()
    assert unit.rotation.rotate({"references": "renew"}) == {"rotated": "references", "count": 1}
    assert [entry.facts for entry in read_entries(unit.log)] == [{"what": "references"}]
    assert (unit.keys.folder.parent / "kek").read_bytes() != kek
    assert database.read_bytes() != ciphertext
    assert np.allclose(unit.gallery.references(MODEL).matrix, before, atol=1e-5)


def test_new_command_key_is_obeyed_and_the_policy_is_signed_by_it(unit: Rotating) -> None:
    old = unit.held()
    change = unit.begin_change()
    answer = unit.rotation.rotate(change)
    new = unit.held()
    assert answer == {"rotated": "site_key", "kid": new.kid}
    assert [entry.facts for entry in read_entries(unit.log)] == [{"what": "site_key"}]
    assert [key.kid for key in unit.obeyed] == [new.kid]
    assert new.kid != old.kid
    assert verify_policy(unit.policy.read_text(), new, model=MODEL) == policy()
    assert rotation.finish_site_key_change(unit.office.site, **unit.office.options) == new.kid
    assert units.load_site_key(unit.office.site).kid == new.kid
    assert not unit.office.files.next_site_key.exists()
    assert listed_units(unit.office.site).units() == (UNIT,), "the list of units is signed by the new key"
    install(unit.keys.folder, units.renew_unit(unit.office.site, UNIT, **unit.office.options), clock=unit.clock)


def test_change_of_key_is_begun_once_and_may_be_sent_again(unit: Rotating) -> None:
    first, second = unit.begin_change(), unit.begin_change()
    old = unit.held()
    assert accept(first["site_key"], old, site="hq").kid == accept(second["site_key"], old, site="hq").kid
    with pytest.raises(RefusedError, match="begins with the units' policy"):
        rotation.finish_site_key_change(SiteOffice(unit.keys.folder / "other").site, **unit.office.options)


def test_unit_that_was_away_takes_the_new_key_by_hand(unit: Rotating) -> None:
    change = unit.begin_change()
    rotation.finish_site_key_change(unit.office.site, **unit.office.options)
    new = change_site_key(
        unit.keys.folder, unit.policy, token=change["site_key"], policy_token=change["policy"], site="hq"
    )
    assert new.kid == units.load_site_key(unit.office.site).kid == unit.held().kid


def test_statement_that_was_used_is_refused_when_it_is_replayed(unit: Rotating) -> None:
    change = unit.begin_change()
    unit.rotation.rotate(change)
    before = unit.state()
    with pytest.raises(VerificationError) as refusal:
        unit.rotation.rotate(change)
    assert refusal.value.reason == "wrong_key"
    assert unit.state() == before


def foreign(unit: Rotating, how: str) -> dict[str, str]:
    """A change of key that a unit must refuse."""
    old, new, thief = units.load_site_key(unit.office.site), SigningKey.generate(), SigningKey.generate()
    now = unit.clock.now()
    signed = sign_policy(policy(), new)
    inner = thief.sign(
        json.dumps({"version": 1, "site": "hq", "issued_at": "2026-11-22T09:00:00Z", "jwk": new.public_jwk()}).encode(),
        typ=CHANGE_TYPE,
    )
    tokens = {
        "wrong_key": propose(thief, new, site="hq", now=now),
        "wrong_site": propose(old, new, site="elsewhere", now=now),
        "the new key is not held": old.sign(inner.encode(), typ=CHANGE_TYPE),
        "wrong_type": old.sign(new.sign(b"{}", typ=CHANGE_TYPE).encode(), typ="postern-policy+jws"),
        "malformed": old.sign(b"\xff", typ=CHANGE_TYPE),
        "no content": old.sign(new.sign(b"{}", typ=CHANGE_TYPE).encode(), typ=CHANGE_TYPE),
    }
    return {"site_key": tokens[how], "policy": signed}


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("wrong_key", "wrong_key"),
        ("wrong_site", "wrong_site"),
        ("the new key is not held", "wrong_key"),
        ("wrong_type", "wrong_type"),
        ("malformed", "malformed"),
        ("no content", "malformed"),
    ],
)
def test_nobody_else_changes_the_command_key(unit: Rotating, how: str, reason: str) -> None:
    before = unit.state()
    with pytest.raises(VerificationError) as refusal:
        unit.rotation.rotate(foreign(unit, how))
    assert refusal.value.reason == reason
    assert unit.state() == before
    assert unit.obeyed == []


def test_change_of_key_cannot_change_who_matches(unit: Rotating) -> None:
    change = unit.begin_change()
    new = SigningKey.load(unit.office.files.next_site_key)
    before = unit.state()
    laxer = sign_policy(policy(margin=0.0), new)
    with pytest.raises(RefusedError) as refusal:
        unit.rotation.rotate({**change, "policy": laxer})
    assert refusal.value.reason == "wrong_policy"
    assert str(refusal.value) == (
        "this is another policy than the unit's: have the policy in force signed by the new key"
    )
    for args in (change, {"references": "renew"}):
        with pytest.raises(RefusedError) as granted:
            unit.rotation.renew(args)
        assert granted.value.reason == "not_granted"
        assert str(granted.value) == "this takes a command by the site's own key: use key/rotate"
    with pytest.raises(PolicyError):
        unit.rotation.rotate({**change, "policy": unit.policy.read_text()})
    assert unit.state() == before


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"references": "all"},
        {"references": "renew", "epoch_keys": "x"},
        {"site_key": "x"},
        {"policy": "x"},
        {"epoch_keys": 1},
        {"epoch_keys": "x", "policy": "x"},
        {"kek": "00" * 32},
    ],
)
def test_unclear_wish_is_refused(unit: Rotating, args: dict[str, Any]) -> None:
    before = unit.state()
    with pytest.raises(RefusedError) as refusal:
        unit.rotation.rotate(args)
    assert refusal.value.reason == "bad_args"
    assert str(refusal.value) == (
        "give one of epoch_keys, seal_key=show, references=renew, certificate, revoked_brokers, token_list, or site_key"
        " with policy"
    )
    assert unit.state() == before
    with pytest.raises(RefusedError) as refusal:
        unit.rotation.renew(args)
    assert refusal.value.reason == "bad_args"
    assert not list(read_entries(unit.log))


def test_epoch_keys_of_another_unit_of_the_past_or_of_a_thief_are_refused(unit: Rotating) -> None:
    unit.office.enrol("door-4")
    before = unit.state()
    other = units.issue_epoch_keys(unit.office.site, "door-4", **unit.office.options).decode()
    stale = units.issue_epoch_keys(unit.office.site, UNIT, **unit.office.options).decode()
    unit.clock.advance(86_400 * 28)
    for sealed, reason in ((other, "not_for_us"), ("e30....", "not_for_us"), (stale, "past_epochs")):
        with pytest.raises(VerificationError) as refusal:
            unit.rotation.rotate({"epoch_keys": sealed})
        assert refusal.value.reason == reason
    assert unit.state() == before


def test_a_unit_that_does_not_know_the_time_takes_no_week_for_past(unit: Rotating) -> None:
    sealed = units.issue_epoch_keys(unit.office.site, UNIT, **unit.office.options).decode()
    unit.clock.step_wall(86_400 * 28, "unsynced")
    answer = unit.rotation.rotate({"epoch_keys": sealed})
    assert answer["epochs"] == [f"2026-W{n}" for n in (47, 48, 49)], "all of the issue, whatever week its clock says"


def test_no_answer_and_no_log_entry_holds_a_key(unit: Rotating) -> None:
    sealed = units.issue_epoch_keys(unit.office.site, UNIT, **unit.office.options).decode()
    answers = [unit.rotation.rotate({"epoch_keys": sealed}), unit.rotation.rotate({"references": "renew"})]
    answers.append(unit.rotation.rotate(unit.begin_change()))
    told = json.dumps(answers) + unit.log.read_text()
    kek = (unit.keys.folder.parent / "kek").read_bytes()
    assert kek.hex() not in told
    held = json.loads(unit.keys.epoch_keys.read_text())["keys"]
    assert held
    for key in held:
        assert key["key"] not in told


def test_a_certificate_and_both_lists_of_the_site_are_told_by_what_they_brought(unit: Rotating) -> None:
    site, options = unit.office.site, unit.office.options
    unit.clock.advance(86_400)
    certificate = unverified(units.renew_unit(site, UNIT, **options).decode(), UnitAnswer).tls_crt
    assert unit.rotation.renew({"certificate": certificate}) == {"rotated": "certificate", "days": LASTS_DAYS}
    assert unit.keys.tls_crt.read_text() == certificate
    listed = issue_token_list(site, clock=unit.clock)
    told = read_token_list(listed, unit.held(), site="hq")
    answer = unit.rotation.renew({"token_list": listed})
    assert answer == {"rotated": "token_list", "serial": told.serial, "expires_at": told.expires_at}
    assert unit.keys.token_list.read_text() == listed
    renewed = [("keys_renewed", {"what": what}) for what in ("certificate", "token_list")]
    assert [(entry.kind, entry.facts) for entry in read_entries(unit.log)] == renewed


def test_which_key_is_sealed_to_is_told_and_nothing_is_renewed(unit: Rotating) -> None:
    before = unit.state()
    for ask in (unit.rotation.rotate, unit.rotation.renew):
        assert read_header(ask({"seal_key": "show"})["seal_key"]).kid == unit.office.event_key(UNIT).kid
    assert unit.state() == before
    assert not list(read_entries(unit.log))


def test_damaged_pending_change_is_named(unit: Rotating) -> None:
    (unit.keys.folder / "site-change.json").write_bytes(b"{}")
    with pytest.raises(KeyStoreError, match=r"site-change\.json"):
        complete(unit.keys.folder, unit.policy)
