# SPDX-License-Identifier: Apache-2.0
"""What an operator's tool must make of what comes on a response topic; answers are not signed."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tools.lib.vectors.build import Members, file, written

ASKED = "t-1"
MAX_ANSWER = 16 * 1024


def answers() -> Members:
    """Content of ``answers.json``."""
    return file("answers", [*_taken(), *_left()], transaction=ASKED)


def _case(name: str, comment: str, content: bytes, expect: Members) -> Members:
    return {"name": name, "comment": comment, **written(content), "expect": expect}


def _taken() -> Iterator[Members]:
    for name, answer, comment in (
        ("ok", {"status": "ok", "transaction": ASKED, "data": {"did": "selftest"}}, "done"),
        ("ok-without-data", {"status": "ok", "transaction": ASKED}, "done, and nothing to say"),
        ("error", {"status": "error", "transaction": ASKED, "error": "expired", "message": "Sign again."}, "refused"),
        (
            "challenge",
            {"status": "error", "transaction": ASKED, "error": "challenge", "message": "Again.", "nonce": "01" * 16},
            "refused, with a nonce to sign",
        ),
        (
            "for-nobody",
            {"status": "error", "transaction": None, "error": "wrong_key", "message": "Another key."},
            "no signature vouched for a transaction: it may be for us",
        ),
        ("unknown-code", {"status": "error", "transaction": ASKED, "error": "x", "message": ""}, "codes may be added"),
        ("nulls", {"status": "ok", "transaction": ASKED, "error": None, "data": None}, "null is as if absent"),
    ):
        yield _case(name, comment, json.dumps(answer).encode(), {"taken": _facts(answer)})
    longest = {"status": "ok", "transaction": ASKED, "data": {"x": ""}}
    longest["data"] = {"x": "x" * (MAX_ANSWER - len(json.dumps(longest)))}
    content = json.dumps(longest).encode()
    yield _case("longest", "16 384 bytes", content, {"taken": _facts(longest)})
    yield _case("too-long", "16 385 bytes", content + b" ", {"left": "unreadable"})


def _facts(answer: Members) -> Members:
    return {name: answer.get(name) for name in ("status", "transaction", "error", "nonce", "data")}


def _left() -> Iterator[Members]:
    other = {"status": "ok", "transaction": "t-2", "data": {"did": "selftest"}}
    yield _case("of-another", "somebody else's", json.dumps(other).encode(), {"left": "another"})
    good = {"status": "ok", "transaction": ASKED}
    for name, content in {
        "empty": b"",
        "no-json": b"done",
        "no-utf-8": b'{"status":"ok","transaction":"\xff"}',
        "array": b"[]",
        "status": json.dumps({**good, "status": "maybe"}).encode(),
        "without-status": json.dumps({"transaction": ASKED}).encode(),
        "without-transaction": json.dumps({"status": "ok"}).encode(),
        "transaction-number": json.dumps({**good, "transaction": 1}).encode(),
        "extra": json.dumps({**good, "extra": 1}).encode(),
        "data-array": json.dumps({**good, "data": []}).encode(),
        "error-number": json.dumps({**good, "error": 7}).encode(),
        "cut": json.dumps(good).encode()[:-1],
    }.items():
        yield _case(f"unreadable-{name}", "no answer at all", content, {"left": "unreadable"})
