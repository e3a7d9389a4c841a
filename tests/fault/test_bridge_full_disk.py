# SPDX-License-Identifier: Apache-2.0
"""A bridge whose disk is full: one sentence, outputs go on with what they have, and nothing is lost."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.bridge.service import Bridge
from agent.bridge.settings import load_settings
from agent.clock import SystemClock
from tests.fault.test_bridge_killed import Premises
from tests.simulators.broker import PATIENCE_S, wait_until

pytestmark = pytest.mark.broker
ROOMY = 100_000  # pages


@pytest.fixture
def premises(tmp_path: Path) -> Iterator[Premises]:
    premises = Premises(tmp_path)
    yield premises
    premises.close()


class Running:
    """A bridge in this process, so that SQLite can be told how large its files may become."""

    def __init__(self, premises: Premises) -> None:
        self.told: list[str] = []
        settings = load_settings(premises.folder / "bridge.yaml")
        self.bridge = Bridge(settings, clock=SystemClock(), random=secrets.token_bytes, on_notice=self.told.append)
        self._thread = threading.Thread(target=self.bridge.run)
        self._thread.start()

    def limit(self, pages: int) -> None:
        """SQLite says SQLITE_FULL beyond that, as when the disk is full; never below what is there."""
        store = self.bridge.store
        with store._guard:
            store.connection.execute(f"PRAGMA max_page_count = {pages}")

    def stop(self) -> None:
        self.bridge.stop()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


def test_disk_that_is_full_once_more_is_told_once_more(premises: Premises) -> None:
    """Weeks may lie between, and whoever read the first sentence has long freed space."""
    running, unit = Running(premises), premises.units[0]

    def fills() -> int:
        unit.say(40)
        return sum("full" in told for told in running.told)

    try:
        wait_until(lambda: any("listening" in told for told in running.told))
        unit.start()
        running.limit(1)
        wait_until(fills, 2 * PATIENCE_S, every_s=1)
        running.limit(ROOMY)
        signed = premises.signed()
        wait_until(lambda: set(premises.receiver.events()) >= signed, 6 * PATIENCE_S)
        before = sum("full" in told for told in running.told)
        running.limit(1)
        wait_until(lambda: fills() > before, 2 * PATIENCE_S, every_s=1)
        running.limit(ROOMY)
    finally:
        running.stop()


def test_full_disk_is_one_sentence_and_loses_nothing(premises: Premises) -> None:
    running = Running(premises)
    try:
        wait_until(lambda: any("listening" in told for told in running.told))
        for unit in premises.units:
            unit.start()
            unit.say(3)
        before = premises.signed()
        wait_until(lambda: set(premises.receiver.events()) >= before)
        running.limit(1)
        for _ in range(12):
            for unit in premises.units:
                unit.say(8)
        wait_until(lambda: any("full" in told for told in running.told), 2 * PATIENCE_S)
        wait_until(lambda: not any(unit.outbox.depth() for unit in premises.units))
        assert len(premises.receiver.events()) < len(premises.signed()), "the disk was never full"
        running.limit(ROOMY)
        signed = premises.signed()
        wait_until(lambda: set(premises.receiver.events()) >= signed, 6 * PATIENCE_S)
        wait_until(lambda: {(unit, seq) for unit, seq, _ in premises.archived()} >= signed, 4 * PATIENCE_S)
    finally:
        running.stop()
    assert len(premises.archived()) == len(signed), "twice in the database"
    full = [told for told in running.told if "full" in told]
    assert len(full) <= 2, "one sentence from whoever met it, however long it lasts"
    assert all("\n" not in told for told in running.told)
