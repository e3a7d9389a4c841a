# SPDX-License-Identifier: Apache-2.0
"""Attacks by somebody who can write the gallery's file, but does not hold the key-encryption key."""

from __future__ import annotations

import secrets
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agent.clock import SimulatedClock
from agent.embed.records import Embedding
from agent.errors import KeyStoreError, StorageError
from agent.gallery.keyring import FileKeyring
from agent.gallery.vault import Vault
from agent.match.compare import compare
from agent.protocol.subject import SubjectId
from tests.simulators.gallery_life import MODEL, OTHER_MODEL, UNIT, captures, consent, open_store, unit_vector


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture
def people(tmp_path: Path, clock: SimulatedClock) -> dict[str, tuple[SubjectId, np.ndarray]]:
    """A gallery of three, and who they are."""
    rng = np.random.default_rng(0)
    found = {}
    with open_store(tmp_path, clock) as store:
        for name in ("anna", "bo", "cy"):
            person = unit_vector(rng)
            found[name] = (store.enrol(captures(rng, person), consent=consent(clock.now()), model=MODEL), person)
    return found


def tamper(folder: Path, *statements: tuple[str, tuple]) -> None:
    connection = sqlite3.connect(folder / "gallery.db")
    with connection:
        for statement, parameters in statements:
            assert connection.execute(statement, parameters).rowcount != 0, "the attack hit nothing"
    connection.close()


def read(folder: Path, query: str, *parameters: object) -> tuple:
    connection = sqlite3.connect(folder / "gallery.db")
    row = connection.execute(query, parameters).fetchone()
    connection.close()
    return row


def swap(folder: Path, table: str, columns: list[str], a: SubjectId, b: SubjectId) -> None:
    """Exchange ``columns`` of two subjects."""
    names = ", ".join(columns)
    of_a, of_b = (read(folder, f"SELECT {names} FROM {table} WHERE subject=?", s) for s in (a, b))
    assign = ", ".join(f"{c}=?" for c in columns)
    tamper(
        folder,
        (f"UPDATE {table} SET {assign} WHERE subject=?", (*of_b, a)),
        (f"UPDATE {table} SET {assign} WHERE subject=?", (*of_a, b)),
    )


@pytest.mark.parametrize(
    "swaps",
    [
        [("subjects", ["template"])],
        [("keys", ["wrapped"])],
        [("subjects", ["template"]), ("keys", ["wrapped"])],
        [("subjects", ["template", "record", "expires_at"]), ("keys", ["wrapped"])],
    ],
)
def test_a_template_put_in_another_persons_place_is_refused(tmp_path, clock, people, swaps) -> None:
    (anna, face), (bo, _), (cy, _) = people.values()
    for table, columns in swaps:
        swap(tmp_path, table, columns, anna, bo)
    with open_store(tmp_path, clock) as store:
        assert store.references(MODEL).subjects == (cy,)
        assert store.damaged == {anna, bo}
        found = compare(Embedding(face, MODEL), store.references(MODEL))
        assert found is not None
        assert found.score < 0.35


def test_a_consent_put_in_another_persons_place_is_refused(tmp_path, clock, people) -> None:
    (anna, _), (bo, _), (cy, _) = people.values()
    swap(tmp_path, "subjects", ["record"], anna, bo)
    with open_store(tmp_path, clock) as store:
        assert [h.subject for h in store.list()] == [cy]


@pytest.mark.parametrize("column", ["template", "record"])
def test_every_altered_byte_is_found(tmp_path, clock, people, column) -> None:
    anna, _ = people["anna"]
    (good,) = read(tmp_path, f"SELECT {column} FROM subjects WHERE subject=?", anna)
    for at in range(0, len(good), 41):
        bad = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        tamper(tmp_path, (f"UPDATE subjects SET {column}=? WHERE subject=?", (bad, anna)))
        with open_store(tmp_path, clock) as store:
            assert (anna in store.references(MODEL).subjects) == (column == "record")
            assert (store.held(anna) is None) == (column == "record")
    for bad in (b"", good[:11], good[:-1], good + b"\0"):
        tamper(tmp_path, (f"UPDATE subjects SET {column}=? WHERE subject=?", (bad, anna)))
        with open_store(tmp_path, clock) as store:
            assert anna not in store.references(MODEL).subjects or store.held(anna) is None


def test_a_template_passed_off_as_another_models_is_refused(tmp_path, clock, people) -> None:
    anna, _ = people["anna"]
    tamper(tmp_path, ("UPDATE subjects SET model=? WHERE subject=?", (OTHER_MODEL, anna)))
    with open_store(tmp_path, clock) as store:
        assert store.references(OTHER_MODEL).subjects == ()
        assert store.damaged == {anna}


