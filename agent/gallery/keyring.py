# SPDX-License-Identifier: Apache-2.0
"""The key that encrypts all other keys of the gallery, and how it is replaced.

Each reference has a key of its own (DEK); the DEKs lie in the gallery, wrapped by one key-encryption key
(KEK) that lies here. Deleting a row from flash storage proves little, because old blocks survive; what
counts is that nothing can open them. So every erasure makes a new KEK, wraps the remaining DEKs with it
and destroys the old one. The gallery's database says which KEK is in force, in the same transaction that
removes the row, so a power cut leaves either the old state or the new one:

    prepare   the new KEK becomes durable beside the old one
    (the gallery commits)
    settle    the KEK that the gallery names stays, every other is destroyed

``settle`` runs again at each start and completes whatever was cut off.

``FileKeyring`` keeps 32 bytes in a file of mode 0600 that it overwrites before it unlinks; a TPM or a secure
element could stand in with the same four methods (two sealed slots). Said plainly: whoever copies the whole
storage of a running unit has the file and can read the gallery, and flash wear levelling may keep a destroyed
file's old block out of any program's reach.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from agent.disk.files import destroy, destroy_unfinished, fsync_folder, overwrite, read_secret, write_atomic
from agent.errors import KeyStoreError
from agent.gallery.template import KEY_BYTES, seal, unseal

KEY_ID_BYTES = 16  # of SHA-256: names a key without telling anything about it


class FileKeyring:
    """KEKs in ``path`` and, during an erasure, ``path`` with the suffix ``.next``."""

    def __init__(self, path: Path, *, random: Callable[[int], bytes]) -> None:
        self._path = path
        self._next = path.with_name(f"{path.name}.next")
        self._random = random
        destroy_unfinished(path)
        self._keys = {_key_id(key): key for file in (self._path, self._next) if (key := _read(file)) is not None}

    def prepare(self) -> bytes:
        """Make a new KEK durable beside the one in force; its id."""
        key = self._random(KEY_BYTES)
        write_atomic(self._next, key)
        self._keys[_key_id(key)] = key
        return _key_id(key)

    def settle(self, key_id: bytes) -> None:
        """Destroy every KEK but ``key_id``; KeyStoreError when that one is not here."""
        if key_id not in self._keys:
            raise KeyStoreError(
                f"{self._path} is not the key of this gallery: put it back, or wipe the gallery and enrol anew"
            )
        successor = _read(self._next)
        if successor is not None and _key_id(successor) == key_id:
            overwrite(self._path)
            self._next.replace(self._path)
            fsync_folder(self._path.parent)
        elif self._next.exists():
            destroy(self._next)
        self._keys = {key_id: self._keys[key_id]}

    def wrap(self, key_id: bytes, content: bytes, place: bytes) -> bytes:
        """Seal ``content`` with KEK ``key_id``, bound to ``place``."""
        return seal(content, key=self._keys[key_id], place=place, random=self._random)

    def unwrap(self, key_id: bytes, wrapped: bytes, place: bytes) -> bytes | None:
        """Inverse of ``wrap``; None when key, content or place is not the one it was made with."""
        return unseal(wrapped, key=self._keys[key_id], place=place)


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"postern/kek-id/v1" + key).digest()[:KEY_ID_BYTES]


def _read(path: Path) -> bytes | None:
    """Key in ``path``; None when there is no file, or one that was overwritten and not yet unlinked."""
    if not path.exists():
        return None
    key = read_secret(path)
    if len(key) != KEY_BYTES:
        raise KeyStoreError(f"{path} must hold {KEY_BYTES} bytes: put the right file back, or wipe the gallery")
    return key if any(key) else None
