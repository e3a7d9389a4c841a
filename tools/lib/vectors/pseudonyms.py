# SPDX-License-Identifier: Apache-2.0
"""Pseudonyms, the weeks they are made for, and sealed ones: what a consumer computes to know who it was.

Sealing is HPKE in base mode (RFC 9180), done here by its sections with a fixed share, so that the vectors are the same
each time and do not rest on the library that the product uses.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tools.lib.vectors.build import Members, file, refused
from tools.lib.vectors.signing import SEED, base64url

LABEL = b"postern/subject/v1"
CONTEXT = {"site": "hq", "audience": "access", "epoch": "2026-W47"}
SUBJECTS = {name: hashlib.sha256(SEED + name.encode()).digest()[:16] for name in ("alice", "bob", "carol")}
KEM = b"KEM" + (0x0020).to_bytes(2, "big")
SUITE = b"HPKE" + b"".join(part.to_bytes(2, "big") for part in (0x0020, 0x0001, 0x0001))


def epoch_key(audience: str = "access", epoch: str = "2026-W47", site: str = "hq") -> bytes:
    """The test key of an epoch."""
    return hashlib.sha256(SEED + f"epoch key {site} {audience} {epoch}".encode()).digest()


def pseudonym(key: bytes, subject: bytes) -> str:
    """What stands for a subject under a key."""
    return "p1_" + hmac.digest(key, LABEL + bytes([len(subject)]) + subject, "sha256")[:16].hex()


def pseudonyms() -> Members:
    """Content of ``pseudonyms.json``."""
    return file("pseudonyms", [*_made(), *_epochs(), *_resolved()])


def _made() -> Iterator[Members]:
    def case(name: str, comment: str, key: bytes, subject: bytes) -> Members:
        given = {"make": {"key": base64url(key), "subject": subject.hex()}}
        return {"name": name, "comment": comment, **given, "expect": {"pseudonym": pseudonym(key, subject)}}

    alice, bob = SUBJECTS["alice"], SUBJECTS["bob"]
    yield case("subject", "16 bytes, as enrolment makes them", epoch_key(), alice)
    yield case("another-subject", "another name", epoch_key(), bob)
    yield case("another-audience", "another name for the same person", epoch_key("canteen"), alice)
    yield case("another-epoch", "another name the week after", epoch_key(epoch="2026-W48"), alice)
    yield case("another-site", "another name elsewhere", epoch_key(site="annex"), alice)
    yield case("one-byte", "the length is part of what is digested", epoch_key(), b"\0")
    yield case("two-bytes", "so this is somebody else", epoch_key(), b"\0\0")
    yield case("255-bytes", "the longest", epoch_key(), b"\xff" * 255)
    for name, subject in (("no-bytes", b""), ("256-bytes", b"\xff" * 256)):
        given = {"make": {"key": base64url(epoch_key()), "subject": subject.hex()}}
        yield {"name": name, "comment": "a subject id has 1 to 255 bytes", **given, "expect": refused("length")}


def _epochs() -> Iterator[Members]:
    for moment, epoch, comment in (
        ("2026-11-22T09:41:03Z", "2026-W47", "a Sunday is the last day of its week"),
        ("2026-11-22T23:59:59Z", "2026-W47", "its last second"),
        ("2026-11-23T00:00:00Z", "2026-W48", "a Monday is the first"),
        ("2026-12-31T12:00:00Z", "2026-W53", "a year of 53 weeks"),
        ("2027-01-03T23:59:59Z", "2026-W53", "which ends in the next year"),
        ("2027-01-04T00:00:00Z", "2027-W01", "where the first week begins on the fourth"),
        ("2024-12-30T00:00:00Z", "2025-W01", "a week that begins in the year before"),
        ("2028-02-29T12:00:00Z", "2028-W09", "a leap day"),
    ):
        name = f"epoch-of-{moment.lower().replace(':', '')}"
        yield {"name": name, "comment": comment, "epoch_of": moment, "expect": {"epoch": epoch}}


def _resolved() -> Iterator[Members]:
    listed = [subject.hex() for subject in SUBJECTS.values()]
    for name, subject, asked, expect in (
        ("resolve", SUBJECTS["bob"], {}, {"subject": SUBJECTS["bob"].hex()}),
        ("resolve-nobody-listed", b"somebody else 16", {}, {"subject": None}),
        ("resolve-another-epoch", SUBJECTS["bob"], {"epoch": "2026-W48"}, refused("other_key")),
        ("resolve-another-audience", SUBJECTS["bob"], {"audience": "canteen"}, refused("other_key")),
    ):
        of = {"audience": "access", "epoch": "2026-W47"}
        key = {"site": "hq", **of, "key": base64url(epoch_key())}
        wanted = {"pseudonym": pseudonym(epoch_key(), subject), **of, **asked}
        given = {"resolve": {"key": key, "subjects": listed, **wanted}}
        yield {"name": name, "comment": "whose name it is, by trying all", **given, "expect": expect}


def sealed() -> Members:
    """Content of ``sealed.json``."""
    key, other = _private("consumer"), _private("another consumer")
    keys = {"consumer": _jwk(key), "other_consumer": _jwk(other)}
    return file("sealed", list(_sealed(key.public_key())), keys=keys)


def _sealed(consumer: X25519PublicKey) -> Iterator[Members]:
    content = bytes.fromhex(pseudonym(epoch_key(), SUBJECTS["alice"]).removeprefix("p1_"))
    good = seal(content, consumer, "first share", **CONTEXT)
    opened = {"pseudonym": "p1_" + content.hex()}

    def case(name: str, comment: str, sealed: bytes, expect: Members, key: str = "consumer", **context: str) -> Members:
        spelled = "s1_" + base64url(sealed)
        return {"name": name, "comment": comment, "key": key, "sealed": spelled, **CONTEXT, **context, "expect": expect}

    yield case("opens", "to the pseudonym that would have been in the open", good, opened)
    again = seal(content, consumer, "second share", **CONTEXT)
    yield case("opens-again", "sealed with another share: other text, same pseudonym", again, opened)
    no = refused("bad_seal")
    yield case("of-another-consumer", "sealed to somebody else", good, no, "other_consumer")
    yield case("moved-to-another-epoch", "the context is bound", good, no, epoch="2026-W48")
    yield case("moved-to-another-audience", "the context is bound", good, no, audience="canteen")
    yield case("moved-to-another-site", "the context is bound", good, no, site="annex")
    # Without the lengths these two contexts would be the same bytes.
    yield case("context-shifted", "each part has its length", good, no, site="hqa", audience="ccess")
    for name, place in (("share", 0), ("content", 32), ("tag", 63)):
        flipped = bytearray(good)
        flipped[place] ^= 1
        yield case(f"altered-{name}", "one bit", bytes(flipped), no)
    yield case("low-order-share", "a share of zeros makes every secret zero", bytes(32) + good[32:], no)
    yield case("cut", "too short", good[:-1], no)


def seal(content: bytes, consumer: X25519PublicKey, share: str, *, site: str, audience: str, epoch: str) -> bytes:
    """HPKE SealBase (RFC 9180 sec. 6.1) with a share that everybody knows: encapsulated key, then ciphertext."""
    ephemeral = _private(share)
    enc, public = _raw(ephemeral.public_key()), _raw(consumer)
    eae = _extract(KEM, b"", b"eae_prk", ephemeral.exchange(consumer))
    secret = _expand(KEM, eae, b"shared_secret", enc + public, 32)
    fields = [text.encode() for text in (site, audience, epoch)]
    info = b"postern/sealed/v1" + b"".join(bytes([len(field)]) + field for field in fields)
    context = b"\0" + _extract(SUITE, b"", b"psk_id_hash", b"") + _extract(SUITE, b"", b"info_hash", info)
    scheduled = _extract(SUITE, secret, b"secret", b"")
    key, nonce = (
        _expand(SUITE, scheduled, label, context, size) for label, size in ((b"key", 16), (b"base_nonce", 12))
    )
    return enc + AESGCM(key).encrypt(nonce, content, b"")


def _extract(suite: bytes, salt: bytes, label: bytes, key: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + key, "sha256")


def _expand(suite: bytes, key: bytes, label: bytes, info: bytes, size: int) -> bytes:
    labelled = size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(key, labelled + b"\x01", "sha256")[:size]  # one block of HKDF is enough for 32 bytes


def _private(name: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(hashlib.sha256(SEED + name.encode()).digest())


def _raw(key: X25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _jwk(key: X25519PrivateKey) -> Members:
    secret = key.private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    return {"kty": "OKP", "crv": "X25519", "x": base64url(_raw(key.public_key())), "d": base64url(secret)}
