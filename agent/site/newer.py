# SPDX-License-Identifier: Apache-2.0
"""A site's folder that was put back from a backup is noticed by what the site signed since.

Serials, the number of the service's mandate and who was revoked go back with the folder. Units and subscribers keep the
highest that they saw and take nothing lower, and whoever is new would believe a unit that was revoked. So the service
hears what the broker retains of the list of units before it says its own, and where that is newer nothing is signed
here until ``agent.site.restored`` has brought the folder above it.
"""

from __future__ import annotations

from agent.disk.files import PUBLIC_MODE, read_bounded, write_atomic
from agent.errors import KeyStoreError, VerificationError
from agent.keys import MAX_TOKEN_BYTES, PublicKey, load_public_key
from agent.protocol.list_parts import Gathering
from agent.protocol.record import load
from agent.protocol.topics import list_part_topic, list_topic
from agent.protocol.trust import TrustedUnits
from agent.site.records import SiteFiles, SiteRecord


class Retained:
    """What the broker retains of the site's list of units, compared with the folder."""

    def __init__(self, files: SiteFiles, site: str) -> None:
        self.filters = (list_topic(site), list_part_topic(site))
        self.heard = False  # whether there was a list that the site signed
        self._files, self._parts = files, Gathering()
        self._newest: tuple[TrustedUnits, bytes] | None = None  # that came since the service began

    def take(self, topic: str, payload: bytes) -> None:
        """Keep a list that the site signed and this folder does not know; anything else is nobody's."""
        whole, _ = self.filters
        try:
            token = self._parts.hear(payload, whole=topic == whole)
        except ValueError:
            return
        if not token or len(token) > MAX_TOKEN_BYTES:
            return
        key = load_public_key(self._files.site_jwk)
        try:
            found = TrustedUnits.from_signed(token, key)
        except VerificationError:  # a broker retains what it likes
            return
        self.heard = True
        if self._newest is None or rank(self._newest[0]) <= rank(found):
            self._newest = found, token
        self.look()

    def look(self) -> None:
        """Compare once more: the folder may have been put back while the service runs."""
        if self._newest is None:
            return
        found, token = self._newest
        held = _held(self._files, load_public_key(self._files.site_jwk))
        if _is_newer(found, token, self._files) and (held is None or rank(held) < rank(found)):
            write_atomic(self._files.newer_list, token, mode=PUBLIC_MODE)


def rank(listed: TrustedUnits) -> tuple[int, int]:
    """Order of two lists of one site: that of a later mandate counts whatever its serial is."""
    return listed.mandate, listed.serial


def put_back(files: SiteFiles, key: PublicKey) -> str | None:
    """Why nothing is signed in a folder that was put back, and what to do; None where it was not."""
    found = _held(files, key)
    if found is None or not _is_newer(found, read_bounded(files.newer_list, MAX_TOKEN_BYTES), files):
        return None
    serial = load(files.record, SiteRecord).trust_serial
    return (
        f"this folder was put back from a backup: the site has signed list {found.serial} of its units, and {serial} is"
        " the last one known here; bring the root's keys and run 'postern site recover'. If nobody put it back,"
        " somebody else has the service's keys: then run 'postern site delegate --replace' after it"
    )


def _held(files: SiteFiles, key: PublicKey) -> TrustedUnits | None:
    if not files.newer_list.exists():
        return None
    try:
        return TrustedUnits.from_signed(read_bounded(files.newer_list, MAX_TOKEN_BYTES), key)
    except (KeyStoreError, VerificationError):  # by a key that was replaced since
        return None


def _is_newer(found: TrustedUnits, token: bytes, files: SiteFiles) -> bool:
    """Whether the site signed ``found`` after what this folder holds, or beside it."""
    record = load(files.record, SiteRecord)
    if found.site != record.site or 0 < found.mandate < record.mandates:  # of a service whose keys were replaced
        return False
    if found.mandate > record.mandates or found.serial > record.trust_serial:
        return True
    is_last = found.serial == record.trust_serial and files.trust.exists()
    return is_last and read_bounded(files.trust, MAX_TOKEN_BYTES).strip() != token.strip()
