# SPDX-License-Identifier: Apache-2.0
"""Requests to a unit, one after the other, and what it must answer to each: whatever is not ``ok`` is not done."""

from __future__ import annotations

from collections.abc import Iterator

import rfc8785

from tools.lib.vectors.build import (
    COMMAND,
    DOOR_3,
    EVENT,
    OTHER_SITE_KEY,
    SITE,
    SITE_KEY,
    Members,
    file,
    shown_keys,
    without,
    written,
)
from tools.lib.vectors.signing import ORDER, Key, base64url, octets, split

UNIT = "door-3"
AT = 1795340463  # 2026-11-22T09:41:03Z
MAX_COMMAND = 16 * 1024
VERBS = (
    "health",
    "enrol/begin",
    "enrol/commit",
    "enrol/abort",
    "subject/revoke",
    "gallery/status",
    "config/get",
    "recognition/pause",
    "recognition/resume",
    "recognition/request",
    "verify",
    "key/rotate",
    "outbox/status",
    "outbox/replay",
    "selftest",
    "unit/confirm",
)
NOT_OFFERED = "key/rotate"
NONCES = [f"{number:02x}" * 16 for number in range(1, 7)]


def commands() -> Members:
    """Content of ``commands.json``."""
    cases = [*_done(), *_signatures(), *_contents(), *_addresses(), *_numbers(), *_times(), *_nonces(), *_floods()]
    offered = [verb for verb in VERBS if verb != NOT_OFFERED]
    return file("commands", cases, keys=shown_keys(), site_key=SITE_KEY.jwk, site=SITE, unit=UNIT, verbs=offered)


def command(seq: int = 1, verb: str = "selftest", **changes: object) -> Members:
    """A command that would be done."""
    members = {
        "site": SITE,
        "unit": UNIT,
        "verb": verb,
        "cmd_seq": seq,
        "issued_at": AT,
        "expires_at": AT + 60,
        "transaction": f"t-{seq}",
        "args": {},
    }
    return {**members, **changes}


def sign(content: Members | bytes, key: Key = SITE_KEY, **header: object) -> bytes:
    """The command as it is sent."""
    body = content if isinstance(content, bytes) else rfc8785.dumps(content)
    return key.sign(body, {**key.header(COMMAND), **header}).encode()


def _ok(transaction: str | None) -> Members:
    return {"status": "ok", "transaction": transaction}


def _no(error: str, transaction: str | None = None, **more: object) -> Members:
    return {"status": "error", "transaction": transaction, "error": error, **more}


def _ask(content: Members | bytes, answer: Members | None, *, verb: str = "selftest", at: int = AT) -> Members:
    raw = sign(content) if isinstance(content, dict) else content
    return {"at": at, "topic": f"postern/{SITE}/{UNIT}/request/{verb}", **written(raw), "expect": {"answer": answer}}


def _case(name: str, comment: str, *requests: Members, clock: str = "synced") -> Members:
    return {"name": name, "comment": comment, "clock": clock, "nonces": NONCES, "requests": list(requests)}


def _done() -> Iterator[Members]:
    for verb in VERBS:
        answer = _no("not_available", "t-1") if verb == NOT_OFFERED else _ok("t-1")
        comment = "a verb of this unit" if verb != NOT_OFFERED else "a verb that this unit does not offer"
        yield _case(f"verb-{verb.replace('/', '-')}", comment, _ask(command(verb=verb), answer, verb=verb))
    yield _case("verb-unknown", "silence", _ask(command(verb="open"), None, verb="open"))
    yield _case("verb-of-more-levels", "silence", _ask(command(), None, verb="selftest/x"))
    full = command(args={"subject": "00" * 16, "count": 3, "list": [None, True]}, transaction="A_-9" * 16)
    yield _case("arguments", "args are the verb's own; a transaction of 64 characters", _ask(full, _ok("A_-9" * 16)))
    yield _case("without-args", "no arguments", _ask(without(command(), "args"), _ok("t-1")))
    yield _case("nonce-null", "as if absent", _ask(command(nonce=None), _ok("t-1")))
    spaced = sign(rfc8785.dumps(command()).replace(b",", b" ,\n"))
    yield _case("spelled-otherwise", "the bytes as they are were signed", _ask(spaced, _ok("t-1")))


