# SPDX-License-Identifier: Apache-2.0
"""Events as bytes and as members: one reading or none, and nothing that an event may not have."""

from __future__ import annotations

import json
from collections.abc import Iterator

import rfc8785

from tools.lib.vectors.build import (
    BOOT,
    DOOR_3,
    EVENT,
    Members,
    accepted,
    case,
    event,
    payload,
    refused,
    signed,
    topic,
    without,
)

LIMIT = 4096
LOST = {"first": 1, "last": 4, "count": 3, "reason": "full"}


def form_cases() -> Iterator[Members]:
    """Steps 1 to 5 of the check."""
    yield from _spellings()
    yield from _not_json()
    yield from _two_readings()
    yield from _unsigned()
    yield from _kinds()
    yield from _members()


def _spellings() -> Iterator[Members]:
    """Bytes that differ from the canonical ones and mean the same: the signature is over the canonical form."""
    said = event()
    members, good = signed(said), accepted(said)
    content = rfc8785.dumps(members)
    backwards = {**dict(reversed(members.items())), "data": dict(reversed(members["data"].items()))}
    spaced = json.dumps(members, indent=4).replace("\n", "\r\n\t").encode()
    escaped = content.replace(b'"door"', b'"\\u0064oor"').replace(b'"zone"', b'"z\\u006Fne"')
    yield case("spelled-backwards", "the order of members says nothing", json.dumps(backwards).encode(), good)
    yield case("spelled-with-spaces", "space, tab, CR and LF between tokens", spaced, good)
    yield case("spelled-with-escapes", "an escaped letter is that letter", escaped, good)
    slashes = content.replace(b"/", b"\\/")
    yield case("spelled-with-escaped-slashes", "as some encoders do", slashes, good)
    yield case("size-at-the-limit", "4096 bytes with the spaces", content.ljust(LIMIT), good)
    yield case("size-beyond-the-limit", "4097 bytes, unread", content.ljust(LIMIT + 1), refused("too_large"))


def _not_json() -> Iterator[Members]:
    content = payload(event())
    for name, broken in {
        "empty": b"",
        "null": b"null",
        "array": b"[" + content + b"]",
        "number": b"7",
        "text": json.dumps(content.decode()).encode(),
        "cut-short": content[:-1],
        "two-values": content + content,
        "trailing-comma": content[:-1] + b",}",
        "comment": content + b"//",
        "single-quotes": content.replace(b'"', b"'"),
        "byte-order-mark": b"\xef\xbb\xbf" + content,
        "utf-16": content.decode().encode("utf-16"),
        "not-utf-8": content.replace(b'"door"', b'"do\xffr"'),
        "overlong-utf-8": content.replace(b'"door"', b'"d\xc1\xafor"'),
        "surrogate-in-utf-8": content.replace(b'"door"', b'"\xed\xa0\x80"'),
        "no-break-space": content.replace(b",", ",\u00a0".encode(), 1),
        "raw-line-feed-in-text": content.replace(b'"door"', b'"do\nor"'),
        "unknown-escape": content.replace(b'"door"', b'"\\door"'),
        "nesting-never-closed": b"[" * LIMIT,
        "nul-at-the-end": content + b"\0",
    }.items():
        yield case(f"json-{name}", "not one JSON object in UTF-8", broken, refused("malformed"))


