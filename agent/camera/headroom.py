# SPDX-License-Identifier: Apache-2.0
"""What a decoder may not have of the process's memory: a camera that comes near its limit is lost, and nothing else.

The service has a limit on its data (``agent.unit.memory``). Where an allocation meets that, it fails, in whichever
thread it is: a decoder that took all of it would end the unit by the next small thing that somebody else needs. So a
decoder is given up while there is still room for the others.
"""

from __future__ import annotations

import mmap
import resource

RESERVE_BYTES = 16 * 1024 * 1024  # for the others: a stack of 8 MiB, a full picture in RGB (7 MB), the broker's packets


def is_short() -> bool:
    """Whether the process could not have ``RESERVE_BYTES`` more, by the limit on its data; False without one.

    Asked for and given back untouched: two calls of the system, 12 microseconds, where /proc would cost twice as much.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit == resource.RLIM_INFINITY:
        return False
    try:
        mmap.mmap(-1, RESERVE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        return True
    return False
