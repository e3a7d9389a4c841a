# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey
from msgspec.structs import replace

from agent.errors import PolicyError
from agent.keys import SigningKey, encode_base64url
from agent.match.policy import (
    CROPS,
    POLICY_TYPE,
    TARGETS,
    Decision,
    Misses,
    Policy,
    Probing,
    parse_policy,
    sign_policy,
    verify_policy,
)
from agent.match.tail import Tail, TailPoint
from tests.simulators.gallery_life import MODEL, OTHER_MODEL

DETECTOR = "sha256:" + "d" * 64
POINTS = tuple(
    TailPoint(fmr, threshold, threshold - 0.01, threshold + 0.02)
    for fmr, threshold in ((1e-2, 0.22), (1e-3, 0.29), (1e-4, 0.35), (1e-6, 0.45))
)
TAIL = Tail(people=900, pairs=400_000, method="exponential", measured_to=1e-5, points=POINTS)
PROBING = Probing(first=3, most=3, spacing_ms=100, mirror=0.8, agreement=0.3)
MISSES = tuple(Misses(target, size, 100 * size, 0, 1000 * size) for target in TARGETS for size in (1, 10, 100))
SINGLE = Decision(probes=1, captures=1, impostors=TAIL, people=50, misses=())
DECISION = Decision(probes=3, captures=3, impostors=TAIL, people=50, misses=MISSES)


def policy(**changes: object) -> Policy:
    fields = {
        "version": 4,
        "crops": CROPS,
        "model": MODEL,
        "detectors": (DETECTOR,),
        "target_fpir": 1e-3,
        "margin": 0.05,
        "probe": PROBING,
        "captures": 3,
        "decisions": (SINGLE, DECISION),
    }
    return Policy(**{**fields, **changes})


def tail(**changes: object) -> Tail:
    return replace(TAIL, **changes)


@pytest.fixture(scope="module")
def site() -> SigningKey:
    return SigningKey.generate()


def value(size: int, **changes: object) -> float:
    return policy(**changes).threshold(size, 3).value


def test_measured_points_are_met_exactly_and_between_them_the_line_is_log_linear() -> None:
    assert value(1) == 0.29
    assert value(10) == 0.35
    assert value(1000) == pytest.approx(0.45)
    assert value(100) == pytest.approx(0.40)  # 1e-5: half way from 1e-4 to 1e-6
    assert value(0) == value(1)
    assert policy().same_face == 0.29


def test_each_part_of_the_table_says_whether_it_was_measured() -> None:
    assert policy().threshold(10, 3).state == policy().threshold(100, 3).state == "measured"
    assert policy().threshold(101, 3).state == policy().threshold(1000, 3).state == "extrapolated"
    beyond = policy().threshold(1001, 3)
    assert (beyond.value, beyond.state) == (0.45, "beyond")
    assert beyond.rate == pytest.approx(1001e-6), "it says which rate can be relied on"
    assert (policy().measured_references, policy().covered_references) == (100, 1000)


def test_the_site_chooses_the_target_and_the_gallery_follows() -> None:
    assert [value(10, target_fpir=target) for target in TARGETS] == pytest.approx([0.29, 0.35, 0.4])
    assert policy(target_fpir=1e-4).covered_references == 100
    with pytest.raises(ValueError, match="one of"):
        policy(target_fpir=0.002)


def test_each_look_of_an_attempt_has_its_share_of_the_target() -> None:
    twice = policy(probe=replace(PROBING, most=5))
    assert twice.probe.looks == 2
    assert twice.threshold(5, 3).value == pytest.approx(0.35), "1e-3 in a gallery of five, by two looks: 1e-4"
    assert twice.threshold(5, 3).rate == pytest.approx(1e-3)
    assert twice.covered_references == 500


def test_the_table_is_that_of_so_many_probes_or_the_next_fewer() -> None:
    five = replace(DECISION, probes=5, impostors=tail(points=(POINTS[0], replace(POINTS[1], threshold=0.3))))
    both = policy(decisions=(SINGLE, five, DECISION))
    assert [both.threshold(1, probes).value for probes in (1, 3, 4, 5, 9)] == [0.29, 0.29, 0.29, 0.3, 0.3]
    other = replace(five, captures=5)
    assert policy(decisions=(SINGLE, DECISION, other)).threshold(1, 5).value == 0.29, "another kind of reference"


