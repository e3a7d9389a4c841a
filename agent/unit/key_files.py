# SPDX-License-Identifier: Apache-2.0
"""Where the keys of a unit lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class UnitFiles:
    """Where the keys of a unit lie. ``waiting`` holds the new ones until the site has answered."""

    folder: Path

    @property
    def event_key(self) -> Path:
        return self.folder / "unit.key"

    @property
    def tls_key(self) -> Path:
        return self.folder / "tls.key"

    @property
    def seal_key(self) -> Path:
        return self.folder / "seal.key"

    @property
    def tls_crt(self) -> Path:
        return self.folder / "tls.crt"

    @property
    def ca_crt(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def site_jwk(self) -> Path:
        return self.folder / "site.jwk"

    @property
    def epoch_keys(self) -> Path:
        return self.folder / "epoch-keys.json"

    @property
    def waiting(self) -> UnitFiles:
        return UnitFiles(self.folder / "waiting")

    @property
    def pending(self) -> Path:
        return self.folder / "pending.json"
