# SPDX-License-Identifier: Apache-2.0
"""A site with one unit that is set from afar: the site's own acts, the unit's own record of what it was told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from agent.clock import SimulatedClock
from agent.config.load import load_file
from agent.config.schema import Config
from agent.disk.files import write_atomic
from agent.site.configuration import apply_file, sign_for
from agent.site.delegation import delegate
from agent.unit.configuring import Configuring
from tests.simulators.site_office import SiteOffice

UNIT = "door-1"


class Configured:
    """Site ``hq`` below ``folder``, delegated, and the file of its unit; ``begin`` starts a run of that."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        """``changes`` are sections of the unit's own file."""
        self.folder, self.office = folder, SiteOffice(folder)
        self.clock: SimulatedClock = self.office.clock
        self.site = self.office.site
        self.office.enrol(UNIT)
        delegate(self.site, clock=self.clock)
        self.file = folder / "config.yaml"
        self.changes: dict[str, Any] = {}
        self.write(**changes)
        self.frames = 0
        self.connected = True
        self.said: list[str] = []
        self.logged: list[Mapping[str, Any]] = []
        self.unit = self.start()

    def write(self, **changes: Any) -> None:
        """Write the unit's own file."""
        self.changes = {**self.changes, **changes}
        content = {
            "profile": "production",
            "purpose": "To show what a site may set at its units from afar, and what it may not.",
            "unit": {"site": "hq", "id": UNIT, "name": "Door"},
            "notice": {"version": "1", "operator": "Nobody, in a test", "alternative": "walk through"},
            "camera": {"source": "v4l2", "device": "/dev/video0"},
            "activation": {"kind": "zone", "name": "door", "polygon": [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]},
            "broker": {"host": "broker.example.org"},
            "match": {"policy": "policy.jws"},
            "gallery": {"path": "gallery.db"},
            "audit": {"path": "audit.log"},
            "outbox": {"path": "outbox.db"},
            "keys": {"folder": UNIT},
            **self.changes,
        }
        write_atomic(self.file, yaml.safe_dump(content).encode())  # a power cut has to leave it

    def start(self) -> Configuring:
        """A new process of the unit; the run begins with ``begin``."""
        self.unit = Configuring(self.local(), self.clock)
        self.unit.attach(lambda: self.frames, lambda: self.connected, self._log)
        return self.unit

    def _log(self, facts: Mapping[str, Any]) -> None:
        self.logged.append(facts)
        self.said.append(str(facts["state"]))

    def local(self) -> Config:
        return load_file(self.file)

    def apply(self, all_units: dict[str, Any] | None = None, **units: dict[str, Any]) -> int:
        """Apply a file of the site; ``units`` with '_' for '-'."""
        content = {"site": "hq", "all": all_units or {}, "units": {k.replace("_", "-"): v for k, v in units.items()}}
        path = self.folder / "site.yaml"
        path.write_text(yaml.safe_dump({name: one for name, one in content.items() if one}, sort_keys=False))
        return apply_file(self.site, path, clock=self.clock)

    def signed(self) -> str:
        return sign_for(self.site, UNIT, clock=self.clock)

    def send(self, all_units: dict[str, Any] | None = None, **units: dict[str, Any]) -> str:
        """Apply, sign and hand over; what the unit answers."""
        self.apply(all_units, **units)
        return str(self.unit.take(self.signed())["configuration"])

    def live(self, seconds: float, *, pictures: bool = True) -> None:
        """Let time pass, a second at a time, as housekeeping sees it."""
        for _ in range(round(seconds)):
            self.clock.advance(1)
            self.frames += 10 if pictures else 0
            self.unit.look()

    @property
    def state(self) -> str:
        told = self.unit.state()
        return "none" if told is None else told.state

    @property
    def why(self) -> str:
        told = self.unit.state()
        return "" if told is None or told.why is None else told.why


def zone_of(config: Config) -> dict[str, Any]:
    """The activation as plain values."""
    found: dict[str, Any] = msgspec.to_builtins(config.activation)
    return found
