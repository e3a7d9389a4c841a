# SPDX-License-Identifier: Apache-2.0
"""An operator's desk: a broker, a site's key, a list of units, and units that answer whatever they are told to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from agent.keys import SigningKey, UnitKey, decode_base64url
from agent.protocol.trust import TrustedUnits, TrustList, UnitKeyEntry
from tests.simulators.broker import RealBroker
from tests.simulators.unit_on_broker import UnitOnBroker

Answer = Callable[[str, bytes], bytes | None]  # verb and request; what goes out on the response topic


def site_list(units: dict[str, UnitKey], site: str = "hq") -> TrustList:
    """What the site signs about these units."""
    entries = {name: (UnitKeyEntry(jwk=key.public_jwk(), status="active"),) for name, key in units.items()}
    return TrustList(version=1, site=site, serial=1, issued_at="2026-01-05T08:00:00Z", units=entries)


def trusting(units: dict[str, UnitKey], site: str = "hq") -> TrustedUnits:
    """Whoever believes these units."""
    return TrustedUnits(site_list(units, site))


def write_trust(folder: Path, site_key: SigningKey, listed: TrustList) -> None:
    """The public files of a site in a program's folder: ``site.jwk`` and ``trust.jws``."""
    (folder / "site.jwk").write_text(json.dumps(site_key.public_jwk()))
    (folder / "trust.jws").write_text(listed.sign(site_key))


def read_command(request: bytes) -> dict[str, Any]:
    """What a broker reads in a command that passes through it."""
    content: dict[str, Any] = json.loads(decode_base64url(request.split(b".")[1].decode()))
    return content


class Desk:
    """``words`` are the options of 'postern ask' and 'postern withdraw' here."""

    def __init__(self, folder: Path, broker: RealBroker, units: Iterable[str] = ("door-1", "door-2")) -> None:
        self.folder, self.broker = folder, broker
        self.site_key = SigningKey.generate()
        self.keys = {unit: UnitKey.generate() for unit in units}
        self.started: list[UnitOnBroker] = []
        program = folder / "operator"
        program.mkdir()
        files = broker.authority.issue("operator")
        for source, name in ((files.ca, "ca.crt"), (files.certificate, "tls.crt"), (files.key, "tls.key")):
            shutil.copy(source, program / name)
        self.site_key.save(folder / "site.key")
        write_trust(program, self.site_key, site_list(self.keys))
        place = ["--broker", "127.0.0.1", "--port", str(broker.port), "--site", "hq", "--keys", str(program)]
        self.words = [*place, "--site-key", str(folder / "site.key")]

    def start(self, unit: str, answer: Answer) -> UnitOnBroker:
        """A unit that answers so; it is what a broker can make of any unit."""
        folder = self.folder / f"{unit}-{len(self.started)}"
        folder.mkdir()
        credentials = self.broker.authority.issue(unit)
        made = UnitOnBroker(folder, self.broker.settings(credentials), unit, on_request=answer)
        made.start()
        self.started.append(made)
        return made

    def stop(self) -> None:
        for unit in self.started:
            unit.uplink.stop()
