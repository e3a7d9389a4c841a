# SPDX-License-Identifier: Apache-2.0
"""The audit log: a hash chain of what was done to people's data and to the unit.

One line of canonical JSON (RFC 8785) per entry; each holds the digest of the line before, so an entry
cannot be changed, dropped or moved without breaking the chain. Cutting off the end is seen by comparing
with ``head``, which travels in every health message.

What concerns a person is not in the chain. The entry holds SHA-256 over a random salt and the personal
part; both lie beside the log, in one file per subject. Erasing the subject destroys that file, after
which the digest tells nothing and the chain still verifies.

Never in the log: names, scores, embeddings, pictures, and anything about people who are not enrolled.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import rfc8785

from agent.audit import chain
from agent.clock import Clock
from agent.disk.files import SECRET_MODE, destroy, fsync_folder, make_private_folder
from agent.disk.process_lock import BY_THE_UNIT, ProcessLock
from agent.errors import StorageError, VerificationError, printable
from agent.protocol.subject import SubjectId, subject_digest

MAX_FILE_BYTES = 1024 * 1024  # then a new file begins: about 2 500 entries
MAX_FILES = 64  # 160 000 entries, three years at 140 a day; the oldest file is then removed whole
CLOSED = -1  # no descriptor
SALT_BYTES = 32  # without it, a short personal part could be guessed from its digest


class AuditLog:
    """The log of one unit at ``path``, with ``path.personal/`` beside it. One writer at a time, many threads.

    Opening heals what a power cut left: an incomplete last line is removed, and an entry ``log_healed`` says so.
    Raises StorageError when the disk is full or the log is in use.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        random: Callable[[int], bytes],
        max_file_bytes: int = MAX_FILE_BYTES,
        max_files: int = MAX_FILES,
        wait_s: float = 0.0,
        advice: str = BY_THE_UNIT,
    ) -> None:
        """``wait_s`` and ``advice`` are those of ``ProcessLock``."""
        self._path = path
        self._personal = chain.personal_folder(path)
        self._clock = clock
        self._random = random
        self._max_file_bytes = max_file_bytes
        self._max_files = max(max_files, 2)  # so that one earlier file says where the log begins
        self._lock = threading.Lock()
        self._process_lock = ProcessLock(path, wait_s=wait_s, advice=advice)
        try:
            make_private_folder(self._personal)
            dropped = _cut_after_last(path, _is_entry)
            self._head = _last_head(path)
            self._descriptor = self._open()
            if dropped:
                self.append("log_healed", {"bytes_dropped": dropped})
        except BaseException:
            self._process_lock.release()
            raise

    def head(self) -> chain.AuditHead:
        """Anchor of the chain, for the health message."""
        with self._lock:
            return self._head

    def append(
        self,
        kind: chain.Kind,
        facts: Mapping[str, chain.Fact] | None = None,
        *,
        subject: SubjectId | None = None,
        personal: Mapping[str, str] | None = None,
    ) -> chain.AuditHead:
        """Add an entry durably. ``facts`` must concern nobody; ``personal`` goes with ``subject`` and is erasable.

        Raises StorageError when it cannot be written; the log then is as it was. ValueError for facts that do not
        belong in a log, numbers with a fraction among them: a score has no place here.
        """
        with self._lock:
            commitment = None
            if subject is not None:
                salt = self._random(SALT_BYTES).hex()
                part: dict[str, str | int] = {**(personal or {}), "salt": salt, "subject": subject.hex()}
                part["seq"] = self._head.seq + 1
                commitment = self._write_personal(subject, rfc8785.dumps(part))
            entry = chain.Entry(
                v=1,
                seq=self._head.seq + 1,
                prev=self._head.digest,
                at=self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
                clock=self._clock.state(),
                kind=kind,
                facts={name: _checked_fact(value) for name, value in (facts or {}).items()},
                personal=commitment,
            )
            line = rfc8785.dumps(msgspec.to_builtins(entry))
            if len(line) > chain.MAX_ENTRY_BYTES or kind not in chain.KINDS or len(entry.facts) > chain.MAX_FACTS:
                raise ValueError("this entry is too long or of an unknown kind")
            if self._descriptor == CLOSED:  # its number may be another file's by now
                raise StorageError("the audit log was closed: nothing more is written to it")
            if self._size() + len(line) > self._max_file_bytes:
                self._rotate()
            _append_line(self._descriptor, line, self._path)
            self._head = chain.AuditHead(entry.seq, chain.digest_of(line))
            return self._head

    def last(self, kind: chain.Kind) -> chain.Entry | None:
        """Newest entry of a kind, if the log still has one; VerificationError when it is not readable."""
        with self._lock:
            return chain.last_entry(self._path, kind)

    def erased(self) -> dict[str, str]:
        """Digest of everybody who was erased, as far as the log still says so, and the reason."""
        with self._lock:
            facts = (entry.facts for entry in chain.entries_of(self._path, "erased"))
            return {str(one["subject"]): str(one.get("reason")) for one in facts if "subject" in one}

    def forget(self, subject: SubjectId) -> None:
        """Destroy the personal parts of all entries about ``subject``."""
        self.forget_digest(subject_digest(subject))

    def forget_digest(self, digest: str) -> None:
        """Do the same for the subject with this digest, as it stands in receipts and tombstones."""
        path = self._personal_file(digest)
        with self._lock:
            if path.exists():
                destroy(path)

    def forget_others(self, held: Iterable[SubjectId]) -> None:
        """Destroy every personal part that is about none of ``held``: what a power cut left of others."""
        kept = {self._personal_file(subject_digest(subject)) for subject in held}
        with self._lock:
            for path in self._personal.glob("*.jsonl"):
                if path not in kept:
                    destroy(path)

    def close(self) -> None:
        """Let another process write."""
        with self._lock:
            os.close(self._descriptor)
            self._descriptor = CLOSED
            self._process_lock.release()

    def _open(self) -> int:
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, SECRET_MODE)
            fsync_folder(self._path.parent)
        except OSError as error:
            raise StorageError(f"cannot open {self._path} ({error.strerror}): make its folder writable") from error
        return descriptor

    def _size(self) -> int:
        try:
            return os.fstat(self._descriptor).st_size
        except OSError as error:
            raise StorageError(f"cannot read {self._path} ({error.strerror}): check its disk") from error

    def _rotate(self) -> None:
        oldest = next(chain.lines(self._path), None)
        if oldest is None:
            return
        first = chain.parse_entry(oldest, 1).seq
        try:
            self._path.rename(chain.rotated(self._path, first))
        except OSError as error:
            raise StorageError(f"cannot begin a new {self._path} ({error.strerror}): free space on its disk") from error
        before, self._descriptor = self._descriptor, self._open()
        os.close(before)
        with suppress(OSError):  # the oldest ones go at the next change of files
            for old in chain.rotated_files(self._path)[: -self._max_files + 1 or None]:
                old.unlink()

    def _personal_file(self, digest: str) -> Path:
        return self._personal / f"{digest.removeprefix('sha256:')[:32]}.jsonl"

    def _write_personal(self, subject: SubjectId, part: bytes) -> str:
        path = self._personal_file(subject_digest(subject))
        is_new = not path.exists()
        _cut_after_last(path, lambda line: line.endswith(b"}"))
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, SECRET_MODE)
        except OSError as error:
            raise StorageError(f"cannot open {path} ({error.strerror}): free space on its disk") from error
        try:
            _append_line(descriptor, part, path)
        finally:
            os.close(descriptor)
        if is_new:
            fsync_folder(self._personal)
        return chain.digest_of(part)


