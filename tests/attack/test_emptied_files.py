# SPDX-License-Identifier: Apache-2.0
"""A power cut, a card or a hand leaves a file of a unit that has lived empty, without one set bit, or not there at all.

That is damage and no first start: nobody is matched, no number is signed twice, nothing is destroyed on its word, and
what waiting does not mend is not tried for ever.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from agent.audit.chain import verify_log
from agent.disk.files import write_atomic
from agent.errors import NEEDS_A_HUMAN, KeyStoreError, PosternError
from agent.outbox.draft import make_unit
from agent.unit.cards import card_numbers
from agent.unit.forget import owner_of
from agent.unit.key_files import UnitFiles
from agent.unit.tokens import load_token_key
from tests.attack.test_restored_files import FILES, Unit

LEFT: dict[str, Callable[[int], bytes | None]] = {"empty": lambda _: b"", "zeros": bytes, "gone": lambda _: None}
KEPT = sorted(itertools.chain(*FILES.values()))
BESIDE = ("-wal", "-shm")  # what SQLite has in a file of its own goes with it


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    return Unit(tmp_path)


def leave(unit: Unit, name: str, how: str) -> None:
    path = unit.folder / name
    content = LEFT[how](path.stat().st_size)
    for side in BESIDE:
        path.with_name(path.name + side).unlink(missing_ok=True)
    path.unlink() if content is None else path.write_bytes(content)


@pytest.mark.parametrize("how", LEFT)
@pytest.mark.parametrize("name", KEPT)
def test_a_file_of_a_unit_that_has_lived_is_damaged_and_none_of_a_first_start(unit: Unit, name: str, how: str) -> None:
    before = verify_log(unit.config.audit.path)
    assert before.personal
    assert before.erased
    leave(unit, name, how)
    for _ in range(2):  # and a start makes nothing of it that the next one believes
        try:
            with unit.open() as stores:
                assert stores.generation.doubted(), "nobody is matched until the site has looked"
                assert unit.confirming(stores).asks() == ("files",)
                assert stores.counter.last >= 20, "no command is done twice"
                stores.outbox.append(make_unit("started", now=unit.clock.now(), clock="synced"))
                assert stores.outbox.head().seq > unit.head.seq, "no number is signed twice"
        except PosternError as error:
            refused = error
        else:
            continue
        assert refused.exit_status == NEEDS_A_HUMAN
        assert str(refused).count("\n") == 0
        assert ": " in str(refused), "what to do"
    if name != "audit.log":
        after = verify_log(unit.config.audit.path)
        assert after.personal >= before.personal, "who consented is not forgotten for an empty gallery"
        assert after.erased == before.erased


@pytest.mark.parametrize(("name", "how"), [("outbox.db", "empty"), ("outbox.db", "gone"), ("commands.json", "gone")])
def test_what_is_lost_again_before_the_site_has_looked_takes_no_number_twice(unit: Unit, name: str, how: str) -> None:
    events, commands = [unit.head.seq], [20]
    for _ in range(3):
        leave(unit, name, how)
        with unit.open() as stores:
            assert stores.generation.doubted()
            assert stores.counter.last >= commands[-1]
            events.append(stores.outbox.append(make_unit("started", now=unit.clock.now(), clock="synced")))
            stores.counter.advance(stores.counter.last + 5)
            commands.append(stores.counter.last)
    assert sorted(set(events)) == events
    assert sorted(set(commands)) == commands


@pytest.mark.parametrize("how", LEFT)
def test_what_waits_about_a_person_is_found_whatever_became_of_the_key_of_its_marks(unit: Unit, how: str) -> None:
    leave(unit, "owner.key", how)
    with unit.open() as stores:
        assert stores.outbox.erase(owner_of(unit.people[1])) == 1


@pytest.mark.parametrize("how", ["empty", "zeros"])
@pytest.mark.parametrize(
    ("name", "read"), [("card.key", lambda files: card_numbers(files, bytes)), ("token.key", load_token_key)]
)
def test_a_key_that_a_power_cut_left_is_no_key(
    tmp_path: Path, name: str, read: Callable[[UnitFiles], object], how: str
) -> None:
    """By zeros every unit would give the same card numbers, and anybody would open a token."""
    path = tmp_path / name
    write_atomic(path, bytes(range(32)))
    read(UnitFiles(tmp_path))
    path.write_bytes(LEFT[how](32) or b"")
    with pytest.raises(KeyStoreError, match="damaged"):
        read(UnitFiles(tmp_path))


@pytest.mark.parametrize("name", ["gallery.db", "outbox.db", "rights.db"])
def test_a_store_of_a_version_to_come_is_not_opened_for_ever(unit: Unit, name: str) -> None:
    with closing(sqlite3.connect(unit.folder / name)) as store:
        store.execute("PRAGMA user_version = 99")
    before = (unit.folder / name).read_bytes()
    with pytest.raises(PosternError, match="version") as refused, unit.open():
        pass
    assert refused.value.exit_status == NEEDS_A_HUMAN
    assert (unit.folder / name).read_bytes() == before
