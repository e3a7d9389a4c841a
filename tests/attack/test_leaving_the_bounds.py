# SPDX-License-Identifier: Apache-2.0
"""Whoever has the site's service wants a zone beyond ``activation.within`` of a unit's own file, by another setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.config.load import load_config
from agent.errors import RefusedError
from tests.simulators.configured import Configured, zone_of

BOUNDS = [[0.1, 0.4], [0.9, 0.4], [0.9, 1.0], [0.1, 1.0]]
NARROW = [[0.3, 0.6], [0.7, 0.6], [0.7, 1.0], [0.3, 1.0]]
ZONE = {"kind": "zone", "name": "door", "polygon": NARROW}
CAMERA = {"source": "v4l2", "device": "/dev/video0", "width": 1280, "height": 720}


@pytest.mark.parametrize("camera", [{"width": 960}, {"height": 600}, {"width": 640, "height": 360}, {"rotate": 90}])
def test_no_other_picture_is_put_under_the_bounds(tmp_path: Path, camera: dict[str, Any]) -> None:
    """A camera of 4:3 that is asked for 16:9 leaves out what is above and below, and a small mode of it the edges."""
    site = Configured(tmp_path, activation={**ZONE, "within": BOUNDS}, camera=CAMERA)
    site.unit.begin()
    with pytest.raises(RefusedError, match=r"binds the zone .* in the picture as it is taken there"):
        site.send({"camera": camera})
    assert site.start().begin().camera == site.local().camera
    assert site.send({"camera": {"width": 1280, "height": 720, "rotate": 0}, "activation": {"dwell_ms": 900}}) == (
        "trying"
    ), "what it is already may be said"


def test_bounds_that_are_drawn_later_drop_the_zone_from_afar_and_nothing_else(tmp_path: Path) -> None:
    """Else whoever wants a site's stricter settings gone only has to have the installer write bounds."""
    site = Configured(tmp_path, activation=ZONE, camera=CAMERA)
    site.unit.begin()
    sent = {
        "liveness": "require",
        "activation": {"polygon": BOUNDS, "dwell_ms": 900},
        "camera": {"width": 640},
        "events": {"time_resolution_s": 600},
    }
    assert site.send(sent) == "trying"
    assert zone_of(site.unit.begin())["polygon"] == tuple(map(tuple, BOUNDS))
    site.live(30)
    assert site.state == "applied"
    site.write(activation={**ZONE, "within": [list(corner) for corner in NARROW]})
    for config in (site.start().begin(), load_config(site.file)):
        assert zone_of(config)["polygon"] == tuple(map(tuple, NARROW)), "the file's own"
        assert getattr(config.camera, "width", None) == 1280
        assert zone_of(config)["dwell_ms"] == 900
        assert config.liveness == "require"
        assert config.events.time_resolution_s == 600
    told = site.unit.state()
    assert told is not None
    assert told.state == "refused", "and the site hears of it"
    assert "activation.polygon" in (told.why or "")
