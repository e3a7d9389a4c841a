# SPDX-License-Identifier: Apache-2.0
"""Bytes as an event that nothing proves yet: the first six steps of ``agent.subscribe.verify``, with its reasons."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from agent.errors import VerificationError, printable
from agent.keys import Header, check_algorithm, read_header
from agent.parse import strict_json
from agent.protocol.event import (
    EVENT_TYPES,
    MAX_EVENT_BYTES,
    SIGNATURE_TYPE,
    Event,
    UnitData,
    canonical,
    read_canonical,
)


def read_event(payload: bytes) -> tuple[Event, datetime, bytes]:
    """Read an event: itself, its time and the bytes that its signature has to cover. Raises VerificationError."""
    if len(payload) > MAX_EVENT_BYTES:
        raise VerificationError("too_large", f"an event is never longer than {MAX_EVENT_BYTES} bytes")
    event, signed = read_canonical(payload) or _read_any(_parse(payload))
    try:
        moment = event.moment
    except ValueError as error:
        raise _wrong_field(error) from None
    if event.id != f"{event.data.boot}-{event.data.seq}":
        raise VerificationError("malformed", "the event's id is not its boot and number")
    if isinstance(event.data, UnitData) and (event.data.condition == "loss") != (event.data.lost is not None):
        raise VerificationError("malformed", "a loss event must say what was lost, and no other may")
    if isinstance(event.data, UnitData) and (lost := event.data.lost) and lost.count > lost.last - lost.first + 1:
        raise VerificationError("malformed", "a loss event says that more was lost than it names numbers")
    return event, moment, signed


def _parse(payload: bytes) -> dict[str, Any]:
    try:
        members = strict_json.loads(payload, limit=MAX_EVENT_BYTES)
    except strict_json.StrictJsonError as error:
        raise VerificationError("malformed", f"the event is not usable JSON: {error}") from None
    if not isinstance(members, dict):
        raise VerificationError("malformed", "the event is not a JSON object")
    return members


def _read_any(members: dict[str, Any]) -> tuple[Event, bytes]:
    """An event as somebody else may write it, in any order and with blanks; what is wrong with it is named."""
    if members.get("sig") in (None, ""):
        raise VerificationError("unsigned", "the event has no signature")
    data = members.get("data")
    kind = data.get("event_type") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in EVENT_TYPES or members.get("type") != EVENT_TYPES[kind]:
        raise VerificationError("wrong_type", "the event is of an unknown kind, or its data is of another kind")
    try:
        return strict_json.convert(members, Event), canonical(members)
    except ValueError as error:
        raise _wrong_field(error) from None


def _wrong_field(error: ValueError) -> VerificationError:
    return VerificationError("malformed", f"a field of the event is wrong: {printable(str(error))}")


def read_event_header(signature: str) -> Header:
    """Read the header of an event's signature; VerificationError for a signature of another kind."""
    header = read_header(signature)
    check_algorithm(header)
    if header.typ != SIGNATURE_TYPE:
        raise VerificationError("wrong_type", "the signature was not made for an event")
    return header
