# SPDX-License-Identifier: Apache-2.0
"""The power may fail at any write: the gallery opens, keeps its promises, and finishes what it had begun to erase.

A real life of a gallery is recorded write by write and cut after each of them, with what was not yet
fsynced kept, lost or torn. Set POSTERN_EXHAUSTIVE=1 to try every step with more mixtures.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from agent.clock import SimulatedClock
from agent.errors import ConsentError
from agent.gallery.store import GalleryStore
from tests.simulators.gallery_life import MODEL, captures, consent, open_store
from tests.simulators.power import Crash, Step, crashes, record

EXHAUSTIVE = os.environ.get("POSTERN_EXHAUSTIVE") == "1"


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    """What a gallery's life does to its files."""
    work = tmp_path_factory.mktemp("record")
    (work / "living").mkdir()
    return record(["-m", "tests.simulators.gallery_life", str(work / "living")], work / "living", work)


def test_power_cut_at_any_write_keeps_every_promise(work: Path, steps: list[Step]) -> None:
    keks = {step.data[4:].decode() for step in steps if step.data.startswith(b"kek ")}
    assert len([s for s in steps if s.op == "fsync"]) > 50, "the record shows no writes: is the recorder loaded?"
    assert len(keks) >= 5, "each erasure makes a new key"

    every, torn = (1, 6) if EXHAUSTIVE else (7, 1)
    tried = 0
    for crash in crashes(steps, seed=1, every=every, torn=torn):
        folder = work / "crashed"
        crash.restore(folder)
        _check(crash, folder, keks)
        tried += 1
    assert tried > 150


def test_a_wish_to_erase_that_reached_the_disk_is_carried_out_by_the_next_start(work: Path, steps: list[Step]) -> None:
    wishes = [(at, step.data[6:].decode()) for at, step in enumerate(steps) if step.data.startswith(b"begin ")]
    for begun, subject in wishes[:2]:
        committed = next(
            i for i in range(begun, len(steps)) if (steps[i].op, steps[i].a) == ("unlink", "gallery.db-journal")
        )
        durable = next(i for i in range(committed, len(steps)) if (steps[i].op, steps[i].a) == ("fsync", "."))
        for crash in crashes(steps[: durable + 1], seed=1, every=durable + 1):
            crash.restore(work / "crashed")
            with open_store(work / "crashed", SimulatedClock()) as store:
                assert [one.receipt.reason for one in store.take_erased()] == ["withdrawn"], crash.kind
                assert bytes.fromhex(subject) not in {h.subject for h in store.list()}


def _check(crash: Crash, folder: Path, keks: set[str]) -> None:
    where = f"step {crash.step}, {crash.kind}"
    present, asked, erased, newest = _promises(crash)
    # What was promised gone is gone from the disk as it lies there, before any program repairs anything...
    for subject in erased:
        assert subject not in b"".join(crash.files.values()), where
    if newest and not asked:
        for kek in keks - {newest} - _later(crash, keks):
            assert bytes.fromhex(kek) not in b"".join(crash.files.values()), where

    clock = SimulatedClock()
    (folder / "time.json").unlink(missing_ok=True)  # it knows of later days than this clock, and withholds by them
    with open_store(folder, clock) as store:
        held = {bytes(h.subject) for h in store.list()}
        assert present - asked <= held, where  # nothing that was promised is lost
        assert not held & erased, where  # nothing erased comes back
        assert not store.damaged, where
        assert set(store.references(MODEL).subjects) == held, where
        assert np.allclose(np.linalg.norm(store.references(MODEL).matrix, axis=1), 1, atol=1e-5), where
        # ...and after opening, what was asked for is either wholly there or wholly gone.
        bytes_now = _all_bytes(folder)
        assert not any(s in bytes_now for s in (asked | present) - held), where
        kek_files = sorted(p.name for p in folder.iterdir() if "kek" in p.name)
        assert kek_files == ["kek"], where
        assert not list(folder.glob("*-journal")), where
        for paper in (text[6:] for text in crash.marks if text.startswith("paper ")):
            with pytest.raises(ConsentError):  # one that was used is so also while, and after, its reference goes
                store.admit(consent(clock.now(), evidence_digest=f"sha256:{paper}"))
        _still_works(store, clock)
    assert sum(bytes.fromhex(kek) in _all_bytes(folder) for kek in keks) == 0, (
        where
    )  # _still_works replaced the last one


def _promises(crash: Crash) -> tuple[set[bytes], set[bytes], set[bytes], str]:
    """Subjects enrolled, subjects asked to be erased and not yet promised gone, subjects promised gone, newest KEK."""
    present: set[bytes] = set()
    asked: set[bytes] = set()
    erased: set[bytes] = set()
    newest = ""
    for text in crash.marks:
        event, value = (text + " ").split(" ")[:2]
        if event == "kek":
            newest = value
            continue
        subject = bytes.fromhex(value)
        if event == "enrolled":
            present.add(subject)
        elif event == "begin":
            asked.add(subject)
        elif event == "erased":
            present.discard(subject)
            asked.discard(subject)
            erased.add(subject)
    return present, asked, erased, newest


def _later(crash: Crash, keks: set[str]) -> set[str]:
    """Keys that had not been promised to be in force yet: the next one may be on the disk beside the present one."""
    return keks - {text.removeprefix("kek ") for text in crash.marks if text.startswith("kek ")}


def _still_works(store: GalleryStore, clock: SimulatedClock) -> None:
    rng = np.random.default_rng(1)
    subject = store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL)
    assert store.erase(subject).reason == "withdrawn"


def _all_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
