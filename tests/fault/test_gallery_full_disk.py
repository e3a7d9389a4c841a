# SPDX-License-Identifier: Apache-2.0
"""The disk is full at any point: nothing half done, a sentence that says what to do, and it recovers without hands."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
from pathlib import Path

import numpy as np
import pytest

from agent.audit.log import AuditLog
from agent.clock import SimulatedClock
from agent.embed.records import Embedding
from agent.errors import StorageError
from agent.match.compare import compare
from agent.protocol.subject import SubjectId
from tests.simulators.auditor import audited
from tests.simulators.full_disk import LIMITS, no_file_grows_beyond
from tests.simulators.gallery_life import MODEL, captures, consent, open_store, unit_vector


@pytest.mark.parametrize("limit", LIMITS)
def test_enrolment_on_a_full_disk_changes_nothing(tmp_path: Path, limit: int) -> None:
    clock, rng = SimulatedClock(), np.random.default_rng(0)
    with open_store(tmp_path, clock) as store:
        subjects = [store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL) for _ in range(12)]
        taken, record = captures(rng), consent(clock.now())
        with no_file_grows_beyond(limit):
            error = _error(lambda: store.enrol(taken, consent=record, model=MODEL))
        assert isinstance(error, StorageError)
        assert "free space" in str(error)
        assert set(store.references(MODEL).subjects) == set(subjects)
        assert store.enrol(taken, consent=record, model=MODEL) in store.references(MODEL).subjects
    with open_store(tmp_path, clock) as store:
        assert len(store.references(MODEL).subjects) == 13


@pytest.mark.parametrize("limit", LIMITS)
def test_a_withdrawal_on_a_full_disk_counts_at_once_and_is_finished_by_the_sweep(tmp_path: Path, limit: int) -> None:
    clock, rng = SimulatedClock(), np.random.default_rng(0)
    with open_store(tmp_path, clock) as store:
        people = [unit_vector(rng) for _ in range(12)]
        subjects = [store.enrol(captures(rng, p), consent=consent(clock.now()), model=MODEL) for p in people]
        in_use = store.references(MODEL)
        with no_file_grows_beyond(limit):
            error = _error(lambda: store.erase(subjects[3]))
        if error is not None:
            assert isinstance(error, StorageError)
        for references in (in_use, store.references(MODEL)):
            found = compare(Embedding(people[3], MODEL), references)
            assert found is not None
            assert found.score < 0.4
            assert len(references.subjects) in (11, 12)
        if error is not None:
            assert [r.reason for r in store.sweep(clock.now())] == ["withdrawn"]
        assert subjects[3] not in b"".join(p.read_bytes() for p in tmp_path.iterdir())
        assert len(store.references(MODEL).subjects) == 11
        assert not store.damaged


@pytest.mark.parametrize("limit", LIMITS)
def test_a_gallery_is_not_half_made_on_a_full_disk(tmp_path: Path, limit: int) -> None:
    clock = SimulatedClock()
    with no_file_grows_beyond(limit):
        error = _error(lambda: open_store(tmp_path, clock).close())
    assert error is None or isinstance(error, StorageError)
    with open_store(tmp_path, clock) as store:
        assert len(store) == 0


@pytest.mark.parametrize("limit", [0, 10, 300, 900])
def test_the_audit_log_on_a_full_disk_stays_whole(tmp_path: Path, limit: int) -> None:
    log = AuditLog(tmp_path / "audit.jsonl", clock=SimulatedClock(), random=secrets.token_bytes)
    for number in range(3):
        log.append("enrolled", {"number": number}, subject=SubjectId(bytes([number]) * 16))
    head = log.head()
    with no_file_grows_beyond(limit):
        error = _error(lambda: log.append("enrolled", subject=SubjectId(b"x" * 16)))
    assert isinstance(error, StorageError)
    assert audited(log, head).head == head
    assert log.append("storage_error").seq == 4
    assert audited(log, head).head.seq == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_file_system_that_really_is_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("may not mount a file system here")
    try:
        clock, rng = SimulatedClock(), np.random.default_rng(0)
        with open_store(disk, clock) as store:
            subjects = [store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL)]
            filler = (disk / "filler").open("wb", buffering=0)
            with contextlib.suppress(OSError):
                while filler.write(b"\1" * 4096):
                    pass
            with pytest.raises(StorageError, match="free space"):
                store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL)
            with pytest.raises(StorageError, match="free space"):
                store.erase(subjects[0])
            assert store.references(MODEL).subjects == ()
            filler.truncate(0)
            filler.close()
            assert [r.reason for r in store.sweep(clock.now())] == ["withdrawn"]
            assert subjects[0] not in (disk / "gallery.db").read_bytes()
    finally:
        subprocess.run(["umount", disk], check=True)


def _error(action: object) -> BaseException | None:
    """What ``action`` raised; caught here so that nothing is written while the limit holds."""
    try:
        action()  # type: ignore[operator]
    except Exception as error:  # noqa: BLE001 - the caller asserts its type
        return error
    return None
