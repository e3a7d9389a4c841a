# SPDX-License-Identifier: Apache-2.0
"""An access controller at the other end of a serial line: libosdp's control panel on a pseudo-terminal."""

from __future__ import annotations

import os
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import osdp_sys
from osdp import Command, LibFlag, LogLevel, PDInfo

KEY = bytes(range(0x50, 0x60))
PATIENCE_S = 20.0
REFRESH_S = 0.005  # of a controller that does nothing else
OPEN = {"command": Command.Output, "output_no": 0, "control_code": 5, "timer_count": 30}
GREEN = {
    "command": Command.LED, "reader": 0, "led_number": 0, "temporary": True, "control_code": 2,
    "on_count": 10, "off_count": 10, "on_color": 2, "off_color": 0, "timer_count": 30,
}  # fmt: skip
BUZZ = {
    "command": Command.Buzzer, "reader": 0, "control_code": 2, "on_count": 5, "off_count": 5, "rep_count": 1,
}  # fmt: skip


class ControlPanel:
    """``wire`` is every byte that came from the reader, ``reads`` are card numbers with their times."""

    id = 0

    def __init__(self, key: bytes, *, answer: Callable[[bytes], dict[str, Any] | None]) -> None:
        self._master, self._slave = os.openpty()
        for end in (self._master, self._slave):
            tty.setraw(end)
        os.set_blocking(self._master, False)
        self.device = Path(os.ttyname(self._slave))
        self.wire, self.reads = bytearray(), []
        self.silent = False  # the cable is cut
        self.lost = 0  # so many of the next answers do not arrive
        self.harmed = 0  # so many of the next commands lose a bit on their way
        self._answers = 0  # of the reader, each to a question
        self._answer, self._stop = answer, threading.Event()
        self.lock = threading.Lock()
        osdp_sys.set_loglevel(LogLevel.Emergency)
        info = PDInfo(0, self, scbk=key, flags=[LibFlag.EnforceSecure])
        self._context = osdp_sys.ControlPanel([info.get()])
        self._context.set_event_callback(self._event)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def read(self, count: int) -> bytes:
        try:
            found = os.read(self._master, count)
        except OSError:
            return b""
        self.wire += found
        self._answers += 1
        self.lost -= (loses := self.lost > 0)
        return b"" if self.silent or loses else found

    def write(self, content: bytes) -> int:
        self.wire += content
        if self.harmed:
            self.harmed -= 1
            content = content[:-1] + bytes([content[-1] ^ 1])
        return len(content) if self.silent else os.write(self._master, content)

    def flush(self) -> None:
        """Drop what came too late, as a serial line of a controller does before it asks again."""
        termios.tcflush(self._master, termios.TCIFLUSH)

    def send(self, command: dict[str, Any]) -> None:
        assert self.is_secure()
        with self.lock:
            assert self._context.submit_command(0, command)

    def exchange(self, times: int = 8) -> None:
        """Wait until the reader has answered so often: what was sent to it before has arrived, and what it said too."""
        wanted, end = self._answers + times, time.monotonic() + PATIENCE_S
        while self._answers < wanted:
            assert time.monotonic() < end, "the reader does not answer"
            time.sleep(REFRESH_S)

    def is_secure(self, within_s: float = 8.0) -> bool:
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            with self.lock:
                if self._context.sc_status() & 1:
                    return True
            time.sleep(0.02)
        return False

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2)
        os.close(self._master)
        os.close(self._slave)

    def _event(self, _: int, event: dict[str, Any]) -> int:
        self.reads.append((time.monotonic(), bytes(event["data"])))
        if (command := self._answer(self.reads[-1][1])) is not None:
            self._context.submit_command(0, command)
        return 0

    def _run(self) -> None:
        while not self._stop.wait(REFRESH_S):
            with self.lock:
                self._context.refresh()


@contextmanager
def control_panel(
    key: bytes = KEY, answer: Callable[[bytes], dict[str, Any] | None] = lambda card: OPEN
) -> Iterator[ControlPanel]:
    panel = ControlPanel(key, answer=answer)
    try:
        yield panel
    finally:
        panel.close()
