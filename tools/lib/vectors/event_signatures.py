# SPDX-License-Identifier: Apache-2.0
"""Events whose form is right and whose signature is not what it should be."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator

import rfc8785

from tools.lib.vectors.build import (
    COMMAND,
    DOOR_3,
    EVENT,
    RECEIPT,
    STRANGER,
    TRUST,
    Members,
    accepted,
    case,
    event,
    payload,
    refused,
    signed,
)
from tools.lib.vectors.signing import ORDER, Key, base64url, ecdsa, octets, other_signature, split

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def forged(members: Members, key: Key = DOOR_3) -> bytes:
    """The event under this key's kid, signed by somebody else."""
    return payload(members, STRANGER, kid=key.kid)


def signature_cases() -> Iterator[Members]:
    """Steps 6 and 10 of the check."""
    yield from _headers()
    yield from _algorithms()
    yield from _purposes()
    yield from _numbers()
    yield from _altered()


def _with(sig: str) -> bytes:
    return rfc8785.dumps({**event(), "sig": sig})


def _under(header: bytes) -> bytes:
    """Signed over this header, honestly: only the header can be what is refused."""
    return _with(DOOR_3.detach(rfc8785.dumps(event()), header))


def _headers() -> Iterator[Members]:
    good = DOOR_3.header(EVENT)
    compact = json.dumps(good, separators=(",", ":")).encode()
    spaced = json.dumps(dict(reversed(good.items())), indent=1).encode()
    comment = "the header is signed as it was spelled, in whatever order and with spaces"
    yield case("header-spelled-otherwise", comment, _under(spaced), accepted(event()))
    comment = "alg, kid and typ as text, each once, and nothing else: the sender must not choose how it is checked"
    for name, header in {
        "empty": b"{}",
        "array": b'["ES256"]',
        "not-json": b"ES256",
        "not-utf-8": compact.replace(b"ES256", b"ES25\xff"),
        "without-kid": json.dumps({"alg": "ES256", "typ": EVENT}).encode(),
        "without-typ": json.dumps({"alg": "ES256", "kid": DOOR_3.kid}).encode(),
        "with-jwk": json.dumps({**good, "jwk": STRANGER.jwk}).encode(),
        "with-jku": json.dumps({**good, "jku": "https://example.org/keys"}).encode(),
        "with-x5c": json.dumps({**good, "x5c": ["AA"]}).encode(),
        "with-crit": json.dumps({**good, "crit": ["b64"], "b64": False}).encode(),
        "with-cty": json.dumps({**good, "cty": "json"}).encode(),
        "alg-twice": compact.replace(b'{"alg"', b'{"alg":"none","alg"'),
        "alg-twice-none-last": compact.replace(b'"kid"', b'"alg":"none","kid"'),
        "kid-number": json.dumps({**good, "kid": 7}).encode(),
        "alg-array": json.dumps({**good, "alg": ["ES256"]}).encode(),
        "alg-null": json.dumps({**good, "alg": None}).encode(),
        "typ-null": json.dumps({**good, "typ": None}).encode(),
    }.items():
        yield case(f"header-{name}", comment, _under(header), refused("malformed"))
    spare = compact + b" " * ((1 - len(compact)) % 3)  # so that its last character has spare bits
    head, _, last = DOOR_3.detach(rfc8785.dumps(event()), spare).split(".")
    other = head[:-1] + ALPHABET[ALPHABET.index(head[-1]) + 1]
    yield case("header-spare-bits", "base64url with one spelling only", _with(f"{other}..{last}"), refused("malformed"))
    room = 384 - len(compact) + len(DOOR_3.kid)  # 384 bytes are 512 characters
    yield case("header-512-characters", "the longest", payload(event(), kid="k" * room), refused("unknown_unit"))
    longer = payload(event(), kid="k" * (room + 1))
    yield case("header-514-characters", "longer than the form of sig allows", longer, refused("malformed"))
    yield case("header-one-character", "no base64url", _with(f"A..{last}"), refused("malformed"))


def _algorithms() -> Iterator[Members]:
    yield case("alg-none", "an unsecured JWS", payload(event(), alg="none"), refused("unsecured"))
    zeros = base64url(json.dumps({**DOOR_3.header(EVENT), "alg": "none"}).encode()) + ".." + "A" * 86
    yield case("alg-none-zeros", "and no signature worth the name", _with(zeros), refused("unsecured"))
    for alg in ("None", "NONE", "HS256", "RS256", "PS256", "ES384", "ES512", "ES256K", "EdDSA", "es256", "", "ES256 "):
        comment = "one algorithm, compared as text"
        name = {"": "empty", "ES256 ": "es256-space", "None": "None-in-title-case"}.get(alg, alg)
        yield case(f"alg-{name}", comment, payload(event(), alg=alg), refused("wrong_algorithm"))
    head = base64url(json.dumps({**DOOR_3.header(EVENT), "alg": "HS256"}).encode())
    secret = json.dumps(DOOR_3.jwk).encode()
    mac = hmac.digest(secret, f"{head}.{base64url(rfc8785.dumps(event()))}".encode(), "sha256")
    comment = "the public key used as the secret of an HMAC, filled up to the length"
    yield case("alg-hmac-by-public-key", comment, _with(f"{head}..{base64url(mac + mac)}"), refused("wrong_algorithm"))