def _two_readings() -> Iterator[Members]:
    said = event()
    content = payload(said)
    seq = b'"seq":1,'
    for name, broken in {
        "key-twice": content.replace(b'"zone":"door"', b'"zone":"vault","zone":"door"'),
        "key-twice-last": content.replace(b'"zone":"door"', b'"zone":"door","zone":"vault"'),
        "key-twice-same-value": content.replace(b'"zone":"door"', b'"zone":"door","zone":"door"'),
        "key-twice-escaped": content.replace(b'"zone":"door"', b'"zone":"door","z\\u006fne":"door"'),
        "key-twice-outside": content.replace(b'{"data":', b'{"data":{},"data":', 1),
        "sig-twice": content.replace(b'"sig":', b'"sig":"","sig":', 1),
        "float": content.replace(seq, b'"seq":1.0,'),
        "exponent": content.replace(seq, b'"seq":1e0,'),
        "exponent-huge": content.replace(seq, b'"seq":1e999,'),
        "nan": content.replace(seq, b'"seq":NaN,'),
        "infinity": content.replace(seq, b'"seq":-Infinity,'),
        "integer-2-to-53": content.replace(seq, b'"seq":9007199254740992,'),
        "integer-2-to-53-plus-1": content.replace(seq, b'"seq":9007199254740993,'),
        "integer-of-400-digits": content.replace(seq, b'"seq":' + b"9" * 400 + b","),
        "integer-with-plus": content.replace(seq, b'"seq":+1,'),
        "integer-with-zero-before": content.replace(seq, b'"seq":01,'),
        "integer-in-hexadecimal": content.replace(seq, b'"seq":0x1,'),
    }.items():
        yield case(f"json-{name}", "two parsers could read it differently", broken, refused("malformed"))


def _unsigned() -> Iterator[Members]:
    said = event()
    for name, members in {
        "no-sig": said,
        "sig-null": {**said, "sig": None},
        "sig-empty": {**said, "sig": ""},
        "nothing-at-all": {},
        "sig-in-the-wrong-place": {**said, "data": {**said["data"], "sig": signed(said)["sig"]}},
    }.items():
        yield case(f"unsigned-{name}", "no signature", rfc8785.dumps(members), refused("unsigned"))


def _kinds() -> Iterator[Members]:
    unit = event("unit")
    for name, members in {
        "type-of-another-kind": event(type="io.postern.unit.v1"),
        "type-of-another-version": event(type="io.postern.match.v2"),
        "type-unknown": event(type="com.example.match"),
        "type-null": event(type=None),
        "type-no-text": event(type=7),
        "type-missing": without(event(), "type"),
        "event-type-unknown": event(data={"event_type": "spoof"}),
        "event-type-inherited": event(data={"event_type": "constructor"}),
        "event-type-unknown-and-no-type": without(event(data={"event_type": "spoof"}), "type"),
        "event-type-no-text": event(data={"event_type": ["match"]}),
        "event-type-missing": event(data={}) | {"data": without(unit["data"], "event_type")},
        "data-missing": without(event(), "data"),
        "data-no-object": event() | {"data": [unit["data"]]},
    }.items():
        yield case(
            f"kind-{name}", "type and data.event_type name one known kind", payload(members), refused("wrong_type")
        )
    swapped = event() | {"data": event("unit", data={"event_type": "match"})["data"]}
    yield case("kind-data-of-another", "the facts of another kind", payload(swapped), refused("malformed"))


