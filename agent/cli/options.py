# SPDX-License-Identifier: Apache-2.0
"""Arguments and habits that several commands share."""

from __future__ import annotations

import argparse
import os
import pwd
import sys
from collections.abc import Iterable
from pathlib import Path

from agent.cli.words import put
from agent.config.load import load_config, load_file
from agent.config.schema import Config
from agent.config.told import in_force
from agent.disk.files import read_brought, write_atomic
from agent.errors import RefusedError, StorageError

DEFAULT_CONFIG = Path("/etc/postern/config.yaml")
_DEVICES = Path("/dev")
OUTPUTS = ("output", "png")  # arguments that name what a command writes
MAX_WAIT_S = 86_400.0  # of whoever stands there, or of a job that begins again
MAX_PASSPHRASE_BYTES = 1023  # what OpenSSL encrypts a key with at the most


def seconds(text: str) -> float:
    """A time in seconds for ``argparse``: more than none, and no longer than a day."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= MAX_WAIT_S:  # also what is no number
        raise argparse.ArgumentTypeError(f"'{text[:32]}' is no time to wait: give seconds, up to {MAX_WAIT_S:.0f}")
    return found


def add_config(parser: argparse.ArgumentParser) -> None:
    """Let the command take the unit's configuration."""
    parser.add_argument(
        "-c", "--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help=f"configuration ({DEFAULT_CONFIG})"
    )


def read_config(arguments: argparse.Namespace) -> Config:
    """Load what ``add_config`` took; raises ConfigError."""
    return load_config(arguments.config)


def read_unit_config(arguments: argparse.Namespace) -> Config:
    """Load what the unit runs on, as ``read_unit_file`` does, with what the site set and what was drawn at the unit."""
    return in_force(read_unit_file(arguments))


def read_unit_file(arguments: argparse.Namespace) -> Config:
    """Load it for a command that reads or writes the unit's own files, and become the user that these belong to.

    Root becomes that user for the rest of the process: what root writes, the service could not open any more. Raises
    RefusedError for any other user.
    """
    config = load_file(arguments.config)
    drop_root(config)
    for folder in (config.keys.folder, config.keys.folder.parent):
        if _owner(folder) != 0:
            check_owner(folder, "the unit's")
    if _owner(config.keys.folder) not in (None, os.geteuid()):
        raise RefusedError("the unit's files belong to root: run this as root, or give them to the service (chown)")
    return config


def check_owner(folder: Path, what: str) -> None:
    """Refuse an act in a folder of another user, root's too: whom it belongs to could not open what was written.

    ``what`` names the files in the sentence. Where there is no folder yet, nothing is refused.
    """
    if (owner := _owner(folder)) not in (None, os.geteuid()):
        name = _user(owner)
        raise RefusedError(f"{what} files belong to {name}: run this as that user (sudo -u {name} postern …)")


def drop_root(config: Config) -> None:
    """Become the user that the unit's files belong to, if this is root; for anybody else do nothing.

    What lies in the service's folder, such as a zone that was drawn, is read after it. Raises RefusedError where a
    folder is a link, which could lead root to where everything belongs to root.
    """
    become_owner(config.keys.folder)


def become_owner(keys: Path) -> None:
    """Do what ``drop_root`` does, for the unit whose keys are, or will be, in ``keys``."""
    for folder in (keys, keys.parent):
        if os.path.islink(folder):  # noqa: PTH114 - says no where one may not look, which is told below
            raise RefusedError(f"{folder} is a link: keep the unit's files in a folder of its own")
    owner = _owner(keys)
    if owner is None:
        owner = _owner(keys.parent)
    if owner is not None and owner != os.geteuid() == 0:
        _become(owner)


def add_passphrase(parser: argparse.ArgumentParser, of: str = "its passphrase") -> None:
    """Let the command take the passphrase of a key from a file; an argument would stand in the process list."""
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help=f"file (mode 0600) with {of}")


def read_passphrase(arguments: argparse.Namespace) -> bytes | None:
    """Read what ``add_passphrase`` took; None when there is none.

    Raises KeyStoreError, and RefusedError for an empty passphrase or one too long: a key is never plain by mistake.
    """
    if arguments.passphrase_file is None:
        return None
    passphrase = read_brought(arguments.passphrase_file, secret=True).strip()
    if not 0 < len(passphrase) <= MAX_PASSPHRASE_BYTES:
        raise RefusedError(
            f"{arguments.passphrase_file} holds no passphrase of 1 to {MAX_PASSPHRASE_BYTES} bytes: write one into it"
        )
    return passphrase


def check_outputs(arguments: argparse.Namespace) -> None:
    """Refuse what a command would write in the place of what it reads, or of what it writes besides."""
    given = vars(arguments)
    outputs = [given[name] for name in OUTPUTS if isinstance(given.get(name), Path)]
    values = [value for name, value in given.items() if name not in OUTPUTS]
    brought = (one for value in values for one in (value if isinstance(value, list) else [value]))
    own = [one for one in brought if isinstance(one, Path) and not one.is_dir()]
    for file in outputs:
        check_output(file, own)
        own.append(file)


def check_output(file: Path | None, own: Iterable[Path] = ()) -> None:
    """Refuse a file that ``write_output`` could not write, before anything is done that cannot be done twice.

    So is one of ``own``, or one that would lie in such a folder: what is there is needed.
    """
    if file is None:
        return
    there = _real(file)
    if any(kept == there or kept in there.parents for kept in map(_real, own)):
        raise RefusedError(f"{file} is needed as it is: name another file to write to")
    if not os.access(file.parent, os.W_OK | os.X_OK) or file.is_dir():
        raise RefusedError(f"cannot write {file}: name a file in a folder that exists and is writable")
    if file.name == "-" or _real(file.parent) == _DEVICES or (file.exists() and not file.is_file()):
        # A rename would put a file in the place of the terminal, the pipe or the device that is meant.
        raise RefusedError(f"{file} is no file that can be replaced: name one in an ordinary folder")


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # pathlib's own raises at a link that leads to itself (Python 3.11, 3.12)


def write_output(file: Path | None, content: bytes) -> None:
    """Write a signed or other text to ``file``, or to standard output."""
    if file is None:
        put(content.decode() + "\n", sys.stdout)
    else:
        check_output(file)
        try:
            write_atomic(file, content + b"\n")
        except StorageError as error:
            raise RefusedError(f"{error}, or choose another place") from error


def _owner(folder: Path) -> int | None:
    """Whose files lie in ``folder``: its owner, that of what is in the way to it, or None where there is none yet."""
    try:
        return folder.lstat().st_uid
    except PermissionError:
        return _owner(folder.parent)
    except OSError:
        return None


def _become(user: int) -> None:
    """Give up root for good: the groups of ``user`` (such as video), then the group, then the user."""
    try:
        known = pwd.getpwuid(user)
        os.initgroups(known.pw_name, known.pw_gid)
        os.setgid(known.pw_gid)
    except KeyError:  # files of a user that this machine does not know
        os.setgroups([])
        os.setgid(user)
    os.setuid(user)
    os.umask(0o077)


def _user(number: int | None) -> str:
    try:
        return pwd.getpwuid(number or 0).pw_name
    except KeyError:
        return f"'#{number}'"  # as sudo is told it
