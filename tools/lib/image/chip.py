# SPDX-License-Identifier: Apache-2.0
"""The lines of the emulated board, from outside: a PL061 with eight of them, which QEMU's 'virt' machine has.

What the board puts on a line is read in the chip's own registers; one line is pressed by QEMU's power button.
"""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path
from typing import Final, Self

CHIP: Final = "/dev/gpiochip0"
BUTTON: Final = 3  # wired to the power button, which is up for 100 ms
HOLDS: Final = 12
HOLD_S: Final = 0.05  # so 0.6 s: a slow emulator does not miss it, and the kernel's debounce has time
# ARM PrimeCell GPIO (PL061), DDI 0190: GPIODATA with all eight lines unmasked; QEMU's place for the chip.
_DATA: Final = 0x0903_0000 + 0x3FC


class Chip:
    """Speaks QMP with the emulator, over the socket ``path``."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rw", encoding="utf-8")
        self._lines.readline()  # its greeting
        self._ask("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def press(self) -> None:
        """Press the button once, as long as a finger does: each event of the power button holds it on."""
        for _ in range(HOLDS):
            self._ask("system_powerdown")
            time.sleep(HOLD_S)

    def on(self, line: int) -> bool:
        """Whether ``line`` is up."""
        shown = str(self._ask("human-monitor-command", {"command-line": f"xp/1wx {_DATA:#x}"}))
        found = re.search(r": 0x([0-9a-f]{8})", shown)
        if found is None:
            raise OSError(f"the emulator shows no register: {shown}")
        return bool(int(found[1], 16) >> line & 1)

    def wait(self, line: int, *, on: bool, timeout_s: float) -> float | None:
        """When ``line`` was seen to become so, on the monotonic clock; None where it did not in time."""
        end = time.monotonic() + timeout_s
        while (now := time.monotonic()) < end:
            if self.on(line) is on:
                return now
            time.sleep(0.02)
        return None

    def watchdog_resets(self, timeout_s: float) -> bool:
        """Let the board's watchdog reset it from now on; whether it did in time."""
        self._ask("set-action", {"watchdog": "reset"})
        self._socket.settimeout(timeout_s)
        end = time.monotonic() + timeout_s
        try:
            while time.monotonic() < end and (line := self._lines.readline()):
                if json.loads(line).get("event") == "WATCHDOG":
                    return True
        except TimeoutError:
            pass
        return False

    def _ask(self, command: str, arguments: dict[str, str] | None = None) -> object:
        self._lines.write(json.dumps({"execute": command, "arguments": arguments or {}}) + "\n")
        self._lines.flush()
        while True:
            answer = json.loads(self._lines.readline())
            if "error" in answer:
                raise OSError(f"the emulator refuses {command}: {answer['error']}")
            if "return" in answer:
                return answer["return"]
