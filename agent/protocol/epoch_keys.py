# SPDX-License-Identifier: Apache-2.0
"""Epoch keys on their way to a unit: derived, signed by the site, encrypted to the unit.

They may travel by memory stick or through the broker, so neither may be able to read or replace them: a
JWS by the site inside a JWE (RFC 7516, ECDH-ES with A256GCM) to the unit's ``seal.key``. That key does
nothing else, because a key that signs should not also decrypt, and it serves once: whoever recorded an issue
and takes the unit's disk later opens nothing. An issue has a number that rises, so that a unit takes none again even
while it does not know the time. A site of release 0.1 issues without one: that is taken until a numbered one came.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from agent.clock import ClockState
from agent.errors import RefusedError, VerificationError
from agent.keys import PublicKey, SigningKey, encode_base64url
from agent.parse import strict_json
from agent.protocol.encrypted import decrypt, encrypt
from agent.protocol.grant import SEPARATOR, SIGNS_EPOCH_KEYS, Signer, verify_document
from agent.protocol.names import Name, Time, round_down
from agent.protocol.pseudonym import EPOCHS_AHEAD, EpochKey, epoch_of, epochs_from
from agent.protocol.record import Record, decode

EPOCH_KEYS_TYPE = "postern-epoch-keys+jws"
SEAL_KEY_TYPE = "postern-seal-key+jws"
_SEALED = re.compile(r"[\w-]*(?:\.[\w-]*){4}", re.ASCII)  # a compact JWE (RFC 7516 sec. 7.1)
MAX_SEALED_BYTES = 32 * 1024  # 16 audiences of three epochs need about 12 000
MAX_SKIPPED_ISSUES = 1_000_000  # between two that a unit takes: a thief of the service's key uses up no unit's numbers
MAX_ISSUE = 2**52  # that a unit may state: the site numbers on from there
_LABEL = b"postern/epoch/v1"
TokenKey = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{43}$(?!\n)")]  # 32 bytes


class IssuedKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What the site signs; ``number`` is 0 in version 1, which has none.

    ``token_key`` comes along where the site has tokens: a unit that does not know it refuses the issue as unreadable,
    so units are upgraded before the site signs its first list of tokens.
    """

    version: Literal[1, 2]
    site: Name
    unit: Name
    issued_at: Time
    keys: Annotated[tuple[EpochKey, ...], msgspec.Meta(max_length=64)]
    number: Annotated[int, msgspec.Meta(ge=0, le=strict_json.MAX_SAFE_INTEGER)] = 0
    token_key: TokenKey | None = None


class SealStatement(Record, frozen=True):
    """What a unit signs about the key of its next issue; ``number`` is that of the last issue it took, 0 before one."""

    version: Literal[1]
    site: Name
    unit: Name
    number: Annotated[int, msgspec.Meta(ge=0, le=MAX_ISSUE)]
    jwk: dict[str, str]


def derive_epoch_key(master: SigningKey, *, site: str, audience: str, epoch: str, generation: int = 0) -> EpochKey:
    """Derive the key of one audience and epoch from the site's master key (HKDF, RFC 5869).

    Each ``generation`` has other keys, so that those a thief took can be replaced before their epochs are over.
    """
    texts = (site, audience, epoch) if generation == 0 else (site, audience, epoch, str(generation))
    fields = (text.encode("ascii") for text in texts)
    label = _LABEL + b"".join(bytes([len(field)]) + field for field in fields)
    return EpochKey(site, audience, epoch, encode_base64url(master.derive(label)))


def seal_epoch_keys(
    *,
    site: str,
    unit: str,
    seal_jwk: dict[str, str],
    audiences: Iterable[str],
    now: datetime,
    ahead: int,
    number: int,
    key_of: Callable[[str, str], EpochKey],
    signer: Signer,
    token_key: str | None = None,
) -> str:
    """Sign and encrypt the keys of the current epoch and the ``ahead`` next ones for one unit.

    ``key_of`` gives the key of an audience and an epoch. RefusedError when that is further ahead than a unit may hold
    keys for.
    """
    if not 0 <= ahead <= EPOCHS_AHEAD:
        raise RefusedError(f"a unit holds the keys of 0 to {EPOCHS_AHEAD} epochs to come: issue so many, more often")
    keys = tuple(key_of(audience, epoch) for audience in audiences for epoch in epochs_from(now, ahead))
    issued = IssuedKeys(
        version=2,
        site=site,
        unit=unit,
        issued_at=round_down(now, 1),
        keys=keys,
        number=number,
        token_key=token_key,
    )
    return encrypt(signer.sign(msgspec.json.encode(issued), typ=EPOCH_KEYS_TYPE), seal_jwk)


