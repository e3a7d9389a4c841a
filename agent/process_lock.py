# SPDX-License-Identifier: Apache-2.0
"""One process at a time for a store that must not have two writers."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from agent.errors import StorageError
from agent.files import SECRET_MODE


class ProcessLock:
    """Held from construction to ``release``, or to the end of the process, however it ends (flock(2))."""

    def __init__(self, store: Path) -> None:
        path = store.with_name(f"{store.name}.lock")
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, SECRET_MODE)
        except OSError as error:
            raise StorageError(f"cannot open {path} ({error.strerror}): make its folder writable") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise StorageError(f"{store} is in use by another process: ask the running agent, or stop it") from error

    def release(self) -> None:
        """Let other processes in."""
        os.close(self._descriptor)
