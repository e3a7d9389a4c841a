# SPDX-License-Identifier: Apache-2.0
"""A unit takes its thresholds from its own site alone: with any other policy it does not start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from agent.config.load import load_config
from agent.config.schema import Config
from agent.errors import PolicyError
from agent.inference.manifest import Manifest, detector_digest, load_manifest
from agent.keys import SigningKey
from agent.match.policy import POLICY_TYPE, Policy, parse_policy, sign_policy
from agent.unit.assemble import load_policy
from tests.simulators.unit_life import write_unit

OWN, FOREIGN = SigningKey.generate(), SigningKey.generate()
MANIFEST = Path(__file__).parents[2] / "models" / "manifest.yaml"
POLICY = parse_policy((Path(__file__).parents[2] / "models" / "policy.json").read_bytes())


class Listed:
    """Detector and embedder of a manifest, by name alone: what they are, not what they compute."""

    def __init__(self, manifest: Manifest, detector: str = "detector-320x240") -> None:
        found = manifest.entry(detector)
        second = manifest.entry(found.landmarks) if found.landmarks else None
        self.detector = SimpleNamespace(model=detector_digest(found, second))
        self.embedder = SimpleNamespace(model=manifest.entry("embedder").digest)


MODELS: Any = Listed(load_manifest(MANIFEST))


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
        load_policy(config, MODELS)
    return str(refusal.value)


def test_the_sites_own_policy_is_taken(config: Config) -> None:
    config.match.policy.write_text(sign_policy(POLICY, OWN) + "\n")
    assert load_policy(config, MODELS) == POLICY


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


ALTERED = {
    "std of the embedder": ("embedder", "input", {"std": (1e9, 1e9, 1e9)}),
    "mean of the embedder": ("embedder", "input", {"mean": (0.0, 0.0, 0.0)}),
    "colours of the embedder": ("embedder", "input", {"colour": "BGR"}),
    "scale of the embedding": ("embedder", "outputs", {}),
    "threshold of the detector": ("detector-320x240", "score_threshold", 1e-6),
    "std of the detector": ("detector-320x240", "input", {"std": (1.0, 1.0, 1.0)}),
    "no second look": ("detector-320x240", "landmarks", None),
    "threshold of the second look": ("landmarks", "score_threshold", 1e-6),
    "std of the second look": ("landmarks", "input", {"std": (1.0, 1.0, 1.0)}),
    "weights of the second look": ("landmarks", "sha256", "0" * 64),
}


@pytest.mark.parametrize("what", ALTERED)
def test_with_another_manifest_entry_there_is_no_threshold(config: Config, what: str) -> None:
    """With another ``std`` all pairs of different people score 1.00: the same weights are not the same model."""
    config.match.policy.write_text(sign_policy(POLICY, OWN))
    known = load_manifest(MANIFEST)
    name, field, value = ALTERED[what]
    before = known.entry(name)
    if field == "input":
        value = msgspec.structs.replace(before.input, **value)  # type: ignore[arg-type]
    elif field == "outputs":
        value = {"embedding": msgspec.structs.replace(before.outputs["embedding"], scale=1e9)}
    changed = msgspec.structs.replace(before, **{field: value})
    altered = Manifest(known.folder, tuple(changed if entry is before else entry for entry in known.entries))
    models: Any = Listed(altered)
    with pytest.raises(PolicyError, match=r"another model|other detectors"):
        load_policy(config, models)
    assert (models.embedder.model != MODELS.embedder.model) == (name == "embedder"), "events and templates say so too"


def test_what_only_describes_a_model_changes_nothing(config: Config) -> None:
    config.match.policy.write_text(sign_policy(POLICY, OWN))
    known = load_manifest(MANIFEST)
    told = tuple(msgspec.structs.replace(entry, training_data="told otherwise") for entry in known.entries)
    models: Any = Listed(Manifest(known.folder, told))
    assert load_policy(config, models) == POLICY


def test_policy_of_the_release_before_is_refused_with_what_to_do(config: Config) -> None:
    members = msgspec.to_builtins(POLICY)
    old = {key: value for key, value in members.items() if key not in ("detectors", "formerly")}
    content = msgspec.json.encode({**old, "version": 2, "model": POLICY.formerly})
    said = refused(config, OWN.sign(content, typ=POLICY_TYPE))
    assert "version 2, which bound the weights" in said
    assert "postern site policy models/policy.json" in said


def test_without_a_policy_there_is_no_threshold(config: Config) -> None:
    with pytest.raises(PolicyError, match="does not exist"):
        load_policy(config, MODELS)


def laxer(policy: Policy) -> bytes:
    """A policy whose table claims more than its pairs support."""
    members = msgspec.to_builtins(policy)
    return msgspec.json.encode({**members, "impostor_pairs": 10})