def open_epoch_keys(
    sealed: str,
    *,
    seal_key: Path,
    site_key: PublicKey,
    site: str,
    unit: str,
    above: int,
    now: datetime,
    clock: ClockState,
    on_mandate: Callable[[int], None],
) -> IssuedKeys:
    """Decrypt and verify what the site issued; keys of past epochs are left out when the clock is known to be right.

    ``above`` is the number of the last issue that the unit took; ``on_mandate`` is ``verify_document``'s.
    The key of tokens is taken from the site's own key alone: with another one a thief of the service's key would read
    what desks issue. Raises VerificationError (``malformed``, ``not_for_us``, ``wrong_unit``, ``old_issue``,
    ``number_ahead``, ``not_granted``, ``past_epochs``, or as ``verify_document``) and KeyStoreError when the key is
    missing.
    """
    if len(sealed) > MAX_SEALED_BYTES:
        raise VerificationError("malformed", f"sealed epoch keys have at most {MAX_SEALED_BYTES} bytes")
    if _SEALED.fullmatch(sealed) is None:
        raise VerificationError("malformed", "these are no sealed epoch keys, or not all of them: copy the file again")
    token = decrypt(sealed, seal_key)
    if token is None:
        raise VerificationError(
            "not_for_us",
            "the epoch keys were not sealed to the key that this unit has now: give the site the unit's seal key"
            " ('postern ask UNIT key/rotate seal_key=show', or 'postern unit seal-key' and 'postern site seal-key'),"
            " then issue them again",
        )
    try:
        payload = verify_document(
            token,
            site_key,
            typ=EPOCH_KEYS_TYPE,
            power=SIGNS_EPOCH_KEYS,
            site=site,
            now=now if clock == "synced" else None,
            on_mandate=on_mandate,
        )
        issued = strict_json.decode(payload, IssuedKeys, MAX_SEALED_BYTES)
    except ValueError:
        raise VerificationError("malformed", "the epoch keys are not readable: issue them again") from None
    if (issued.site, issued.unit) != (site, unit) or any(key.site != site for key in issued.keys):
        raise VerificationError("wrong_unit", "the epoch keys were issued for another unit")
    _check_issue(issued, above=above, by_service=SEPARATOR in token)
    kept = tuple(key for key in issued.keys if clock == "unsynced" or key.epoch >= epoch_of(now))
    if issued.keys and not kept:
        raise VerificationError("past_epochs", "all issued epoch keys are of past epochs: issue them again")
    return msgspec.structs.replace(issued, keys=kept)


def _check_issue(issued: IssuedKeys, *, above: int, by_service: bool) -> None:
    if above and issued.number == 0:
        raise VerificationError("old_issue", "the epoch keys come from an older release of the site: upgrade the site")
    if above and issued.number <= above:
        raise VerificationError("old_issue", f"this unit took issue {above}: issue the epoch keys again")
    if issued.number > above + MAX_SKIPPED_ISSUES:
        raise VerificationError("number_ahead", f"the issue's number is far above {above}, the last one: issue again")
    if issued.token_key is not None and by_service:
        raise VerificationError("not_granted", "the key of tokens comes from the site's own key alone: issue again")
    if (issued.version == 2) != (issued.number > 0):
        raise VerificationError("malformed", "the epoch keys have no number: issue them again")


def read_seal_statement(token: str, key: PublicKey, *, site: str, unit: str) -> SealStatement:
    """Read what the unit that holds ``key`` says about its next seal key.

    Raises VerificationError: ``malformed``, ``wrong_unit``, or as ``PublicKey.verify``; KeyStoreError for a bad key.
    """
    try:
        stated = decode(key.verify(token, typ=SEAL_KEY_TYPE), SealStatement)
    except ValueError:
        raise VerificationError("malformed", "the unit's seal key is not readable: copy it again") from None
    if (stated.site, stated.unit) != (site, unit):
        raise VerificationError("wrong_unit", "this is the seal key of another unit")
    PublicKey.from_jwk(stated.jwk)
    return stated
