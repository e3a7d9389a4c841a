# SPDX-License-Identifier: Apache-2.0
"""Lists of units, one after the other: what a verifier must make of each, and whom it then believes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import rfc8785

from tools.lib.vectors.build import (
    DOOR_3,
    DOOR_4,
    EVENT,
    OTHER_SITE_KEY,
    SITE,
    SITE_KEY,
    TRUST,
    Members,
    entry,
    file,
    refused,
    shown_keys,
    sign_list,
    unit_list,
    without,
)
from tools.lib.vectors.signing import ORDER, Key, base64url, octets, split, thumbprint

SERVICE = Key("site-service")
Y_OFF_THE_CURVE = base64url(octets(1))


def trust() -> Members:
    """Content of ``trust.json``."""
    cases = [*_read(), *_sequences(), *_versions(), *_mandates(), *_signatures(), *_contents(), *_keys()]
    return file("trust", cases, keys=shown_keys(), site_key=SITE_KEY.jwk)


def _step(token: str, expect: Members) -> Members:
    return {"list": token, "expect": expect}


def taken(content: Members) -> Members:
    """The list is in use, and these are its keys."""
    keys = {
        thumbprint(one["jwk"]): {
            "unit": unit,
            "status": one["status"],
            "until": one.get("until"),
            "last_seq": one.get("last_seq"),
        }
        for unit, entries in content["units"].items()
        for one in entries
    }
    ends = content.get("expires_at")
    return {"accepted": {"site": content["site"], "serial": content["serial"], "expires_at": ends, "keys": keys}}


def _small(**changes: object) -> Members:
    return unit_list(**{"units": {"door-3": [entry(DOOR_3)]}, **changes})


def _one(name: str, comment: str, token: str, expect: Members) -> Members:
    return {"name": name, "comment": comment, "lists": [_step(token, expect)]}


def _read() -> Iterator[Members]:
    listed = _small()
    good = sign_list(listed)
    yield _one("one-unit", "the site's list", good, taken(listed))
    spelled = json.dumps(listed, indent=2).encode()
    yield _one(
        "spelled-otherwise",
        "the bytes as they are were signed: they need not be canonical",
        sign_list(spelled),
        taken(listed),
    )
    yield _one(
        "final-line-feed", "space, tab, CR and LF around the list are not part of it", f" \t{good}\r\n", taken(listed)
    )
    for name, units in {
        "no-units": {},
        "unit-without-keys": {"door-3": [], "door-4": [entry(DOOR_4)]},
        "several-keys": {"door-3": [entry(DOOR_3), entry(DOOR_4, until="2027-01-01T00:00:00Z")]},
        "revoked": {
            "door-3": [entry(DOOR_3, "revoked")],
            "door-4": [entry(DOOR_4, "revoked", until="2026-01-01T00:00:00Z")],
        },
        "until-null": {"door-3": [entry(DOOR_3, until=None)]},
        "further-members-of-a-jwk": {"door-3": [entry(DOOR_3) | {"jwk": {**DOOR_3.jwk, "use": "enc", "kid": "x"}}]},
    }.items():
        listed = unit_list(units=units)
        yield _one(name, "a list may be so", sign_list(listed), taken(listed))
    listed = _small(issued_at="2026-02-30T00:00:00Z")
    yield _one(
        "issued-on-no-day",
        "of issued_at only the form is checked: nothing depends on it",
        sign_list(listed),
        taken(listed),
    )


def _sequences() -> Iterator[Members]:
    old, listed, new = (_small(serial=serial) for serial in (3, 4, 9))
    revoked = unit_list(serial=9, units={"door-3": [entry(DOOR_3, "revoked")]})
    yield {"name": "newer", "comment": "serials rise, and may skip", "lists": [
        _step(sign_list(old), taken(old)), _step(sign_list(listed), taken(listed)), _step(sign_list(new), taken(new)),
    ]}  # fmt: skip
    yield {"name": "older", "comment": "from before a revocation: refused, and the list in use stays", "lists": [
        _step(sign_list(revoked), taken(revoked)), _step(sign_list(listed), refused("replayed")),
        _step(sign_list(revoked), taken(revoked)),
    ]}  # fmt: skip
    annex = _small(site="annex", serial=12)
    yield {
        "name": "of-another-site",
        "comment": "signed by the same key, for another site: the list in use stays",
        "lists": [
            _step(sign_list(listed), taken(listed)),
            _step(sign_list(annex), refused("wrong_site")),
            _step(sign_list(listed), taken(listed)),
        ],
    }
    early = _small(site="annex", serial=1)
    comment = "the site is looked at first: serials of two sites say nothing about each other"
    yield {"name": "older-and-of-another-site", "comment": comment, "lists": [
        _step(sign_list(listed), taken(listed)), _step(sign_list(early), refused("wrong_site")),
    ]}  # fmt: skip
    yield {"name": "forged-in-between", "comment": "a refused list changes nothing, not even the serial", "lists": [
        _step(sign_list(old), taken(old)), _step(sign_list(new, OTHER_SITE_KEY), refused("wrong_key")),
        _step(sign_list(listed), taken(listed)),
    ]}  # fmt: skip


def _mandated(content: Members, number: int = 1, *, key: Key = SERVICE, by: Key = SITE_KEY, **changes: object) -> str:
    """A list by the site's service: ``mandate~list``."""
    grant: Members = {
        "version": 1,
        "site": SITE,
        "program": "site-service",
        "verbs": ["unit/renew", "sign/answer", "sign/epoch-keys", "sign/trust"],
        "jwk": SERVICE.jwk,
        "expires_at": 1829900000,
        "number": number,
    } | changes
    mandate = by.sign(rfc8785.dumps(grant), by.header("postern-grant+jws"))
    return f"{mandate}~{sign_list(content, key)}"


