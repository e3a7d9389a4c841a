# SPDX-License-Identifier: Apache-2.0
"""Only pages that a file can give back are let go, and the program runs on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from agent.unit.memory import text_mappings


def mapping(span: str, rights: str, path: str, anonymous: int) -> list[str]:
    return [
        f"{span} {rights} 00001000 fe:00 4711                       {path}",
        "Size:                 16 kB",
        "Rss:                  16 kB",
        f"Anonymous:            {anonymous} kB",
        "LazyFree:              0 kB",
    ]


def test_only_text_without_pages_of_its_own_is_let_go() -> None:
    lines = [
        *mapping("1000-5000", "r-xp", "/usr/lib/libc.so.6", 0),
        *mapping("5000-9000", "r-xp", "/usr/lib/patched.so", 4),  # relocated text would be lost
        *mapping("9000-d000", "r--p", "/usr/lib/libc.so.6", 0),  # may hold relocated data later
        *mapping("d000-f000", "rw-p", "/usr/lib/libc.so.6", 0),
        *mapping("f000-f100", "rwxp", "/usr/lib/odd.so", 0),
        *mapping("f100-f200", "r-xs", "/usr/lib/shared.so", 0),
        *mapping("f200-f300", "r-xp", "[vdso]", 0),
        *mapping("f300-f400", "r-xp", "", 0),
        *mapping("ffff0000-ffff4000", "r-xp", "/opt/with space/x.so", 0),
    ]
    assert list(text_mappings(lines)) == [(0x1000, 0x5000), (0xFFFF0000, 0xFFFF4000)]


PROGRAM = """
import ctypes, json, mmap, numpy, sys
from agent.unit.memory import bounded_data, release_startup_code
def resident():
    with open("/proc/self/status", errors="replace") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssFile"))
held = open(sys.argv[1], "rb")
mapped = mmap.mmap(held.fileno(), 0, prot=mmap.PROT_READ)
assert ctypes.CDLL(None).prctl(15, b"\\xfc") == 0  # PR_SET_NAME
before = resident()
release_startup_code()
with bounded_data():
    pass
after = resident()
total = float((numpy.arange(9.0).reshape(3, 3) @ numpy.eye(3)).sum())
print(json.dumps([before, after, total]))
"""


def test_a_program_goes_on_with_less_of_it_resident_whatever_its_files_and_it_are_called(tmp_path: Path) -> None:
    """A folder that was named on another system has bytes that are no UTF-8, and so may a process."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/j\xfcrgen"))
    folder.mkdir()
    (folder / "library").write_bytes(bytes(4096))
    words = [sys.executable, "-c", PROGRAM, folder / "library"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    before, after, total = json.loads(done.stdout)
    assert total == 36
    assert after < before
