# SPDX-License-Identifier: Apache-2.0
"""Let go of what only start-up needed, and bound what others can make the process take.

Memory for what a camera, a stream or a broker sends is bounded where it is read: lengths, pixels, messages that wait.
FFmpeg's own buffers for headers and fragments have no such bound, so the process gets a limit on its data
(RLIMIT_DATA) a little above what it has once everything runs. Beyond it an allocation fails, and the camera or the
connection is lost, where without it the kernel would end the whole service. A decoder is given up before it has all of
that (``agent.camera.headroom``), so that what fails is not somebody else's.

A child for decoding was measured and not taken: 43 MiB with 720p in it, 33 of them before its first picture, where
PyAV and a decoder cost this process some 21; a unit with everything at its door and its keeper would take 129 of the
125 MiB that it is held to. Each picture of 720p would be copied in 0.2 ms as well (2026-11-27, two cores, idle). It
stays the better fence against a decoder that is taken over, which this is not.

Pages of program text come back from the file by themselves when somebody runs them again, so a unit that runs for
months need not keep what it ran once. Only mappings of a file that are executable and hold no page of their own are
let go; relocated or written pages would be lost.
"""

from __future__ import annotations

import ctypes
import re
import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

FOREIGN_BYTES = 112 * 1024 * 1024  # 1920x1200 with 16 reference pictures takes 85 MiB; threads begun later, 8 each
STATUS = Path("/proc/self/status")
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
        spans = list(text_mappings(SMAPS.read_text("utf-8", errors="replace").splitlines()))
    except OSError:
        return
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for start, end in spans:
        advise(start, end - start, MADV_DONTNEED)  # a refusal leaves everything as it is


@contextmanager
def bounded_data(headroom: int = FOREIGN_BYTES) -> Iterator[None]:
    """Let the process's data (VmData) grow by ``headroom`` bytes at most from now on. Does nothing without /proc."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        lines = STATUS.read_text("utf-8", errors="replace").splitlines()  # a process may have any name
        (held,) = (int(line.split()[1]) for line in lines if line.startswith("VmData:"))
    except (OSError, ValueError):
        yield
        return
    wanted = held * 1024 + headroom
    lower = [limit for limit in before if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([wanted, *lower]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
