# SPDX-License-Identifier: Apache-2.0
"""What the bridge knows of units, outputs and itself, for whoever watches it. Written by one thread, read by others."""

from __future__ import annotations

import threading

import msgspec

from agent.protocol.health import Health


class Facts(msgspec.Struct):
    """Times in seconds since 1970."""

    event_s: dict[str, int] = msgspec.field(default_factory=dict)  # the last event of each unit
    health: dict[str, tuple[int, Health]] = msgspec.field(default_factory=dict)
    missing: dict[str, int] = msgspec.field(default_factory=dict)
    withheld: dict[str, int] = msgspec.field(default_factory=dict)
    quarantined: frozenset[str] = frozenset()
    units: tuple[str, ...] = ()
    certificate_s: int = 0  # when the bridge's own certificate ends
    list_s: int | None = None  # when the site's list of units ends
    epoch_keys: int = 0
    epoch_keys_s: int | None = None  # when the last week ends that all audiences have a key for
    problems: dict[str, bool] = msgspec.field(default_factory=dict)  # of each output


class Status:
    """A lock around ``Facts``."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.facts = Facts()
