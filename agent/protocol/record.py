# SPDX-License-Identifier: Apache-2.0
"""What is kept or sent as one strict JSON object."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from agent.disk.files import read_bounded, read_secret, write_atomic
from agent.errors import KeyStoreError
from agent.parse import strict_json

MAX_RECORD_BYTES = 64 * 1024  # the longest, an answer with certificates and epoch keys, has about 6 000


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What is kept or sent as one strict JSON object."""


R = TypeVar("R", bound=Record)


def encode(record: Record) -> bytes:
    return msgspec.json.encode(record)


def decode(content: bytes, kind: type[R]) -> R:
    """Read a record; ValueError, without any text of ``content``, when it is none."""
    return strict_json.decode(content, kind, MAX_RECORD_BYTES)


def save(path: Path, record: Record) -> None:
    """Write a record durably, for its owner alone."""
    write_atomic(path, encode(record))


def load(path: Path, kind: type[R], *, secret: bool = False) -> R:
    """Read a record; KeyStoreError when it is missing or damaged."""
    content = read_secret(path) if secret else read_bounded(path, MAX_RECORD_BYTES)
    try:
        return decode(content, kind)
    except ValueError as error:
        raise KeyStoreError(f"{path} is damaged: restore the folder from its backup") from error