def _purposes() -> Iterator[Members]:
    for name, typ in {
        "command": COMMAND,
        "receipt": RECEIPT,
        "trust": TRUST,
        "health": "postern-health+jws",
        "jwt": "JWT",
        "empty": "",
        "upper-case": EVENT.upper(),
        "media-type": f"application/{EVENT}",
    }.items():
        comment = "ES256 by the right key, for another purpose"
        yield case(f"typ-{name}", comment, payload(event(), typ=typ), refused("wrong_type"))


def _numbers() -> Iterator[Members]:
    members = signed(event())
    head, r, s = split(members["sig"])

    def raw(first: int, second: int) -> bytes:
        return _with(f"{head}..{base64url(octets(first) + octets(second))}")

    comment = "anybody can make a second valid signature (r, n-s) of one: it is the same event"
    yield case("signature-n-minus-s", comment, _with(other_signature(members["sig"])), accepted(event()))
    for name, content in {
        "zeros": raw(0, 0),
        "r-zero": raw(0, s),
        "s-zero": raw(r, 0),
        "ones": raw(1, 1),
        "r-n": raw(ORDER, s),
        "s-n": raw(r, ORDER),
        "r-n-s-n": raw(ORDER, ORDER),
        "r-highest": raw(2**256 - 1, 2**256 - 1),
        "swapped": raw(s, r),
        "r-negated": raw(ORDER - r, s),
    }.items():
        yield case(f"signature-{name}", "r and s that sign nothing", content, refused("bad_signature"))
    if s + ORDER < 2**256:
        yield case("signature-s-plus-n", "s has one spelling", raw(r, s + ORDER), refused("bad_signature"))
    last = members["sig"].rpartition(".")[2]
    spare = last[:-1] + ALPHABET[ALPHABET.index(last[-1]) + 1]
    comment = "the last character has four spare bits, and they must be zero"
    yield case("signature-spare-bits", comment, _with(f"{head}..{spare}"), refused("bad_signature"))
    der = _der(r) + _der(s)
    der = bytes([0x30, len(der)]) + der
    comment = "ASN.1 DER, as OpenSSL writes signatures, has another length"
    yield case("signature-der", comment, _with(f"{head}..{base64url(der)}"), refused("malformed"))
    comment = "ASN.1 DER cut to the length of an ES256 signature"
    yield case("signature-der-cut", comment, _with(f"{head}..{base64url(der[:64])}"), refused("bad_signature"))


def _der(number: int) -> bytes:
    content = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return bytes([2, len(content)]) + content


def _altered() -> Iterator[Members]:
    yield case(
        "forged-under-the-units-kid", "the stranger claims the kid of door-3", forged(event()), refused("bad_signature")
    )
    content = payload(event())
    for name, old, new in (
        ("zone", b'"zone":"door"', b'"zone":"vault"'),
        ("subject", b'"p1_9c41', b'"p1_0000'),
        ("liveness", b'"not_checked"', b'"passed"'),
        ("time", b"09:41:03Z", b"09:41:04Z"),
        ("prev", b'"sha256:0000', b'"sha256:0001'),
        ("clock", b'"synced"', b'"unsynced"'),
    ):
        altered = content.replace(old, new)
        if altered == content:
            raise ValueError(f"nothing to alter: {name}")
        yield case(f"altered-{name}", "one fact changed on the way", altered, refused("bad_signature"))
    comment = "signed as it was spelled, not over the canonical bytes"
    spelled = json.dumps(event()).encode()
    yield case(
        "signed-another-spelling",
        comment,
        _with(DOOR_3.detach(spelled, DOOR_3.header(EVENT))),
        refused("bad_signature"),
    )
    comment = "the detached payload must be encoded (RFC 7515), not raw (RFC 7797)"
    head = base64url(json.dumps(DOOR_3.header(EVENT), separators=(",", ":")).encode())
    r, s = ecdsa(DOOR_3.secret, f"{head}.".encode() + rfc8785.dumps(event()))
    yield case(
        "signed-raw-payload", comment, _with(f"{head}..{base64url(octets(r) + octets(s))}"), refused("bad_signature")
    )
    comment = "the digest signed instead of the bytes"
    hashed = DOOR_3.detach(hashlib.sha256(rfc8785.dumps(event())).digest(), DOOR_3.header(EVENT))
    yield case("signed-digest", comment, _with(hashed), refused("bad_signature"))
    with_null = DOOR_3.detach(rfc8785.dumps({**event(), "sig": None}), DOOR_3.header(EVENT))
    yield case("signed-with-sig-null", "sig is taken out, not emptied", _with(with_null), refused("bad_signature"))