def _mandates() -> Iterator[Members]:
    old, new = _small(serial=4), _small(serial=5)
    yield _one("by-the-service", "signed in the site's stead, by its mandate", _mandated(old), taken(old))
    yield {"name": "by-site-and-service", "comment": "in turn", "lists": [
        _step(sign_list(old), taken(old)), _step(_mandated(new), taken(new)), _step(sign_list(new), taken(new)),
    ]}  # fmt: skip
    comment = "the service's keys were stolen and replaced: a list by the former mandate is refused, however new"
    yield {"name": "by-a-former-mandate", "comment": comment, "lists": [
        _step(_mandated(old), taken(old)), _step(_mandated(new, 2), taken(new)),
        _step(_mandated(_small(serial=9)), refused("superseded")), _step(_mandated(new, 2), taken(new)),
    ]}  # fmt: skip
    comment = (
        "the thief took the highest serial there is: a list by the new mandate counts all the same, and from there"
    )
    yield {"name": "serial-of-a-former-mandate", "comment": comment, "lists": [
        _step(_mandated(_small(serial=2**53 - 1)), taken(_small(serial=2**53 - 1))),
        _step(_mandated(new, 2), taken(new)), _step(_mandated(old, 2), refused("replayed")),
    ]}  # fmt: skip
    for name, comment, token, reason in (
        (
            "mandate-for-other-things",
            "a grant to ask is no mandate to sign",
            _mandated(old, verbs=["outbox/replay"]),
            "not_granted",
        ),
        ("mandate-without-number", "only a numbered grant is a mandate", _mandated(old, 0), "not_granted"),
        ("mandate-of-another-site", "the mandate names its site", _mandated(old, site="annex"), "wrong_site"),
        ("mandate-by-another-key", "nobody but the site gives it", _mandated(old, by=OTHER_SITE_KEY), "wrong_key"),
        ("mandate-for-another-key", "the list is by the key that it names", _mandated(old, key=DOOR_3), "wrong_key"),
        ("mandate-alone", "a mandate is no list", _mandated(old).partition("~")[0], "wrong_type"),
        (
            "mandate-and-nothing",
            "nor is it with nothing behind it",
            _mandated(old).partition("~")[0] + "~",
            "malformed",
        ),
        ("mandate-twice", "there is one mandate", _mandated(old).partition("~")[0] + "~" + _mandated(old), "malformed"),
    ):
        yield _one(name, comment, token, refused(reason))


