# SPDX-License-Identifier: Apache-2.0
"""What a unit does when a signed command asks: one small function a verb. Verification is ``uplink.commands``'s.

Handlers run on the uplink's thread. What concerns the pipeline it reads between frames: ``paused``, and who was erased.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from agent.door.acts import Request
from agent.door.verification import Verification
from agent.errors import ConsentError, RefusedError
from agent.gallery.consent import parse_consent
from agent.gallery.store import GalleryStore
from agent.outbox.queue import Outbox
from agent.parse.strict_json import convert, decode
from agent.protocol.command import CONFIGURE, RENEW, Command, Range
from agent.protocol.event import MAX_EVENT_BYTES
from agent.protocol.receipt import ErasureReceipt
from agent.protocol.response import MAX_RESPONSE_BYTES
from agent.protocol.subject import SubjectId, parse_subject
from agent.unit.enrolment import LiveEnrolment
from agent.unit.pause import Pause
from agent.uplink.commands import Handler

MAX_LISTED = 64  # subjects in one answer: what fits into an answer


class Parts(msgspec.Struct, frozen=True):
    """What the handlers act on."""

    gallery: GalleryStore
    outbox: Outbox
    measured_to: int  # references up to which the policy was measured
    health: Callable[[], bytes]
    facts: Mapping[str, Any]  # what ``config/get`` tells: settings without addresses, paths and keys
    self_test: Callable[[], Mapping[str, Any]]
    erase: Callable[[SubjectId], ErasureReceipt]  # everywhere, see ``unit.forget``
    paused: Pause
    enrolment: LiveEnrolment
    verification: Verification
    request: Request | None  # where a command may open the window
    doubt: Callable[[], str | None]  # why nobody is recognised until the site has spoken: files were put back
    rotate: Callable[[Mapping[str, Any]], Mapping[str, Any]]  # new keys in, what was renewed out
    renew: Callable[[Mapping[str, Any]], Mapping[str, Any]]  # the same for what the site's service may bring
    configure: Handler  # settings and policies by the site, see ``unit.configuring``
    confirm: Handler  # what only the site can say, see ``unit.confirm``


def make_handlers(parts: Parts) -> dict[str, Handler]:
    """Verb to handler, for ``Commands``."""

    def health(_: Command) -> Mapping[str, Any]:
        document: dict[str, Any] = decode(parts.health(), dict, MAX_RESPONSE_BYTES)
        return document

    def gallery_status(_: Command) -> Mapping[str, Any]:
        held = parts.gallery.list()
        return {
            "enrolled": len(held),
            "damaged": len(parts.gallery.damaged),
            "measured_to": parts.measured_to,
            "measured": len(held) <= parts.measured_to,
            "subjects": [one.subject.hex() for one in held[:MAX_LISTED]],
        }

    def subject_revoke(command: Command) -> Mapping[str, Any]:
        if command.args.keys() - {"subject"}:
            raise RefusedError("a revocation takes subject alone", reason="bad_args")
        receipt = parts.erase(parse_subject(command.args.get("subject")))
        return {"receipt": msgspec.to_builtins(receipt)}

    def pause(_: Command) -> Mapping[str, Any]:
        parts.paused.set()
        return {"recognition": "paused"}

    def resume(_: Command) -> Mapping[str, Any]:
        parts.paused.clear()
        return {"recognition": "running"}

    def outbox_status(_: Command) -> Mapping[str, Any]:
        seq, digest = parts.outbox.head()
        return {
            "depth": parts.outbox.depth(),
            "head": {"seq": seq, "digest": digest},
            "parked": parts.outbox.parked_reasons(),
        }

    return {
        "health": _bare(health),
        **_enrolment_handlers(parts.enrolment),
        **_act_handlers(parts),
        "key/rotate": lambda command: parts.rotate(command.args),
        "gallery/status": _bare(gallery_status),
        "subject/revoke": subject_revoke,
        "recognition/pause": _bare(pause),
        "recognition/resume": _bare(resume),
        "outbox/status": _bare(outbox_status),
        "outbox/replay": partial(replay, parts.outbox),
        "config/get": _bare(lambda _: {name: _without_fractions(value) for name, value in parts.facts.items()}),
        "selftest": _bare(lambda _: parts.self_test()),
        "unit/confirm": parts.confirm,
        RENEW: lambda command: parts.renew(command.args),
        CONFIGURE: parts.configure,
    }


def _bare(handler: Handler) -> Handler:
    """``handler``, of a verb without arguments: who gives one means something that would not be done."""

    def checked(command: Command) -> Mapping[str, Any]:
        if command.args:
            raise RefusedError("this takes no arguments: leave them out", reason="bad_args")
        return handler(command)

    return checked


def _enrolment_handlers(enrolment: LiveEnrolment) -> dict[str, Handler]:
    def enrol_begin(command: Command) -> Mapping[str, Any]:
        args = dict(command.args)
        if "consent" not in args:
            raise ConsentError(
                "nobody is enrolled without a consent: send the person's record", reason="consent_missing"
            )
        consent = parse_consent(_encoded(args.pop("consent")))
        subject = parse_subject(args.pop("subject")) if "subject" in args else None
        if args:
            raise RefusedError("an enrolment takes consent and subject alone", reason="bad_args")
        return enrolment.begin(command.transaction, consent, subject)

    def enrol_commit(command: Command) -> Mapping[str, Any]:
        args = dict(command.args)
        replace = parse_subject(args.pop("replace")) if "replace" in args else None
        return enrolment.commit(_enrolment(args), replace=replace)

    return {
        "enrol/begin": enrol_begin,
        "enrol/commit": enrol_commit,
        "enrol/abort": lambda command: enrolment.abort(_enrolment(command.args)),
    }


def replay(outbox: Outbox, command: Command) -> Mapping[str, Any]:
    """Say again what was said: the events of a run of numbers, and which of them are kept no more."""
    first, last = _numbers(command.args)
    told = outbox.told(first, last)
    events = [decode(payload, dict, MAX_EVENT_BYTES) for payload in told.events]
    return {"first": first, "through": told.through, "events": events, "gone": told.gone}


def _numbers(args: Mapping[str, Any]) -> tuple[int, int]:
    """First and last number that are asked for; as text too, as a person types them."""
    try:
        asked = convert(args, Range, strict=False)
    except msgspec.ValidationError:
        asked = None
    if asked is None or asked.first > asked.last:
        raise RefusedError("name the first and the last number, and nothing else", reason="bad_args")
    return asked.first, asked.last


def _check_running(parts: Parts) -> None:
    if (doubt := parts.doubt()) is not None:
        raise RefusedError(doubt, reason="files_in_doubt")
    if parts.paused.is_set():
        raise RefusedError("recognition is paused: resume it first", reason="paused")
    if parts.enrolment.capturing:
        raise RefusedError("an enrolment is under way: wait for its end", reason="enrolment_open")


def _act_handlers(parts: Parts) -> dict[str, Handler]:
    """What asks for somebody before the camera; refused while nobody is recognised."""

    def verify(command: Command) -> Mapping[str, Any]:
        _check_running(parts)
        match command.args:
            case {"subject": subject, "window_s": window_s, **rest} if not rest:
                asked = parse_subject(subject)
            case _:
                raise RefusedError("verify takes subject and window_s, and nothing else", reason="bad_args")
        if asked not in parts.gallery:
            raise RefusedError("nobody is enrolled here under this subject: check the id", reason="unknown_subject")
        return parts.verification.begin(command.transaction, asked, window_s)

    def request(_: Command) -> Mapping[str, Any]:
        _check_running(parts)
        if parts.request is not None:
            parts.request.ask()
        return {"recognition": "requested"}

    handlers: dict[str, Handler] = {"verify": verify}
    return handlers if parts.request is None else {**handlers, "recognition/request": _bare(request)}


def _without_fractions(value: Any) -> Any:  # noqa: ANN401 - what ``to_builtins`` makes
    """Spell numbers with a fraction as text: no answer holds one, so that none can be a score."""
    if isinstance(value, dict):
        return {name: _without_fractions(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_fractions(inner) for inner in value]
    return str(value) if isinstance(value, float) else value


def _encoded(consent: object) -> bytes:
    try:
        return msgspec.json.encode(consent)
    except ValueError:  # a text that is no Unicode
        return b""


def _enrolment(args: Mapping[str, Any]) -> str:
    """Which enrolment is meant: the transaction of the command that began it."""
    match args:
        case {"enrolment": str(name), **rest} if not rest:
            return name
    raise RefusedError("name the enrolment by the transaction of its begin, and nothing else", reason="bad_args")
