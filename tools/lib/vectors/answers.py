# SPDX-License-Identifier: Apache-2.0
"""What an operator's tool must make of what comes on a response topic: one unit's signed answer, or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import rfc8785

from tools.lib.vectors.build import (
    COMMAND,
    DOOR_3,
    DOOR_3_BEFORE,
    DOOR_4,
    EVENT,
    RESPONSE,
    SITE,
    SITE_KEY,
    STRANGER,
    Members,
    file,
    shown_keys,
    sign_list,
    unit_list,
    without,
    written,
)
from tools.lib.vectors.commands import command, sign
from tools.lib.vectors.signing import ORDER, Key, base64url, octets, split

ASKED = "t-1"
UNIT, VERB = "door-3", "selftest"
TOKEN = sign(command())
MAX_ANSWER = 16 * 1024


def answers() -> Members:
    """Content of ``answers.json``."""
    asked = {"site": SITE, "unit": UNIT, "verb": VERB, "transaction": ASKED, "token": TOKEN.decode()}
    cases = [*_taken(), *_keys(), *_signatures(), *_of_others(), *_numbers(), *_contents(), *_unsigned()]
    return file("answers", cases, keys=shown_keys(), site_key=SITE_KEY.jwk, trust=sign_list(unit_list()), asked=asked)


def answer(**changes: object) -> Members:
    """An answer that would be taken."""
    members = {
        "site": SITE,
        "unit": UNIT,
        "verb": VERB,
        "command": _digest(TOKEN),
        "number": 1,
        "status": "ok",
        "transaction": ASKED,
        "data": {"did": VERB},
    }
    return {**members, **changes}


def _refusal(error: str = "expired", **changes: object) -> Members:
    return {**without(answer(), "data"), "status": "error", "error": error, "message": "Sign again.", **changes}


def _digest(token: bytes) -> str:
    return "sha256:" + hashlib.sha256(token).hexdigest()


def _sign(content: Members | bytes, key: Key = DOOR_3, **header: object) -> bytes:
    body = content if isinstance(content, bytes) else rfc8785.dumps(content)
    return key.sign(body, {**key.header(RESPONSE), **header}).encode()


def _case(name: str, comment: str, content: bytes, expect: Members, above: int = 0) -> Members:
    return {"name": name, "comment": comment, "above": above, **written(content), "expect": expect}


def _take(name: str, comment: str, content: Members, above: int = 0) -> Members:
    facts = {fact: content.get(fact) for fact in ("status", "transaction", "error", "nonce", "next_seq", "data")}
    return _case(name, comment, _sign(content), {"taken": {**facts, "number": content["number"]}}, above)


def _leave(name: str, comment: str, content: bytes | Members, reason: str, above: int = 0) -> Members:
    raw = content if isinstance(content, bytes) else _sign(content)
    return _case(name, comment, raw, {"left": reason}, above)


def _taken() -> Iterator[Members]:
    yield _take("ok", "done", answer())
    yield _take("ok-without-data", "done, and nothing to say", without(answer(), "data"))
    yield _take("error", "refused", _refusal())
    yield _take("challenge", "refused, with a nonce to sign", _refusal("challenge", nonce="01" * 16))
    yield _take("next-number", "refused, with the number that would be taken", _refusal("out_of_order", next_seq=10))
    yield _take(
        "before-a-signature", "no transaction, but the command's digest", _refusal("wrong_key", transaction=None)
    )
    yield _take("unknown-code", "codes may be added", _refusal("x", message=""))
    yield _take("nulls", "null is as if absent", answer(error=None, data=None, nonce=None))
    yield _take("report", "a later answer to the same command", answer(number=7, data={"state": "complete"}), above=6)
    longest = answer(data={"x": ""})
    while len(_sign(longest)) < MAX_ANSWER:
        longest["data"]["x"] += "x" * max(1, (MAX_ANSWER - len(_sign(longest))) * 3 // 4 - 8)
    if len(_sign(longest)) == MAX_ANSWER:
        yield _take("longest", "16 384 bytes", longest)
    yield _leave(
        "too-long", "16 385 bytes", _sign(longest) + b"." * (MAX_ANSWER + 1 - len(_sign(longest))), "malformed"
    )
    _, r, s = split(_sign(answer()).decode())
    head, content, _ = _sign(answer()).decode().split(".")
    twin = f"{head}.{content}.{base64url(octets(r) + octets(ORDER - s))}".encode()
    facts = {fact: answer().get(fact) for fact in ("status", "transaction", "error", "nonce", "next_seq", "data")}
    yield _case("second-signature", "(r, n-s) is as good", twin, {"taken": {**facts, "number": 1}})


def _keys() -> Iterator[Members]:
    for name, key, reason in (
        ("another-unit", DOOR_4, "wrong_unit"),
        ("the-site", SITE_KEY, "unknown_key"),
        ("nobody", STRANGER, "unknown_key"),
        ("the-unit-before", DOOR_3_BEFORE, "revoked"),
    ):
        comment = "only the present key of the unit that was asked answers"
        yield _leave(f"key-of-{name}", comment, _sign(answer(), key), reason)
    yield _leave(
        "key-lent", "another key under the unit's kid", _sign(answer(), STRANGER, kid=DOOR_3.kid), "bad_signature"
    )


def _signatures() -> Iterator[Members]:
    head, content, last = _sign(answer()).decode().split(".")
    altered = base64url(rfc8785.dumps(answer(data={"did": "nothing"})))
    for name, token, reason in (
        ("altered", f"{head}.{altered}.{last}".encode(), "bad_signature"),
        ("taken-away", f"{head}.{content}.".encode(), "unsigned"),
        ("zeros", f"{head}.{content}.{base64url(bytes(64))}".encode(), "bad_signature"),
        ("detached", f"{head}..{last}".encode(), "bad_signature"),
        ("two-parts", f"{head}.{content}".encode(), "malformed"),
        ("alg-none", _sign(answer(), alg="none"), "unsecured"),
        ("alg-other", _sign(answer(), alg="HS256"), "wrong_algorithm"),
        ("typ-event", _sign(answer(), typ=EVENT), "wrong_type"),
        ("typ-command", _sign(answer(), typ=COMMAND), "wrong_type"),
        ("header-with-jwk", _sign(answer(), jwk=DOOR_3.jwk), "malformed"),
    ):
        yield _leave(f"signature-{name}", "no answer", token, reason)


def _of_others() -> Iterator[Members]:
    other = _digest(sign(command(2)))
    for name, change, reason in (
        ("another-site", {"site": "annex"}, "wrong_site"),
        ("another-unit", {"unit": "door-4"}, "wrong_unit"),
        ("another-verb", {"verb": "subject/revoke"}, "wrong_verb"),
        ("another-command", {"command": other}, "another"),
        ("another-command-before-a-signature", {"command": other, "transaction": None, "status": "error"}, "another"),
        ("another-transaction", {"transaction": "t-2"}, "another"),
    ):
        yield _leave(f"for-{name}", "signed by the unit, as the answer to something else", answer(**change), reason)


def _numbers() -> Iterator[Members]:
    yield _leave("again", "the number was taken before", answer(number=3), "replayed", above=3)
    yield _leave("late", "later ones were taken before", answer(number=2), "replayed", above=3)
    yield _take("numbers-skip", "a report may be lost", answer(number=9), above=3)


def _contents() -> Iterator[Members]:
    contents: dict[str, Members | bytes] = {
        "empty": b"",
        "no-json": b"done",
        "no-utf-8": b'{"status":"ok","transaction":"\xff"}',
        "array": b"[]",
        "deep": b'{"data":' + b"[" * 3000 + b"]" * 3000 + b"}",
        "key-twice": rfc8785.dumps(answer()).replace(b'"number":1', b'"number":1,"number":1'),
        "float": rfc8785.dumps(answer()).replace(b'"did":"selftest"', b'"did":0.5'),
        "status": answer(status="maybe"),
        "without-status": without(answer(), "status"),
        "without-transaction": without(answer(), "transaction"),
        "without-command": without(answer(), "command"),
        "without-number": without(answer(), "number"),
        "number-zero": answer(number=0),
        "transaction-number": answer(transaction=1),
        "extra": answer(extra=1),
        "data-array": answer(data=[]),
        "error-number": answer(error=7),
        "ok-for-nobody": answer(transaction=None),
        "ok-with-error": answer(error="expired"),
        "error-without-code": without(_refusal(), "error"),
    }
    for name, content in contents.items():
        yield _leave(f"content-{name}", "signed by the unit, and no answer all the same", _sign(content), "malformed")


def _unsigned() -> Iterator[Members]:
    plain: Members = {"status": "ok", "transaction": ASKED, "data": {"did": VERB}}
    nobody: Members = {"status": "error", "transaction": None, "error": "wrong_key", "message": "Another key."}
    comment = "as units before signed answers: nothing is known to be done, and the unit is to be upgraded"
    yield _leave("unsigned", comment, rfc8785.dumps(plain), "unsigned")
    yield _leave("unsigned-refusal", comment, rfc8785.dumps(nobody), "unsigned")
    yield _leave("unsigned-of-another", "somebody else's", rfc8785.dumps({**plain, "transaction": "t-2"}), "another")
    for name, content in {
        "empty": b"",
        "no-json": b"done",
        "no-utf-8": b'{"status":"ok","transaction":"\xff"}',
        "array": b"[]",
        "deep": b"[" * 8000 + b"]" * 8000,
        "status": rfc8785.dumps({**plain, "status": "maybe"}),
        "extra": rfc8785.dumps({**plain, "extra": 1}),
        "cut": rfc8785.dumps(plain)[:-1],
    }.items():
        yield _leave(f"unreadable-{name}", "no answer at all", content, "malformed")
