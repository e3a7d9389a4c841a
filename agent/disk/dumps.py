# SPDX-License-Identifier: Apache-2.0
"""What is in a process's memory and must not come onto a disk, nor before a debugger."""

from __future__ import annotations

import ctypes
import resource

PR_SET_DUMPABLE = 4  # prctl(2), linux/prctl.h


def forbid_dumps() -> None:
    """Let nobody but root read this process's memory, by a core dump or a debugger, outside of systemd as well."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
