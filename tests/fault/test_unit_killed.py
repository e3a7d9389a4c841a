# SPDX-License-Identifier: Apache-2.0
"""kill -9 anywhere in a life of enrolling, matching, publishing and erasing; ``tools/rig kills`` is the long form."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent.clock import SimulatedClock
from agent.config.schema import Config
from agent.keys import UnitKey
from tests.simulators.signing_unit import match_draft
from tools.lib.rig.kills import open_books, opened, run, write_config

KILLS = 8


def made(folder: Path) -> tuple[Config, UnitKey]:
    """A unit's configuration in ``folder``, with its key."""
    key = UnitKey.generate()
    key.save(folder / "unit.key")
    return write_config(folder), key


@pytest.mark.timeout(180)
def test_killed_while_it_enrols_matches_publishes_or_erases_it_keeps_every_promise(tmp_path: Path) -> None:
    books = run(tmp_path, KILLS, seed=3)
    assert books.wrong == []
    assert books.did["signed"] >= KILLS, "the workers hardly worked"
    assert books.did["enrolled"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            'replace(CAST(payload AS TEXT), \'"zone":"door"\', \'"zone":"dove"\')',
            "event 2 was refused as bad_signature",
        ),
        ("substr(payload, 1, 40)", "40 bytes were published that are no event"),
        ("'[1, 2]'", "6 bytes were published that are no event"),
    ],
)
def test_an_altered_event_is_counted_in_the_books_and_does_not_end_them(
    tmp_path: Path, change: str, complaint: str
) -> None:
    config, key = made(tmp_path)
    with opened(config) as stores:
        for _ in range(3):
            stores.outbox.append(match_draft(SimulatedClock()))
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as database, database:
        database.execute(f"UPDATE event SET payload = CAST({change} AS BLOB) WHERE seq = 2")
    books = open_books(key)
    books.close(config)
    assert books.did["refused"] == 1
    assert len(books.wrong) == 2
    assert books.wrong[0].startswith(complaint)
    assert books.wrong[1] == "1 signed events never came and nobody owned up to them"
    assert sorted(books.published) == [1, 3]


def test_an_event_that_a_worker_altered_on_its_way_is_a_line_in_the_books(tmp_path: Path) -> None:
    config, key = made(tmp_path)
    books = open_books(key)
    with opened(config) as stores:
        books.note(f"signed {stores.outbox.append(match_draft(SimulatedClock()))}")
        (row,) = stores.outbox.pending(1)
    sent = row.payload.decode()
    books.note("published " + sent.replace('"door"', '"dove"'))
    assert books.did["refused"] == 1
    assert "bad_signature" in books.wrong[0]
    books.note("published " + sent)
    assert sorted(books.published) == [1]
