# SPDX-License-Identifier: Apache-2.0
"""A subscriber's two files: whom the site trusts, and what was seen so far."""

from __future__ import annotations

from pathlib import Path

from agent.errors import KeyStoreError, StorageError, VerificationError
from agent.files import read_bounded, write_atomic
from agent.keys import MAX_TOKEN_BYTES, PublicKey
from agent.protocol.trust import TrustedUnits

MAX_STATE_BYTES = 64 * 1024 * 1024  # the memory of 4096 chains, each with its 64 digests and 64 gaps


class TrustFile:
    """The site's signed list of units, read again whenever the file changes: a revocation counts at once."""

    def __init__(self, path: Path, site_key: PublicKey) -> None:
        self._path = path
        self._site_key = site_key
        self._stamp: tuple[int, int] | None = None
        self._serial = 0

    def load(self) -> TrustedUnits:
        """Read and verify; KeyStoreError when it cannot be read, VerificationError when it is not the site's."""
        stamp = self._stat()
        trusted = TrustedUnits.from_signed(
            read_bounded(self._path, MAX_TOKEN_BYTES), self._site_key, minimum_serial=self._serial
        )
        self._stamp, self._serial = stamp, trusted.serial
        return trusted

    def load_if_changed(self) -> TrustedUnits | None:
        """Return the newer list, or None when there is nothing new or what is there is not yet usable."""
        try:
            return self.load() if self._stat() != self._stamp else None
        except (KeyStoreError, VerificationError):
            return None  # half copied, older or foreign: the list in use stays

    def _stat(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino


class StateFile:
    """What a verifier remembers, so that a restart does not make old events new."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> bytes | None:
        """Return the last state, None at the first start; StorageError when it cannot be read."""
        if not self._path.exists():
            return None
        try:
            return read_bounded(self._path, MAX_STATE_BYTES)
        except KeyStoreError as error:
            raise StorageError(str(error)) from error

    def save(self, state: bytes) -> None:
        """Replace the state durably; StorageError when the disk does not take it."""
        write_atomic(self._path, state)
