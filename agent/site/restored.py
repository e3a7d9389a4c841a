# SPDX-License-Identifier: Apache-2.0
"""After a site's folder was put back from a backup: one act brings all its numbers above what was signed since.

What the site signed since is a witness: the list of units that the broker retained, lists that a subscriber or a unit
holds. Who was revoked in it is revoked here again. What no list tells (programs, epoch keys that were replaced, other
tokens that were revoked since) a person does again; units that are newer than the backup join again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from agent.clock import Clock
from agent.disk.files import read_bounded, remove
from agent.errors import RefusedError, VerificationError
from agent.keys import MAX_TOKEN_BYTES
from agent.parse.strict_json import MAX_SAFE_INTEGER
from agent.protocol.record import load, save
from agent.protocol.token_list import TokenList, read_token_list
from agent.protocol.trust import TrustedUnits, UnitKeyEntry
from agent.site.configuration import raise_serial
from agent.site.delegation import delegate
from agent.site.folder import SYSTEM_CLOCK, SiteFolder, opened
from agent.site.newer import rank
from agent.site.policies import sign_policy_anew
from agent.site.published import read_units
from agent.site.records import MAX_MANDATES, SiteRecord, UnitRecord
from agent.site.token_list import TokenListRecord, issue_token_list, token_end

JUMP: Final = 10_000  # more than was signed since any backup: a list for each act, an issue a week for each unit
MANDATES_JUMP: Final = 20  # one a year, and some thefts


class Recovered(msgspec.Struct, frozen=True):
    """``serial`` is that of the list now; ``revoked`` were so since the backup, ``anew`` have to join again."""

    serial: int
    revoked: tuple[str, ...]
    anew: tuple[str, ...]


def recover(
    folder: Path, held: Iterable[bytes] = (), *, clock: Clock = SYSTEM_CLOCK, passphrase: bytes | None = None
) -> Recovered:
    """Raise every number of the folder, and sign list, mandate and list of tokens anew.

    ``held`` are lists of units or of tokens that somebody holds. May be repeated. Raises VerificationError where the
    site did not sign one of them, KeyStoreError for a missing key of the root.
    """
    with opened(folder, clock=clock, passphrase=passphrase) as site:
        site.open_keys()
        site.files.make_folders()
        lists, tokens = _read(site, held)
        newest = max(lists, key=lambda one: rank(one[0]), default=None)
        told = {} if newest is None else newest[1]
        revoked, anew = _take_over(site, told, by_root=newest is not None and not newest[0].mandate)
        _raise_numbers(site, [listed for listed, _ in lists])
        _raise_tokens(site, tokens)
        raise_serial(site.files, JUMP)
        sign_policy_anew(site, site.public)  # with its next number
        remove(site.files.trust)  # the coming one holds the same units, and another number
        site.complete("site_recovered", units=" ".join(anew))
        has_tokens = site.files.token_record.exists()
    if has_tokens:
        issue_token_list(folder, clock=clock, passphrase=passphrase)
    if site.files.delegated:
        delegate(folder, clock=clock, passphrase=passphrase)
    remove(site.files.newer_list)
    return Recovered(load(site.files.record, SiteRecord).trust_serial, revoked, anew)


Units = Mapping[str, tuple[UnitKeyEntry, ...]]


def _read(site: SiteFolder, held: Iterable[bytes]) -> tuple[list[tuple[TrustedUnits, Units]], list[TokenList]]:
    """Verify what the site signed: lists of units, with what stands in them, and lists of tokens."""
    found = list(held)
    if site.files.newer_list.exists():
        found.append(read_bounded(site.files.newer_list, MAX_TOKEN_BYTES))
    lists: list[tuple[TrustedUnits, Units]] = []
    tokens: list[TokenList] = []
    for content in found:
        try:
            listed = TrustedUnits.from_signed(content, site.public)
        except VerificationError:
            tokens.append(_token_list(site, content))
            continue
        if listed.site != site.name:
            raise VerificationError("wrong_site", f"this list of units is of site {listed.site}: give one of this site")
        lists.append((listed, read_units(content, site.public)))
    return lists, tokens


def _token_list(site: SiteFolder, content: bytes) -> TokenList:
    try:
        return read_token_list(content.decode("ascii", errors="replace").strip(), site.public, site=site.name)
    except VerificationError as error:
        raise VerificationError(
            error.reason, "a file is no list of units or tokens by this site's key: leave it out"
        ) from None


def _take_over(site: SiteFolder, told: Units, *, by_root: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Believe the newer list about whom this folder knows; who is revoked by it, and who has other keys or is new.

    A list that the service signed may be a thief's: it shuts out, and brings no key and nobody back. Who got new keys
    joins again anyway.
    """
    revoked, anew = [], []
    for unit, entries in told.items():
        known = load(site.files.unit(unit), UnitRecord) if site.files.unit(unit).exists() else None
        is_out = all(entry.status == "revoked" for entry in entries)
        if known is None:
            anew += [] if is_out else [unit]
            continue
        if is_out and not known.revoked:
            revoked.append(unit)
            known = msgspec.structs.replace(known, revoked=True, certificates=site.revoked(known.certificates))
        elif not is_out and entries[-1].jwk != known.keys[-1].jwk:
            anew.append(unit)
        keys = entries if by_root else tuple(_stricter(entry, entries) for entry in known.keys)
        save(site.files.unit(unit), msgspec.structs.replace(known, keys=keys))
    return tuple(sorted(revoked)), tuple(sorted(anew))