def _versions() -> Iterator[Members]:
    second = {"version": 2, "expires_at": "2027-12-24T00:00:00Z"}
    listed = _small(**second)
    yield _one("version-2", "a list that ends", sign_list(listed), taken(listed))
    bound = {"door-3": [entry(DOOR_3, until="2026-12-22T00:00:00Z", last_seq=41), entry(DOOR_4)]}
    listed = _small(**second, units=bound)
    yield _one("version-2-last-seq", "a replaced key and its last number", sign_list(listed), taken(listed))
    listed = _small(**second, units={"door-3": [entry(DOOR_3, last_seq=None)]})
    yield _one("version-2-last-seq-null", "as if absent", sign_list(listed), taken(listed))
    old, new = _small(serial=3), _small(serial=4, **second)
    yield {"name": "version-2-after-1", "comment": "a site that was upgraded", "lists": [
        _step(sign_list(old), taken(old)), _step(sign_list(new), taken(new)),
    ]}  # fmt: skip
    for name, content in {
        "version-2-without-end": _small(version=2),
        "version-2-null-end": _small(version=2, expires_at=None),
        "version-2-on-no-day": _small(version=2, expires_at="2026-02-30T00:00:00Z"),
        "version-2-last-seq-zero": _small(**second, units={"door-3": [entry(DOOR_3, last_seq=0)]}),
        "version-1-with-end": _small(expires_at="2027-12-24T00:00:00Z"),
        "version-1-last-seq": _small(units={"door-3": [entry(DOOR_3, last_seq=41)]}),
        "version-3": _small(version=3, expires_at="2027-12-24T00:00:00Z"),
    }.items():
        yield _one(name, "not of its version", sign_list(content), refused("malformed"))


def _signatures() -> Iterator[Members]:
    listed = _small()
    body = rfc8785.dumps(listed)
    good = sign_list(listed)
    head, content, last = good.split(".")

    def headed(**changes: object) -> str:
        return SITE_KEY.sign(body, {**SITE_KEY.header(TRUST), **changes})

    yield _one("by-another-site", "another site's key", sign_list(listed, OTHER_SITE_KEY), refused("wrong_key"))
    yield _one("by-a-unit", "a unit may not say whom to believe", sign_list(listed, DOOR_3), refused("wrong_key"))
    forged = OTHER_SITE_KEY.sign(body, SITE_KEY.header(TRUST))
    yield _one("forged", "another key under the site's kid", forged, refused("bad_signature"))
    altered = base64url(rfc8785.dumps(_small(serial=8)))
    yield _one("altered", "another content", f"{head}.{altered}.{last}", refused("bad_signature"))
    yield _one("unsigned", "the signature taken away", f"{head}.{content}.", refused("unsigned"))
    yield _one("alg-none", "an unsecured JWS", headed(alg="none").rpartition(".")[0] + ".", refused("unsecured"))
    yield _one("alg-other", "another algorithm", headed(alg="HS256"), refused("wrong_algorithm"))
    yield _one("typ-event", "signed for another purpose", sign_list(listed, typ=EVENT), refused("wrong_type"))
    yield _one("header-with-jwk", "the key it brings along", headed(jwk=OTHER_SITE_KEY.jwk), refused("malformed"))
    spare = 512 - len(json.dumps({**SITE_KEY.header(TRUST), "kid": ""}, separators=(",", ":")))
    yield _one("header-512-bytes", "the longest", headed(kid="k" * spare), refused("wrong_key"))
    yield _one("header-513-bytes", "unread", headed(kid="k" * (spare + 1)), refused("malformed"))
    _, r, s = split(good)
    twin = base64url(octets(r) + octets(ORDER - s))
    yield _one("second-signature", "(r, n-s) is as good", f"{head}.{content}.{twin}", taken(listed))
    for name, signature in {
        "zeros": base64url(bytes(64)),
        "too-short": base64url(octets(r) + octets(s)[:-1]),
        "too-long": base64url(octets(r) + octets(s) + b"\0"),
        "padded": last + "==",
        "no-base64url": last[:-1] + "*",
    }.items():
        comment = "no signature of ES256: here the form is part of the signature"
        yield _one(f"signature-{name}", comment, f"{head}.{content}.{signature}", refused("bad_signature"))
    for name, token in {
        "empty": "",
        "no-jws": "trust",
        "detached": f"{head}..{last}",
        "four-parts": f"{good}.x",
        "content-padded": f"{head}.{content}=.{last}",
        "content-in-other-alphabet": f"{head}.{content}+/.{last}",
        "no-ascii": f"{head}.{content}ä.{last}",
        "space-inside": f"{head}. {content}.{last}",
        "no-header": f".{content}.{last}",
        "json": json.dumps(listed),
    }.items():
        expect = refused("bad_signature" if name == "detached" else "malformed")
        yield _one(f"jws-{name}", "three parts of base64url without padding", token, expect)


