# SPDX-License-Identifier: Apache-2.0
"""Entries of the audit log, and how to check the chain they form; writing it is ``audit``'s part."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args

import msgspec
import rfc8785
from msgspec import Meta

from agent.clock import ClockState
from agent.errors import VerificationError
from agent.parse.strict_json import StrictJsonError, decode
from agent.protocol.names import Digest

Kind = Literal[
    "started",
    "stopped",
    "consent_given",
    "consent_withdrawn",
    "enrolled",
    "erased",
    "keys_renewed",
    "config_changed",
    "policy_changed",
    "model_changed",
    "command_done",
    "command_refused",
    "clock_step",
    "storage_error",
    "tamper",
    "updated",
    "log_healed",
    "generation",
    "confirmed",
    "token_issued",
    "console",
]
KINDS: tuple[str, ...] = get_args(Kind)

MAX_ENTRY_BYTES = 4096  # a line; the longest known one has 600
MAX_FACTS = 16  # per entry
FILE_NUMBER_DIGITS = 12  # of an earlier file's name: sorts by name as by number
MAX_SEQ = 2**53 - 1  # RFC 8785 numbers
NO_ENTRY = "sha256:" + "0" * 64  # what the first entry follows

HEAD_PATTERN = r"^[0-9]{1,16}:sha256:[0-9a-f]{64}$(?!\n)"  # ``str`` of a ``AuditHead``
Fact = str | int | bool


class AuditHead(NamedTuple):
    """The last entry: its number, and the digest of its line."""

    seq: int
    digest: str

    def __str__(self) -> str:
        """Spelling in health messages and on the command line."""
        return f"{self.seq}:{self.digest}"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line. ``at`` is wall time as the unit believed it, ``clock`` how far that can be trusted."""

    v: Literal[1]
    seq: Annotated[int, Meta(ge=1)]
    prev: Digest
    at: str
    clock: ClockState
    kind: Kind
    facts: Annotated[dict[str, Fact], Meta(max_length=MAX_FACTS)]
    personal: Digest | None = None


class _PersonalPart(msgspec.Struct, frozen=True):
    """The part of a personal part that says where it belongs."""

    seq: int


class AuditReport(msgspec.Struct, frozen=True):
    """A chain that holds, and its ends. Of the personal parts: how many are there, were erased, or fit no entry.

    A ``loose`` part is one that was changed after it was written, or whose entry a power cut prevented.
    """

    first: int
    head: AuditHead
    personal: int
    erased: int
    loose: int


def verify_log(path: Path, head: AuditHead | None = None) -> AuditReport:
    """Check the whole chain of the log at ``path``, from its oldest file to its end; needs no lock.

    With ``head``, taken from a health message, the entry of that number must be there with that digest. Raises
    VerificationError: ``malformed``, ``chain_broken``, ``cut_off``.
    """
    parts = {digest_of(part): part for file in personal_folder(path).glob("*.jsonl") for part in lines(file)}
    found: set[str] = set()
    first = erased = 0
    reached = AuditHead(0, NO_ENTRY)
    anchored = head is None or head == reached
    for number, line in enumerate(_log_lines(path), start=1):
        entry = parse_entry(line, number)
        if number == 1:
            first = _first_seq(path)
            # After rotation the oldest file follows one that was removed; what its first line follows is not known.
            reached = AuditHead(first - 1, entry.prev if first > 1 else NO_ENTRY)
        if entry.seq != reached.seq + 1 or entry.prev != reached.digest:
            raise VerificationError(
                "chain_broken", f"line {number} does not follow the one before it: the log was changed"
            )
        reached = AuditHead(entry.seq, digest_of(line))
        anchored = anchored or reached == head
        if entry.personal in parts:
            found.add(entry.personal)
        elif entry.personal is not None:
            erased += 1
    if not anchored:
        raise VerificationError("cut_off", "the log does not hold the entry of the given head: its end was removed")
    loose = sum(_personal_seq(part) >= first for digest, part in parts.items() if digest not in found)
    return AuditReport(first, reached, len(found), erased, loose)


