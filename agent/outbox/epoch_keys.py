# SPDX-License-Identifier: Apache-2.0
"""The epoch keys that a unit holds, in memory and on disk, and their destruction."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from agent.disk.files import MAX_SECRET_BYTES, finish_secret, read_secret, replace_secret, waiting
from agent.errors import KeyStoreError
from agent.keys import encode_base64url
from agent.parse.strict_json import StrictJsonError, decode
from agent.protocol.pseudonym import EpochKey, epoch_of, pseudonym, spell


class _Held(NamedTuple):
    site: str
    secret: bytearray


class EpochKeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Annotated[int, msgspec.Meta(ge=1, le=1)]
    keys: Annotated[tuple[EpochKey, ...], msgspec.Meta(max_length=512)]


class EpochKeys:
    """A unit's epoch keys in memory and on disk; thread-safe.

    Past keys are destroyed on disk (overwritten, then replaced) and in memory as soon as the settled time says that
    their epoch is over (``agent.audit.ageing``): a clock that jumps destroys none. On flash, and in a
    garbage-collected process, this is the best that a program can do, not a proof.
    """

    def __init__(self, keys: Iterable[EpochKey], path: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._path = path
        self._held = {(key.audience, key.epoch): _Held(key.site, key.secret()) for key in keys}

    @classmethod
    def load(cls, path: Path) -> EpochKeys:
        """Read ``epoch-keys.json`` (mode 0600); KeyStoreError when it is missing, open to others or damaged."""
        finish_secret(path)
        return cls(_read(path), path)

    def sites(self) -> frozenset[str]:
        """Name the sites that issued what is held: one, or none."""
        with self._lock:
            return frozenset(held.site for held in self._held.values())

    def epochs(self, audience: str) -> tuple[str, ...]:
        """List the epochs that keys are held for, in order."""
        with self._lock:
            return tuple(sorted(epoch for held, epoch in self._held if held == audience))

    def left(self, audience: str, now: datetime) -> int:
        """Count the epochs, from that of ``now`` on without a gap, that keys are held for."""
        held = self.epochs(audience)
        ahead = 0
        while epoch_of(now + timedelta(weeks=ahead)) in held:
            ahead += 1
        return ahead

    def pseudonym(self, subject: bytes, audience: str, now: datetime, *, settled: datetime | None) -> tuple[str, str]:
        """Return the pseudonym of ``subject`` for ``audience`` now, and its epoch.

        Keys of epochs that are over at ``settled`` are destroyed, none while that is None. Raises KeyStoreError when
        there is no key for the current epoch.
        """
        epoch = epoch_of(now)
        if settled is not None:
            self.destroy_before(min(epoch, epoch_of(settled)))
        with self._lock:
            if (audience, epoch) not in self._held:
                self._take_from_disk()  # another process may have installed new ones
            held = self._held.get((audience, epoch))
            if held is None:
                raise KeyStoreError(
                    f"no key for audience {audience!r} in epoch {epoch}: check the clock, then issue epoch keys"
                    " at the site and install them"
                )
            return spell(pseudonym(held.secret, subject)), epoch

    def add(self, keys: Iterable[EpochKey]) -> None:
        """Take newly issued keys, on disk and in memory; they replace those of the same audience and epoch."""
        fresh = {(key.audience, key.epoch): _Held(key.site, key.secret()) for key in keys}
        with self._lock:
            self._take_from_disk()
            self._become({**self._held, **fresh})

    def destroy_before(self, epoch: str) -> None:
        """Destroy the keys of all epochs earlier than ``epoch``, first on disk, then in memory."""
        with self._lock:
            if any(held_epoch < epoch for _, held_epoch in self._held):
                self._take_from_disk()
                self._become({name: held for name, held in self._held.items() if name[1] >= epoch})

    def _take_from_disk(self) -> None:
        """Hold what the file has beyond what is held: keys may be installed while the agent runs."""
        if self._path is None or not self._path.exists():
            return
        for key in _read(self._path):
            if (key.audience, key.epoch) not in self._held:
                self._held[key.audience, key.epoch] = _Held(key.site, key.secret())

    def _become(self, keys: dict[tuple[str, str], _Held]) -> None:
        if self._path is not None:
            save(
                self._path,
                (
                    EpochKey(held.site, audience, epoch, encode_base64url(bytes(held.secret)))
                    for (audience, epoch), held in keys.items()
                ),
            )
        for name, held in self._held.items():
            if keys.get(name) is not held:
                held.secret[:] = bytes(len(held.secret))
        self._held = keys


def save(path: Path, keys: Iterable[EpochKey]) -> None:
    """Write ``epoch-keys.json`` durably; ``load`` finishes what a power cut interrupted."""
    replace_secret(path, msgspec.json.encode(EpochKeyFile(1, tuple(keys))))


def check_readable(path: Path) -> None:
    """Raise KeyStoreError where ``EpochKeys.load`` would; nothing is written, so the running unit may hold the file."""
    if not waiting(path).exists():
        _read(path)


def _read(path: Path) -> tuple[EpochKey, ...]:
    try:
        return decode(read_secret(path), EpochKeyFile, MAX_SECRET_BYTES).keys
    except StrictJsonError:
        raise KeyStoreError(f"{path} is damaged: issue the epoch keys again") from None
