# SPDX-License-Identifier: Apache-2.0
"""What the broker took and is said again: which numbers, how many in one answer, for how long, and of whom no more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from agent.outbox import kept
from agent.outbox.kept import KEPT_BYTES, TOLD_BYTES, TOLD_GAPS, TOLD_ROWS, Told, tell
from agent.outbox.storage import OutboxFile


@pytest.fixture
def db(tmp_path: Path) -> Iterator[OutboxFile]:
    opened = OutboxFile(tmp_path / "outbox.db")
    yield opened
    opened.close()


def wait(db: OutboxFile, payloads: Mapping[int, bytes], owner: bytes | None = None) -> None:
    """Rows of the queue."""
    with db.commit(durable=False) as connection:
        connection.executemany(
            "INSERT INTO event (seq, kind, payload, run, created_ns, created, owner) VALUES (?, ?, ?, '', 0, '', ?)",
            [(seq, "unit", payload, owner) for seq, payload in payloads.items()],
        )


def take(
    db: OutboxFile, payloads: Mapping[int, bytes], at_s: int = 0, *, owner: bytes | None = None, most_rows: int = 10**6
) -> None:
    """Rows that the broker took at ``at_s``."""
    wait(db, payloads, owner)
    with db.commit(durable=False) as connection:
        kept.keep(connection, list(payloads), at_s, most_rows=most_rows)
        connection.executemany("DELETE FROM event WHERE seq=?", [(seq,) for seq in payloads])


def numbers(db: OutboxFile) -> list[int]:
    return [seq for (seq,) in db.rows("SELECT seq FROM kept ORDER BY seq")]


def test_what_is_at_hand_is_told_in_order_what_is_gone_by_its_ranges_and_what_waits_by_neither(db: OutboxFile) -> None:
    take(db, {3: b"three", 4: b"four", 8: b"eight"})
    wait(db, {9: b"nine"})
    assert tell(db, 1, 9) == Told(9, (b"three", b"four", b"eight"), ((1, 2), (5, 7)))
    assert tell(db, 3, 4) == Told(4, (b"three", b"four"), ())
    assert tell(db, 4, 4) == Told(4, (b"four",), ())
    assert tell(db, 4, 5) == Told(5, (b"four",), ((5, 5),))
    assert tell(db, 8, 12) == Told(12, (b"eight",), ((10, 12),))
    assert tell(db, 5, 7) == Told(7, (), ((5, 7),))
    assert tell(db, 9, 9) == Told(9, (), ()), "it waits for the broker"
    assert tell(db, 9, 8) == Told(8, (), ())


def test_an_answer_holds_so_many_bytes_and_the_next_goes_on_from_there(db: OutboxFile) -> None:
    take(db, {1: bytes(TOLD_BYTES - 100), 2: bytes(100), 3: b"c"})
    assert [len(event) for event in tell(db, 1, 3).events] == [TOLD_BYTES - 100, 100], "to the last byte"
    assert tell(db, 1, 3).through == 2
    assert tell(db, 3, 3) == Told(3, (b"c",), ())
    take(db, {5: bytes(TOLD_BYTES), 7: b"g"})
    assert tell(db, 4, 7) == Told(5, (bytes(TOLD_BYTES),), ((4, 4),)), "a gap beyond what fits is not told"
    assert tell(db, 6, 7) == Told(7, (b"g",), ((6, 6),))


def test_an_answer_holds_so_many_gaps_and_the_next_goes_on_from_there(db: OutboxFile) -> None:
    every_second = {2 * number: b"x" for number in range(1, TOLD_GAPS + 2)}
    gaps = tuple((2 * number - 1, 2 * number - 1) for number in range(1, TOLD_GAPS + 1))
    take(db, every_second)
    assert tell(db, 1, 2 * TOLD_GAPS) == Told(2 * TOLD_GAPS, (b"x",) * TOLD_GAPS, gaps)
    for last in (2 * TOLD_GAPS + 1, 2 * TOLD_GAPS + 2):  # a gap more: behind the last row, and before one
        assert tell(db, 1, last) == Told(2 * TOLD_GAPS, (b"x",) * TOLD_GAPS, gaps), last
        assert tell(db, 2 * TOLD_GAPS + 1, last).gone == ((2 * TOLD_GAPS + 1, 2 * TOLD_GAPS + 1),)


@pytest.mark.parametrize("rows", [TOLD_ROWS - 1, TOLD_ROWS, TOLD_ROWS + 1])
def test_an_answer_looks_at_so_many_rows_and_says_nothing_of_the_others(db: OutboxFile, rows: int) -> None:
    take(db, dict.fromkeys(range(2, rows + 2), b"x"))
    told = tell(db, 1, rows + 10)
    assert told.gone[0] == (1, 1)
    assert len(told.events) == min(rows, TOLD_ROWS)
    if rows < TOLD_ROWS:
        assert (told.through, told.gone[1:]) == (rows + 10, ((rows + 2, rows + 10),))
    else:
        assert (told.through, told.gone[1:]) == (TOLD_ROWS + 1, ())


def test_the_oldest_give_way_by_rows_and_by_bytes(db: OutboxFile) -> None:
    take(db, dict.fromkeys(range(1, 6), b"x"), most_rows=5)
    assert numbers(db) == [1, 2, 3, 4, 5]
    take(db, {6: b"x", 7: b"x"}, most_rows=5)
    assert numbers(db) == [3, 4, 5, 6, 7]
    take(db, {8: bytes(KEPT_BYTES - 2)})
    assert numbers(db) == [6, 7, 8], "to the last byte"
    take(db, {9: bytes(KEPT_BYTES + 1)})
    assert numbers(db) == []


def test_a_number_is_kept_once_and_only_while_it_is_in_the_queue(db: OutboxFile) -> None:
    wait(db, {1: b"x"})
    with db.commit(durable=False) as connection:
        for seq in (1, 1, 2):
            kept.keep(connection, [seq], 0, most_rows=9)
    assert numbers(db) == [1]


def test_what_was_taken_before_a_time_is_removed_and_nothing_else(db: OutboxFile) -> None:
    take(db, {1: b"x"}, 99)
    take(db, {2: b"x"}, 100)
    take(db, {3: b"x"}, 101)
    assert not kept.expire(db, 99)
    assert kept.expire(db, 100)
    assert numbers(db) == [2, 3]
    assert not kept.expire(db, 100)
    assert kept.expire(db, 102)
    assert numbers(db) == []


def test_who_is_erased_is_told_no_more_and_everybody_else_is(db: OutboxFile) -> None:
    for seq, owner in enumerate([b"a", b"b", None, b"a", b"c"], start=1):
        take(db, {seq: b"x"}, owner=owner)
    with db.commit(durable=False) as connection:
        kept.forget(connection, {b"a", b"c", None})
    assert numbers(db) == [2, 3], "what is about nobody stays"
    assert tell(db, 1, 5).gone == ((1, 1), (4, 5))
