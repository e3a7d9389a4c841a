# SPDX-License-Identifier: Apache-2.0
"""Where packs lie; imports nothing that has to be installed, so a wrong name is refused before anything is."""

from __future__ import annotations

from pathlib import Path

from agent.errors import ConfigError, printable

PACKS = Path(__file__).parents[3] / "models" / "packs"


def find_pack(named: str) -> Path:
    """The file of the pack called ``named`` in ``models/packs``, or the one of that name; ConfigError for none."""
    path = Path(named) if named.endswith(".yaml") else PACKS / f"{named}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PACKS.glob("*.yaml")))
        raise ConfigError(
            f"there is no pack {printable(named)!r}; there are {known}, or name a file that ends in .yaml"
        )
    return path
