# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey

from agent.errors import PolicyError
from agent.keys import SigningKey, encode_base64url
from agent.match.policy import POLICY_TYPE, Policy, TailPoint, Votes, parse_policy, sign_policy, verify_policy
from tests.simulators.gallery_life import MODEL, OTHER_MODEL

TAIL = (TailPoint(1e-2, 0.22), TailPoint(1e-3, 0.29), TailPoint(1e-4, 0.35), TailPoint(1e-6, 0.45))


def policy(**changes: object) -> Policy:
    fields = {
        "version": 1,
        "model": MODEL,
        "target_fpir": 1e-3,
        "impostor_pairs": 4_000_000,
        "impostor_tail": TAIL,
        "margin": 0.05,
        "votes": Votes(3, 5, 1500),
    }
    return Policy(**{**fields, **changes})


@pytest.fixture(scope="module")
def site() -> SigningKey:
    return SigningKey.generate()


def test_measured_points_are_met_exactly_and_between_them_the_line_is_log_linear() -> None:
    assert policy().threshold(1).value == 0.29
    assert policy().threshold(10).value == 0.35
    assert policy().threshold(1000).value == pytest.approx(0.45)
    assert policy().threshold(100).value == pytest.approx(0.40)  # 1e-5: half way from 1e-4 to 1e-6
    assert policy().threshold(0) == policy().threshold(1)


def test_nothing_is_made_up_beyond_what_was_measured() -> None:
    beyond = policy().threshold(1001)
    assert (beyond.value, beyond.measured) == (0.45, False)
    assert beyond.fpir == pytest.approx(1001e-6), "it says which rate can be relied on"
    lax = policy(target_fpir=0.05).threshold(2)
    assert (lax.value, lax.measured) == (0.22, True)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_larger_gallery_is_never_judged_more_laxly(a, b) -> None:
    few, many = sorted((a, b))
    assert policy().threshold(few).value <= policy().threshold(many).value
    assert TAIL[0].threshold <= policy().threshold(a).value <= TAIL[-1].threshold


@pytest.mark.parametrize(
    "changes",
    [
        {"impostor_tail": TAIL[::-1]},
        {"impostor_tail": (TAIL[0], TAIL[0])},
        {"impostor_tail": (TailPoint(1e-2, 0.3), TailPoint(1e-3, 0.2))},
        {"impostor_pairs": 2_000_000},  # fewer than three times one in a million
        {"votes": Votes(6, 5, 1500)},
    ],
)
def test_a_table_that_cannot_be_true_is_refused(changes) -> None:
    with pytest.raises(ValueError, match=r"impostor|votes"):
        policy(**changes)
    content = json.loads(policy().canonical())
    content.update({name: msgspec.to_builtins(value) for name, value in changes.items()})
    with pytest.raises(PolicyError):
        parse_policy(json.dumps(content).encode())


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_a_policy_or_a_refusal(content) -> None:
    with pytest.raises(PolicyError):
        parse_policy(content)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(
        ["model", "target_fpir", "impostor_pairs", "impostor_tail", "margin", "votes", "version", "surprise"]
    ),
    st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3) | st.floats(allow_nan=False),
)
def test_a_wrong_field_is_refused_in_words_or_read_as_a_valid_one(name, value) -> None:
    content = {**json.loads(policy().canonical()), name: value}
    try:
        read = parse_policy(json.dumps(content).encode())
    except PolicyError:
        return
    assert 0 < read.target_fpir < 0.1
    assert 0 <= read.margin <= 1


def test_a_signed_policy_comes_back_the_same(site) -> None:
    token = sign_policy(policy(), site)
    read = verify_policy(token + "\n", site.public, model=MODEL)
    assert read == policy()
    assert read.digest == policy().digest
    assert read.digest.startswith("sha256:")
    assert policy(margin=0.06).digest != policy().digest


def test_an_unsigned_policy_is_refused(site) -> None:
    header, payload, _ = sign_policy(policy(), site).split(".")
    none = encode_base64url(b'{"alg":"none","kid":"x","typ":"postern-policy+jws"}')
    for token in (policy().canonical().decode(), f"{header}.{payload}.", f"{none}.{payload}.", "", "..", payload):
        with pytest.raises(PolicyError):
            verify_policy(token, site.public, model=MODEL)


def test_a_policy_of_another_site_is_refused(site) -> None:
    with pytest.raises(PolicyError, match="another key"):
        verify_policy(sign_policy(policy(), SigningKey.generate()), site.public, model=MODEL)


def test_a_foreign_key_under_the_sites_name_is_refused(site) -> None:
    foreign = ECKey.generate_key("P-256")
    header = {"alg": "ES256", "kid": site.kid, "typ": POLICY_TYPE}
    token = jws.serialize_compact(header, policy().canonical(), foreign, algorithms=["ES256"])
    with pytest.raises(PolicyError, match="does not fit"):
        verify_policy(token, site.public, model=MODEL)


def test_a_signature_made_for_something_else_is_refused(site) -> None:
    token = site.sign(policy().canonical(), typ="postern-command+jws")
    with pytest.raises(PolicyError, match="not made for"):
        verify_policy(token, site.public, model=MODEL)


def test_a_policy_for_another_model_is_refused(site) -> None:
    with pytest.raises(PolicyError, match="another model"):
        verify_policy(sign_policy(policy(), site), site.public, model=OTHER_MODEL)


def test_every_changed_character_is_refused(site) -> None:
    token = sign_policy(policy(), site)
    for at in range(0, len(token), 29):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises(PolicyError):
            verify_policy(changed, site.public, model=MODEL)


def test_an_endless_policy_is_refused_unread(site) -> None:
    with pytest.raises(PolicyError, match="too long"):
        verify_policy("A" * 10**6, site.public, model=MODEL)
    with pytest.raises(PolicyError, match="longer"):
        parse_policy(b" " * 10**6)
