# SPDX-License-Identifier: Apache-2.0
"""A site for a fleet, made by what an installer's commands call: every unit joins by token, request and answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.clock import SystemClock
from agent.disk.files import make_private_folder
from agent.errors import RefusedError
from agent.mqtt.credentials import Credentials
from agent.site import units
from agent.site.creation import create_site
from agent.site.programs import issue_broker, issue_client
from agent.site.records import BrokerKind, SiteFiles
from agent.unit.joining import install, new_unit_request
from agent.unit.key_files import UnitFiles

SITE, PROGRAM = "fleet", "auditor-1"
MAX_UNITS = 1000


@dataclass(frozen=True, slots=True)
class FleetSite:
    """The site in ``folder``/site, and its units' keys and outboxes in ``folder``/units."""

    folder: Path

    @property
    def files(self) -> SiteFiles:
        return SiteFiles(self.folder / "site")

    def unit(self, name: str) -> Path:
        return self.folder / "units" / name

    def names(self) -> list[str]:
        """The units that joined; RefusedError where none did."""
        found = sorted(path.name for path in (self.folder / "units").glob("unit-*"))
        if not found:
            raise RefusedError(f"{self.folder} holds no fleet: make one with 'tools/fleet join {self.folder}'")
        return found

    def credentials(self, name: str) -> Credentials:
        files = UnitFiles(self.unit(name))
        return Credentials(files.ca_crt, files.tls_crt, files.tls_key)

    def program(self) -> Credentials:
        """Of the program that listens."""
        keys = self.files.client(PROGRAM)
        return Credentials.in_folder(keys)

    def join(self, count: int, host: str, *, kind: BrokerKind = "mosquitto") -> None:
        """Make the site, the broker's files for ``host``, a program that listens, and ``count`` units."""
        if not 1 <= count <= MAX_UNITS:
            raise RefusedError(f"--units is from 1 to {MAX_UNITS}")
        if (self.folder / "site").exists():
            raise RefusedError(f"{self.folder} holds a fleet already: name another folder")
        clock = SystemClock()
        self.folder.mkdir(parents=True, exist_ok=True)
        make_private_folder(self.folder / "units")
        site = create_site(self.folder / "site", SITE, clock=clock).folder
        issue_broker(site, [host], kind=kind, clock=clock)
        issue_client(site, PROGRAM, "auditor", clock=clock)
        for number in range(1, count + 1):
            name = f"unit-{number:04d}"
            keys = self.unit(name)
            request = new_unit_request(keys, SITE, name, units.new_token(site, name, clock=clock))
            install(keys, units.add_unit(site, request, clock=clock), clock=clock)
