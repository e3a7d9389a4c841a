# SPDX-License-Identifier: Apache-2.0
"""A unit that signs, and a subscriber that trusts it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.subscribe.verify import Verifier
from tests.simulators.signing_unit import SigningUnit, verifier_of


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[SigningUnit]:
    made = SigningUnit(tmp_path / "outbox.db")
    yield made
    made.outbox.close()


@pytest.fixture
def verifier(unit: SigningUnit) -> Verifier:
    return verifier_of(unit)