def read_entries(path: Path) -> Iterator[Entry]:
    """Yield the entries from the oldest on, for reports; ``verify_log`` says whether they can be believed."""
    for number, line in enumerate(_log_lines(path), start=1):
        yield parse_entry(line, number)


def last_entry(path: Path, kind: Kind) -> Entry | None:
    """Newest entry of a kind; files are looked through from the newest on."""
    wanted = b'"kind":"%s"' % kind.encode()
    for file in (path, *reversed(rotated_files(path))):
        found = [(number, line) for number, line in enumerate(lines(file), start=1) if wanted in line]
        for number, line in reversed(found):
            entry = parse_entry(line, number)
            if entry.kind == kind:
                return entry
    return None


def entries_of(path: Path, kind: Kind) -> Iterator[Entry]:
    """Entries of a kind, oldest first; what is not readable is left out: ``verify_log`` finds it."""
    wanted = b'"kind":"%s"' % kind.encode()
    for number, line in enumerate(_log_lines(path), start=1):
        if wanted in line:
            with suppress(VerificationError):
                entry = parse_entry(line, number)
                if entry.kind == kind:
                    yield entry


def parse_entry(line: bytes, number: int) -> Entry:
    """Read line ``number``; VerificationError ``malformed`` unless it is an entry in its one canonical spelling."""
    try:
        entry = decode(line, Entry, MAX_ENTRY_BYTES)
        if rfc8785.dumps(msgspec.to_builtins(entry)) == line:
            return entry
    except (ValueError, rfc8785.CanonicalizationError):
        pass
    raise VerificationError("malformed", f"line {number} of the audit log is not an entry: the log was changed")


def _personal_seq(part: bytes) -> int:
    """Entry that a personal part says it belongs to; one that says nothing readable belongs to the future."""
    try:
        return decode(part, _PersonalPart, MAX_ENTRY_BYTES).seq
    except StrictJsonError:
        return MAX_SEQ


def parse_head(text: str) -> AuditHead:
    """Inverse of ``str`` of a head; ValueError when it is none."""
    if not re.match(HEAD_PATTERN, text):
        raise ValueError("a head is SEQ:sha256:…, as ``audit`` in a health message")
    seq, _, digest = text.partition(":")
    return AuditHead(int(seq), digest)


def digest_of(line: bytes) -> str:
    """Digest that stands for a line in the next one."""
    return "sha256:" + hashlib.sha256(line).hexdigest()


def personal_folder(path: Path) -> Path:
    """Where the personal parts of the log at ``path`` lie."""
    return path.with_name(f"{path.name}.personal")


def rotated(path: Path, first: int) -> Path:
    """Name of the earlier file that begins with entry ``first``."""
    return path.with_name(f"{path.name}.{first:0{FILE_NUMBER_DIGITS}d}")


def rotated_files(path: Path) -> list[Path]:
    """Files of earlier entries, oldest first."""
    return sorted(path.parent.glob(f"{path.name}.{'[0-9]' * FILE_NUMBER_DIGITS}"))


def _first_seq(path: Path) -> int:
    """Entry with which the oldest file begins, by its name."""
    files = rotated_files(path)
    return int(files[0].name[-FILE_NUMBER_DIGITS:]) if files else 1


def _log_lines(path: Path) -> Iterator[bytes]:
    for file in (*rotated_files(path), path):
        yield from lines(file)


def lines(path: Path) -> Iterator[bytes]:
    """Lines of a file, without their ends; an incomplete last one is left out, one that is too long comes in pieces."""
    if not path.exists():
        return
    with path.open("rb") as file:
        while line := file.readline(MAX_ENTRY_BYTES + 1):
            if line.endswith(b"\n"):
                yield line[:-1]
            elif file.peek(1):
                yield line
