# SPDX-License-Identifier: Apache-2.0
"""Arguments and habits that several commands share."""

from __future__ import annotations

import argparse
import os
import pwd
import sys
from pathlib import Path

from agent.config.load import load_config
from agent.config.schema import Config
from agent.errors import RefusedError
from agent.files import read_secret, write_atomic

DEFAULT_CONFIG = Path("/etc/postern/config.yaml")
MAX_PASSPHRASE_BYTES = 1023  # what OpenSSL encrypts a key with at the most


def add_config(parser: argparse.ArgumentParser) -> None:
    """Let the command take the unit's configuration."""
    parser.add_argument(
        "-c", "--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help=f"configuration ({DEFAULT_CONFIG})"
    )


def read_config(arguments: argparse.Namespace) -> Config:
    """Load what ``add_config`` took; raises ConfigError."""
    return load_config(arguments.config)


def read_unit_config(arguments: argparse.Namespace) -> Config:
    """Load it for a command that reads or writes the unit's own files.

    Raises RefusedError for another user than the one that the files belong to: what root writes, the service
    could not open any more.
    """
    config = read_config(arguments)
    for folder in (config.keys.folder, config.keys.folder.parent):
        if folder.is_symlink():
            raise RefusedError(f"{folder} is a link: keep the unit's files in a folder of its own")
        if folder.exists() and (owner := folder.lstat().st_uid) not in (0, os.geteuid()):
            name = _user(owner)
            raise RefusedError(f"the unit's files belong to {name}: run this as that user (sudo -u {name} postern …)")
    if config.keys.folder.exists() and config.keys.folder.lstat().st_uid != os.geteuid():
        raise RefusedError("the unit's files belong to root: run this as root, or give them to the service (chown)")
    return config


def add_passphrase(parser: argparse.ArgumentParser, of: str = "its passphrase") -> None:
    """Let the command take the passphrase of a key from a file; an argument would stand in the process list."""
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help=f"file (mode 0600) with {of}")


def read_passphrase(arguments: argparse.Namespace) -> bytes | None:
    """Read what ``add_passphrase`` took; None when there is none.

    Raises KeyStoreError, and RefusedError for an empty passphrase or one too long: a key is never plain by mistake.
    """
    if arguments.passphrase_file is None:
        return None
    passphrase = read_secret(arguments.passphrase_file).strip()
    if not 0 < len(passphrase) <= MAX_PASSPHRASE_BYTES:
        raise RefusedError(
            f"{arguments.passphrase_file} holds no passphrase of 1 to {MAX_PASSPHRASE_BYTES} bytes: write one into it"
        )
    return passphrase


def check_output(file: Path | None) -> None:
    """Refuse a file that ``write_output`` could not write, before anything is done that cannot be done twice."""
    if file is not None and (file.is_dir() or not os.access(file.parent, os.W_OK | os.X_OK)):
        raise RefusedError(f"cannot write {file}: name a file in a folder that exists and is writable")


def write_output(file: Path | None, content: bytes) -> None:
    """Write a signed or other text to ``file``, or to standard output."""
    if file is None:
        sys.stdout.write(content.decode() + "\n")
    else:
        write_atomic(file, content + b"\n")


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
