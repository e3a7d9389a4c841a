# SPDX-License-Identifier: Apache-2.0
"""The list of units that a subscriber believes: signed, of its site, and never an older one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import VerificationError
from agent.keys import UnitKey
from agent.protocol.trust import TrustedUnits
from agent.subscribe.verify import Verifier
from tests.simulators.signing_unit import (
    SigningUnit,
    trust_list,
)

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
