# SPDX-License-Identifier: Apache-2.0
"""Epoch keys that the site's service sends to this bridge: verified, and put beside those that a person laid there.

A week's keys are destroyed a while after the week, so that what happened in it stays pseudonymous; whoever has to know
longer takes the key out at the site, and lays it down under a name of their own.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from agent.clock import Clock
from agent.disk.files import destroy, write_atomic
from agent.keys import PublicKey, load_public_key
from agent.parse.strict_json import dumps
from agent.protocol.grant import check_number
from agent.protocol.names import Sequence
from agent.protocol.pseudonym import EPOCHS_AHEAD, EpochKey, epoch_before, epoch_of, epochs_from, is_epoch
from agent.protocol.record import Record, load, save
from agent.protocol.resolving_keys import RESOLVE_KEY, open_resolving_keys

KEPT_WEEKS = 5  # after its end: a unit says again what it said in the last 30 days at the most ("outbox.keep_days")
PREFIX = "site-"  # of files that this module wrote, and may destroy
SEEN = "resolve.seen"


class SeenIssue(Record, frozen=True):
    """The newest issue that was taken, and the highest mandate by which one was signed."""

    number: Sequence
    mandate: int = 0


class WeekKeys:
    """See the module; ``take`` is called by one thread."""

    def __init__(self, keys: Path, folder: Path, *, site: str, program: str, clock: Clock) -> None:
        """``keys`` are the program's files, ``folder`` is where epoch keys lie."""
        self._key, self._seen, self._folder = keys / RESOLVE_KEY, keys / SEEN, folder
        self._site_key: PublicKey = load_public_key(keys / "site.jwk")
        self._site, self._program, self._clock = site, program, clock

    @staticmethod
    def there(keys: Path) -> bool:
        """Whether the site lets this program resolve."""
        return (keys / RESOLVE_KEY).exists()

    def take(self, sealed: bytes) -> None:
        """Write what is new. Raises VerificationError as ``open_resolving_keys``, KeyStoreError, StorageError."""
        seen = load(self._seen, SeenIssue) if self._seen.exists() else None
        mandates = [0]
        issued = open_resolving_keys(
            sealed,
            key=self._key,
            site_key=self._site_key,
            site=self._site,
            program=self._program,
            now=self._clock.now() if self._clock.state() == "synced" else None,
            on_mandate=mandates.append,
        )
        if seen is not None:
            check_number(mandates[-1], seen.mandate)
            if issued.number <= seen.number and mandates[-1] <= seen.mandate:
                return  # it is said again every few minutes
        # A site whose clock is ahead hands out what nobody is to have yet.
        last = epochs_from(self._clock.now(), EPOCHS_AHEAD + 1)[-1]
        for key in issued.keys:
            if key.epoch <= last or self._clock.state() == "unsynced":
                self._write(key)
        save(self._seen, SeenIssue(number=issued.number, mandate=max(mandates[-1], seen.mandate if seen else 0)))
        # By both clocks: one that is wrong destroys nothing before its time.
        self._destroy_past(min(epoch_of(self._clock.now()), *(key.epoch for key in issued.keys)))

    def _write(self, key: EpochKey) -> None:
        told = {"site": key.site, "audience": key.audience, "epoch": key.epoch, "key": key.key}
        # Two generations of a week are two files: what was said by the former one is resolved as well.
        which = hashlib.sha256(key.key.encode()).hexdigest()[:8]
        write_atomic(self._folder / f"{PREFIX}{key.audience}-{key.epoch}-{which}.json", dumps(told).encode())

    def _destroy_past(self, present: str) -> None:
        """Destroy what came by itself for weeks that are long past in the ``present`` one."""
        oldest = epoch_before(present, KEPT_WEEKS)
        for file in self._folder.glob(f"{PREFIX}*.json"):
            epoch = "-".join(file.stem.split("-")[-3:-1])  # PREFIX AUDIENCE-YYYY-Wnn-WHICH
            if is_epoch(epoch) and epoch < oldest:
                destroy(file)
