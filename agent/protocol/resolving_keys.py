# SPDX-License-Identifier: Apache-2.0
"""Epoch keys on their way to a program that may resolve: signed by the site, encrypted to the program's own key.

They lie at the broker, which can neither read nor replace them. An issue has a number that rises: one that a broker
kept from before is not taken again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.errors import VerificationError
from agent.keys import PublicKey
from agent.parse.strict_json import MAX_SAFE_INTEGER, decode
from agent.protocol.encrypted import decrypt, encrypt
from agent.protocol.grant import SIGNS_EPOCH_KEYS, Signer, verify_document
from agent.protocol.names import Name, Time, round_down
from agent.protocol.pseudonym import EpochKey
from agent.protocol.record import Record, encode

RESOLVING_TYPE = "postern-resolving-keys+jws"
RESOLVE_KEY = "resolve.key"  # of a program that may resolve, beside its other files
MAX_RESOLVING_BYTES = 28 * 1024  # what a broker takes; 16 audiences of three weeks need about 12 000
IssueNumber = Annotated[int, Meta(ge=1, le=MAX_SAFE_INTEGER)]


class ResolvingKeys(Record, frozen=True):
    """What the site signs: the keys of its present week and of the next ones, for the audiences that it lets in."""

    version: Literal[1]
    site: Name
    program: Name
    issued_at: Time
    number: IssueNumber
    keys: Annotated[tuple[EpochKey, ...], Meta(min_length=1, max_length=64)]


def seal_resolving_keys(
    keys: Iterable[EpochKey],
    *,
    site: str,
    program: str,
    jwk: dict[str, str],
    now: datetime,
    number: int,
    signer: Signer,
) -> bytes:
    """Sign and encrypt the keys for one program."""
    issued = ResolvingKeys(
        version=1, site=site, program=program, issued_at=round_down(now, 1), number=number, keys=tuple(keys)
    )
    return encrypt(signer.sign(encode(issued), typ=RESOLVING_TYPE), jwk).encode()


def open_resolving_keys(
    sealed: bytes,
    *,
    key: Path,
    site_key: PublicKey,
    site: str,
    program: str,
    now: datetime | None,
    on_mandate: Callable[[int], None],
) -> ResolvingKeys:
    """Decrypt and verify what the site issued; ``now`` is None while the time is not known.

    ``on_mandate`` is ``verify_document``'s; whether a newer issue was taken before is for whoever remembers it. Raises
    VerificationError (``malformed``, ``not_for_us``, ``wrong_program``, or as ``verify_document``) and KeyStoreError
    when the program's key is missing.
    """
    if len(sealed) > MAX_RESOLVING_BYTES:
        raise VerificationError("malformed", f"sealed epoch keys have at most {MAX_RESOLVING_BYTES} bytes")
    token = decrypt(sealed.decode("ascii", errors="replace"), key)
    if token is None:
        raise VerificationError("not_for_us", f"they were not sealed to {key}: 'postern site add-program' once more")
    content = verify_document(
        token, site_key, typ=RESOLVING_TYPE, power=SIGNS_EPOCH_KEYS, site=site, now=now, on_mandate=on_mandate
    )
    try:
        issued = decode(content, ResolvingKeys, MAX_RESOLVING_BYTES)
        for one in issued.keys:
            one.secret()
    except (msgspec.ValidationError, ValueError):
        raise VerificationError("malformed", "the signed content holds no epoch keys") from None
    if (issued.site, issued.program) != (site, program) or any(one.site != site for one in issued.keys):
        raise VerificationError("wrong_program", "the epoch keys were issued for another program")
    return issued
