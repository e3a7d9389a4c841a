# SPDX-License-Identifier: Apache-2.0
"""Which mandate of the site's service counts at this unit: the one with the highest number that it saw, for ever."""

from __future__ import annotations

from pathlib import Path

from agent.protocol.grant import check_number
from agent.protocol.names import Sequence
from agent.protocol.record import Record, load, save


class SeenMandate(Record, frozen=True):
    """``mandate.json``."""

    number: Sequence


def take_mandate(path: Path, number: int) -> None:
    """Remember ``number`` durably where it is the highest; VerificationError ``superseded`` where a higher one is."""
    highest = load(path, SeenMandate).number if path.exists() else 0
    check_number(number, highest)
    if number > highest:
        save(path, SeenMandate(number=number))
