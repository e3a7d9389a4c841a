# SPDX-License-Identifier: Apache-2.0
"""A disk that is full, or fills up at a given moment."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from agent.unit.generation import Generation
from agent.unit.stores import Stores

# Bytes that a file may have: the write that fails is at another place each time, from the first one on.
LIMITS = (0, 20, 512, 1000, 4096, 5000, 9000, 16_384, 30_000)


@contextlib.contextmanager
def no_file_grows_beyond(limit: int) -> Iterator[None]:
    """Writes beyond ``limit`` bytes fail (EFBIG); Python ignores the signal that comes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Disk:
    """Takes nothing more from the ``at``-th of the moments before and after each write of a part of the unit on."""

    def __init__(self, at: int) -> None:
        self.left = at
        self._limit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.moment()
        return self

    def __exit__(self, *_: object) -> None:
        self._limit.close()

    def moment(self) -> None:
        if self.left == 0:
            self._limit.enter_context(no_file_grows_beyond(0))
        self.left -= 1


class Part:
    """A part of the unit as it is, on a disk that fills up."""

    def __init__(self, part: Any, disk: Disk) -> None:
        self._part, self._disk = part, disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)

    def stamp(self, number: int) -> None:
        self._disk.moment()
        self._part.stamp(number)
        self._disk.moment()

    def append(self, *args: Any) -> None:
        self._disk.moment()
        self._part.append(*args)
        self._disk.moment()


def generation_on(disk: Disk, stores: Stores, path: Path) -> Generation:
    """The common number of parts that write to ``disk``."""
    gallery, audit, counter, outbox, rights = (
        Part(one, disk) for one in (stores.gallery, stores.audit, stores.counter, stores.outbox, stores.rights)
    )
    return Generation(path, gallery=gallery, audit=audit, counter=counter, outbox=outbox, rights=rights)  # type: ignore[arg-type]