def _checked_fact(value: chain.Fact) -> chain.Fact:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, int):
        return value
    raise ValueError("facts of an audit entry are text, whole numbers or yes and no")


def _append_line(descriptor: int, line: bytes, path: Path) -> None:
    """Write a line and its end at once and durably, or leave the file as it was."""
    content = line + b"\n"
    size = os.lseek(descriptor, 0, os.SEEK_END)
    try:
        written = os.write(descriptor, content)
        if written == len(content):
            os.fsync(descriptor)
            return
        os.ftruncate(descriptor, size)
    except OSError as error:
        with suppress(OSError):  # where even this fails, the next start cuts the torn line
            os.ftruncate(descriptor, size)
        raise StorageError(f"cannot write {path} ({error.strerror}): free space on its disk") from error
    raise StorageError(f"cannot write {path} (no space left): free space on its disk")


def _cut_after_last(path: Path, is_whole: Callable[[bytes], bool]) -> int:
    """Cut what follows the last whole line of a file, as a power cut leaves it; how many bytes that were.

    Damage before a whole line stays where it is: it did not come from a power cut, and is for ``verify_log`` to find.
    """
    if not path.exists():
        return 0
    with path.open("r+b") as file:
        pieces = list(iter(lambda: file.readline(chain.MAX_ENTRY_BYTES + 1), b""))
        end = whole = file.tell()
        for piece in reversed(pieces):  # from the end, so that a start need not read a year's entries
            if piece.endswith(b"\n") and is_whole(piece[:-1]):
                break
            whole -= len(piece)
        torn = end - whole
        if torn:
            file.truncate(whole)
            os.fsync(file.fileno())
    return torn


def _is_entry(line: bytes) -> bool:
    try:
        chain.parse_entry(line, 0)
    except VerificationError:
        return False
    return True


def _last_head(path: Path) -> chain.AuditHead:
    """Find the last entry in the file, or in the newest earlier file when this one is empty."""
    for file in (path, *reversed(chain.rotated_files(path))):
        last = deque(chain.lines(file), maxlen=1)
        if last:
            return chain.AuditHead(chain.parse_entry(last[0], 0).seq, chain.digest_of(last[0]))
    return chain.AuditHead(0, chain.NO_ENTRY)
