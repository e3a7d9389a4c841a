# SPDX-License-Identifier: Apache-2.0
"""One process at a time for a store that must not have two writers."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from agent.disk.files import SECRET_MODE
from agent.errors import InUseError, StorageError

POLL_S: Final = 0.05  # between two looks at a lock that is waited for
BY_THE_UNIT: Final = "stop the service (systemctl stop postern), or ask the running unit (postern ask)"


class ProcessLock:
    """Held from construction to ``release``, or to the end of the process, however it ends (flock(2))."""

    def __init__(self, store: Path, *, wait_s: float = 0.0, advice: str = BY_THE_UNIT) -> None:
        """Wait up to ``wait_s`` seconds for it; InUseError with ``advice`` when another process holds it still."""
        path = store.with_name(f"{store.name}.lock")
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, SECRET_MODE)
        except OSError as error:
            raise StorageError(
                f"cannot open {path} ({error.strerror}): make its folder writable for whoever runs this"
            ) from error
        deadline = time.monotonic() + wait_s
        while not self._take():
            if time.monotonic() >= deadline:
                os.close(self._descriptor)
                raise InUseError(f"{store} is in use by another process: {advice}")
            time.sleep(POLL_S)

    def _take(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            os.close(self._descriptor)
            raise StorageError(f"cannot lock a file ({error.strerror}): keep it on a local disk") from error
        return True

    def release(self) -> None:
        """Let other processes in."""
        os.close(self._descriptor)