def test_misses_are_those_of_the_next_larger_gallery_that_was_measured() -> None:
    assert [policy().misses(size).gallery for size in (0, 1, 2, 10, 11, 100)] == [1, 1, 10, 10, 100, 100]
    assert policy().misses(101) is None
    assert policy(target_fpir=1e-4).misses(5).target == 1e-4


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_larger_gallery_is_never_judged_more_laxly(a, b) -> None:
    few, many = sorted((a, b))
    assert value(few) <= value(many)
    assert POINTS[0].threshold <= value(a) <= POINTS[-1].threshold


@pytest.mark.parametrize(
    "changes",
    [
        {"points": POINTS[::-1]},
        {"points": (POINTS[0], POINTS[0])},
        {"points": (POINTS[0], replace(POINTS[1], fmr=POINTS[0].fmr))},
        {"points": (POINTS[0], replace(POINTS[1], threshold=0.2, low=0.2))},
        {"points": (POINTS[0], replace(POINTS[1], low=0.3))},
        {"pairs": 200_000},  # fewer than three times one in ten thousand
    ],
)
def test_a_table_that_cannot_be_true_is_refused(changes) -> None:
    with pytest.raises(ValueError, match="tail"):
        tail(**changes)
    content = json.loads(policy().canonical())
    content["decisions"][1]["impostors"].update({k: msgspec.to_builtins(v) for k, v in changes.items()})
    with pytest.raises(PolicyError):
        parse_policy(json.dumps(content).encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"decisions": (DECISION,)},
        {"probe": replace(PROBING, first=4)},
        {"probe": replace(PROBING, first=2)},
        {"captures": 5},
        {"target_fpir": 0.05},
    ],
)
def test_rules_that_do_not_fit_the_measurement_are_refused(changes) -> None:
    with pytest.raises(ValueError, match=r"probe|target|decisions"):
        policy(**changes)


def refused(site: SigningKey, content: bytes) -> str:
    """What a unit and whoever reads the unsigned one say of a policy: the same."""
    with pytest.raises(PolicyError) as refusal:
        parse_policy(content)
    with pytest.raises(PolicyError) as signed:
        verify_policy(site.sign(content, typ=POLICY_TYPE), site.public, model=MODEL)
    assert str(signed.value) == str(refusal.value)
    return str(refusal.value)


def test_a_policy_of_the_first_version_is_refused_and_says_what_to_do(site) -> None:
    said = refused(site, b'{"version":1,"model":"%s","target_fpir":0.001,"votes":{}}' % MODEL.encode())
    assert "postern site policy" in said
    assert "\n" not in said


@pytest.mark.parametrize("crops", [CROPS - 1 or CROPS + 2, CROPS + 1])
def test_a_policy_that_was_measured_on_faces_cut_otherwise_is_refused_and_says_what_to_do(site, crops) -> None:
    said = refused(site, policy(crops=crops).canonical())
    assert "cut in another way" in said
    assert "postern site policy models/policy.json" in said


def test_a_policy_that_does_not_say_how_faces_were_cut_is_refused_and_says_what_to_do(site) -> None:
    content = json.loads(policy().canonical())
    del content["crops"]
    assert "crops" in refused(site, json.dumps(content).encode())
    said = refused(site, json.dumps({**content, "version": 3}).encode())
    assert "version 3, which did not say how the crops were cut" in said
    assert "postern site policy models/policy.json" in said


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_a_policy_or_a_refusal(content) -> None:
    with pytest.raises(PolicyError):
        parse_policy(content)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        ["model", "target_fpir", "probe", "captures", "decisions", "margin", "version", "crops", "surprise"]
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


def test_a_policy_with_a_wrong_field_is_told_which_and_what_to_do() -> None:
    content = json.dumps({**json.loads(policy().canonical()), "margin": "wide"})
    with pytest.raises(PolicyError, match=r"not acceptable: .*margin.*; calibrate it again for this version$"):
        parse_policy(content.encode())
