# SPDX-License-Identifier: Apache-2.0
"""The parts that vectors are made of: keys, lists of units, events, and how bytes are written down."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import rfc8785

from tools.lib.vectors.signing import Key, base64url

FORMAT = 1
SITE = "hq"
NOW = "2026-11-22T09:41:05Z"  # two seconds after the events
TIME = "2026-11-22T09:41:03Z"
BOOT = "0123456789abcdef"
FIRST_PREV = "sha256:" + "0" * 64
DIGEST = "sha256:" + "5a" * 32
EVENT, TRUST, COMMAND, RESPONSE, RECEIPT = (
    f"postern-{what}+jws" for what in ("event", "trust", "command", "response", "receipt")
)

SITE_KEY = Key("site hq")
OTHER_SITE_KEY = Key("site annex")
DOOR_3 = Key("unit door-3")
DOOR_3_BEFORE = Key("unit door-3, replaced")
DOOR_4 = Key("unit door-4")
GATE_1 = Key("unit gate-1, revoked")
STRANGER = Key("nobody's key")
ALL_KEYS = {
    "site": SITE_KEY,
    "other_site": OTHER_SITE_KEY,
    "door-3": DOOR_3,
    "door-3_replaced": DOOR_3_BEFORE,
    "door-4": DOOR_4,
    "gate-1_revoked": GATE_1,
    "stranger": STRANGER,
}
UNTIL = "2026-11-22T12:00:00Z"  # how long the replaced key of door-3 counts

YEAR_S = 366 * 24 * 3600  # an age is told up to this, either way

Members = dict[str, Any]


def shown_keys(*names: str) -> Members:
    """The ``keys`` of a file: all of them, or those named."""
    return {name: key.private_jwk() for name, key in ALL_KEYS.items() if not names or name in names}


def entry(key: Key, status: str = "active", **more: object) -> Members:
    """One key of a unit in a list."""
    return {"jwk": key.jwk, "status": status, **more}


def units() -> Members:
    """The units of site hq."""
    return {
        "door-3": [entry(DOOR_3), entry(DOOR_3_BEFORE, until=UNTIL)],
        "door-4": [entry(DOOR_4)],
        "gate-1": [entry(GATE_1, "revoked")],
    }


def unit_list(**changes: object) -> Members:
    """The content of the site's list of units, number 7."""
    listed = {"version": 1, "site": SITE, "serial": 7, "issued_at": "2026-11-22T00:00:00Z", "units": units()}
    return {**listed, **changes}


def sign_list(content: Members | bytes, key: Key = SITE_KEY, typ: str = TRUST) -> str:
    """The list as it is handed out: a compact JWS."""
    return key.sign(content if isinstance(content, bytes) else rfc8785.dumps(content), key.header(typ))


FACTS: Mapping[str, Members] = {
    "match": {
        "subject": "p1_" + "9c41" * 8,
        "audience": "access",
        "epoch": "2026-W47",
        "zone": "door",
        "method": "face",
        "liveness": "not_checked",
        "policy": DIGEST,
        "model": DIGEST,
    },
    "presence": {
        "state": "arrived",
        "subject": "p1_" + "9c41" * 8,
        "audience": "access",
        "epoch": "2026-W47",
        "zone": "door",
    },
    "unit": {"condition": "camera_back"},
}


def event(
    kind: str = "match",
    *,
    unit: str = "door-3",
    seq: int = 1,
    prev: str = FIRST_PREV,
    time: str = TIME,
    clock: str = "synced",
    data: Members | None = None,
    **changes: object,
) -> Members:
    """An event without its signature; ``data`` and ``changes`` replace members or add some."""
    place = {"event_type": kind, "boot": BOOT, "seq": seq, "prev": prev, "clock": clock}
    members = {
        "specversion": "1.0",
        "type": f"io.postern.{kind}.v1",
        "source": f"/postern/{SITE}/{unit}",
        "id": f"{BOOT}-{seq}",
        "time": time,
        "datacontenttype": "application/json",
        "data": {**FACTS[kind], **place, **(data or {})},
    }
    return {**members, **changes}


def without(members: Members, *names: str) -> Members:
    """A copy that lacks these members."""
    return {name: value for name, value in members.items() if name not in names}


def signed(members: Members, key: Key = DOOR_3, **header: object) -> Members:
    """The members with ``sig``, by default an honest one; ``header`` replaces members of its header."""
    return {**members, "sig": key.detach(rfc8785.dumps(members), {**key.header(EVENT), **header})}


def payload(members: Members, key: Key = DOOR_3, **header: object) -> bytes:
    """A signed event as a unit sends it."""
    return rfc8785.dumps(signed(members, key, **header))


def digest(members: Members) -> str:
    """What the next event names as ``prev``."""
    return "sha256:" + hashlib.sha256(rfc8785.dumps(without(members, "sig"))).hexdigest()


def topic(kind: str = "match", *, unit: str = "door-3", leaf: str = "event") -> str:
    """Where an event of the unit comes."""
    return f"postern/{SITE}/{unit}/{leaf}/{kind}"


def written(content: bytes) -> Members:
    """Bytes in a vector: ``payload`` when they are text, else ``payload_base64url``."""
    try:
        return {"payload": content.decode("utf-8")}
    except UnicodeDecodeError:
        return {"payload_base64url": base64url(content)}


def refused(reason: str) -> Members:
    """The verifier must not believe it, for this reason."""
    return {"refused": reason}


def accepted(
    members: Members,
    *,
    backlog: bool = False,
    fresh: bool = True,
    late: bool = False,
    gap: tuple[int, int] | None = None,
) -> Members:
    """The verifier must believe it and say this of it."""
    data = members["data"]
    facts = {
        "unit": members["source"].rpartition("/")[2],
        "kind": data["event_type"],
        "seq": data["seq"],
        "backlog": backlog,
        "fresh": fresh,
        "late": late,
        "gap": None if gap is None else list(gap),
        "digest": digest(members),
    }
    return {"accepted": facts}


def message(content: bytes, expect: Members, *, where: str | None = None, now: str = NOW) -> Members:
    """One message as it arrives, and what must be said to it; how old an accepted event is follows from ``now``."""
    if "accepted" in expect:
        expect = {"accepted": {**expect["accepted"], "age_s": _age(json.loads(content), now)}}
    return {"topic": topic() if where is None else where, "now": now, **written(content), "expect": expect}


def _age(members: Members, now: str) -> int | None:
    if members["data"]["clock"] != "synced":
        return None
    age = datetime.fromisoformat(now) - datetime.fromisoformat(members["time"])
    return max(-YEAR_S, min(age // timedelta(seconds=1), YEAR_S))


def case(
    name: str,
    comment: str,
    content: bytes,
    expect: Members,
    *,
    where: str | None = None,
    now: str = NOW,
    **more: object,
) -> Members:
    """One message as a case of its own."""
    return {"name": name, "comment": comment, **more, **message(content, expect, where=where, now=now)}


def file(subject: str, cases: list[Members], **shared: object) -> Members:
    """A whole vector file; the names of its cases are its table of contents, so each stands once."""
    names = [case["name"] for case in cases]
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise ValueError(f"{subject}: names that stand twice: {sorted(doubled)}")
    head = {
        "license": "Apache-2.0",
        "format": FORMAT,
        "subject": subject,
        "warning": "test keys that everybody knows: never use them",
    }
    return {**head, **shared, "cases": cases}
