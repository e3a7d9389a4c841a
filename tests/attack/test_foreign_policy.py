# SPDX-License-Identifier: Apache-2.0
"""A unit takes its thresholds from its own site alone: with any other policy it does not start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agent.config.load import load_config
from agent.config.schema import Config
from agent.errors import PolicyError
from agent.keys import SigningKey
from agent.match.policy import POLICY_TYPE, Policy, parse_policy, sign_policy
from agent.unit.assemble import load_policy
from tests.simulators.unit_life import write_unit

OWN, FOREIGN = SigningKey.generate(), SigningKey.generate()
POLICY = parse_policy((Path(__file__).parents[2] / "models" / "policy.json").read_bytes())


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A unit that knows its site's key."""
    file = tmp_path / "config.yaml"
    made = write_unit(file, tmp_path / "unit")
    (made.keys.folder / "site.jwk").write_bytes(msgspec.json.encode(OWN.public_jwk()))
    matching = msgspec.structs.replace(made.match, policy=tmp_path / "policy.jws")
    return msgspec.structs.replace(load_config(file), match=matching)


def refused(config: Config, content: str) -> str:
    config.match.policy.write_text(content)
    with pytest.raises(PolicyError) as refusal:
        load_policy(config, POLICY.model)
    return str(refusal.value)


def test_the_sites_own_policy_is_taken(config: Config) -> None:
    config.match.policy.write_text(sign_policy(POLICY, OWN) + "\n")
    assert load_policy(config, POLICY.model) == POLICY


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: POLICY.canonical().decode(), "not a compact JWS"),
        (lambda: "", "not a compact JWS"),
        (lambda: sign_policy(POLICY, FOREIGN), "another key"),
        (lambda: sign_policy(POLICY, OWN).rpartition(".")[0] + ".", "signature was taken away"),
        (lambda: OWN.sign(POLICY.canonical(), typ="postern-command+jws"), "not made for"),
        (lambda: sign_policy(msgspec.structs.replace(POLICY, model="sha256:" + "0" * 64), OWN), "another model"),
        (lambda: OWN.sign(laxer(POLICY), typ=POLICY_TYPE), "not acceptable"),
    ],
    ids=["unsigned", "empty", "foreign", "stripped", "another purpose", "another model", "beyond what was measured"],
)
def test_any_other_policy_is_refused_with_its_reason(config: Config, content: Callable[[], str], said: str) -> None:
    assert said in refused(config, content())


def test_without_a_policy_there_is_no_threshold(config: Config) -> None:
    with pytest.raises(PolicyError, match="does not exist"):
        load_policy(config, POLICY.model)


def laxer(policy: Policy) -> bytes:
    """A policy whose table claims more than its pairs support."""
    members = msgspec.to_builtins(policy)
    return msgspec.json.encode({**members, "impostor_pairs": 10})
