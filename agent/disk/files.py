# SPDX-License-Identifier: Apache-2.0
"""Files that survive a power cut, and secrets that nobody else can read.

``write_atomic`` leaves the old or the new content, never a mixture: temporary file in the same
folder, write, fsync, rename, fsync of the folder. ``destroy`` overwrites before it unlinks; on
flash, wear levelling may keep the old blocks, and no program can reach those.
"""

from __future__ import annotations

import codecs
import os
import stat
import tempfile
from pathlib import Path

from agent.errors import KeyStoreError, StorageError

SECRET_MODE = 0o600
PUBLIC_MODE = 0o644
FOLDER_MODE = 0o700
REVOKED_BROKERS = "brokers.crl"  # beside ``ca.crt``, wherever that lies: broker certificates not to be believed
MAX_SECRET_BYTES = 64 * 1024  # a key, a certificate chain or a few hundred epoch keys; more is not ours

_ISSUED = {"unit.key", "tls.key", "tls.crt", "ca.crt", "site.jwk", "trust.jws"}  # what only a site hands out


_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),  # what PowerShell's '>' and Notepad's "Unicode" write
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def _unreadable(path: Path, error: OSError) -> KeyStoreError:
    advice = "put the file there or correct its path"
    if isinstance(error, FileNotFoundError) and path.name in _ISSUED:
        advice = (
            "a unit's files come from 'postern unit request' and 'postern unit install',"
            " a program's from 'postern site add-program'"
        )
    return KeyStoreError(f"cannot read {path} ({error.strerror}): {advice}")


def fsync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def mode_of(path: Path, otherwise: int) -> int:
    """Permissions of the file that is there; ``otherwise`` where there is none."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return otherwise


def write_atomic(path: Path, content: bytes, *, mode: int = SECRET_MODE, same_owner: bool = False) -> None:
    """Replace ``path`` by ``content`` durably and at once, with permissions ``mode`` from its first byte on.

    With ``same_owner`` the file stays its owner's and group's, who may be others than whoever writes. Raises
    StorageError when the disk is full or read-only, or the owner cannot be kept; the old content then stands.
    """
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            if same_owner and path.exists():
                before = path.stat()
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    except BaseException as error:  # Ctrl-C as well: what is half written may be a key
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise StorageError(f"cannot write {path} ({error.strerror}): free space or make the folder writable") from error


def replace(source: Path, target: Path) -> None:
    """Give ``source`` the name ``target``, durably."""
    try:
        source.replace(target)
        fsync_folder(target.parent)
    except OSError as error:
        raise StorageError(f"cannot replace {target} ({error.strerror}): make the folder writable") from error


def make_private_folder(folder: Path) -> None:
    """Create ``folder``, and those above it that are missing, for their owner alone; existing ones are kept.

    Durably: where there is no journal, as on a stick, a folder may be lost with all that was made durable in it.
    """
    try:
        for each in reversed([folder, *folder.parents]):
            if not each.is_dir():
                each.mkdir(mode=FOLDER_MODE, exist_ok=True)
                fsync_folder(each.parent)
    except OSError as error:
        raise StorageError(f"cannot create the folder {folder} ({error.strerror}): choose a writable place") from error


def check_private(path: Path) -> None:
    """Refuse a secret that others can read, or that is another user's, who could exchange it.

    Files of root count as one's own: root can do anything. Group read access is accepted for root's own group
    alone: this is how systemd shows a service's credentials (mode 0440 with an access list, systemd.exec(5),
    LoadCredential=).
    """
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):  # a pipe: a shell's <(…)
        raise KeyStoreError(f"{path} is no file: name the one that holds the secret")
    mode = stat.S_IMODE(status.st_mode)
    allowed = 0o740 if status.st_uid == status.st_gid == 0 else 0o700
    if status.st_uid not in (0, os.geteuid()):
        raise KeyStoreError(f"{path} belongs to another user: make it the file of whoever runs this (chown)")
    if mode & ~allowed:
        raise KeyStoreError(f"{path} can be read by others (mode {mode:04o}): run 'chmod 600 {path}'")


def read_bounded(path: Path, limit: int = MAX_SECRET_BYTES) -> bytes:
    """Content of a small file.

    Raises KeyStoreError when it is missing, unreadable or longer than ``limit`` bytes.
    """
    content = _read(path, limit + 1)
    if len(content) > limit:
        raise _too_long(path, limit)
    return content


def read_token(path: Path, limit: int = MAX_SECRET_BYTES) -> str:
    """A signed text of one line; a byte that can stand in none is left for the signature not to fit."""
    return read_bounded(path, limit).decode("ascii", errors="replace").strip()


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise _unreadable(path, error) from error


def _too_long(path: Path, limit: int) -> KeyStoreError:
    return KeyStoreError(f"{path} is larger than {limit} bytes: this is not the expected file")


def files_in(folder: Path, ending: str) -> list[Path]:
    """Files of ``folder`` whose names end so, in order.

    Raises KeyStoreError where one may not look, or there is no such folder: that is not the same as an empty one.
    """
    try:
        names = os.listdir(folder)  # noqa: PTH208 - pathlib's glob says that a folder is empty which it may not read
    except OSError as error:
        raise KeyStoreError(
            f"cannot read {folder} ({error.strerror}): run this as the user that it belongs to, or put it back"
        ) from error
    return [folder / name for name in sorted(names) if name.endswith(ending)]


def read_secret(path: Path) -> bytes:
    """Content of a secret file that only its owner can read."""
    check_private(path)
    return read_bounded(path)


def can_be_key(content: bytes, length: int) -> bool:
    """Whether a file holds a key of ``length`` bytes; a power cut may leave it empty, short or without one set bit."""
    return len(content) == length and any(content)


def read_brought(path: Path, limit: int = MAX_SECRET_BYTES, *, secret: bool = False) -> bytes:
    """Text that a person brings, from any editor: UTF-8, whatever mark or encoding stood at its beginning.

    A byte order mark is taken off, UTF-16 with one becomes UTF-8, line ends become line feeds; bytes that are no
    text are left to whoever reads them. ``limit`` is of the text: UTF-16 needs twice as much. Raises KeyStoreError as
    ``read_bounded`` does, or, if ``secret``, as ``read_secret`` does.
    """
    if secret:
        check_private(path)
    whole = 2 * limit + len(codecs.BOM_UTF16)
    content = _read(path, whole + 1)
    if len(content) > whole:
        raise _too_long(path, limit)
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            try:
                content = content[len(mark) :].decode(encoding).encode()
            except UnicodeError as error:
                raise KeyStoreError(f"{path} is damaged text: save it again as UTF-8") from error
            break
    content = content.replace(b"\r\n", b"\n")
    if len(content) > limit:
        raise _too_long(path, limit)
    return content


def overwrite(path: Path) -> None:
    """Fill an existing file with zeros in place, durably; a missing file is fine.

    A link is not followed, and a file of another user is left alone: whoever owns the folder could have put either
    there to have something else emptied. StorageError for both.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "wb", closefd=True) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                raise StorageError(f"{path} is no plain file of this user: look who put it there, then remove it")
            file.write(bytes(status.st_size))
            file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"cannot overwrite {path} ({error.strerror}): make the folder writable") from error


def destroy(path: Path) -> None:
    """Overwrite a secret file, then remove it; a missing file is fine."""
    overwrite(path)
    remove(path)


def destroy_unfinished(path: Path) -> None:
    """Destroy what a power cut left of writing a secret file; for whoever alone writes it, before the next write."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        destroy(leftover)


def supersede(fresh: Path, old: Path) -> None:
    """Put a secret file that is complete on the disk in the place of ``old``, whose bytes are overwritten first."""
    overwrite(old)
    replace(fresh, old)


def waiting(path: Path) -> Path:
    """Where the new content of a secret file waits until the old one's bytes are gone."""
    return path.with_name(path.name + ".new")


def finish_secret(path: Path) -> None:
    """Complete what a power cut ended in ``replace_secret``; to be called before the file is read."""
    if waiting(path).exists():
        supersede(waiting(path), path)


def replace_secret(path: Path, content: bytes) -> None:
    """Replace a secret file durably; the bytes of the one before are overwritten, not only unlinked.

    The new file is complete on the disk beside the old one before that is touched. Raises StorageError.
    """
    destroy_unfinished(path)
    write_atomic(waiting(path), content)
    finish_secret(path)


def remove(path: Path) -> None:
    """Remove a file durably; a missing file is fine."""
    try:
        path.unlink(missing_ok=True)
        fsync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"cannot remove {path} ({error.strerror}): make the folder writable") from error
