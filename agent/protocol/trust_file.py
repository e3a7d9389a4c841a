# SPDX-License-Identifier: Apache-2.0
"""The site's list of units as a file that is carried here: read, verified, and never one older than one seen before.

Beside it, in ``NAME.seen``, stands the highest serial that was ever read from it, so that a restart forgets no
revocation. The site is compared first: serials of two sites say nothing about each other. A newer mandate of the site's
service ends what a stolen one numbered: its first list counts whatever serial came before by an older mandate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from agent.disk.files import PUBLIC_MODE, read_brought, write_atomic
from agent.errors import KeyStoreError, StorageError, VerificationError
from agent.keys import MAX_TOKEN_BYTES, PublicKey
from agent.parse.strict_json import MAX_SAFE_INTEGER
from agent.protocol.grant import check_number
from agent.protocol.names import Name, Sequence
from agent.protocol.record import Record, load, save
from agent.protocol.trust import TrustedUnits


class SeenList(Record, frozen=True):
    """The newest list that was read."""

    site: Name
    serial: Sequence
    mandate: Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)] = 0  # the highest one of the site's service
    signed_by: Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)] = 0  # the mandate of this list; 0: the site's key

    def is_before(self, trusted: TrustedUnits) -> bool:
        """Whether ``trusted`` is newer, or as new."""
        return trusted.serial >= self.serial or trusted.mandate > self.signed_by > 0


class TrustFile:
    """The site's signed list of units, read again whenever the file changes: a revocation counts at once."""

    def __init__(self, path: Path, site_key: PublicKey) -> None:
        self._path = path
        self._seen_path = path.with_name(f"{path.name}.seen")
        self._site_key = site_key
        self._stamp: tuple[int, int] | None = None
        self._refused: tuple[int, int] | None = None
        self._seen: SeenList | None = None
        self.refusal: str | None = None  # why the last file that changed was not taken
        self.forgetful: str | None = None  # why the serial cannot be kept over a restart

    @property
    def newest(self) -> SeenList | None:
        """The newest list that was read here; None before the first."""
        return self._seen

    def load(self, *, site: str | None = None) -> TrustedUnits:
        """Read and verify the list of ``site``, by default of the site it was of before.

        KeyStoreError when it cannot be read, VerificationError when it is not the site's (``wrong_site``), older than
        one that was read before (``replayed``), or by a mandate that was replaced (``superseded``).
        """
        stamp = self._stat()
        trusted = TrustedUnits.from_signed(read_brought(self._path, MAX_TOKEN_BYTES), self._site_key)
        seen = self._remembered()
        wanted = site or (seen.site if seen else trusted.site)
        if trusted.site != wanted:
            raise VerificationError(
                "wrong_site", f"the list of units is of site {trusted.site}, not {wanted}: give its own"
            )
        if seen is not None and seen.site == trusted.site and not seen.is_before(trusted):
            raise VerificationError("replayed", "the site's list of units is older than the one known: fetch it again")
        mandate = trusted.mandate
        if seen is not None and seen.site == trusted.site:
            check_number(mandate, seen.mandate)
            mandate = max(mandate, seen.mandate)
        newest = SeenList(site=trusted.site, serial=trusted.serial, mandate=mandate, signed_by=trusted.mandate)
        if seen != newest:
            self._seen = newest
            self._keep(newest)
        self._stamp = stamp
        return trusted

    def offer(self, token: bytes) -> bool:
        """Put a list that came from the site's service in the place of the file, where it is newer; whether it was.

        For whoever has loaded one before. Raises as ``load``, and StorageError where the file cannot be written.
        """
        trusted, seen = TrustedUnits.from_signed(token, self._site_key), self._remembered()
        if seen is None or trusted.site != seen.site:
            raise VerificationError("wrong_site", "the list of units is of another site")
        check_number(trusted.mandate, seen.mandate)
        if trusted.serial == seen.serial or not seen.is_before(trusted):
            return False
        write_atomic(self._path, token, mode=PUBLIC_MODE)
        return True

    def load_if_changed(self) -> TrustedUnits | None:
        """Return the newer list, or None when there is nothing new or what is there is not yet usable.

        Half copied, older or foreign: the list in use stays, and ``refusal`` says why.
        """
        stamp = self._stat()
        if stamp in (self._stamp, self._refused):
            return None
        try:
            self.refusal, self._refused = None, None
            return self.load()
        except (KeyStoreError, VerificationError) as error:
            self.refusal, self._refused = str(error), stamp
            return None

    def _remembered(self) -> SeenList | None:
        if self._seen is None and self._seen_path.exists():
            self._seen = load(self._seen_path, SeenList)
        return self._seen

    def _keep(self, seen: SeenList) -> None:
        try:
            save(self._seen_path, seen)
            self.forgetful = None
        except StorageError as error:
            self.forgetful = str(error)

    def _stat(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino
