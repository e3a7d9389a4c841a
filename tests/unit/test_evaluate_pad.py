# SPDX-License-Identifier: Apache-2.0
"""Measuring of pose and of presentation attacks: figures of merit, and one drawn attempt through real models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agent.door.challenge import Challenge, failed
from agent.door.evidence import MIN_LOOKS, Looks, Part
from tools.lib.evaluate.__main__ import main
from tools.lib.evaluate.pad import Count, Trial, challenge_of
from tools.lib.evaluate.pose import fit
from tools.lib.evaluate.rates import rate

pytestmark = pytest.mark.timeout(300)


def test_a_rate_has_wilsons_interval() -> None:
    none = rate("apcer", 0, 1000)
    assert none["apcer"] == none["apcer_low"] == 0.0
    assert none["apcer_high"] == pytest.approx(0.00383, abs=1e-5)
    half = rate("apcer", 5, 10)
    assert (half["apcer_low"], half["apcer_high"]) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_a_line_is_found_through_angles() -> None:
    reference = np.linspace(-40, 40, 9)
    found = fit(np.stack([reference, 0.5 * reference + 3], 1))
    assert (found["slope"], found["offset"], found["correlation"]) == pytest.approx((0.5, 3, 1))


def test_a_bona_fide_film_says_what_its_person_was_asked() -> None:
    rng = np.random.default_rng(1)
    film = Path("clips/bona-fide/anna-1.left-up-right.mp4")
    assert challenge_of(film, rng).steps == ("left", "up", "right")
    with pytest.raises(SystemExit, match="does not say what was asked"):
        challenge_of(Path("clips/bona-fide/anna-1.mp4"), rng)
    assert len(challenge_of(Path("clips/print/one.mp4"), rng).steps) == 3


def test_a_drawn_print_is_an_attempt_that_does_not_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pad", "--json", "--simulate", "1", "--species", "print", "--seed", "4"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["attacks"]["print"]["attempts"] == 1
    assert report["attacks"]["print"]["passed"] == 0
    assert report["worst_species"] == "print"
    assert report["cpu_milliseconds"]["challenge"]["p95"] < 5


def test_an_attempt_passes_by_every_part_that_is_required() -> None:
    passive = Part(lambda _frame, _box: 0.0, 0.5)
    passed = Challenge((), (0,), began_ns=0, last_ns=0, phase="passed")
    count = Count()
    count.add(Trial(passed, passive, Looks(MIN_LOOKS, 1.0 * MIN_LOOKS)))
    count.add(Trial(passed, passive, Looks(MIN_LOOKS, 0.0)))
    count.add(Trial(passed, passive, Looks(MIN_LOOKS - 1, 9.0)))
    count.add(Trial(failed(passed, "lost"), passive, Looks(MIN_LOOKS, 9.0)))
    assert (count.attempts, count.passed) == (4, 1)
    assert count.by_part == {"challenge_alone": 3, "passive_alone": 3}
    assert count.reasons == {"lost": 1}


def test_without_a_challenge_faces_are_only_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pad", "--json", "--simulate", "1", "--species", "bona-fide", "--seed", "4", "--ahead"]) == 0
    assert json.loads(capsys.readouterr().out)["bona_fide"]["passed"] == 1
