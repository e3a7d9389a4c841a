# SPDX-License-Identifier: Apache-2.0
"""Work on a thread beside the pipeline, from ``start`` to ``stop``."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod


class Beside(ABC):
    """``_run`` works until ``_stop`` is set."""

    def __init__(self, name: str) -> None:
        self._stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"postern-{name}", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        self._stop.set()
        if self.thread.is_alive():
            self.thread.join(timeout_s)

    @abstractmethod
    def _run(self) -> None: ...
