# SPDX-License-Identifier: Apache-2.0
"""Card numbers of people at an access controller, and the key of the secure channel to it.

A number is a keyed digest of the subject's id by a secret that this unit alone has: it says nothing about the person,
is the same each time, and is another at another unit. Once the subject is erased nobody can work it out again here; the
controller has to forget it by its own means.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agent.disk.files import can_be_key, read_brought, read_secret, write_atomic
from agent.errors import KeyStoreError
from agent.protocol.subject import SubjectId
from agent.unit.key_files import UnitFiles

CARD_BYTES = 8  # 64 bits: the longest that common controllers take
PANEL_KEY_BYTES = 16  # SCBK of OSDP, AES-128
DEFAULT_PANEL_KEY = bytes(range(0x30, 0x40))  # SCBK-D, by which a controller is set up: whoever has the standard has it
_SECRET_BYTES = 32


def card_numbers(files: UnitFiles, random: Callable[[int], bytes]) -> Callable[[SubjectId], bytes]:
    """What gives a subject's number; the secret is made at the first call. Raises KeyStoreError and StorageError."""
    if not files.card_secret.exists():
        write_atomic(files.card_secret, random(_SECRET_BYTES))
    secret = read_secret(files.card_secret)
    if not can_be_key(secret, _SECRET_BYTES):
        raise KeyStoreError(f"{files.card_secret} is damaged: restore it, or every person gets another card number")
    return partial(_number, secret)


def _number(secret: bytes, subject: SubjectId) -> bytes:
    return hmac.digest(secret, b"postern/card/v1" + subject, hashlib.sha256)[:CARD_BYTES]


def read_panel_key(path: Path) -> bytes:
    """The key in the file that both the controller and this unit have; KeyStoreError says what to do."""
    text = read_brought(path, secret=True).strip()
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != PANEL_KEY_BYTES:
        raise KeyStoreError(f"{path} holds no key: write the controller's 32 hex digits for this reader into it")
    if key == DEFAULT_PANEL_KEY or len(set(key)) == 1:
        raise KeyStoreError(f"{path} holds a key that everybody knows: have one drawn by chance, there and here")
    return key