def _signatures() -> Iterator[Members]:
    good = sign(command()).decode()
    head, content, last = good.split(".")
    _, r, s = split(good)
    lent = sign(rfc8785.dumps(command()), OTHER_SITE_KEY, kid=SITE_KEY.kid)
    altered = base64url(rfc8785.dumps(command(verb="health")))
    for name, token, error in (
        ("of-another-site", sign(command(), OTHER_SITE_KEY), "wrong_key"),
        ("of-the-unit-itself", sign(command(), DOOR_3), "wrong_key"),
        ("forged", lent, "bad_signature"),
        ("altered", f"{head}.{altered}.{last}".encode(), "bad_signature"),
        ("unsigned", f"{head}.{content}.".encode(), "unsigned"),
        ("zeros", f"{head}.{content}.{base64url(bytes(64))}".encode(), "bad_signature"),
        ("alg-none", sign(command(), alg="none"), "unsecured"),
        ("alg-other", sign(command(), alg="HS256"), "wrong_algorithm"),
        ("typ-event", sign(command(), typ=EVENT), "wrong_type"),
        ("header-with-jwk", sign(command(), jwk=OTHER_SITE_KEY.jwk), "malformed"),
        ("detached", f"{head}..{last}".encode(), "bad_signature"),
        ("two-parts", f"{head}.{content}".encode(), "malformed"),
        ("padded", f"{head}.{content}=.{last}".encode(), "malformed"),
        ("final-line-feed", f"{good}\n".encode(), "bad_signature"),
        ("leading-space", f" {good}".encode(), "malformed"),
        ("no-ascii", good.encode() + b"\xff", "malformed"),
        ("empty", b"", "malformed"),
        ("plain-json", rfc8785.dumps(command()), "malformed"),
    ):
        comment = "nothing of the content is believed: not even the transaction is echoed"
        yield _case(f"signature-{name}", comment, _ask(token, _no(error)), _ask(command(), _ok("t-1"), at=AT + 1))
    twin = f"{head}.{content}.{base64url(octets(r) + octets(ORDER - s))}".encode()
    comment = "(r, n-s) is as good, and is the same command"
    yield _case("second-signature", comment, _ask(twin, _ok("t-1")), _ask(command(), _no("replayed", "t-1")))


