# SPDX-License-Identifier: Apache-2.0
"""What the site's service hands its programs: their newest certificates, and the epoch keys of those that may resolve.

Both lie in ``sent`` and are retained at the broker. A certificate is public; keys are sealed to the program.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from agent.clock import Clock
from agent.disk.files import read_bounded, write_atomic
from agent.errors import RefusedError
from agent.protocol.pseudonym import EPOCHS_AHEAD, epoch_of, epochs_from
from agent.protocol.record import load
from agent.protocol.resolving_keys import seal_resolving_keys
from agent.protocol.topics import certificate_topic, resolving_topic
from agent.site.folder import SYSTEM_CLOCK, changing
from agent.site.programs import may_renew, renew_client
from agent.site.records import ClientRecord, SiteFiles, SiteRecord

DAY_S: Final = 86_400
KEYS_S: Final = 60  # how late a new week or generation of epoch keys may be noticed


class Letter(NamedTuple):
    """What is to be published."""

    topic: str
    payload: bytes
    expiry_s: int | None = None  # None for what is retained


class Handing:
    """What falls due for the programs of a site; ``letters`` gives each thing once, or all of them again."""

    def __init__(self, folder: Path, *, site: str, clock: Clock) -> None:
        self._folder, self._files, self._site, self._clock = folder, SiteFiles(folder), site, clock
        self._certificates: set[str] = set()  # programs whose certificate was not given yet
        self._keys: set[str] = set()
        self._daily_ns: int | None = None  # when to look again
        self._keys_ns: int | None = None

    def look(self) -> None:
        """Renew certificates once a day, and issue epoch keys where a week or a generation began.

        PosternError says why a program got none; the others did.
        """
        now_ns, refused = self._clock.monotonic_ns(), None
        if self._keys_ns is None or now_ns >= self._keys_ns:
            self._keys_ns = now_ns + KEYS_S * 1_000_000_000
            for record in self._files.all_clients():
                try:
                    if issue_resolving_keys(self._folder, record.name, clock=self._clock):
                        self._keys.add(record.name)
                except RefusedError as error:
                    refused = error
        if self._daily_ns is None or now_ns >= self._daily_ns:
            self._daily_ns = now_ns + DAY_S * 1_000_000_000
            for record in self._files.all_clients():
                if renew_client(self._folder, record.name, clock=self._clock):
                    self._certificates.add(record.name)
        if refused is not None:
            raise refused

    def letters(self, *, again: bool) -> list[Letter]:
        """What is new, or with ``again`` everything that counts."""
        if again:
            clients = self._files.all_clients()
            sent = self._files
            self._certificates |= {
                one.name for one in clients if may_renew(one) and sent.sent_certificate(one.name).exists()
            }
            self._keys |= {one.name for one in clients if may_resolve(one) and sent.sent_keys(one.name).exists()}
        letters = [
            Letter(certificate_topic(self._site, name), read_bounded(self._files.sent_certificate(name)))
            for name in sorted(self._certificates)
        ]
        letters += [
            Letter(resolving_topic(self._site, name), read_bounded(self._files.sent_keys(name)))
            for name in sorted(self._keys)
        ]
        self._certificates.clear()
        self._keys.clear()
        return letters


def may_resolve(record: ClientRecord) -> bool:
    """Whether this program gets epoch keys."""
    return bool(record.resolves) and record.resolve_jwk is not None and not record.revoked


def issue_resolving_keys(folder: Path, name: str, *, clock: Clock = SYSTEM_CLOCK) -> bool:
    """Seal the keys of this week and the next ones to a program that may resolve, where they changed; whether they did.

    They lie in ``sent`` until the next ones do. Raises PosternError, RefusedError where the service was not given an
    audience's keys.
    """
    files = SiteFiles(folder)
    if not _is_due(files, load(files.program(name), ClientRecord), clock):
        return False
    with changing(folder, clock=clock, needs_root=False) as site:
        record = site.client(name)
        if not _is_due(files, record, clock) or record.resolve_jwk is None:
            return False
        weeks = epochs_from(site.now(), EPOCHS_AHEAD)
        # By the time as well: a folder from a backup would number from where it was, and be refused.
        number = max(record.issued + 1, int(site.now().timestamp()))
        sealed = seal_resolving_keys(
            [site.epoch_key(audience, week) for audience in record.resolves for week in weeks],
            site=site.name,
            program=name,
            jwk=record.resolve_jwk,
            now=site.now(),
            number=number,
            signer=site.signs,
        )
        record = msgspec.structs.replace(record, issued=number, issued_epoch=weeks[0], generation=site.generation)
        site.put(record, "resolving_keys_issued", name=name, audiences=" ".join(record.resolves), number=number)
        write_atomic(site.files.sent_keys(name), sealed)
        return True


def _is_due(files: SiteFiles, record: ClientRecord, clock: Clock) -> bool:
    if not may_resolve(record) or not files.delegated:
        return False
    fresh = record.issued_epoch == epoch_of(clock.now()) and files.sent_keys(record.name).exists()
    return not fresh or record.generation < load(files.record, SiteRecord).generation
