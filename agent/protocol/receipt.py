# SPDX-License-Identifier: Apache-2.0
"""Receipts of erasure: what a unit states, under its signature, about a reference that is gone.

A receipt and its tombstone in the gallery hold a digest of the subject id instead of the id. The id is
128 random bits, so nobody can guess it from the digest; whoever was told their id can check theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import msgspec
import rfc8785

from agent.keys import PublicKey

RECEIPT_TYPE = "postern-receipt+jws"
ErasureReason = Literal["withdrawn", "expired", "unused", "wiped"]
REASONS: tuple[str, ...] = get_args(ErasureReason)
Sign = Callable[[bytes], str]  # detached JWS of type ``RECEIPT_TYPE`` by the unit's key


class ErasureReceipt(msgspec.Struct, frozen=True):
    """``subject`` is a digest, ``erased_at`` UTC in ISO 8601, ``signature`` a detached JWS over ``payload()``."""

    subject: str
    site: str
    unit: str
    reason: str
    erased_at: str
    signature: str = ""

    def payload(self) -> bytes:
        """Bytes that are signed: canonical JSON (RFC 8785)."""
        return rfc8785.dumps(
            {
                "type": "io.postern.erasure.v1",
                "subject": self.subject,
                "site": self.site,
                "unit": self.unit,
                "reason": self.reason,
                "erased_at": self.erased_at,
                "statement": "reference, its key and the key over it were destroyed",
            }
        )


def issue_receipt(*, subject: str, site: str, unit: str, reason: str, erased_at: str, sign: Sign) -> ErasureReceipt:
    """Make and sign a receipt; call it only once the erasure is durable."""
    draft = ErasureReceipt(subject, site, unit, reason, erased_at)
    return ErasureReceipt(subject, site, unit, reason, erased_at, sign(draft.payload()))


def verify_receipt(receipt: ErasureReceipt, unit_key: PublicKey) -> None:
    """Check the signature; VerificationError says why it is refused."""
    unit_key.verify_detached(receipt.signature, receipt.payload(), typ=RECEIPT_TYPE)
