# SPDX-License-Identifier: Apache-2.0
"""Whether the service of a unit runs, seen from another process."""

from __future__ import annotations

from agent.config.schema import Config
from agent.disk.process_lock import ProcessLock
from agent.errors import InUseError, StorageError


def is_held(config: Config) -> bool:
    """Whether another process holds the unit's gallery; False also where that cannot be looked at."""
    try:
        ProcessLock(config.gallery.path).release()
    except InUseError:
        return True
    except StorageError:
        return False
    return False
