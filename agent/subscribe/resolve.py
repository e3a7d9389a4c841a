# SPDX-License-Identifier: Apache-2.0
"""From a verified event to the subject id behind it, for whoever holds the keys of its week and audience.

A key resolves the pseudonyms of one site, audience and epoch, and a program that uses it needs the list of subject ids
that it may know: a pseudonym of anybody else stays one. Sealed subjects need the consumer's own key first.

from agent.subscribe.resolve import Keys, read_epoch_key, read_subjects
keys = Keys([read_epoch_key(Path("access-2026-W47.json"))], read_subjects(Path("subjects.txt")))
subject = keys.resolve(outcome.event)  # 16 bytes; VerificationError says why not
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from agent.disk.files import MAX_SECRET_BYTES, read_brought
from agent.errors import KeyStoreError, RefusedError, VerificationError
from agent.parse.strict_json import decode
from agent.protocol.event import Event, MatchData, PresenceData
from agent.protocol.pseudonym import EpochKey, Resolver
from agent.protocol.subject import SUBJECT_BYTES

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

MAX_SUBJECTS_BYTES = 4 * 1024 * 1024  # a list of 100 000 ids, one a line, has 3.3 MB


class Keys:
    """The keys of one holder."""

    def __init__(
        self, keys: Iterable[EpochKey], subjects: Iterable[bytes], *, consumer: X25519PrivateKey | None = None
    ) -> None:
        """``subjects`` are the ids that may be named; ``consumer`` opens sealed subjects.

        A week whose keys were replaced in its course has one key per generation: give them all. Raises RefusedError
        without a key, or for the same key twice.
        """
        known = tuple(subjects)
        self._resolvers: dict[tuple[str, str, str], list[Resolver]] = {}
        given: set[EpochKey] = set()
        for key in keys:
            if key in given:
                raise RefusedError(f"a key for audience {key.audience} in {key.epoch} was given twice: leave one out")
            given.add(key)
            self._resolvers.setdefault((key.site, key.audience, key.epoch), []).append(Resolver(key, known))
        if not self._resolvers:
            raise RefusedError("give the key of the week: 'postern site epoch-key' takes it out")
        self._consumer = consumer

    def resolve(self, event: Event) -> bytes:
        """Subject id behind a verified event; VerificationError when these keys must not say.

        Its reasons: ``no_subject``, ``wrong_site``, ``wrong_audience``, ``no_key``, ``sealed``, ``bad_seal``,
        ``unknown_subject``. That an event is genuine is the verifier's business: resolve none that it refused.
        """
        data = event.data
        if not isinstance(data, MatchData | PresenceData):
            raise VerificationError("no_subject", "this event is about nobody")
        site, audience, epoch = event.source.split("/")[2], data.audience, data.epoch
        generations = self._generations(site, audience, epoch)
        name = self._open(data.subject, site=site, audience=audience, epoch=epoch)
        for resolver in generations:  # no two keys give one name: 128 bits
            subject = resolver.resolve(name, audience=audience, epoch=epoch)
            if subject is not None:
                return subject
        raise VerificationError(
            "unknown_subject",
            "this pseudonym is of nobody on the list of subjects, or of another generation of the week's keys",
        )

    def _generations(self, site: str, audience: str, epoch: str) -> list[Resolver]:
        found = self._resolvers.get((site, audience, epoch))
        if found is not None:
            return found
        if all(held != site for held, _, _ in self._resolvers):
            raise VerificationError("wrong_site", "these keys are of another site")
        if all((held, whose) != (site, audience) for held, whose, _ in self._resolvers):
            raise VerificationError(
                "wrong_audience", f"no key given is for audience {audience}: the event is not yours"
            )
        raise VerificationError(
            "no_key",
            f"no key given is of {epoch}: it was destroyed, or never taken out; ask the site",
        )

    def _open(self, subject: str, *, site: str, audience: str, epoch: str) -> str:
        if not subject.startswith("s1_"):
            return subject
        if self._consumer is None:
            raise VerificationError("sealed", "the subject is sealed: it needs the consumer's key")
        from agent.protocol.sealed import unseal  # noqa: PLC0415 - an optional extra

        return unseal(subject, self._consumer, site=site, audience=audience, epoch=epoch)


def read_epoch_key(path: Path) -> EpochKey:
    """Read what ``postern site epoch-key`` wrote; KeyStoreError when it is missing, destroyed or damaged."""
    content = read_brought(path, secret=True)
    if content and not any(content):  # what overwriting leaves
        raise KeyStoreError(f"{path} was destroyed: what happened in its week stays pseudonymous")
    try:
        key = decode(content, EpochKey, MAX_SECRET_BYTES)
        key.secret()
    except ValueError:
        raise KeyStoreError(f"{path} is no epoch key: take it out at the site again") from None
    return key


def read_subjects(path: Path) -> tuple[bytes, ...]:
    """Read subject ids, 32 hexadecimal digits at the start of each line; RefusedError names a line that has none."""
    subjects = []
    for number, line in enumerate(read_brought(path, MAX_SUBJECTS_BYTES).decode(errors="replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            subject = bytes.fromhex(words[0])
        except ValueError:
            subject = b""
        if len(subject) != SUBJECT_BYTES:
            raise RefusedError(f"line {number} of {path} does not begin with a subject id of 32 hexadecimal digits")
        subjects.append(subject)
    return tuple(subjects)
