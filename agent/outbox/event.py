# SPDX-License-Identifier: Apache-2.0
"""What may leave a unit: the event, its three kinds, and nothing that is not written here.

An event is a CloudEvents 1.0 object in structured JSON. These types are the promise that no image,
embedding, box, score or name leaves: there is no field for one, no number but integers, and no text
that is not bounded by a pattern. A ``Draft`` says what happened; the outbox adds ``boot``, ``seq``
and ``prev`` and signs (``agent.outbox.queue``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import rfc8785
from msgspec import Meta

from agent.clock import ClockState
from agent.strict_json import MAX_SAFE_INTEGER

if TYPE_CHECKING:  # a subscriber that verifies needs no numpy
    from agent.match.records import Match

Kind = Literal["match", "presence", "unit"]
Condition = Literal["camera_lost", "camera_back", "tamper", "clock_step", "storage_low", "loss", "started", "stopping"]
LossReason = Literal["full", "erased"]

EVENT_TYPES: Mapping[str, str] = {
    "match": "io.postern.match.v1",
    "presence": "io.postern.presence.v1",
    "unit": "io.postern.unit.v1",
}
KINDS: tuple[Kind, ...] = ("match", "presence", "unit")
SIGNATURE_TYPE = "postern-event+jws"
CONTENT_TYPE = "application/cloudevents+json"  # CloudEvents MQTT binding sec. 3.2
TOPIC_ROOT = "postern"
MAX_EVENT_BYTES = 4096  # an event has about 1 000 bytes; nothing that fits here holds a picture
FIRST_PREV = "sha256:" + "0" * 64  # what the first event of a unit's life says about its predecessor

# '(?!\n)' because '$' alone allows a final line feed.
_END = r"$(?!\n)"
Name = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,64}" + _END)]  # fit for a topic level and a certificate's CN
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}" + _END)]
Boot = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}" + _END)]
Epoch = Annotated[str, Meta(pattern=r"^[0-9]{4}-W[0-9]{2}" + _END)]  # ISO 8601 week
Sequence = Annotated[int, Meta(ge=1, le=MAX_SAFE_INTEGER)]
# p1_: pseudonym, 128 bit. s1_: sealed, 32 bytes X25519 share and 16 bytes with their 16-byte tag.
Subject = Annotated[str, Meta(pattern=r"^(p1_[0-9a-f]{32}|s1_[A-Za-z0-9_-]{86})" + _END)]
Time = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z" + _END)]
Source = Annotated[str, Meta(pattern=r"^/postern/[a-z0-9-]{1,64}/[a-z0-9-]{1,64}" + _END)]
EventId = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}-[1-9][0-9]{0,15}" + _END)]
# 64 bytes of ES256 are 86 characters; the header of alg, kid and typ has about 120.
Signature = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,512}\.\.[A-Za-z0-9_-]{86}" + _END)]


class _Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="event_type"):
    """What every event says about its place in the unit's life."""

    boot: Boot  # random per run of the agent
    seq: Sequence  # rises by one per event over the unit's life
    prev: Digest  # SHA-256 of the bytes under the signature of event seq-1
    clock: ClockState  # whether ``time`` can be believed


class _AboutSubject(_Data, frozen=True, forbid_unknown_fields=True, kw_only=True):
    subject: Subject
    audience: Name
    epoch: Epoch
    zone: Name


class MatchData(_AboutSubject, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="match"):
    """An enrolled person was recognised."""

    method: Literal["face", "token"]
    liveness: Literal["not_checked", "passed"]
    policy: Digest
    model: Digest


class PresenceData(_AboutSubject, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="presence"):
    """An enrolled person came or went."""

    state: Literal["arrived", "left"]