def _contents() -> Iterator[Members]:
    doubled = rfc8785.dumps(_small()).replace(b'"serial":7', b'"serial":7,"serial":7')
    for name, content in {
        "empty": b"",
        "array": b"[]",
        "no-json": b"\xff",
        "key-twice": doubled,
        "serial-float": rfc8785.dumps(_small()).replace(b'"serial":7', b'"serial":7.0'),
        "serial-zero": rfc8785.dumps(_small(serial=0)),
        "serial-2-to-53": rfc8785.dumps(_small()).replace(b'"serial":7', b'"serial":9007199254740992'),
        "serial-text": rfc8785.dumps(_small(serial="7")),
        "version-2": rfc8785.dumps(_small(version=2)),
        "version-true": rfc8785.dumps(_small(version=True)),
        "site": rfc8785.dumps(_small(site="HQ")),
        "extra": rfc8785.dumps(_small(extra=1)),
        "without-issued-at": rfc8785.dumps(without(_small(), "issued_at")),
        "issued-at": rfc8785.dumps(_small(issued_at="yesterday")),
        "units-array": rfc8785.dumps(_small(units=[entry(DOOR_3)])),
        "unit-name": rfc8785.dumps(_small(units={"Door 3": [entry(DOOR_3)]})),
        "keys-no-array": rfc8785.dumps(_small(units={"door-3": entry(DOOR_3)})),
        "status": rfc8785.dumps(_small(units={"door-3": [entry(DOOR_3, "retired")]})),
        "entry-extra": rfc8785.dumps(_small(units={"door-3": [entry(DOOR_3, note="x")]})),
        "until-on-no-day": rfc8785.dumps(_small(units={"door-3": [entry(DOOR_3, until="2026-02-30T00:00:00Z")]})),
        "until-form": rfc8785.dumps(_small(units={"door-3": [entry(DOOR_3, until="2026-02-28")]})),
    }.items():
        yield _one(
            f"content-{name}", "signed by the site, and no list all the same", sign_list(content), refused("malformed")
        )


def _keys() -> Iterator[Members]:
    twice = {"door-3": [entry(DOOR_3)], "door-4": [entry(DOOR_3)]}
    many = {"door-3": [entry(Key(f"unit door-3, key {number}")) for number in range(17)]}
    yield _one("key-of-two-units", "whose event would it be?", sign_list(_small(units=twice)), refused("malformed"))
    again = {"door-3": [entry(DOOR_3), entry(DOOR_3, "revoked")]}
    yield _one("key-twice", "does it count or not?", sign_list(_small(units=again)), refused("malformed"))
    full = _small(units={"door-3": many["door-3"][:16]})
    yield _one("sixteen-keys", "one a year, and some repairs", sign_list(full), taken(full))
    yield _one("seventeen-keys", "a unit has at most 16", sign_list(_small(units=many)), refused("malformed"))
    jwk = DOOR_3.jwk
    for name, wrong in {
        "no-point-of-the-curve": {**jwk, "y": Y_OFF_THE_CURVE},
        "zero": {**jwk, "x": base64url(bytes(32)), "y": base64url(bytes(32))},
        "other-curve": {**jwk, "crv": "P-384"},
        "other-type": {**jwk, "kty": "RSA"},
        "x-too-short": {**jwk, "x": jwk["x"][:-1]},
        "x-padded": {**jwk, "x": jwk["x"] + "="},
        "x-spare-bits": {**jwk, "x": jwk["x"][:-1] + "B"},
        "without-y": without(jwk, "y"),
        "number-in-it": {**jwk, "ext": 1},
    }.items():
        units = {"door-3": [{"jwk": wrong, "status": "active"}]}
        yield _one(
            f"jwk-{name}",
            "no public key of P-256 in its one spelling",
            sign_list(_small(units=units)),
            refused("malformed"),
        )