def _stricter(known: UnitKeyEntry, told: tuple[UnitKeyEntry, ...]) -> UnitKeyEntry:
    """What counts of a key that this folder knows: that it was revoked, or replaced, by either."""
    if known.status == "revoked" or known.until is not None:
        return next((entry for entry in told if entry.jwk == known.jwk and entry.status == "revoked"), known)
    return next((entry for entry in told if entry.jwk == known.jwk), known)


def _raise_numbers(site: SiteFolder, lists: Iterable[TrustedUnits]) -> None:
    record = load(site.files.record, SiteRecord)
    mandates = max([record.mandates, *(listed.mandate for listed in lists)])
    # A serial at the very end was signed by a thief of the service: the next mandate's lists count whatever it was.
    serials = [listed.serial for listed in lists if listed.serial < MAX_SAFE_INTEGER - JUMP]
    serial = max([record.trust_serial, *serials])
    if serial > MAX_SAFE_INTEGER - 2 * JUMP or mandates > MAX_MANDATES - MANDATES_JUMP - 1:
        raise RefusedError("the numbers of this site are used up: make a new site, every unit joins anew")
    raised = msgspec.structs.replace(record, trust_serial=serial + JUMP, mandates=mandates + MANDATES_JUMP)
    raised = msgspec.structs.replace(raised, policies=min(record.policies + JUMP, MAX_SAFE_INTEGER - JUMP))
    for unit in site.files.all_units():
        issued = min(unit.issued + JUMP, MAX_SAFE_INTEGER)
        save(site.files.unit(unit.unit), msgspec.structs.replace(unit, issued=issued))
    save(site.files.record, raised)


def _raise_tokens(site: SiteFolder, lists: Iterable[TokenList]) -> None:
    """Revoke what a newer list of tokens revokes, and number the coming one above it."""
    if not site.files.token_record.exists():
        return
    record = load(site.files.token_record, TokenListRecord)
    for listed in lists:
        record = msgspec.structs.replace(
            record,
            serial=max(record.serial, listed.serial),
            tokens={**dict.fromkeys(listed.tokens, token_end(site)), **record.tokens},
            subjects={**dict.fromkeys(listed.subjects, token_end(site)), **record.subjects},
        )
    save(site.files.token_record, msgspec.structs.replace(record, serial=record.serial + JUMP))
