# SPDX-License-Identifier: Apache-2.0
"""The list of units that a subscriber believes: signed, of its site, and never an older one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.disk.files import write_atomic
from agent.errors import KeyStoreError, VerificationError
from agent.keys import UnitKey
from agent.protocol.trust import TrustedUnits, TrustList
from agent.protocol.trust_file import TrustFile
from agent.subscribe.verify import Verifier
from tests.simulators.signing_unit import START, SigningUnit, refused, trust_list

SITE = UnitKey.generate()


def test_signed_list_is_read(unit: SigningUnit) -> None:
    trusted = TrustedUnits.from_signed(trust_list(unit).sign(SITE).encode(), SITE.public)
    assert trusted.units() == ("door-3",)
    assert trusted.find(unit.key.kid) is not None


def test_list_by_another_key_is_refused(unit: SigningUnit) -> None:
    with pytest.raises(VerificationError) as refusal:
        TrustedUnits.from_signed(trust_list(unit).sign(UnitKey.generate()).encode(), SITE.public)
    assert refusal.value.reason == "wrong_key"


def test_list_from_before_a_revocation_is_refused(unit: SigningUnit, verifier: Verifier) -> None:
    old = trust_list(unit, serial=3).sign(SITE).encode()
    with pytest.raises(VerificationError) as refusal:
        TrustedUnits.from_signed(old, SITE.public, minimum_serial=4)
    assert refusal.value.reason == "replayed"
    verifier.update_trust(TrustedUnits(trust_list(unit, serial=4)))
    with pytest.raises(VerificationError) as refusal:
        verifier.update_trust(TrustedUnits(trust_list(unit, serial=3)))
    assert refusal.value.reason == "replayed"


def test_list_of_another_site_is_refused(unit: SigningUnit, verifier: Verifier) -> None:
    listed = trust_list(unit)
    other = type(listed)(version=1, site="annex", serial=9, issued_at=listed.issued_at, units=listed.units)
    with pytest.raises(VerificationError) as refusal:
        verifier.update_trust(TrustedUnits(other))
    assert refusal.value.reason == "wrong_site"


@pytest.mark.parametrize("content", [b"{}", b"[]", b'{"version":1}', b"\xff", b"1.5"])
def test_signed_nonsense_is_refused(content: bytes) -> None:
    token = SITE.sign(content, typ="postern-trust+jws").encode()
    with pytest.raises(VerificationError) as refusal:
        TrustedUnits.from_signed(token, SITE.public)
    assert refusal.value.reason == "malformed"


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_refusal(content: bytes) -> None:
    with pytest.raises(VerificationError):
        TrustedUnits.from_signed(content, SITE.public)


def rewrite(path: Path, content: TrustList) -> None:
    write_atomic(path, content.sign(SITE).encode())


def refusal_of(load: Callable[[], object]) -> str:
    with pytest.raises(VerificationError) as refusal:
        load()
    return refusal.value.reason


def test_list_from_before_a_revocation_is_refused_after_a_restart_too(unit: SigningUnit, tmp_path: Path) -> None:
    path = tmp_path / "trust.jws"
    rewrite(path, trust_list(unit, serial=5))
    TrustFile(path, SITE.public).load(site="hq")
    rewrite(path, trust_list(unit, serial=4))
    assert refusal_of(lambda: TrustFile(path, SITE.public).load(site="hq")) == "replayed"
    rewrite(path, trust_list(unit, serial=5))
    assert TrustFile(path, SITE.public).load(site="hq").serial == 5


def test_list_of_another_site_raises_no_serial(unit: SigningUnit, tmp_path: Path) -> None:
    path, annex = tmp_path / "trust.jws", msgspec.structs.replace(trust_list(unit, serial=90), site="annex")
    rewrite(path, trust_list(unit, serial=5))
    trust = TrustFile(path, SITE.public)
    trust.load(site="hq")
    rewrite(path, annex)
    assert trust.load_if_changed() is None
    assert trust.refusal is not None
    assert "of site annex, not hq" in trust.refusal
    assert refusal_of(lambda: TrustFile(path, SITE.public).load(site="hq")) == "wrong_site"
    rewrite(path, trust_list(unit, serial=6))
    newer = trust.load_if_changed()
    assert newer is not None
    assert newer.serial == 6


def test_damaged_memory_of_the_serial_is_not_forgotten_silently(unit: SigningUnit, tmp_path: Path) -> None:
    path = tmp_path / "trust.jws"
    rewrite(path, trust_list(unit, serial=5))
    (tmp_path / "trust.jws.seen").write_text("{}")
    with pytest.raises(KeyStoreError, match="is damaged"):
        TrustFile(path, SITE.public).load()


def second_version(unit: SigningUnit, expires_at: str, **changes: Any) -> TrustList:
    return msgspec.structs.replace(trust_list(unit, **changes), version=2, expires_at=expires_at)


def test_list_that_has_ended_says_nothing_about_anybody(unit: SigningUnit) -> None:
    verifier, row = Verifier(TrustedUnits(second_version(unit, "2026-11-22T00:00:00Z"))), unit.say()
    assert refused(verifier, unit.topic(row), row.payload) == "expired"
    verifier.update_trust(TrustedUnits(second_version(unit, "2027-11-22T00:00:00Z", serial=2)))
    assert verifier.check(unit.topic(row), row.payload, START).fresh


def test_replaced_key_is_bound_by_its_last_number(unit: SigningUnit) -> None:
    bound = second_version(unit, "2027-11-22T00:00:00Z", until="2026-12-22T00:00:00Z", last_seq=2)
    verifier, rows = Verifier(TrustedUnits(bound)), [unit.say() for _ in range(3)]
    for row in rows[:2]:
        assert refused(verifier, unit.topic(row), row.payload) == "revoked", "live, it spoke for 30 days before"
        assert verifier.check(unit.topic(row, "backlog"), row.payload, START).backlog
    assert refused(verifier, unit.topic(rows[2], "backlog"), rows[2].payload) == "revoked"


@pytest.mark.parametrize(
    "changes", [{"version": 2}, {"expires_at": "2027-01-01T00:00:00Z"}, {"version": 2, "expires_at": None}]
)
def test_list_that_is_not_of_its_version_is_refused(unit: SigningUnit, changes: dict[str, Any]) -> None:
    token = msgspec.structs.replace(trust_list(unit), **changes).sign(SITE).encode()
    assert refusal_of(lambda: TrustedUnits.from_signed(token, SITE.public)) == "malformed"


def test_event_of_a_unit_that_joined_later_says_that_the_list_is_older(
    unit: SigningUnit, verifier: Verifier, tmp_path: Path
) -> None:
    later = SigningUnit(tmp_path / "later.db", "door-9")
    row = later.say()
    with pytest.raises(VerificationError) as refusal:
        verifier.check(later.topic(row), row.payload, START)
    assert refusal.value.reason == "unknown_unit"
    assert "if the unit joined later, fetch the newest trust.jws" in str(refusal.value)
    assert f"list {trust_list(unit).serial} " in str(refusal.value)
