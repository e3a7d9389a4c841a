# SPDX-License-Identifier: Apache-2.0
"""Epoch keys on their way to a unit: derived, signed by the site, encrypted to the unit.

They may travel by memory stick or through the broker, so neither may be able to read or replace them: a
JWS by the site inside a JWE (RFC 7516, ECDH-ES with A256GCM) to the unit's ``seal.key``. That key does
nothing else, because a key that signs should not also decrypt.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cryptography.hazmat.primitives import serialization
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from agent import strict_json
from agent.clock import ClockState
from agent.errors import RefusedError, VerificationError
from agent.keys import PublicKey, SigningKey, encode_base64url, load_private_key
from agent.protocol.names import Name, Time, round_down
from agent.protocol.pseudonym import EPOCHS_AHEAD, EpochKey, epoch_of, epochs_from

EPOCH_KEYS_TYPE = "postern-epoch-keys+jws"
MAX_SEALED_BYTES = 32 * 1024  # 16 audiences of three epochs need about 12 000
_ALGORITHMS = ["ECDH-ES", "A256GCM"]
_LABEL = b"postern/epoch/v1"


class IssuedKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the site signs."""

    version: Literal[1]
    site: Name
    unit: Name
    issued_at: Time
    keys: Annotated[tuple[EpochKey, ...], msgspec.Meta(max_length=64)]


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
    generation: int,
    master: SigningKey,
    signer: SigningKey,
) -> str:
    """Derive, sign and encrypt the keys of the current epoch and the ``ahead`` next ones for one unit.

    RefusedError when that is further ahead than a unit may hold keys for.
    """
    if not 0 <= ahead <= EPOCHS_AHEAD:
        raise RefusedError(f"a unit holds the keys of at most {EPOCHS_AHEAD} epochs to come: issue fewer, more often")
    keys = tuple(
        derive_epoch_key(master, site=site, audience=audience, epoch=epoch, generation=generation)
        for audience in audiences
        for epoch in epochs_from(now, ahead)
    )
    issued = IssuedKeys(version=1, site=site, unit=unit, issued_at=round_down(now, 1), keys=keys)
    signed = signer.sign(msgspec.json.encode(issued), typ=EPOCH_KEYS_TYPE)
    recipient = ECKey.import_key({**PublicKey.from_jwk(seal_jwk).jwk()})
    header = {"alg": "ECDH-ES", "enc": "A256GCM"}
    return jwe.encrypt_compact(header, signed, recipient, algorithms=_ALGORITHMS)


def open_epoch_keys(
    sealed: str, *, seal_key: Path, site_key: PublicKey, site: str, unit: str, now: datetime, clock: ClockState
) -> tuple[EpochKey, ...]:
    """Decrypt and verify what the site issued; keys of past epochs are left out when the clock is known to be right.

    Raises VerificationError (``malformed``, ``not_for_us``, ``wrong_unit``, ``past_epochs``, or as
    ``PublicKey.verify``) and KeyStoreError when ``seal_key`` is missing.
    """
    if len(sealed) > MAX_SEALED_BYTES:
        raise VerificationError("malformed", f"sealed epoch keys have at most {MAX_SEALED_BYTES} bytes")
    private = load_private_key(seal_key).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        signed = jwe.decrypt_compact(sealed, ECKey.import_key(private), algorithms=_ALGORITHMS).plaintext
        token = (signed or b"").decode("ascii")
    except (JoseError, ValueError, TypeError, KeyError):
        raise VerificationError("not_for_us", "the epoch keys were not sealed to this unit: issue them again") from None
    try:
        payload = site_key.verify(token, typ=EPOCH_KEYS_TYPE)
        issued = strict_json.decode(payload, IssuedKeys, MAX_SEALED_BYTES)
    except ValueError:
        raise VerificationError("malformed", "the epoch keys are not readable: issue them again") from None
    if (issued.site, issued.unit) != (site, unit) or any(key.site != site for key in issued.keys):
        raise VerificationError("wrong_unit", "the epoch keys were issued for another unit")
    kept = tuple(key for key in issued.keys if clock == "unsynced" or key.epoch >= epoch_of(now))
    if issued.keys and not kept:
        raise VerificationError("past_epochs", "all issued epoch keys are of past epochs: issue them again")
    return kept
