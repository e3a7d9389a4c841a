# SPDX-License-Identifier: Apache-2.0
"""Fleets of simulated months for tests that change them: made once a process, then copied, in a tenth of the time."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from tools.lib.lifetime.days import Fleet


@functools.cache
def _made(count: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="postern-fleet-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for unit in Fleet(folder, count).units.values():
        unit.close()
    return folder


def fleet_in(folder: Path, count: int) -> Fleet:
    """A site and ``count`` units below ``folder``, at the beginning; all that are made so begin with the same keys."""
    made = _made(count)
    shutil.copytree(made, folder, symlinks=True, dirs_exist_ok=True)
    for link in [path for path in folder.rglob("*") if path.is_symlink()]:  # to the root's keys, which are on a stick
        to = folder / link.readlink().relative_to(made)
        link.unlink()
        link.symlink_to(to)
    return Fleet(folder, count)
