# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from agent.errors import KeyStoreError
from agent.gallery.keyring import FileKeyring


def keyring(folder: Path) -> FileKeyring:
    return FileKeyring(folder / "kek", random=secrets.token_bytes)


def test_a_new_key_replaces_the_old_one_and_what_the_old_one_wrapped_stays_shut(tmp_path: Path) -> None:
    ring = keyring(tmp_path)
    first = ring.prepare()
    ring.settle(first)
    wrapped = ring.wrap(first, b"dek", b"here")
    assert ring.unwrap(first, wrapped, b"here") == b"dek"
    assert ring.unwrap(first, wrapped, b"there") is None
    second = ring.prepare()
    assert ring.unwrap(first, wrapped, b"here") == b"dek", "both are there until it is settled"
    ring.settle(second)
    with pytest.raises(KeyError):
        ring.unwrap(first, wrapped, b"here")
    assert ring.unwrap(second, wrapped, b"here") is None
    assert [p.name for p in tmp_path.iterdir()] == ["kek"]
    assert (tmp_path / "kek").stat().st_mode & 0o777 == 0o600


def test_the_old_key_is_overwritten_and_not_only_unlinked(tmp_path: Path) -> None:
    ring = keyring(tmp_path)
    ring.settle(ring.prepare())
    os.link(tmp_path / "kek", tmp_path / "blocks")  # what stays on the disk when a name goes
    ring.settle(ring.prepare())
    assert (tmp_path / "blocks").read_bytes() == bytes(32)


def test_a_key_that_was_not_taken_into_use_is_destroyed(tmp_path: Path) -> None:
    ring = keyring(tmp_path)
    first = ring.prepare()
    ring.settle(first)
    ring.prepare()
    os.link(tmp_path / "kek.next", tmp_path / "blocks")
    ring.settle(first)
    assert not (tmp_path / "kek.next").exists()
    assert (tmp_path / "blocks").read_bytes() == bytes(32)


def test_settling_is_finished_by_the_next_process(tmp_path: Path) -> None:
    ring = keyring(tmp_path)
    first = ring.prepare()
    ring.settle(first)
    second = ring.prepare()
    wrapped = ring.wrap(second, b"dek", b"here")
    (tmp_path / ".kek.next.abc123").write_bytes(secrets.token_bytes(32))  # a write that a power cut ended
    again = keyring(tmp_path)
    again.settle(second)
    assert again.unwrap(second, wrapped, b"here") == b"dek"
    assert [p.name for p in tmp_path.iterdir()] == ["kek"]


def test_a_key_of_another_gallery_is_refused_and_nothing_is_destroyed(tmp_path: Path) -> None:
    ring = keyring(tmp_path)
    ring.settle(ring.prepare())
    before = (tmp_path / "kek").read_bytes()
    with pytest.raises(KeyStoreError, match="not the key of this gallery"):
        ring.settle(bytes(16))
    assert (tmp_path / "kek").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"short", bytes(64)])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "kek").write_bytes(content)
    (tmp_path / "kek").chmod(0o600)
    with pytest.raises(KeyStoreError, match="32 bytes"):
        keyring(tmp_path)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    ring = keyring(tmp_path)
    ring.settle(ring.prepare())
    (tmp_path / "kek").chmod(0o644)
    with pytest.raises(KeyStoreError, match="chmod"):
        keyring(tmp_path)
