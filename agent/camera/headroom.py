# SPDX-License-Identifier: Apache-2.0
"""What a decoder may not have of the process's memory: a camera that comes near its limit is lost, and nothing else.

The service has a limit on its data (``agent.unit.memory``). Where an allocation meets that, it fails, in whichever
thread it is: a decoder that took all of it would end the unit by the next small thing that somebody else needs. So a
decoder is given up while there is still room for the others.
"""

from __future__ import annotations

import resource
from pathlib import Path

RESERVE_BYTES = 16 * 1024 * 1024  # for the others: a stack of 8 MiB, a full picture in RGB (7 MB), the broker's packets
STATM = Path("/proc/self/statm")  # proc(5): sizes in pages; the sixth is what the limit counts, and the stack


def is_short() -> bool:
    """Whether less than ``RESERVE_BYTES`` is left below the process's limit. False without one, or without /proc."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit == resource.RLIM_INFINITY:
        return False
    try:
        pages = int(STATM.read_bytes().split()[5])
    except (OSError, ValueError, IndexError):
        return False
    return pages * resource.getpagesize() > limit - RESERVE_BYTES
