# SPDX-License-Identifier: Apache-2.0
"""Two sites' templates of the same people cannot be told to be of the same people without the keys.

The attacks are those of ``tools/evaluate unlinkability``. Here they run on random embeddings, correlated and with the
spread of a real embedder's spectrum, whose captures differ by noise at a mated score of about 0.6; and, through the
whole pipeline, on the pictures of the demo people, who do not exist, and on photographs where those are at hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agent.camera.scene.people import load_people
from agent.gallery.template import mean_reference
from tests.conftest import shared_folder
from tools.lib.evaluate.__main__ import main
from tools.lib.evaluate.linkage import (
    LINKAGE,
    linked,
    protect,
    protect_by_site,
    relinked_by_chance,
    relinked_by_profile,
    relinked_by_rotation,
    scores,
)

pytestmark = pytest.mark.timeout(300)  # thousands of templates, on a machine that may be busy

GREY = (128, 128, 128)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def population(rng: np.random.Generator, people: int) -> np.ndarray:
    """Unit rows with a decaying spectrum in a fixed random basis."""
    basis = np.linalg.qr(np.random.default_rng(42).normal(size=(128, 128)))[0]
    return unit((rng.normal(size=(people, 128)) * np.linspace(1.6, 0.3, 128)) @ basis)


def references(rng: np.random.Generator, people: np.ndarray) -> np.ndarray:
    """One site's references: the mean of four captures each at a mated score of 0.6."""
    captures = [unit(people + rng.normal(size=people.shape) * 0.82 / np.sqrt(128)) for _ in range(4)]
    return np.stack([mean_reference([c[i] for c in captures]) for i in range(len(people))])


@pytest.fixture(scope="module")
def two_sites() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2026)
    people = population(rng, 800)
    return protect(references(rng, people), rng), protect(references(rng, people), rng)


@pytest.mark.parametrize("linkage", LINKAGE)
def test_two_sites_templates_of_the_same_people_are_unlinkable(two_sites, linkage: str) -> None:
    found = linked(*scores(*two_sites, LINKAGE[linkage]), np.random.default_rng(0))
    assert not found.beyond_chance


def test_the_measure_sees_a_link_where_there_is_one() -> None:
    rng = np.random.default_rng(1)
    people = population(rng, 300)
    found = linked(*scores(references(rng, people), references(rng, people), LINKAGE["cosine"]), rng)
    assert found.d_sys > 0.9 > found.chance


@pytest.fixture(scope="module")
def crowds() -> list[tuple[np.ndarray, np.ndarray]]:
    """References of 200 people at two sites each."""
    made = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        crowd = population(rng, 200)
        made.append((references(rng, crowd), references(rng, crowd)))
    return made


@pytest.fixture(scope="module")
def galleries(crowds) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(9)
    return [(protect(here, rng), protect(there, rng)) for here, there in crowds]


@pytest.mark.parametrize("known", [5, 20, 100])
@pytest.mark.parametrize("attack", [relinked_by_profile, relinked_by_rotation])
def test_two_galleries_cannot_be_aligned_by_the_people_known_in_both(
    galleries, attack: Callable[..., float], known: int
) -> None:
    rate = np.mean([attack(*pair, known) for pair in galleries])
    assert rate <= relinked_by_chance(200, known, len(galleries))


@pytest.mark.parametrize("attack", [relinked_by_profile, relinked_by_rotation])
def test_one_rotation_per_site_would_have_been_aligned(crowds, attack: Callable[..., float]) -> None:
    rng = np.random.default_rng(0)
    here, there = crowds[0]
    assert attack(protect_by_site(here, rng), protect_by_site(there, rng), 100) > 0.5


def check(report: dict[str, Any]) -> None:
    """What the tool measured keeps the promises."""
    assert not any(row["beyond_chance"] for row in report["linkage_without_keys"].values())
    for known, row in report["alignment"].items():
        assert max(row["by_profile"], row["by_rotation"]) <= row["chance_99.9"], known
        assert row["if_one_rotation_per_site"] > row["chance_99.9"], known
    inversion = report["inversion"]
    assert inversion["with its key"]["mean_cosine"] > 0.999, "as we admit: whoever has the key has the template"
    assert inversion["with its key"]["accepted"] == inversion["unprotected"]["accepted"]
    assert abs(inversion["with a guessed key"]["mean_cosine"]) < 0.1
    assert inversion["with a guessed key"]["accepted"] < 0.01


def test_real_embeddings_of_the_demo_people_are_unlinkable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people = load_people()
    for who, person in people.people.items():
        (tmp_path / who).mkdir()
        for number in range(1, len(person.pictures) + 1):
            cut_out = people.picture(who, number)
            picture = Image.new("RGB", cut_out.size, GREY)
            picture.paste(cut_out, mask=cut_out)
            picture.save(tmp_path / who / f"{number}.png")
    assert main(["unlinkability", "--images", str(tmp_path), "--sites", "16", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["people"] > 25
    assert report["inversion"]["unprotected"]["accepted"] > 0.5
    check(report)


def test_too_few_people_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one").mkdir()
    Image.new("RGB", (64, 64), GREY).save(tmp_path / "one" / "1.png")
    assert main(["unlinkability", "--images", str(tmp_path)]) == 2
    assert "a folder each" in capsys.readouterr().err


@pytest.mark.shared
@pytest.mark.timeout(600)
def test_real_embeddings_of_photographs_are_unlinkable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unlinkability", "--images", str(shared_folder() / "data" / "lfw_dev"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["people"] > 500
    for known in (5, 10, 20, 50, 100):
        row = report["alignment"][f"{known} known"]
        assert max(row["by_profile"], row["by_rotation"]) <= row["two_in_n"]
    check(report)
