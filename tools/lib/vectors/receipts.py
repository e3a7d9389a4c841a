# SPDX-License-Identifier: Apache-2.0
"""Receipts of erasure: whether this unit stated, under a key of its own, that this person's reference is gone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import rfc8785

from tools.lib.vectors.build import (
    DOOR_3,
    DOOR_3_BEFORE,
    DOOR_4,
    EVENT,
    GATE_1,
    RECEIPT,
    SITE,
    SITE_KEY,
    STRANGER,
    Members,
    file,
    refused,
    shown_keys,
    sign_list,
    unit_list,
    without,
)
from tools.lib.vectors.signing import Key, base64url, octets, other_signature, split

SUBJECT = hashlib.sha256(b"postern test subject").digest()[:16]
OTHER = hashlib.sha256(b"another test subject").digest()[:16]


def subject_digest(subject: bytes) -> str:
    """What stands for a subject whose id is gone."""
    return "sha256:" + hashlib.sha256(b"postern/tombstone/v1" + subject).hexdigest()


def signed_bytes(receipt: Members) -> bytes:
    """The bytes under a receipt's signature."""
    return rfc8785.dumps(
        {
            "type": "io.postern.erasure.v1",
            "statement": "reference, its key and the key over it were destroyed",
            **{name: receipt[name] for name in ("subject", "site", "unit", "reason", "erased_at")},
        }
    )


def receipt(*, key: Key = DOOR_3, unit: str = "door-3", header: Members | None = None, **changes: str) -> Members:
    """A signed receipt; the changes are under the signature."""
    members = {
        "subject": subject_digest(SUBJECT),
        "site": SITE,
        "unit": unit,
        "reason": "withdrawn",
        "erased_at": "2026-11-22T09:41:03+00:00",
        **changes,
    }
    return {**members, "signature": key.detach(signed_bytes(members), {**key.header(RECEIPT), **(header or {})})}


def receipts() -> Members:
    """Content of ``receipts.json``."""
    cases = [*_good(), *_bad(), *_unreadable()]
    trust = sign_list(unit_list())
    return file("receipts", cases, keys=shown_keys(), site_key=SITE_KEY.jwk, trust=trust)


def _case(name: str, comment: str, given: object, expect: Members, unit: str = "door-3") -> Members:
    asked = {"unit": unit, "subject": SUBJECT.hex()}
    return {"name": name, "comment": comment, "asked": asked, "receipt": given, "expect": expect}


def _ok(reason: str = "withdrawn") -> Members:
    return {"accepted": {"unit": "door-3", "subject": subject_digest(SUBJECT), "reason": reason}}


def _good() -> Iterator[Members]:
    for reason in ("withdrawn", "expired", "unused", "wiped"):
        yield _case(reason, "the four reasons", receipt(reason=reason), _ok(reason))
    yield _case("by-a-replaced-key", "an old receipt is given again as it was", receipt(key=DOOR_3_BEFORE), _ok())
    printed = {
        "type": "io.postern.erasure.v1",
        "statement": "reference, its key and the key over it were destroyed",
        **receipt(),
    }
    yield _case(
        "as-printed", "type and statement may be there; they are under the signature in any case", printed, _ok()
    )
    twin = {**receipt(), "signature": other_signature(receipt()["signature"])}
    yield _case("second-signature", "(r, n-s) is as good", twin, _ok())


def _bad() -> Iterator[Members]:
    good = receipt()
    head, r, s = split(good["signature"])
    yield _case(
        "of-another-subject",
        "somebody else was erased",
        receipt(subject=subject_digest(OTHER)),
        refused("wrong_subject"),
    )
    yield _case("of-another-site", "erased elsewhere", receipt(site="annex"), refused("wrong_subject"))
    yield _case("of-another-unit", "door-3 was asked", receipt(key=DOOR_4, unit="door-4"), refused("wrong_subject"))
    yield _case("by-another-unit", "door-4 cannot say it for door-3", receipt(key=DOOR_4), refused("unknown_key"))
    yield _case("by-a-stranger", "not on the list", receipt(key=STRANGER), refused("unknown_key"))
    yield _case(
        "by-a-revoked-key",
        "whose word is worth nothing now",
        receipt(key=GATE_1, unit="gate-1"),
        refused("unknown_key"),
        unit="gate-1",
    )
    yield _case(
        "forged",
        "a stranger under the kid of door-3",
        receipt(key=STRANGER, header={"kid": DOOR_3.kid}),
        refused("bad_signature"),
    )
    for name in ("reason", "erased_at"):
        yield _case(f"altered-{name}", "changed afterwards", {**good, name: "expired"}, refused("bad_signature"))
    yield _case(
        "zeros", "r and s are zero", {**good, "signature": f"{head}..{base64url(bytes(64))}"}, refused("bad_signature")
    )
    cut = base64url((octets(r) + octets(s))[:63])
    yield _case("cut", "a signature of 63 bytes", {**good, "signature": f"{head}..{cut}"}, refused("bad_signature"))
    yield _case("unsigned", "the signature taken away", {**good, "signature": f"{head}.."}, refused("unsigned"))
    yield _case("alg-none", "an unsecured JWS", receipt(header={"alg": "none"}), refused("unsecured"))
    yield _case("alg-other", "another algorithm", receipt(header={"alg": "HS256"}), refused("wrong_algorithm"))
    yield _case("typ-event", "signed for another purpose", receipt(header={"typ": EVENT}), refused("wrong_type"))
    yield _case(
        "by-a-stranger-and-alg-none",
        "the key is looked up before the algorithm",
        receipt(key=STRANGER, header={"alg": "none"}),
        refused("unknown_key"),
    )


def _unreadable() -> Iterator[Members]:
    good = receipt()
    compact = DOOR_3.sign(signed_bytes(good), DOOR_3.header(RECEIPT))
    for name, given in {
        "null": None,
        "text": "erased",
        "without-unit": without(good, "unit"),
        "subject-number": {**good, "subject": 7},
        "without-signature": without(good, "signature"),
        "signature-empty": {**good, "signature": ""},
        "signature-compact": {**good, "signature": compact},
        "signature-two-parts": {**good, "signature": good["signature"].replace("..", ".")},
        "header-with-jwk": receipt(header={"jwk": STRANGER.jwk}),
    }.items():
        yield _case(f"unreadable-{name}", "no receipt", given, refused("malformed"))