def _contents() -> Iterator[Members]:
    body = rfc8785.dumps(command())
    contents: dict[str, Members | bytes] = {
        "empty": b"",
        "array": b"[]",
        "key-twice": body.replace(b'"cmd_seq":1', b'"cmd_seq":1,"cmd_seq":1'),
        "float-in-args": body.replace(b'"args":{}', b'"args":{"x":1.5}'),
        "integer-too-wide": body.replace(b'"args":{}', b'"args":{"x":9007199254740992}'),
        "extra": command(extra=1),
        "without-transaction": without(command(), "transaction"),
        "transaction-too-long": command(transaction="t" * 65),
        "transaction-line-feed": command(transaction="t\n"),
        "transaction-null": command(transaction=None),
        "seq-zero": command(0),
        "seq-text": command(cmd_seq="1"),
        "issued-negative": command(issued_at=-1),
        "args-null": command(args=None),
        "nonce-short": command(nonce="01"),
        "nonce-upper-case": command(nonce="AB" * 16),
        "site-upper-case": command(site="HQ"),
        "verb-too-long": command(verb="v" * 33),
    }
    for name, content in contents.items():
        comment = "signed by the site, and no command all the same"
        yield _case(f"content-{name}", comment, _ask(sign(content), _no("malformed")))
    pad = MAX_COMMAND - len(sign(command(args={"x": ""})))
    largest = command(args={"x": "x" * (pad * 3 // 4)})
    while len(sign(largest)) < MAX_COMMAND:
        largest["args"]["x"] += "x"
    if len(sign(largest)) == MAX_COMMAND:
        yield _case("largest", "16 384 bytes", _ask(largest, _ok("t-1")))
    beyond = sign(largest) + b"." * (MAX_COMMAND + 1 - len(sign(largest)))
    yield _case("too-large", "16 385 bytes, unread", _ask(beyond, _no("too_large")))


def _addresses() -> Iterator[Members]:
    addresses: tuple[tuple[str, Members, str], ...] = (
        ("another-site", {"site": "annex"}, "wrong_site"),
        ("another-unit", {"unit": "door-4"}, "wrong_unit"),
        ("another-verb", {"verb": "recognition/pause"}, "wrong_verb"),
        ("an-unknown-verb", {"verb": "open"}, "wrong_verb"),
        ("another-site-and-unit", {"site": "annex", "unit": "door-4"}, "wrong_site"),
        ("another-unit-and-verb", {"unit": "door-4", "verb": "health"}, "wrong_unit"),
    )
    for name, change, error in addresses:
        comment = "signed by the site, for something else: it is not done, and its number is not used up"
        yield _case(f"for-{name}", comment, _ask(command(**change), _no(error, "t-1")), _ask(command(), _ok("t-1")))


def _numbers() -> Iterator[Members]:
    yield _case(
        "replayed",
        "once and never again, whatever the verb",
        _ask(command(), _ok("t-1")),
        _ask(command(), _no("replayed", "t-1")),
        _ask(command(verb="health", transaction="t-9"), _no("replayed", "t-9"), verb="health"),
    )
    yield _case(
        "numbers-skip",
        "they rise, and need not be dense",
        _ask(command(5), _ok("t-5")),
        _ask(command(9000), _ok("t-9000")),
        _ask(command(6), _no("out_of_order", "t-6", next_seq=9001)),
    )
    latest = (AT + 30) * 1000
    yield _case(
        "number-ahead",
        "no further than 30 s ahead of the unit's clock, in milliseconds; a refused one uses nothing up",
        _ask(command(latest + 1, transaction="t"), _no("number_ahead", "t", next_seq=1)),
        _ask(command(2**53 - 1, transaction="t"), _no("number_ahead", "t", next_seq=1)),
        _ask(command(latest, transaction="t"), _ok("t")),
        _ask(command(latest + 1001, transaction="t"), _no("number_ahead", "t", next_seq=latest + 1)),
        _ask(command(latest + 1000, transaction="t"), _ok("t")),
    )
    year = (AT + 365 * 86_400) * 1000
    yield _case(
        "number-ahead-without-the-time",
        "a unit without the time takes it, and its refusals name the next for everybody else",
        _ask(command(253_402_300_800_000, transaction="t"), _no("number_ahead", "t", next_seq=1)),
        _ask(command(year, transaction="t"), _no("challenge", "t", nonce=NONCES[0])),
        _ask(command(year, transaction="t", nonce=NONCES[0]), _ok("t")),
        _ask(command(AT * 1000, transaction="t"), _no("out_of_order", "t", next_seq=year + 1)),
        _ask(command(year + 1, transaction="t"), _no("challenge", "t", nonce=NONCES[1])),
        _ask(command(year + 1, transaction="t", nonce=NONCES[1]), _ok("t")),
        clock="unsynced",
    )
    yield _case(
        "overtaken",
        "later ones came first: told from a replay, while the unit remembers both ends",
        _ask(command(3), _ok("t-3")),
        _ask(command(9), _ok("t-9")),
        _ask(command(5), _no("out_of_order", "t-5", next_seq=10)),
        _ask(command(3), _no("replayed", "t-3")),
        _ask(command(9), _no("replayed", "t-9")),
    )
    yield _case(
        "number-of-a-verb-not-offered",
        "is not used up",
        _ask(command(7, NOT_OFFERED), _no("not_available", "t-7"), verb=NOT_OFFERED),
        _ask(command(7), _ok("t-7")),
    )
    memory = [_ask(command(10 * n, transaction="t"), _ok("t"), at=AT + n) for n in range(1, 34)]
    yield _case(
        "memory-is-bounded",
        "the last 32 numbers are remembered, here 20 to 330: what is below is replayed",
        *memory,
        _ask(command(15), _no("replayed", "t-15", next_seq=331), at=AT + 40),
        _ask(command(20), _no("replayed", "t-20"), at=AT + 41),
        _ask(command(25), _no("out_of_order", "t-25", next_seq=331), at=AT + 42),
    )


def _times() -> Iterator[Members]:
    times: tuple[tuple[str, Members, Members], ...] = (
        ("last-second", {"expires_at": AT}, _ok("t-1")),
        ("over", {"issued_at": AT - 60, "expires_at": AT - 1}, _no("expired", "t-1")),
        ("thirty-seconds-ahead", {"issued_at": AT + 30, "expires_at": AT + 90}, _ok("t-1")),
        ("thirty-one-seconds-ahead", {"issued_at": AT + 31, "expires_at": AT + 91}, _no("not_yet_valid", "t-1")),
        ("five-minutes", {"expires_at": AT + 300}, _ok("t-1")),
        ("more-than-five-minutes", {"expires_at": AT + 301}, _no("too_long_valid", "t-1")),
        ("ends-before-it-begins", {"issued_at": AT + 1, "expires_at": AT}, _no("too_long_valid", "t-1")),
        ("long-and-over", {"issued_at": AT - 900, "expires_at": AT - 1}, _no("too_long_valid", "t-1")),
    )
    for name, change, answer in times:
        yield _case(
            f"time-{name}", "valid for 300 s at most; clocks may differ by 30 s", _ask(command(**change), answer)
        )
    stale = _ask(command(issued_at=AT - 90, expires_at=AT - 30), _no("expired", "t-1"))
    yield _case("expired-number-is-free", "a refused command uses no number up", stale, _ask(command(), _ok("t-1")))
    both = _ask(command(issued_at=AT - 90, expires_at=AT - 30), _no("replayed", "t-1"))
    yield _case("replayed-and-expired", "the number is looked at first", _ask(command(), _ok("t-1")), both)


def _nonces() -> Iterator[Members]:
    first, second = NONCES[:2]
    old: Members = {"issued_at": 7, "expires_at": 9}
    asked = _ask(command(), _no("challenge", "t-1", nonce=first))
    yield _case(
        "challenge",
        "no clock: sign again with this nonce; then no time is looked at",
        asked,
        _ask(command(nonce=first, **old), _ok("t-1")),
        clock="unsynced",
    )
    yield _case(
        "nonce-once",
        "a nonce is good for one use",
        asked,
        _ask(command(nonce=first), _ok("t-1")),
        _ask(command(2, nonce=first), _no("bad_nonce", "t-2")),
        _ask(command(3), _no("challenge", "t-3", nonce=second)),
        clock="unsynced",
    )
    yield _case(
        "nonce-of-nobody",
        "not one of this unit's",
        asked,
        _ask(command(nonce="ff" * 16), _no("bad_nonce", "t-1")),
        _ask(command(nonce=first), _ok("t-1")),
        clock="unsynced",
    )
    yield _case(
        "nonce-with-a-clock",
        "a unit that knows the time gave out no nonce",
        _ask(command(nonce=first), _no("bad_nonce", "t-1")),
        _ask(command(), _ok("t-1")),
    )
    yield _case(
        "nonce-59-seconds",
        "it lives for a minute",
        asked,
        _ask(command(nonce=first), _ok("t-1"), at=AT + 59),
        clock="unsynced",
    )
    yield _case(
        "nonce-60-seconds",
        "and no longer",
        asked,
        _ask(command(nonce=first), _no("bad_nonce", "t-1"), at=AT + 60),
        clock="unsynced",
    )
    asks = [_ask(command(), _no("challenge", "t-1", nonce=nonce)) for nonce in NONCES[:5]]
    yield _case(
        "five-nonces",
        "four are open at once, and the oldest makes room",
        *asks,
        _ask(command(nonce=first), _no("bad_nonce", "t-1")),
        _ask(command(nonce=second), _ok("t-1")),
        clock="unsynced",
    )
    yield _case(
        "replayed-before-nonce",
        "the number is looked at first, and the nonce is not used up",
        asked,
        _ask(command(nonce=first), _ok("t-1")),
        _ask(command(), _no("replayed", "t-1")),
        clock="unsynced",
    )
    yield _case(
        "wrong-unit-gets-no-nonce",
        "nor does anybody who cannot sign",
        _ask(command(unit="door-4"), _no("wrong_unit", "t-1")),
        _ask(sign(command(), OTHER_SITE_KEY), _no("wrong_key")),
        clock="unsynced",
    )


def _floods() -> Iterator[Members]:
    forged = sign(rfc8785.dumps(command()), OTHER_SITE_KEY, kid=SITE_KEY.kid)
    junk = [_ask(b"x", _no("malformed")) for _ in range(20)]
    yield _case(
        "flood",
        "20 at once and then 5 a second that nobody signed are answered, the rest gets silence; what is signed is done",
        *junk,
        _ask(b"x", None),
        _ask(sign(command(), OTHER_SITE_KEY), None),
        _ask(forged, None),
        _ask(command(), _ok("t-1")),
        *[_ask(b"x", _no("malformed"), at=AT + 1) for _ in range(5)],
        _ask(b"x", None, at=AT + 1),
        _ask(command(2), _ok("t-2"), at=AT + 1),
    )
    yield _case(
        "flood-of-replays",
        "whoever recorded a command silences nobody with it",
        _ask(command(), _ok("t-1")),
        *[_ask(command(), _no("replayed", "t-1")) for _ in range(20)],
        _ask(command(), None),
        _ask(b"x", _no("malformed")),
        _ask(command(2), _ok("t-2")),
    )
    yield _case(
        "flood-of-commands",
        "20 at once and then 5 a second are done; a refused one takes nothing from them, nor its own number",
        _ask(command(unit="door-4"), _no("wrong_unit", "t-1")),
        *[_ask(command(number), _ok(f"t-{number}")) for number in range(1, 21)],
        _ask(command(21), None),
        *[_ask(command(number), _ok(f"t-{number}"), at=AT + 1) for number in range(21, 26)],
        _ask(command(26), None, at=AT + 1),
    )
    yield _case(
        "unknown-verbs-cost-nothing",
        "they are not looked at",
        *[_ask(b"x", None, verb="open") for _ in range(25)],
        _ask(command(), _ok("t-1")),
    )
