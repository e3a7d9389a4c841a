# SPDX-License-Identifier: Apache-2.0
"""Who is erased is found nowhere: every byte that a unit keeps is searched, also after a cut in the middle.

What is searched for is every 64-byte piece of what the unit stored about the person, wherever it was: sealed row,
wrapped key, signature of the waiting event, personal parts of the log; and the ids, the pseudonym and the old key over
all keys, which are shorter.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sqlite3
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from agent.audit.chain import personal_folder
from agent.cli import main
from agent.clock import SimulatedClock, SystemClock
from agent.config.schema import Config
from agent.keys import UnitKey
from agent.protocol.subject import SubjectId, subject_digest
from agent.unit.by_hand import erase
from agent.unit.forget import Forgetting
from tests.simulators.auditor import audited
from tests.simulators.power import crashes, record
from tests.simulators.unit_life import enrol, opened, write_unit

EXHAUSTIVE = os.environ.get("POSTERN_EXHAUSTIVE") == "1"
PIECE = 64  # bytes
HALF = PIECE // 2
SQLITE_PAGE = 4096  # bytes
SQLITE_LEAVES = (0x0A, 0x0D)  # of an index, of a table (sqlite.org/fileformat.html, 1.6)


def pieces(content: bytes) -> set[bytes]:
    """Every piece of ``content``, at any place; all of it when it is shorter."""
    return {content[at : at + PIECE] for at in range(max(len(content) - PIECE, 0) + 1)}


def rows(path: Path, query: str, *parameters: object) -> list[tuple[bytes, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query, parameters).fetchall()


def stored(config: Config, subject: SubjectId) -> set[bytes]:
    """Pieces of all that the unit holds about one person."""
    query = "SELECT template, record, wrapped FROM subjects JOIN keys USING (subject) WHERE subject = ?"
    contents = [part for row in rows(config.gallery.path, query, subject) for part in row]
    digest = subject_digest(subject).removeprefix("sha256:")[:32]
    personal = (personal_folder(config.audit.path) / f"{digest}.jsonl").read_bytes()
    contents += re.findall(rb"[0-9a-f]{64}", personal)  # salts, and the digest of the evidence
    assert len(contents) == 6
    return {piece for content in contents for piece in pieces(content)}


def markers(config: Config, subject: SubjectId, *, others: list[SubjectId], number: int) -> set[bytes]:
    """What must be gone with ``subject``, the owner of the event ``number``; nothing that others have as well."""
    (payload,) = rows(config.outbox.path, "SELECT payload FROM event ORDER BY seq LIMIT 1 OFFSET ?", number)[0]
    event = json.loads(payload)
    own = stored(config, subject) | pieces(event["sig"].split("..")[1].encode())
    elsewhere = {piece for other in others for piece in stored(config, other)}
    kek = (config.keys.folder / "kek").read_bytes()
    return (own - elsewhere) | {subject, subject.hex().encode(), event["data"]["subject"].encode(), kek}


def found(wanted: set[bytes], content: bytes) -> list[bytes]:
    """Those of ``wanted`` that occur anywhere in ``content``.

    Wherever a piece lies, one of the content's blocks of half its length is a part of it: where a block is of no piece,
    as almost everywhere, there is no piece.
    """
    long = frozenset(piece for piece in wanted if len(piece) == PIECE)
    parts = halves(long)
    blocks = (at for at in range(0, len(content) - HALF + 1, HALF) if content[at : at + HALF] in parts)
    there = {content[at : at + PIECE] for block in blocks for at in range(max(block - HALF, 0), block + 1)} & long
    return [*there, *(short for short in wanted - long if short in content)]


@cache
def halves(long: frozenset[bytes]) -> frozenset[bytes]:
    """Half a piece's length, from any place of each."""
    return frozenset(piece[at : at + HALF] for piece in long for at in range(HALF + 1))