def test_a_longer_life_written_into_the_file_is_refused(tmp_path, clock, people) -> None:
    anna, _ = people["anna"]
    tamper(tmp_path, ("UPDATE subjects SET expires_at=? WHERE subject=?", ("2099-01-01T00:00:00+00:00", anna)))
    with open_store(tmp_path, clock) as store:
        assert anna not in store.references(MODEL).subjects
        assert store.damaged == {anna}


def test_a_gallery_carried_to_another_unit_with_its_key_is_refused(tmp_path, clock, people) -> None:
    with pytest.raises(StorageError, match="another unit"):
        open_store(tmp_path, clock, unit="door-4")
    tamper(tmp_path, ("UPDATE gallery SET unit=?", ("door-4",)))
    with pytest.raises(StorageError, match="altered"):
        open_store(tmp_path, clock, unit="door-4")  # the secret is bound to its unit, and so is every seal


def test_a_copy_from_before_an_erasure_does_not_bring_anybody_back(tmp_path, clock, people) -> None:
    anna, _ = people["anna"]
    shutil.copy(tmp_path / "gallery.db", tmp_path / "copy")
    with open_store(tmp_path, clock) as store:
        store.erase(anna)
    shutil.copy(tmp_path / "copy", tmp_path / "gallery.db")
    with pytest.raises(KeyStoreError, match="not the key of this gallery"):
        open_store(tmp_path, clock)


def test_a_row_from_before_an_erasure_put_back_into_the_file_is_refused(tmp_path, clock, people) -> None:
    anna, _ = people["anna"]
    row = read(tmp_path, "SELECT * FROM subjects WHERE subject=?", anna)
    key = read(tmp_path, "SELECT * FROM keys WHERE subject=?", anna)
    with open_store(tmp_path, clock) as store:
        store.erase(anna)
    tamper(
        tmp_path,
        (f"INSERT INTO subjects VALUES ({', '.join('?' * len(row))})", row),
        ("INSERT INTO keys VALUES (?, ?)", key),
        ("DELETE FROM tombstones", ()),
    )
    with open_store(tmp_path, clock) as store:
        assert anna not in store.references(MODEL).subjects
        assert store.held(anna) is None
        assert store.damaged == {anna}
        assert store.erase(anna).reason == "withdrawn", "and it can be erased again"


def test_a_consent_freed_in_the_file_is_no_use_to_its_reference(tmp_path, clock, people) -> None:
    anna, _ = people["anna"]
    tamper(tmp_path, ("UPDATE subjects SET consent=randomblob(32) WHERE subject=?", (anna,)))
    with open_store(tmp_path, clock) as store:
        assert anna not in store.references(MODEL).subjects
        assert store.damaged == {anna}


def test_a_reason_of_erasure_that_nobody_wrote_still_erases(tmp_path, clock, people) -> None:
    anna, _ = people["anna"]
    tamper(tmp_path, ("UPDATE subjects SET doomed='nonsense' WHERE subject=?", (anna,)))
    with open_store(tmp_path, clock) as store:
        assert [one.receipt.reason for one in store.take_erased()] == ["withdrawn"]
        assert len(store) == 2


def test_what_a_power_cut_left_to_be_erased_is_not_called_damaged_by_a_look(tmp_path, clock, people) -> None:
    anna, _ = people["anna"]
    tamper(tmp_path, ("UPDATE subjects SET doomed='withdrawn' WHERE subject=?", (anna,)))
    with open_store(tmp_path, clock, look_only=True) as store:
        assert len(store) == len(store.list()) == 2
        assert not store.damaged
        assert anna not in store.references(MODEL).subjects


@pytest.mark.parametrize("column", ["expires_at", "last_used_on", "overdue_since"])
@pytest.mark.parametrize("value", ["", "never", "2026-01-05T08:00:00", "9" * 50])
def test_a_date_that_is_none_is_said_plainly(tmp_path, clock, people, column, value) -> None:
    tamper(tmp_path, (f"UPDATE subjects SET {column}=?", (value,)))
    with pytest.raises(StorageError, match="damaged"):
        open_store(tmp_path, clock)


def test_whoever_holds_the_key_reads_the_gallery_as_the_documentation_says(tmp_path, clock, people) -> None:
    """Not a defence but its limit: a thief with the whole storage has file and key, and the rotation turns back."""
    thief: Callable[[Path], FileKeyring] = lambda folder: FileKeyring(folder / "kek", random=secrets.token_bytes)  # noqa: E731
    with open_store(tmp_path, clock) as store:
        vault = Vault(store._database, keyring=thief(tmp_path), site="hq", unit=UNIT, random=secrets.token_bytes)
        subjects, matrix, _ = vault.references(MODEL, None, size=3, without=frozenset())
    for subject, face in people.values():
        assert float(matrix[subjects.index(subject)] @ face) > 0.9
