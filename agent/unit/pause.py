# SPDX-License-Identifier: Apache-2.0
"""A pause that an operator ordered: it holds until they order otherwise, whatever restarts or loses its power."""

from __future__ import annotations

import threading
from pathlib import Path

from agent.disk.files import remove, write_atomic


class Pause:
    """A mark at ``path``: recognition pauses while it is there. All methods may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._paused = threading.Event()
        if path.exists():
            self._paused.set()

    def is_set(self) -> bool:
        return self._paused.is_set()

    def set(self) -> None:
        """Pause at once, and durably; after a StorageError it pauses until the next start."""
        self._paused.set()
        write_atomic(self._path, b"recognition pauses until the command recognition/resume\n")

    def clear(self) -> None:
        """Go on; after a StorageError it still pauses."""
        remove(self._path)
        self._paused.clear()
