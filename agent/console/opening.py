# SPDX-License-Identifier: Apache-2.0
"""Whether the console is open, until when, for what, and with which code: one small file in a folder of /run.

The file holds the digest of the code alone. Whoever opens from afar makes the code where they sit and sends its
digest, so no broker, card or log ever holds what lets somebody in. A restart of the machine closes the console.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from agent.clock import Clock
from agent.disk.files import make_private_folder, read_secret, remove, write_atomic
from agent.errors import KeyStoreError, RefusedError
from agent.parse.strict_json import StrictJsonError, convert, decode
from agent.protocol.names import Digest

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: no letter looks like another or a digit
CODE_BYTES: Final = 10  # 80 bits: nobody tries them all, not even against the digest
GROUP: Final = 4  # letters between dashes
MAX_CODE: Final = 64  # characters of what somebody typed; more is no code
MIN_MINUTES, MAX_MINUTES = 1, 120  # of one opening
MAX_FILE_BYTES: Final = 1024

# aim: picture, zone and checks. install: enrolments and outputs, too; nobody gets that by a button that all can reach.
Scope = Literal["aim", "install"]
By = Literal["command", "unit", "button", "first_boot"]


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``ends_s`` in seconds of the monotonic clock of the machine's run ``boot``; ``code`` is a digest."""

    code: Digest
    scope: Scope
    by: By
    ends_s: Annotated[int, Meta(ge=0)]
    boot: str

    def seconds_left(self, clock: Clock) -> int:
        """Whole seconds; 0 when it is over."""
        if self.boot != clock.boot():
            return 0
        return max(self.ends_s - clock.monotonic_ns() // 10**9, 0)


def make_code(random: Callable[[int], bytes]) -> str:
    """Draw a new code, as people type it: ``7K3M-9QTA-...``."""
    number = int.from_bytes(random(CODE_BYTES), "big")
    letters = [ALPHABET[(number >> 5 * place) % 32] for place in range(CODE_BYTES * 8 // 5)]
    return "-".join("".join(letters[first : first + GROUP]) for first in range(0, len(letters), GROUP))


def digest_of_code(text: str) -> str:
    """Digest of a code as somebody typed it: case, blanks and dashes do not matter, O is 0, I and L are 1."""
    letters = text[:MAX_CODE].upper().translate(str.maketrans("OIL", "011", "- \t"))
    return "sha256:" + hashlib.sha256(b"postern/console/v1" + letters.encode(errors="replace")).hexdigest()


def make_opening(clock: Clock, *, code: str, minutes: int, scope: Scope, by: By) -> Opening:
    """Make an opening that begins now; RefusedError when ``code`` is no digest or the time is out of bounds."""
    if not MIN_MINUTES <= minutes <= MAX_MINUTES:
        raise RefusedError(
            f"a console is open {MIN_MINUTES} to {MAX_MINUTES} minutes: choose a time in that range", reason="bad_args"
        )
    try:
        convert(code, Digest)
    except msgspec.ValidationError:
        raise RefusedError(
            "a code is named by its digest: take what 'postern console code' prints", reason="bad_args"
        ) from None
    return Opening(code, scope, by, clock.monotonic_ns() // 10**9 + minutes * 60, clock.boot())


def host_of(address: str, port: int) -> str:
    """Address and port as a browser names them."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def path_of(folder: Path) -> Path:
    return folder / "console.json"


def prepare(folder: Path) -> None:
    """Make the folder of socket, certificate and opening; raises StorageError."""
    make_private_folder(folder)


def write_opening(folder: Path, opening: Opening) -> None:
    """Open the console, instead of an opening that there is; raises StorageError."""
    write_atomic(path_of(folder), msgspec.json.encode(opening))


def read_opening(folder: Path, clock: Clock) -> Opening | None:
    """Return the opening that stands now; None when there is none, its time is over, or its file is not this user's."""
    path = path_of(folder)
    try:
        opening = decode(read_secret(path)[: MAX_FILE_BYTES + 1], Opening, MAX_FILE_BYTES) if path.exists() else None
    except (KeyStoreError, StrictJsonError, OSError):
        return None
    return opening if opening is not None and opening.seconds_left(clock) > 0 else None


def close(folder: Path) -> None:
    """Close the console; raises StorageError."""
    if path_of(folder).exists():
        remove(path_of(folder))
