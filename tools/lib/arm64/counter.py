# SPDX-License-Identifier: Apache-2.0
"""Instructions that this thread executes in user space, by the processor's own counter: perf_event_open(2)."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from types import TracebackType
from typing import Final, Self

SYSCALL: Final = {"aarch64": 241, "x86_64": 298}  # __NR_perf_event_open, asm/unistd.h
HARDWARE, INSTRUCTIONS = 0, 1  # PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS, linux/perf_event.h
EXCLUDE_KERNEL, EXCLUDE_HV = 1 << 5, 1 << 6
SIZE: Final = 64  # PERF_ATTR_SIZE_VER0
VALUE_BYTES: Final = 8


class CounterError(Exception):
    """This machine does not count."""


class Instructions:
    """Counts inside of its ``with`` block. Raises CounterError where processor or kernel cannot."""

    def __enter__(self) -> Self:
        attributes = struct.pack(
            "=IIQQQQQIIQ", HARDWARE, SIZE, INSTRUCTIONS, 0, 0, 0, EXCLUDE_KERNEL | EXCLUDE_HV, 0, 0, 0
        )
        buffer = ctypes.create_string_buffer(attributes, SIZE)
        libc = ctypes.CDLL(None, use_errno=True)
        self._file: int = libc.syscall(SYSCALL.get(platform.machine(), -1), buffer, 0, -1, -1, 0)
        if self._file < 0:
            raise CounterError(f"no counter of instructions here: {os.strerror(ctypes.get_errno())}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def read(self) -> int:
        """Instructions since the block began."""
        (value,) = struct.unpack("=Q", os.read(self._file, VALUE_BYTES))
        return int(value)
