# SPDX-License-Identifier: Apache-2.0
"""What may leave a unit: the event, its three kinds, and nothing that is not written here.

An event is a CloudEvents 1.0 object in structured JSON. These types are the promise that no image,
embedding, box, score or name leaves: there is no field for one, no number but integers, and no text
that is not bounded by a pattern. A ``Draft`` says what happened; the outbox adds ``boot``, ``seq``
and ``prev`` and signs (``agent.outbox.queue``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

from agent.clock import ClockState
from agent.protocol import names

Kind = Literal["match", "presence", "unit"]
Condition = Literal["camera_lost", "camera_back", "tamper", "clock_step", "storage_low", "loss", "started", "stopping"]
LossReason = Literal["full", "erased"]

EVENT_TYPES: Mapping[str, str] = {
    "match": "io.postern.match.v1",
    "presence": "io.postern.presence.v1",
    "unit": "io.postern.unit.v1",
}
KINDS: tuple[Kind, ...] = ("match", "presence", "unit")
_KIND_OF: Mapping[str, Kind] = {EVENT_TYPES[kind]: kind for kind in KINDS}
SIGNATURE_TYPE = "postern-event+jws"
CONTENT_TYPE = "application/cloudevents+json"  # CloudEvents MQTT binding sec. 3.2
MAX_EVENT_BYTES = 4096  # an event has about 1 000 bytes; nothing that fits here holds a picture
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
FIRST_PREV = "sha256:" + "0" * 64  # what the first event of a unit's life says about its predecessor


class _Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="event_type"):
    """What every event says about its place in the unit's life."""

    boot: names.Boot  # random per run of the agent
    seq: names.Sequence  # rises by one per event over the unit's life
    prev: names.Digest  # SHA-256 of the bytes under the signature of event seq-1
    clock: ClockState  # whether ``time`` can be believed


class _AboutSubject(_Data, frozen=True, forbid_unknown_fields=True, kw_only=True):
    subject: names.Subject
    audience: names.Name
    epoch: names.Epoch
    zone: names.Name


class MatchData(_AboutSubject, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True, tag="match"):
    """An enrolled person was recognised; ``granted`` names what the unit's rules open without a wire."""

    method: Literal["face", "token"]
    liveness: Literal["not_checked", "passed"]
    policy: names.Digest
    model: names.Digest
    granted: names.Granted | None = None


class PresenceData(_AboutSubject, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="presence"):
    """An enrolled person came or went."""

    state: Literal["arrived", "left"]


class Lost(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Events that were removed unacknowledged: ``count`` of those from ``first`` to ``last``."""

    first: names.Sequence
    last: names.Sequence
    count: names.Sequence
    reason: LossReason


class UnitData(_Data, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True, tag="unit"):
    """The unit speaks about itself."""

    condition: Condition
    lost: Lost | None = None  # with condition ``loss`` only


Data = MatchData | PresenceData | UnitData


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One signed statement of one unit, as on the wire."""

    specversion: Literal["1.0"]
    type: Literal["io.postern.match.v1", "io.postern.presence.v1", "io.postern.unit.v1"]
    source: names.Source
    id: names.EventId
    time: names.Time
    datacontenttype: Literal["application/json"]
    data: Data
    sig: names.Signature

    @property
    def kind(self) -> Kind:
        """The topic leaf."""
        return _KIND_OF[self.type]

    @property
    def moment(self) -> datetime:
        """The event's time, aware, UTC; ValueError when there is no such day."""
        return names.parse_time(self.time)


# Made here, right after the type, and not at the first event: two threads may not meet a type at once.
_READER, _WRITER = msgspec.json.Decoder(Event), msgspec.json.Encoder(order="sorted")


def read_canonical(payload: bytes) -> tuple[Event, bytes] | None:
    """Read an event that came in its canonical bytes, as units send it: the event and what ``canonical`` says of it.

    Bytes that the typed event is written as again hold no second reading: nothing twice, unknown, escaped, with a point
    or in another order. Everything else is None, whatever is wrong with it: it takes the long way, which names it.
    """
    try:
        event = _READER.decode(payload)
    except (ValueError, RecursionError):  # msgspec.DecodeError is a ValueError
        return None
    if _WRITER.encode(event) != payload or event.kind != event.data.__struct_config__.tag:
        return None
    # No text of an event can hold a quotation mark, so this stands there once.
    before, _, after = payload.partition(b'"sig":"%b",' % event.sig.encode())
    return event, before + after


def canonical(members: Mapping[str, Any]) -> bytes:
    """RFC 8785 bytes of an event's ``members`` without ``sig``: what is signed and what ``prev`` digests.

    The standard library writes exactly these for what an event may hold (texts, integers and null under ASCII names),
    and ten times as fast as a library for all of RFC 8785.
    """
    unsigned = {name: value for name, value in members.items() if name != "sig"}
    return _CANONICAL.encode(unsigned).encode()


def digest(signed: bytes) -> str:
    """``sha256:…`` of the bytes under a signature.

    The signature itself is left out: whoever holds an ECDSA signature can make a second valid one for the
    same bytes, and that must not look like a second history.
    """
    return "sha256:" + hashlib.sha256(signed).hexdigest()
