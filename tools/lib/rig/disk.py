# SPDX-License-Identifier: Apache-2.0
"""A disk that takes its time, for a process that is started with it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("slow_disk.c")


class SlowDisk:
    """Compiled into ``folder``; None of it is there without a C compiler, see ``available``."""

    def __init__(self, folder: Path) -> None:
        self._library, self._delay = folder / "slow_disk.so", folder / "slow_disk"

    @staticmethod
    def available() -> bool:
        """Whether there is a C compiler."""
        return shutil.which("cc") is not None

    def environment(self) -> dict[str, str]:
        """What the process has to be started with."""
        if not self._library.exists():
            subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", self._library, SOURCE, "-ldl"], check=True)
        self.delay(0)
        return {"LD_PRELOAD": str(self._library), "POSTERN_SLOW_DISK": str(self._delay)}

    def delay(self, milliseconds: int) -> None:
        """From now on, each time something is made durable."""
        fresh = self._delay.with_suffix(".new")
        fresh.write_text(str(milliseconds))
        fresh.replace(self._delay)
