# SPDX-License-Identifier: Apache-2.0
"""A site with units that joined it the real way: token, request, answer."""

from __future__ import annotations

from pathlib import Path

from agent.clock import Clock, SimulatedClock
from agent.keys import UnitKey, load_public_key
from agent.protocol.record import save
from agent.protocol.trust import TrustedUnits, UnitKeyEntry
from agent.site import units
from agent.site.creation import create_site
from agent.site.folder import SYSTEM_CLOCK, changing
from agent.site.records import SiteFiles, UnitRecord
from agent.unit.joining import install, new_unit_request
from agent.unit.key_files import UnitFiles
from tests.simulators.signing_unit import START


class SiteOffice:
    """Site ``hq`` in ``folder``/site; unit keys in ``folder``/<unit>."""

    def __init__(self, folder: Path, *, clock: SimulatedClock | None = None, passphrase: bytes | None = None) -> None:
        self.clock = clock or SimulatedClock(START)
        self.folder = folder
        self.options = {"clock": self.clock, "passphrase": passphrase}
        self.site = folder / "site"
        self.files: SiteFiles = create_site(self.site, "hq", **self.options)

    def keys(self, unit: str) -> UnitFiles:
        return UnitFiles(self.folder / unit)

    def request(self, unit: str) -> bytes:
        token = units.new_token(self.site, unit, clock=self.clock)
        return new_unit_request(self.keys(unit).folder, "hq", unit, token)

    def enrol(self, unit: str, **options: object) -> UnitFiles:
        answer = units.add_unit(self.site, self.request(unit), **self.options, **options)
        assert install(self.keys(unit).folder, answer, clock=self.clock) == unit
        return self.keys(unit)

    def event_key(self, unit: str) -> UnitKey:
        return UnitKey.load(self.keys(unit).event_key)


def listed_units(folder: Path) -> TrustedUnits:
    """The site's signed list of units, read as a subscriber does."""
    files = SiteFiles(folder)
    return TrustedUnits.from_signed(files.trust.read_bytes(), load_public_key(files.site_jwk))


def let_in(folder: Path, number: int, *, clock: Clock = SYSTEM_CLOCK) -> None:
    """So many more units that speak for ``access``, as records: the list follows from them, whoever writes it next."""
    for at in range(number):
        made = UnitRecord(
            version=1,
            unit=f"hall-{at}",
            revoked=False,
            audiences=("access",),
            keys=(UnitKeyEntry(jwk=UnitKey.generate().public_jwk(), status="active"),),
            seal_jwk={},
            tls_key="",
            certificates=(),
        )
        save(SiteFiles(folder).unit(made.unit), made)
    with changing(folder, clock=clock, needs_root=False):
        pass  # an act first completes what is not written yet