class Lost(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Events that were removed unacknowledged: ``count`` of those from ``first`` to ``last``."""

    first: Sequence
    last: Sequence
    count: Sequence
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
    source: Source
    id: EventId
    time: Time
    datacontenttype: Literal["application/json"]
    data: Data
    sig: Signature

    @property
    def kind(self) -> Kind:
        """The topic leaf."""
        return next(kind for kind in KINDS if EVENT_TYPES[kind] == self.type)

    @property
    def moment(self) -> datetime:
        """The event's time, aware, UTC; ValueError when there is no such day."""
        return parse_time(self.time)


@dataclass(frozen=True, slots=True)
class Draft:
    """What happened, before it has a place in the chain: ``facts`` are the fields of the kind's data."""

    kind: Kind
    time: str
    clock: ClockState
    facts: Mapping[str, Any]


def make_match(
    match: Match,
    *,
    subject: str,
    audience: str,
    epoch: str,
    policy: str,
    model: str,
    now: datetime,
    clock: ClockState,
    method: Literal["face", "token"] = "face",
    liveness: Literal["not_checked", "passed"] = "not_checked",
    time_step_s: int = 1,
) -> Draft:
    """Draft for a match; ``subject`` and ``epoch`` come from ``EpochKeys.pseudonym``, never the subject id itself."""
    facts = {
        "subject": subject,
        "audience": audience,
        "epoch": epoch,
        "zone": match.zone,
        "method": method,
        "liveness": liveness,
        "policy": policy,
        "model": model,
    }
    return Draft("match", round_down(now, time_step_s), clock, facts)


def make_presence(
    *,
    state: Literal["arrived", "left"],
    subject: str,
    audience: str,
    epoch: str,
    zone: str,
    now: datetime,
    clock: ClockState,
    time_step_s: int = 1,
) -> Draft:
    """Draft for a coming or going."""
    facts = {"state": state, "subject": subject, "audience": audience, "epoch": epoch, "zone": zone}
    return Draft("presence", round_down(now, time_step_s), clock, facts)


def make_unit(condition: Condition, *, now: datetime, clock: ClockState, time_step_s: int = 1) -> Draft:
    """Draft for a statement about the unit itself; ``loss`` is the outbox's own to say."""
    if condition == "loss":
        raise ValueError("only the outbox knows what was lost")
    return Draft("unit", round_down(now, time_step_s), clock, {"condition": condition})


def make_loss(lost: Lost, *, now: datetime, clock: ClockState, time_step_s: int = 1) -> Draft:
    """Draft by which the outbox owns up to a gap."""
    facts = {"condition": "loss", "lost": msgspec.to_builtins(lost)}
    return Draft("unit", round_down(now, time_step_s), clock, facts)


def round_down(now: datetime, step_s: int) -> str:
    """UTC time in whole steps of ``step_s`` seconds, so that it says no more than the purpose needs."""
    seconds = int(now.timestamp())
    return datetime.fromtimestamp(seconds - seconds % step_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """Read a ``Time``; ValueError when there is no such moment."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def assemble(draft: Draft, *, source: str, boot: str, seq: int, prev: str) -> dict[str, Any]:
    """Build the event's members without ``sig``."""
    chain = {"event_type": draft.kind, "boot": boot, "seq": seq, "prev": prev, "clock": draft.clock}
    return {
        "specversion": "1.0",
        "type": EVENT_TYPES[draft.kind],
        "source": source,
        "id": f"{boot}-{seq}",
        "time": draft.time,
        "datacontenttype": "application/json",
        "data": {**draft.facts, **chain},
    }


def canonical(members: Mapping[str, Any]) -> bytes:
    """RFC 8785 bytes of ``members`` without ``sig``: what is signed and what ``prev`` digests."""
    return rfc8785.dumps({name: value for name, value in members.items() if name != "sig"})


def digest(signed: bytes) -> str:
    """``sha256:…`` of the bytes under a signature.

    The signature itself is left out: whoever holds an ECDSA signature can make a second valid one for the
    same bytes, and that must not look like a second history.
    """
    return "sha256:" + hashlib.sha256(signed).hexdigest()
