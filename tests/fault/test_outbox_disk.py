# SPDX-License-Identifier: Apache-2.0
"""A disk that is full, read-only or damaged: the outbox says what to do, and loses nothing that it holds."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import StorageError
from agent.outbox.queue import TIDY_EVERY_S
from agent.outbox.storage import RESERVE_BYTES
from tests.simulators.signing_unit import SigningUnit, match_draft, verifier_of

DISK_BYTES = 6 * 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few megabytes; only root can mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("cannot mount a small disk here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all space that is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    return ballast


def append_until_full(unit: SigningUnit) -> int:
    """Number of the last event that was taken."""
    for _ in range(10_000):
        try:
            unit.outbox.append(match_draft(unit.clock))
        except StorageError:
            with pytest.raises(StorageError, match="the disk is full: free space"):
                unit.outbox.append(match_draft(unit.clock))
            return unit.outbox.head().seq
    pytest.fail("the disk did not fill up")


def test_full_disk_refuses_new_events_and_keeps_the_old(disk: Path) -> None:
    unit = SigningUnit(disk / "outbox.db")
    for _ in range(20):
        unit.say()
    ballast = fill(disk)
    last = append_until_full(unit)
    for _ in range(3):
        with pytest.raises(StorageError):
            unit.outbox.append(match_draft(unit.clock))
    assert unit.outbox.head().seq == last == unit.outbox.depth()
    assert unit.outbox.pending(1000)[-1].seq == last
    ballast.unlink()
    assert unit.say().seq == last + 1
    verifier = verifier_of(unit)
    for row in unit.outbox.pending(1000):
        assert verifier.check(unit.topic(row), row.payload, unit.clock.now()).gap is None
    unit.outbox.close()


def test_full_disk_drains_and_recovers_without_hands(disk: Path) -> None:
    """The outbox itself filled the disk; nobody frees anything; the broker comes back."""
    unit = SigningUnit(disk / "outbox.db")
    last = append_until_full(unit)
    assert last > 500
    while rows := unit.outbox.pending(50):
        for row in rows:
            unit.outbox.acked(row.seq)
    assert unit.outbox.depth() == 0
    for number in range(1, 501):
        assert unit.say().seq == last + number
    unit.outbox.close()


def test_full_disk_does_not_prevent_a_start(disk: Path) -> None:
    unit = SigningUnit(disk / "outbox.db")
    unit.outbox.parked(unit.say().seq, "not_authorised")
    unit.outbox.close()
    fill(disk)
    unit.open()
    assert [row.attempts for row in unit.outbox.pending(10)] == [1]
    unit.outbox.acked(1)
    assert unit.outbox.depth() == 0
    unit.outbox.close()


def test_full_disk_at_the_very_first_start_says_so(disk: Path) -> None:
    fill(disk)
    with pytest.raises(StorageError, match="full"):
        SigningUnit(disk / "outbox.db")


def test_reserve_is_held_and_given_back(disk: Path) -> None:
    unit = SigningUnit(disk / "outbox.db")
    reserve = disk / "outbox.db.reserve"
    assert reserve.stat().st_blocks * 512 >= RESERVE_BYTES
    append_until_full(unit)
    while rows := unit.outbox.pending(100):
        unit.outbox.acked(*(row.seq for row in rows))
    assert not reserve.exists()
    unit.clock.advance(TIDY_EVERY_S + 1)
    unit.outbox.acked(unit.say().seq)
    assert reserve.exists()
    assert unit.path.stat().st_size < DISK_BYTES // 10
    unit.outbox.close()


def test_disk_quota_refuses_new_events_and_keeps_the_old(tmp_path: Path) -> None:
    """The same where nobody can mount: a limit on the size of files, as a quota sets it."""
    code = """
import resource, signal, sys
from pathlib import Path
from agent.errors import StorageError
from tests.simulators.signing_unit import SigningUnit, match_draft
unit = SigningUnit(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
for count in range(5000):
    try:
        unit.outbox.append(match_draft(unit.clock))
    except StorageError:
        break
head = unit.outbox.head().seq
assert count == head == unit.outbox.depth(), (count, head, unit.outbox.depth())
assert 10 < count < 4999, count
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert unit.say().seq == head + 1
unit.outbox.close()
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "outbox.db"], check=True, cwd=Path(__file__).parents[2])


def test_read_only_disk_is_named(disk: Path) -> None:
    unit = SigningUnit(disk / "outbox.db")
    unit.say()
    unit.outbox.close()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(StorageError, match="writable"):
        unit.open()
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert unit.open().depth() == 1
    unit.outbox.close()


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="make its folder exist"):
        SigningUnit(tmp_path / "nowhere" / "outbox.db")


@pytest.mark.parametrize("damage", ["header", "middle", "cut", "text"])
def test_damaged_file_is_refused_with_advice_and_left_as_it_is(tmp_path: Path, damage: str) -> None:
    unit = SigningUnit(tmp_path / "outbox.db")
    for _ in range(60):
        unit.outbox.append(match_draft(unit.clock))
    unit.outbox.close()
    content = bytearray(unit.path.read_bytes())
    if damage == "header":
        content[:100] = os.urandom(100)
    elif damage == "middle":
        content[4096:] = os.urandom(len(content) - 4096)
    elif damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[:] = b"this is no database " * 500
    unit.path.write_bytes(content)
    with pytest.raises(StorageError, match="move it away for an examiner, it alone"):
        unit.open()
    assert unit.path.read_bytes() == content


def test_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE notes (text)")
    other.commit()
    other.close()
    with pytest.raises(StorageError, match="not an outbox"):
        SigningUnit(path)
