# SPDX-License-Identifier: Apache-2.0
"""Bounds in the unit's own file that no zone leaves, whoever draws it: the site from afar, or a hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.errors import ConfigError, RefusedError
from agent.unit.configuring import STEADY_S
from tests.simulators.configured import Configured, zone_of


@pytest.fixture
def site(tmp_path: Path) -> Configured:
    return Configured(tmp_path)


def test_from_afar_no_zone_leaves_what_the_units_file_lets_a_zone_lie_in(site: Configured) -> None:
    """Whoever has the site's service cannot have passers-by in the street embedded, nor turn the picture for it."""
    own = {"kind": "zone", "name": "door", "polygon": [[0.3, 0.5], [0.7, 0.5], [0.5, 0.9]]}
    bounds = [[0.1, 0.4], [0.9, 0.4], [0.9, 1.0], [0.1, 1.0]]
    street = [[0.3, 0.1], [0.7, 0.1], [0.7, 0.9], [0.3, 0.9]]
    site.write(activation=own)
    site.start().begin()
    site.send({"activation": {"polygon": street}, "camera": {"rotate": 180}})
    assert getattr(site.unit.begin().camera, "rotate", None) == 180
    site.live(STEADY_S + 2)
    site.write(activation={**own, "within": bounds})
    run = site.start().begin()
    assert getattr(run.camera, "rotate", None) == 0, "what was taken before the file had bounds"
    assert zone_of(run) == zone_of(site.local())
    inside, turned = {"activation": {"polygon": bounds}}, {"camera": {"rotate": 180}}
    for wanted, place in (
        ({"activation": {"polygon": street}}, "polygon: the zone leaves"),
        (turned, "set this there"),
    ):
        with pytest.raises(RefusedError, match=place):
            site.send(wanted)
    site.send(inside)
    assert zone_of(site.start().begin())["polygon"] == tuple(map(tuple, bounds))


@pytest.mark.parametrize(
    ("within", "why"),
    [
        ([[0.1, 0.1], [0.9, 0.1], [0.5, 0.2], [0.5, 0.9]], "points inwards"),
        ([[0.1, 0.1], [0.9, 0.9], [0.9, 0.1], [0.1, 0.9]], "cross each other"),
        ([[0.2, 0.1], [0.9, 0.1], [0.9, 0.9], [0.2, 0.9]], "the zone leaves"),
    ],
)
def test_bounds_of_a_zone_that_are_none_or_leave_it_out_are_told(site: Configured, within: Any, why: str) -> None:
    wide = [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]
    site.write(activation={"kind": "zone", "name": "door", "polygon": wide, "within": within})
    with pytest.raises(ConfigError, match=why):
        site.local()
