# SPDX-License-Identifier: Apache-2.0
"""Run a program under a filter that answers EPERM to some system calls, as systemd's SystemCallFilter does.

``python -m tests.simulators.forbidden_calls CALL … -- PROGRAM …``. Source: seccomp(2), linux/filter.h, linux/seccomp.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

CLOCK_CALLS = ("adjtimex", "clock_adjtime", "clock_settime", "settimeofday")
FILTERLESS = 77  # exit status where the kernel takes no filter
NUMBERS = {
    "x86_64": {"adjtimex": 159, "clock_adjtime": 305, "clock_settime": 227, "settimeofday": 164},
    "aarch64": {"adjtimex": 171, "clock_adjtime": 266, "clock_settime": 112, "settimeofday": 170},
}
LOAD_NUMBER, IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS at 0: seccomp_data.nr; BPF_JMP|JEQ|K; BPF_RET|K
ALLOW, ERRNO = 0x7FFF0000, 0x00050000  # SECCOMP_RET_*
NO_NEW_PRIVILEGES, SECCOMP, FILTER_MODE = 38, 22, 2  # prctl(2)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def forbid(calls: list[str]) -> bool:
    """Have the kernel refuse ``calls`` to this process from now on; False where it cannot."""
    numbers = NUMBERS.get(os.uname().machine)
    if numbers is None:
        return False
    code = [(LOAD_NUMBER, 0, 0, 0)]
    code += [(IF_EQUAL, len(calls) - place, 0, numbers[call]) for place, call in enumerate(calls)]
    code += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, ERRNO | errno.EPERM)]
    buffer = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    program = _Program(len(code), ctypes.addressof(buffer))
    return bool(libc.prctl(SECCOMP, FILTER_MODE, ctypes.byref(program), 0, 0) == 0)


if __name__ == "__main__":
    where = sys.argv.index("--")
    if not forbid(sys.argv[1:where]):
        sys.exit(FILTERLESS)
    os.execvp(sys.argv[where + 1], sys.argv[where + 1 :])
