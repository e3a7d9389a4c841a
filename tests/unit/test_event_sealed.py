# SPDX-License-Identifier: Apache-2.0
"""Sealed subjects: the broker sees nothing stable, the consumer opens them, nobody can move them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.errors import ConfigError, KeyStoreError, VerificationError
from agent.match.records import Match
from tests.unit.test_wiring import Unit, about

try:
    from agent.protocol.sealed import consumer_jwk, generate_consumer_key, read_consumer_jwk, seal, unseal
except ConfigError as error:
    pytest.skip(str(error), allow_module_level=True)

CONTEXT = {"site": "hq", "audience": "access", "epoch": "2026-W47"}
NAME = "p1_" + "ab" * 16


def test_consumer_opens_what_the_unit_sealed() -> None:
    key = generate_consumer_key()
    public = read_consumer_jwk(consumer_jwk(key))
    assert unseal(seal(NAME, public, **CONTEXT), key, **CONTEXT) == NAME


def test_of_a_unit_that_seals_the_consumer_alone_reads_who_it_was(tmp_path: Path) -> None:
    key, unit = generate_consumer_key(), Unit(tmp_path)
    (tmp_path / "consumer.jwk").write_text(json.dumps(consumer_jwk(key)))
    with unit.running(events={"subject": "sealed", "consumer_key": str(tmp_path / "consumer.jwk")}) as service:
        service._record(Match(unit.people[0], "door", 0))
        event = about(service, "match")[-1]
    place = {"site": unit.config.unit.site, "audience": unit.config.events.audience, "epoch": event["epoch"]}
    assert unseal(event["subject"], key, **place).startswith("p1_")


def test_broker_sees_nothing_stable() -> None:
    public = generate_consumer_key().public_key()
    sealed = {seal(NAME, public, **CONTEXT) for _ in range(8)}
    assert len(sealed) == 8
    assert {len(text) for text in sealed} == {89}
    assert not [text for text in sealed if "ab" * 16 in text]


@pytest.mark.parametrize("change", [{"site": "annex"}, {"audience": "canteen"}, {"epoch": "2026-W48"}])
def test_sealed_subject_cannot_be_moved_elsewhere(change: dict[str, str]) -> None:
    key = generate_consumer_key()
    sealed = seal(NAME, key.public_key(), **CONTEXT)
    with pytest.raises(VerificationError) as refusal:
        unseal(sealed, key, **{**CONTEXT, **change})
    assert refusal.value.reason == "bad_seal"


def test_another_consumer_cannot_open_it() -> None:
    sealed = seal(NAME, generate_consumer_key().public_key(), **CONTEXT)
    with pytest.raises(VerificationError):
        unseal(sealed, generate_consumer_key(), **CONTEXT)


@pytest.mark.parametrize("text", ["", "s1_", "s1_AAAA", "s1_" + "A" * 86, "p1_" + "0" * 32, "s1_ÄÄ"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(VerificationError):
        unseal(text, generate_consumer_key(), **CONTEXT)


@pytest.mark.parametrize(
    "jwk", [{"kty": "EC"}, [], {"kty": "OKP", "crv": "X25519", "x": "AA"}, {"kty": "OKP", "crv": "X25519"}]
)
def test_another_kind_of_consumer_key_is_refused(jwk: object) -> None:
    with pytest.raises(KeyStoreError, match="X25519"):
        read_consumer_jwk(jwk)