def everything(*folders: Path) -> bytes:
    """All files, without the zeros at their ends: the space that the outbox holds back is nothing else."""
    files = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    return b"\0".join(path.read_bytes().strip(b"\0") for path in files)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the unit's files lie, and temporary ones too."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return tmp_path / "unit"


@pytest.mark.timeout(180)
def test_one_of_fifty_who_withdraws_is_found_nowhere(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = folder.parent / "config.yaml"
    config, clock, rng = write_unit(file, folder), SystemClock(), np.random.default_rng(1)
    with opened(config, clock) as stores:
        people = [enrol(stores, config, clock, rng) for _ in range(50)]
    wanted = markers(config, people[7], others=people[:7] + people[8:], number=7)
    before = everything(folder)
    assert len(wanted) > 1000
    assert len(found(wanted, before)) == len(wanted), "the search finds what is there"

    assert main(["rights", "withdraw", people[7].hex(), "-c", str(file)]) == 0
    said = capfd.readouterr()
    after = everything(folder, folder.parent / "tmp") + said.out.encode() + said.err.encode()
    assert found(wanted, after) == []
    for other in people[:7] + people[8:]:
        assert other in after
    with opened(config, clock) as stores:
        assert len(stores.gallery) == 49
        assert stores.outbox.depth() == 50  # 49 matches, and what the unit says about the gap
        assert audited(stores.audit).erased == 2


@pytest.mark.timeout(900 if EXHAUSTIVE else 300)
def test_killed_or_without_power_at_any_moment_of_an_erasure_the_next_start_completes_it(work: Path) -> None:
    living, file = work / "living", work / "config.yaml"
    config = write_unit(file, living)
    keys = {path.name: path.read_bytes() for path in living.iterdir()}
    steps = record(["-m", "tests.simulators.unit_life", str(file), "1"], living, work)
    begun = next(at for at, step in enumerate(steps) if step.data.startswith(b"begin "))
    subject = SubjectId(bytes.fromhex(steps[begun].data[6:].decode()))

    def restore(crash: object) -> None:
        crash.restore(living)  # type: ignore[attr-defined]
        for name, content in keys.items():  # made before the record began
            (living / name).write_bytes(content)
            (living / name).chmod(0o600)

    (before,) = (crash for crash in crashes(steps[:begun], seed=1, every=begun, torn=0) if crash.kind == "kept")
    restore(before)
    with opened(config, SimulatedClock()) as stores:
        people = [held.subject for held in stores.gallery.list()]
    number = next(n for n, held in enumerate(people) if held == subject)
    wanted = markers(config, subject, others=[other for other in people if other != subject], number=number)

    tried = undone = 0
    every, torn = (1, 4) if EXHAUSTIVE else (3, 1)
    for crash in crashes(steps, seed=1, every=every, torn=torn):
        if crash.step <= begun:
            continue
        where = f"step {crash.step}, {crash.kind}"
        restore(crash)
        if any(text.startswith("erased ") for text in crash.marks):
            assert not found(wanted, everything(living)), where
        with opened(config, SimulatedClock()) as stores:
            Forgetting(stores.gallery, stores.outbox, stores.audit, stores.rights).settle()
            assert audited(stores.audit).loose == 0, where
            if stores.gallery.held(subject) is not None:  # the wish had not reached the disk: ask again
                undone += 1
                continue
            assert not found(wanted, everything(living)), where
        assert not found(wanted, everything(living)), where
        tried += 1
    assert tried > 40
    assert undone < tried


def test_an_erasure_that_was_cut_between_gallery_and_outbox_sends_no_event_any_more(folder: Path) -> None:
    config, clock, rng = write_unit(folder.parent / "config.yaml", folder), SimulatedClock(), np.random.default_rng(2)
    with opened(config, clock) as stores:
        people = [enrol(stores, config, clock, rng) for _ in range(3)]
        stores.gallery.erase(people[1])  # and here the process dies
    with opened(config, clock) as stores:
        Forgetting(stores.gallery, stores.outbox, stores.audit, stores.rights).settle()
        kinds = [row.kind for row in stores.outbox.pending(10)]
        assert kinds == ["match", "match", "unit"]
        assert (audited(stores.audit).personal, audited(stores.audit).erased) == (4, 2)


def test_an_event_queued_under_an_earlier_event_key_is_erased_with_its_subject(folder: Path) -> None:
    config, clock, rng = write_unit(folder.parent / "config.yaml", folder), SimulatedClock(), np.random.default_rng(3)
    with opened(config, clock) as stores:
        subject = enrol(stores, config, clock, rng)
    UnitKey.generate().save(folder / "unit.key")
    erase(config, clock, secrets.token_bytes, [subject])
    with opened(config, clock) as stores:
        assert [row.kind for row in stores.outbox.pending(10)] == ["unit"]


def leave_behind(gallery: Path, content: bytes) -> None:
    """Put ``content`` between the cells of each page, as SQLite may when it moves a row to another page."""
    data, before = bytearray(gallery.read_bytes()), gallery.read_bytes()
    for page in range(SQLITE_PAGE, len(data), SQLITE_PAGE):
        cells, first_cell = (int.from_bytes(data[page + at : page + at + 2]) for at in (3, 5))
        room = first_cell - (8 + 2 * cells)
        if data[page] in SQLITE_LEAVES and room > 4 * len(content):
            middle = page + 8 + 2 * cells + room // 2
            data[middle : middle + len(content)] = content
    assert data != before, "no page has room"
    gallery.write_bytes(data)


def test_what_a_row_left_behind_when_it_moved_is_gone_with_its_subject(folder: Path) -> None:
    config, clock = write_unit(folder / "config.yaml", folder / "unit"), SimulatedClock()
    rng = np.random.default_rng(3)
    with opened(config, clock) as stores:
        gone, kept = (enrol(stores, config, clock, rng) for _ in range(2))
    leave_behind(config.gallery.path, gone)
    with opened(config, clock) as stores:
        stores.gallery.erase(gone)
        assert gone not in config.gallery.path.read_bytes()
    assert kept in config.gallery.path.read_bytes()


def test_a_file_that_a_power_cut_kept_from_being_rid_of_them_is_at_the_next_start(folder: Path) -> None:
    config, clock = write_unit(folder / "config.yaml", folder / "unit"), SimulatedClock()
    with opened(config, clock) as stores:
        gone = enrol(stores, config, clock, np.random.default_rng(4))
        stores.gallery.erase(gone)
    with closing(sqlite3.connect(config.gallery.path)) as gallery, gallery:
        gallery.execute("UPDATE gallery SET untidy=1")
    leave_behind(config.gallery.path, gone)
    with opened(config, clock):
        assert gone not in config.gallery.path.read_bytes()


QUIET = """
import sys
import numpy as np
from datetime import timedelta
from pathlib import Path
from agent.clock import SimulatedClock
from agent.unit.forget import Forgetting
from tests.simulators.power import mark
from tests.simulators.unit_life import enrol, opened, write_unit

folder = Path(sys.argv[1])
config, clock = write_unit(folder.parent / "config.yaml", folder), SimulatedClock()
with opened(config, clock) as stores:
    enrol(stores, config, clock, np.random.default_rng(6))
    forgetting = Forgetting(stores.gallery, stores.outbox, stores.audit, stores.rights)
    mark("quiet")
    for _ in range(120):
        clock.advance(1)
        forgetting.sweep(clock.now())
    mark("over")
"""


def test_looks_that_erase_nobody_leave_the_disk_alone(work: Path) -> None:
    living = work / "unit"
    living.mkdir()
    steps = record(["-c", QUIET, str(living)], living, work)
    told = [step.op if step.op != "mark" else step.data.decode() for step in steps]
    assert told[told.index("quiet") :][:2] == ["quiet", "over"]
