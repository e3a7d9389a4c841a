# SPDX-License-Identifier: Apache-2.0
"""What a bridge does, on one screen, without broker, camera or configuration.

A unit is played here: it has a key, signs real events, and names people by the pseudonyms of this week. Verifier, store
and resolution are the bridge's own. Three things that must not pass are sent as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import rfc8785

from agent.bridge.outputs import Item, is_of_this_moment, may_open
from agent.bridge.people import Resolving
from agent.bridge.records import records_of
from agent.bridge.store import Store
from agent.clock import Clock
from agent.disk.files import write_atomic
from agent.errors import VerificationError
from agent.keys import UnitKey, encode_base64url
from agent.protocol.event import EVENT_TYPES, FIRST_PREV, SIGNATURE_TYPE, canonical, digest
from agent.protocol.names import round_down
from agent.protocol.pseudonym import EpochKey, epoch_of, pseudonym, spell
from agent.protocol.trust import TrustedUnits, TrustList, UnitKeyEntry
from agent.subscribe.subscriber import Handed, Refusal
from agent.subscribe.verify import Verifier

SITE, UNIT, AUDIENCE = "demo", "door-1", "access"
OUTPUT = "screen"


class _Door:
    """A unit without a camera: its key, its numbers, its chain."""

    def __init__(self, clock: Clock, random: Callable[[int], bytes]) -> None:
        self.key, self._clock, self._boot = UnitKey.generate(), clock, random(8).hex()
        self._seq, self._prev = 0, FIRST_PREV

    def match(self, secret: bytes, subject: bytes) -> bytes:
        self._seq += 1
        now = self._clock.now()
        model = "sha256:" + "0" * 64
        data = {
            "event_type": "match",
            "boot": self._boot,
            "seq": self._seq,
            "prev": self._prev,
            "clock": "synced",
            "subject": spell(pseudonym(secret, subject)),
            "audience": AUDIENCE,
            "epoch": epoch_of(now),
            "zone": "door",
            "method": "face",
            "liveness": "not_checked",
            "policy": model,
            "model": model,
        }
        members: dict[str, Any] = {
            "specversion": "1.0",
            "type": EVENT_TYPES["match"],
            "source": f"/postern/{SITE}/{UNIT}",
            "id": f"{self._boot}-{self._seq}",
            "time": round_down(now, 1),
            "datacontenttype": "application/json",
            "data": data,
        }
        signed = canonical(members)
        self._prev = digest(signed)
        return rfc8785.dumps({**members, "sig": self.key.sign_detached(signed, typ=SIGNATURE_TYPE)})


def play(folder: Path, *, clock: Clock, random: Callable[[int], bytes]) -> Iterator[str]:
    """Lines to show; everything that is made lies in ``folder``. Raises StorageError when that cannot be written."""
    now = clock.now()
    door, anna, ben = _Door(clock, random), random(16), random(16)
    secret = random(32)
    _lay_down(folder, secret, {anna: "anna Anna Bauer", ben: "ben Ben Okoye"}, now)
    entry = UnitKeyEntry(jwk=door.key.public_jwk(), status="active")
    trusted = TrustList(version=1, site=SITE, serial=1, issued_at=round_down(now, 1), units={UNIT: (entry,)})
    verifier = Verifier(TrustedUnits(trusted))
    resolving = Resolving(folder / "people", folder / "epoch-keys", None)
    first, missed, last = door.match(secret, anna), door.match(secret, ben), door.match(secret, ben)
    unlisted = door.match(secret, random(16))
    sent = [
        ("event", first),  # Anna
        ("event", first),  # again, as recorded
        ("event", first.replace(b'"zone":"door"', b'"zone":"safe"')),  # altered on the way
        ("event", last),  # before the one that it follows: a gap
        ("backlog", missed),  # and what closes it
        ("event", unlisted),  # somebody enrolled whom this map does not know
    ]
    store = Store(folder / "bridge.db", outputs=[OUTPUT], clock=clock, random=random)
    try:
        for leaf, payload in sent:
            handed = _check(verifier, f"postern/{SITE}/{UNIT}/{leaf}/match", payload, clock.now())
            store.put(records_of(handed, SITE, serial=store.serial), int(clock.now().timestamp()))
        for record in store.upcoming(OUTPUT, len(sent) + 1):
            yield line(Item(record, resolving.person(record.body)), int(clock.now().timestamp()))
            store.passed(OUTPUT, record.number, [], int(clock.now().timestamp()))
    finally:
        store.close()


def line(item: Item, now_s: int) -> str:
    """One record for people."""
    body, record = item.record.body, item.record
    if body.kind == "refusal":
        return f"REFUSED   {body.unit}: {body.reason}: {body.text}"
    if body.kind == "gap":
        return f"GAP       {body.unit}: {body.count} missing, {body.first} to {body.last}"
    who = f"{item.person.title} ({item.person.name})" if item.person else f"somebody, {(body.subject or '')[:11]}…"
    act = "a light may act on it" if is_of_this_moment(record, now_s) else "history: no automation acts on it"
    door = "may open a door" if may_open(record, now_s, None) else "opens no door: liveness not checked"
    return f"{body.kind.upper():9} {body.time}  {body.unit}/{body.zone}  {who:28} {act}; {door}"


def _check(verifier: Verifier, topic: str, payload: bytes, now: datetime) -> Handed:
    try:
        return verifier.check(topic, payload, now)
    except VerificationError as error:
        return Refusal(error.reason, topic, str(error))


def _lay_down(folder: Path, secret: bytes, people: dict[bytes, str], now: datetime) -> None:
    """Write the two files that an installer gives to a bridge."""
    keys = folder / "epoch-keys"
    keys.mkdir(mode=0o700)
    key = EpochKey(site=SITE, audience=AUDIENCE, epoch=epoch_of(now), key=encode_base64url(secret))
    write_atomic(keys / "week.json", msgspec.json.encode(key))
    lines = [f"{subject.hex()} {words}" for subject, words in people.items()]
    write_atomic(folder / "people", "\n".join(lines).encode())