def _members() -> Iterator[Members]:
    for name, members in {
        "extra": event(extra=1),
        "extra-subject": event(subject="a name"),
        "extra-in-data": event(data={"score": 99}),
        "extra-proto": event(__proto__={"seq": 1}),
        "extra-deep-nesting": event(extra="@"),
        "extra-lone-surrogate": event(extra="@"),
        "extra-null": event(extra=None),
        "specversion": event(specversion="2.0"),
        "specversion-missing": without(event(), "specversion"),
        "datacontenttype": event(datacontenttype="application/cbor"),
        "source-no-text": event(source=None),
        "source-without-slash": event(source="postern/hq/door-3"),
        "source-of-other-root": event(source="/other/hq/door-3"),
        "source-wildcard": event(source="/postern/hq/+"),
        "source-upper-case": event(source="/postern/hq/Door-3"),
        "id-of-another-number": event(id=f"{BOOT}-2"),
        "id-of-another-boot": event(id="0" * 16 + "-1"),
        "id-with-zero-before": event(id=f"{BOOT}-01"),
        "boot-upper-case": event(id="0123456789ABCDEF-1", data={"boot": "0123456789ABCDEF"}),
        "boot-too-short": event(id="0123-1", data={"boot": "0123"}),
        "seq-zero": event(seq=0),
        "seq-minus-zero": event(),
        "seq-negative": event(seq=-1),
        "seq-text": event(data={"seq": "1"}),
        "seq-true": event(data={"seq": True}),
        "seq-null": event(data={"seq": None}),
        "seq-missing": event() | {"data": without(event()["data"], "seq")},
        "prev-of-other-algorithm": event(prev="sha512:" + "0" * 64),
        "prev-upper-case": event(prev="sha256:" + "A" * 64),
        "prev-too-long": event(prev="sha256:" + "0" * 65),
        "clock": event(clock="maybe"),
        "subject-name": event(data={"subject": "alice"}),
        "subject-too-short": event(data={"subject": "p1_" + "0" * 31}),
        "subject-sealed-padded": event(data={"subject": "s1_" + "A" * 86 + "=="}),
        "zone-empty": event(data={"zone": ""}),
        "zone-65-characters": event(data={"zone": "z" * 65}),
        "zone-line-feed": event(data={"zone": "door\n"}),
        "zone-letter-from-outside": event(data={"zone": "d\u043eor"}),
        "epoch": event(data={"epoch": "2026-47"}),
        "method": event(data={"method": "guess"}),
        "liveness": event(data={"liveness": "failed"}),
        "policy-missing": event() | {"data": without(event()["data"], "policy")},
        "lost-in-a-match": event(data={"lost": LOST}),
        "granted-empty": event(data={"granted": ""}),
        "granted-list": event(data={"granted": ["strike"]}),
        "granted-nine": event(data={"granted": " ".join("abcdefghi")}),
        "granted-two-blanks": event(data={"granted": "strike  gate"}),
        "granted-blank-at-the-end": event(data={"granted": "strike "}),
        "granted-line-feed": event(data={"granted": "strike\ngate"}),
        "granted-upper-case": event(data={"granted": "Strike"}),
    }.items():
        content = payload(members)
        if name == "extra-deep-nesting":
            content = content.replace(b'"@"', b"[" * 1200 + b"]" * 1200)
        elif name == "extra-lone-surrogate":
            content = content.replace(b'"@"', b'"\\ud800"')
        elif name == "seq-minus-zero":
            content = content.replace(b'"seq":1', b'"seq":-0')
        yield case(f"member-{name}", "signed, and no event all the same", content, refused("malformed"))
    wrong_units: dict[str, Members] = {
        "condition": {"condition": "on_fire"},
        "loss-without-lost": {"condition": "loss"},
        "loss-with-lost-null": {"condition": "loss", "lost": None},
        "lost-without-loss": {"lost": LOST},
        "lost-extra": {"condition": "loss", "lost": {**LOST, "who": "p1_"}},
        "lost-reason": {"condition": "loss", "lost": {**LOST, "reason": "unknown"}},
        "lost-count-zero": {"condition": "loss", "lost": {**LOST, "count": 0}},
        "lost-backwards": {"condition": "loss", "lost": {**LOST, "first": 4, "last": 1, "count": 1}},
        "lost-count-above-range": {"condition": "loss", "lost": {**LOST, "first": 1, "last": 4, "count": 5}},
        "lost-no-object": {"condition": "loss", "lost": [1, 4, 3, "full"]},
        "granted-in-a-unit": {"granted": "strike"},
        "subject-in-a-unit": {"subject": "p1_" + "0" * 32},
    }
    for name, data in wrong_units.items():
        content = payload(event("unit", data=data))
        yield case(
            f"member-unit-{name}",
            "signed, and no event all the same",
            content,
            refused("malformed"),
            where=topic("unit"),
        )
    said = event("presence", data={"state": "passing"})
    yield case(
        "member-presence-state",
        "came or went, nothing else",
        payload(said),
        refused("malformed"),
        where=topic("presence"),
    )
    honest = signed(event())["sig"]
    head, _, last = honest.split(".")
    wrong_signatures: Members = {
        "no-text": 7,
        "object": {"signature": honest},
        "compact": DOOR_3.sign(rfc8785.dumps(event()), DOOR_3.header(EVENT)),
        "no-signature-part": f"{head}..",
        "no-header": f"..{last}",
        "four-parts": f"{honest}.",
        "padded": f"{honest}==",
        "final-line-feed": f"{honest}\n",
    }
    for name, sig in wrong_signatures.items():
        yield case(
            f"member-sig-{name}",
            "header, two dots, 86 characters",
            rfc8785.dumps({**event(), "sig": sig}),
            refused("malformed"),
        )
