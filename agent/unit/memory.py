# SPDX-License-Identifier: Apache-2.0
"""Let go of the code that only start-up ran: libraries' set-up, parsers, key generation.

Pages of program text come back from the file by themselves when somebody runs them again, so a unit that runs for
months need not keep what it ran once. Only mappings of a file that are executable and hold no page of their own are
let go; relocated or written pages would be lost.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

SMAPS = Path("/proc/self/smaps")
MADV_DONTNEED = 4  # asm-generic/mman-common.h, the same on x86-64 and aarch64

# proc(5): "start-end perms offset device inode path", then one line per property.
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \d+ *(.*)")


def text_mappings(smaps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Start and end addresses of program text that is nothing but a file's: executable, not writable, no own page."""
    span: tuple[int, int] | None = None
    for line in smaps:
        if (found := _MAPPING.match(line)) is not None:
            start, end, rights, path = found.groups()
            span = (int(start, 16), int(end, 16)) if rights == "r-xp" and path.startswith("/") else None
        elif span is not None and line.split() == ["Anonymous:", "0", "kB"]:
            yield span


def release_startup_code() -> None:
    """Unmap program text that was run so far; what is needed again comes back. Does nothing without /proc."""
    try:
        spans = list(text_mappings(SMAPS.read_text().splitlines()))
    except OSError:
        return
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for start, end in spans:
        advise(start, end - start, MADV_DONTNEED)  # a refusal leaves everything as it is
