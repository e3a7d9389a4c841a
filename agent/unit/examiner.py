# SPDX-License-Identifier: Apache-2.0
"""The doctor's checks for a process that has threads: a child that was there before them does them.

A fork beside threads may find a lock that nobody will ever open. So this one is forked first, waits for names of
checks, does each in a child of its own, and answers with findings.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import BinaryIO, Final, Self

import msgspec

from agent.clock import Clock
from agent.config.schema import Config
from agent.errors import RetryError
from agent.parse.strict_json import decode
from agent.unit.held import is_held

# What the running unit holds: a check of it would only find that, or take it from a unit that is just starting.
HELD: Final = ("camera", "inputs", "outputs")
IN_USE: Final = "in use by the running unit"
MAX_LINE_BYTES: Final = 64 * 1024  # as the findings of one check, which are a few lines
NAMES: Final = "?"  # asks for the names of the checks


class Examiner:
    """One check at a time; to be entered while the process has one thread."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        asking, asked = os.pipe()
        telling, told = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            try:
                os.close(asked)
                os.close(telling)
                with os.fdopen(asking, "rb") as names, os.fdopen(told, "wb") as findings:
                    self._work(names, findings)
            finally:
                os._exit(0)
        os.close(asking)
        os.close(told)
        # Without a buffer: what a child that is gone did not take would be written again at the end, and fail there.
        self._names, self._findings = os.fdopen(asked, "wb", buffering=0), os.fdopen(telling, "rb")
        return self

    def __exit__(self, *_: object) -> None:
        self._names.close()  # the child's input ends, and with it the child
        self._findings.close()
        os.waitpid(self._child, 0)

    def checks(self) -> Sequence[str]:
        """Name what can be examined: the same at any time. RetryError when the child is gone."""
        return decode(self._ask(NAMES), list[str], MAX_LINE_BYTES)

    def examine(self, name: str) -> list[dict[str, str]]:
        """Do the check ``name``, one of ``checks``; RetryError when the child is gone.

        Of what the running unit holds its use is told: also where the unit, which reads its configuration again or
        starts, took it while it was examined.
        """
        if not self._is_taken(name):
            found = decode(self._ask(name), list[dict[str, str]], MAX_LINE_BYTES)
            if not self._is_taken(name):
                return found
        return [{"check": name, "state": "ok", "text": IN_USE}]

    def _is_taken(self, name: str) -> bool:
        return name in HELD and is_held(self._config)

    def _ask(self, name: str) -> bytes:
        with self._lock:
            try:
                self._names.write(name.encode() + b"\n")
                line = self._findings.readline(MAX_LINE_BYTES)
            except OSError:
                line = b""
        if not line:
            raise RetryError("the checks cannot be done any more: open the console again")
        return line

    def _work(self, names: BinaryIO, findings: BinaryIO) -> None:
        # Here alone: the process that talks to browsers loads no camera and no model, not even their code.
        from agent.unit.doctor import CHECKS  # noqa: PLC0415
        from agent.unit.in_child import examine_in_child  # noqa: PLC0415

        for line in names:
            name = line.decode().strip()
            told = list(CHECKS) if name == NAMES else list(examine_in_child(name, self._config, self._clock))
            findings.write(msgspec.json.encode(told) + b"\n")
            findings.flush()
