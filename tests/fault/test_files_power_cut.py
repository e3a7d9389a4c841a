# SPDX-License-Identifier: Apache-2.0
"""The two ways in which every small file is changed: replaced whole, and destroyed after it was overwritten."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from agent.disk.files import check_private, destroy, overwrite, write_atomic
from agent.errors import KeyStoreError, StorageError
from tests.simulators.power import crashes, record

OLD, NEW = b"old " * 700, b"new " * 900
REPLACE = """
import sys
from pathlib import Path
from agent.disk.files import write_atomic
from tests.simulators.power import mark
folder = Path(sys.argv[1])
write_atomic(folder / "file", sys.argv[2].encode())
mark("written")
(folder / "other").write_bytes(b"life goes on")
"""


def test_a_file_is_the_old_one_or_the_new_one_and_the_new_one_once_that_was_said(work: Path) -> None:
    living = work / "living"
    living.mkdir()
    (living / "file").write_bytes(OLD)
    steps = record(["-c", REPLACE, str(living), NEW.decode()], living, work)
    contents = []
    for crash in crashes(steps, seed=1, every=1, torn=3):
        found = crash.files.get("file", OLD)  # what was there before is not in the record
        assert found in (OLD, NEW), f"step {crash.step}, {crash.kind}"
        if "written" in crash.marks:
            assert found == NEW, f"step {crash.step}, {crash.kind}"
        contents.append(found)
    assert NEW in contents


def test_ctrl_c_in_the_middle_of_a_write_leaves_the_old_file_and_nothing_half_written(tmp_path: Path) -> None:
    """A key that was being written stayed in the folder that is carried to a program."""
    path, content = tmp_path / "secret", b"k" * 8_000_000
    path.write_bytes(OLD)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        interrupted = sum(_interrupted(path, content, after / 2000) for after in range(1, 20))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 0
    assert [one.name for one in tmp_path.iterdir()] == ["secret"]
    assert path.read_bytes() in (OLD, content)


def _interrupted(path: Path, content: bytes, after_s: float) -> bool:
    signal.setitimer(signal.ITIMER_REAL, after_s)
    try:
        write_atomic(path, content)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        return True
    return False


@pytest.mark.parametrize("size", [1, 64, 5000, 65_536])
def test_whoever_still_has_a_destroyed_file_open_finds_zeros(tmp_path: Path, size: int) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"k" * size)
    with path.open("rb") as held:
        destroy(path)
        assert not path.exists()
        assert held.read() == bytes(size)


def test_neither_a_link_nor_what_it_leads_to_is_overwritten(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "link").symlink_to(victim)
    with pytest.raises(StorageError):
        overwrite(tmp_path / "link")
    assert victim.read_bytes() == b"precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_secret_of_another_user_is_none(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_atomic(path, b"k")
    check_private(path)
    os.chown(path, 12345, 12345)
    with pytest.raises(KeyStoreError, match="belongs to another user"):
        check_private(path)
