# SPDX-License-Identifier: Apache-2.0
"""What a unit that is well says of itself."""

from __future__ import annotations

from typing import Any

from agent.protocol.health import EventHead, Health


def healthy(unit: str, **changes: Any) -> Health:
    """Health of ``unit`` of site hq, but for the ``changes``."""
    told: dict[str, Any] = {
        "type": "io.postern.health.v1",
        "source": f"/postern/hq/{unit}",
        "boot": "0" * 16,
        "uptime_s": 60,
        "time": "2026-01-05T08:00:00Z",
        "clock": "synced",
        "recognition": "running",
        "fps_milli": 9000,
        "queue_depth": 0,
        "temperature_c": None,
        "disk_free_bytes": 1,
        "head": EventHead(seq=1, digest="sha256:" + "0" * 64),
    }
    return Health(**(told | changes))
