# SPDX-License-Identifier: Apache-2.0
"""Two bridges with one certificate put each other out: both say so in one sentence, and neither loses an event."""

from __future__ import annotations

import secrets
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from agent.bridge.service import Bridge
from agent.bridge.settings import load_settings
from agent.clock import Clock, SystemClock
from agent.mqtt.lasting import TWICE
from tests.fault.test_bridge_killed import Premises
from tests.simulators.broker import PATIENCE_S, wait_until


class Running:
    """A bridge in this process, with the archive that it writes."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.told: list[str] = []
        self._archive = folder / "archive.db"
        settings, clock = load_settings(folder / "bridge.yaml"), clock or SystemClock()
        self._bridge = Bridge(settings, clock=clock, random=secrets.token_bytes, on_notice=self.told.append)
        self._thread = threading.Thread(target=self._bridge.run)
        self._thread.start()

    def heard(self, words: str) -> bool:
        return any(words in told for told in self.told)

    def archived(self, kind: str = "match") -> list[tuple[str, int]]:
        connection = sqlite3.connect(self._archive, timeout=10)
        try:
            return list(connection.execute("SELECT unit, seq FROM postern_record WHERE kind = ?", [kind]))
        except sqlite3.OperationalError:  # no table yet
            return []
        finally:
            connection.close()

    def stop(self) -> None:
        self._bridge.stop()
        self._thread.join(2 * PATIENCE_S)
        assert not self._thread.is_alive()


@pytest.mark.broker
@pytest.mark.timeout(240)
def test_two_bridges_with_one_certificate_say_so_once_and_lose_nothing(tmp_path: Path) -> None:
    premises, twin = Premises(tmp_path), tmp_path / "twin"
    running: list[Running] = []
    try:
        shutil.copytree(premises.folder, twin)
        for file in (premises.folder / "bridge.yaml", twin / "bridge.yaml"):
            file.write_text(file.read_text().replace(str(premises.folder), str(file.parent)))
        left = Running(premises.folder)
        running.append(left)
        wait_until(lambda: left.heard("listening"), 2 * PATIENCE_S)
        for unit in premises.units:
            unit.report_health()
            unit.start()
            unit.say()  # of a unit that was never heard, nothing says what is missing
        wait_until(lambda: len(left.archived()) == len(premises.units))
        running.append(Running(twin))

        def both_know() -> bool:
            premises.units[0].say()
            return all(one.heard(TWICE) for one in running)

        wait_until(both_know, 8 * PATIENCE_S, every_s=0.2)
        running.pop().stop()
        for unit in premises.units:
            unit.say(2)
        signed = premises.signed()
        wait_until(lambda: set(left.archived()) == signed, 8 * PATIENCE_S)
        assert len(left.archived()) == len(signed), "twice in the database"
        assert sum(TWICE in told for told in left.told) == 1, "one sentence, however long it lasts"
        assert len(left.archived("notice")) <= len(left.told), "not a record in every output for each turn"
    finally:
        for one in running:
            one.stop()
        premises.close()
