# SPDX-License-Identifier: Apache-2.0
"""Units that join by themselves: an invitation goes out, a request comes over the broker, the site lets the unit in.

What is said to a unit follows from what is on disk: asked again, it is said again. A request waits in ``joining/``
until somebody accepts it; of invitations that were made so, it does not wait. The unit asks until it has its answer.
Whoever asks first with an invitation is the one who waits; once another one asked, nobody is let in by it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal

import msgspec

from agent.audit.chain import read_entries
from agent.clock import Clock
from agent.disk.files import read_bounded, read_token, remove, write_atomic
from agent.errors import PosternError, RefusedError, VerificationError
from agent.keys import PublicKey, decode_base64url, encode_base64url
from agent.protocol import joining
from agent.protocol.invitation import Invitation, claim_key, der, spell_claim, write_invitation
from agent.protocol.joining import JoinReply, request_digest
from agent.protocol.names import JOINING_SUFFIX, check_name, parse_time, round_down
from agent.protocol.record import encode, load, save
from agent.site.authority import read_certificate
from agent.site.folder import DEFAULT_AUDIENCES, SYSTEM_CLOCK, SiteFolder, changing
from agent.site.records import SentAnswer, SiteFiles, TokenFile, TokenRecord
from agent.site.units import TOKEN_DAYS, add_unit, check_free, keep_token, used_by

MAX_REQUEST_BYTES: Final = 8_192  # one has about 2 500
MAX_HOURS: Final = 24 * 30
MAX_MARK_BYTES: Final = 128
CONTESTED: Final = "contested"
USED: Final = "used"
OUTDATED: Final = "bad_claim"


def invite(
    folder: Path,
    unit: str,
    *,
    hours: int = 24 * TOKEN_DAYS,
    accepted: bool = False,
    replace: bool = False,
    clock: Clock = SYSTEM_CLOCK,
    random: Callable[[int], bytes] = os.urandom,
) -> str:
    """Make the one line by which a unit joins; an earlier unused one, or a token, of this unit becomes worthless.

    ``accepted`` lets whoever brings it in without asking anybody; ``replace`` is ``add_unit``'s. RefusedError where the
    service or the broker was not set up, or the site has the unit.
    """
    check_name("unit", unit)
    if not 1 <= hours <= MAX_HOURS:
        raise RefusedError(f"an invitation is good for 1 to {MAX_HOURS} hours")
    with changing(folder, clock=clock, needs_root=False, random=random) as site:
        files = site.files
        broker = files.reached_broker()
        if site.issuing is None:
            raise RefusedError("the site's service has no keys yet: run 'postern site delegate' first")
        check_free(files, unit)
        if files.unit(unit).exists() and not site.unit(unit).revoked and not replace:
            raise RefusedError("the site has a unit of this name: revoke it first, or say --replace")
        secret = random(joining.TOKEN_BYTES)
        ends = site.now() + timedelta(hours=hours)
        certificate = site.issuing.issue_client(
            unit + JOINING_SUFFIX, claim_key(secret).public_key(), site.now(), until=ends
        )
        digest = encode_base64url(joining.token_key(joining.spell_token(secret)))
        fresh = TokenRecord(
            unit=unit,
            digest=digest,
            expires_at=round_down(ends, 1),
            invited=True,
            accepted=accepted,
            replace=replace,
        )
        keep_token(site, fresh)
        _forget_asked(files, unit)  # by an earlier one
        site.publish()  # a broker that names everybody has to name it, too
        site.log("invited", unit=unit, hours=hours, accepted=accepted, serial=f"{certificate.serial_number:x}")
        return write_invitation(
            Invitation(
                v=1,
                site=site.name,
                unit=unit,
                host=broker.hosts[0],
                port=broker.port,
                claim=spell_claim(secret),
                ends=int(ends.timestamp()),
                ca=der(read_certificate(files.ca_crt)),
                via=der(site.issuing.certificate),
                crt=der(certificate),
            )
        )


def is_invited(folder: Path, unit: str) -> bool:
    """Whether there is an invitation for the unit that nobody has joined by."""
    kept = load(SiteFiles(folder).tokens, TokenFile, secret=True).tokens
    return any(_is_open(token, unit) for token in kept)


def was_invited(files: SiteFiles, unit: str) -> bool:
    """Whether the log tells of an invitation for the unit, whatever became of it."""
    told = (entry.facts for entry in read_entries(files.audit))
    return any(facts.get("step") == "invited" and facts.get("unit") == unit for facts in told)


def take_back(folder: Path, unit: str, *, clock: Clock = SYSTEM_CLOCK, passphrase: bytes | None = None) -> None:
    """Make the invitation of ``unit`` worth nothing, and forget who asked with it. May be repeated."""
    with changing(folder, clock=clock, passphrase=passphrase, needs_root=False, shuts_out=True) as site:
        tokens = load(site.files.tokens, TokenFile, secret=True).tokens
        left = tuple(one for one in tokens if not _is_open(one, unit))
        if len(left) != len(tokens):
            save(site.files.tokens, TokenFile(version=1, tokens=left))
            site.log("invitation_taken_back", unit=unit)
        _forget_asked(site.files, unit)
        site.publish()


def _is_open(token: TokenRecord, unit: str) -> bool:
    return token.unit == unit and token.invited and token.used is None


def _forget_asked(files: SiteFiles, unit: str) -> None:
    for old in (files.joining / f"{unit}.jws", *files.joining.glob(f"{unit}.*.refused")):
        remove(old)


def ask_to_join(
    folder: Path,
    unit: str,
    request: bytes,
    *,
    clock: Clock = SYSTEM_CLOCK,
    tell: Callable[[str], None] = lambda _: None,
) -> bytes:
    """What is said to whoever asks with an invitation for ``unit``, as its certificate at the broker said.

    A refusal is an answer, proven by the claim where the site knows that, and stands in the log once for each reason;
    so often is ``tell`` handed it, too.
    What the site can still mend (its service has no mandate, the name is taken) lets the unit wait. Raises
    KeyStoreError and StorageError.
    """
    digest = request_digest(request)
    try:
        return encode(_reply(folder, unit, request, digest, clock))
    except RefusedError as error:
        if _log_refusal(folder, unit, error.reason, clock):
            tell(f"{unit}: whoever asked to join by this name was refused: {error}")
        state: Literal["waiting", "refused"] = "refused" if isinstance(error, VerificationError) else "waiting"
        reply = JoinReply(version=1, state=state, request=digest, reason=error.reason[:64], message=str(error)[:512])
        if (key := _claim(SiteFiles(folder), unit, request)) is not None:
            reply = msgspec.structs.replace(reply, proof=joining.prove(key, reply))
        return encode(reply)


def accept(
    folder: Path, unit: str, *, audiences: Iterable[str] = DEFAULT_AUDIENCES, clock: Clock = SYSTEM_CLOCK
) -> None:
    """Let a unit in that waits; it has its answer when it asks the next time. RefusedError when none waits."""
    path = SiteFiles(folder).joining / f"{check_name('unit', unit)}.jws"
    if not path.exists():
        raise RefusedError(f"no unit {unit} waits: 'postern site units' lists those that do")
    if is_contested(SiteFiles(folder), unit):
        raise RefusedError(
            f"two asked with the invitation of {unit}, and one may not be yours: postern site invite {unit}",
            reason=CONTESTED,
        )
    request = read_bounded(path, MAX_REQUEST_BYTES)
    _let_in(folder, unit, request, audiences, clock)


def is_contested(files: SiteFiles, unit: str) -> bool:
    """Whether somebody else asked with the invitation of the unit that waits."""
    return _mark(files, unit, CONTESTED).exists()


def refused_since(files: SiteFiles, unit: str, reason: str, begin: datetime) -> bool:
    """Whether somebody who asked for the unit was refused for this reason from ``begin`` on."""
    mark = _mark(files, unit, reason)
    try:
        told, at = read_bounded(mark, MAX_MARK_BYTES).decode("ascii").split(" ")
        return told == reason and parse_time(at) >= begin
    except (PosternError, ValueError):  # none; damaged; or of a release before, which wrote no time
        return False


def _mark(files: SiteFiles, unit: str, reason: str) -> Path:
    """Where it stands that somebody was refused for this reason."""
    name = hashlib.sha256(f"{unit} {reason}".encode()).hexdigest()[:16]
    return files.joining / f"{unit}.{name}.refused"


def _reply(folder: Path, unit: str, request: bytes, digest: str, clock: Clock) -> JoinReply:
    with changing(folder, clock=clock, needs_root=False) as site:
        record = _check(site, unit, request)
        files = site.files
        sent = files.sent / f"{unit}.json"
        if sent.exists() and (answer := load(sent, SentAnswer)).request == digest and not site.unit(unit).revoked:
            policy = read_token(files.policy) if files.policy.exists() else None
            reply = JoinReply(version=1, state="joined", request=digest, answer=answer.answer, policy=policy)
            return msgspec.structs.replace(reply, proof=joining.prove(decode_base64url(record.digest), reply))
        mine = used_by(request.decode("ascii").strip())
        if record.used not in (None, mine):
            raise VerificationError(USED, "this invitation was used by another unit, or another card: make a new one")
        if not record.accepted and record.used is None:
            waiting = files.joining / f"{unit}.jws"
            if not waiting.exists():
                write_atomic(waiting, request)
                site.log("waits_to_join", unit=unit)
            elif read_bounded(waiting, MAX_REQUEST_BYTES) != request:  # whom would the site accept?
                raise VerificationError(
                    CONTESTED, "another unit, or another card, asked with this invitation before: make a new one"
                )
            return JoinReply(
                version=1,
                state="waiting",
                request=digest,
                reason="waiting",
                message=f"the site has to accept this unit: postern site accept {unit}",
            )
        audiences = site.unit(unit).audiences if files.unit(unit).exists() else DEFAULT_AUDIENCES
    _let_in(folder, unit, request, audiences, clock)
    return _reply(folder, unit, request, digest, clock)


def _let_in(folder: Path, unit: str, request: bytes, audiences: Iterable[str], clock: Clock) -> None:
    """Add the unit, and keep the answer; after a power cut in between the same request is answered once more."""
    with changing(folder, clock=clock, needs_root=False) as site:
        record = _check(site, unit, request)
    answer = add_unit(folder, request, audiences=audiences, replace=record.replace, clock=clock)
    with changing(folder, clock=clock, needs_root=False) as site:
        kept = SentAnswer(version=1, request=request_digest(request), answer=answer.decode())
        save(site.files.sent / f"{unit}.json", kept)
        remove(site.files.joining / f"{unit}.jws")


def _check(site: SiteFolder, unit: str, request: bytes) -> TokenRecord:
    """Find the invitation that this request was made with. VerificationError says why there is none."""
    if len(request) > MAX_REQUEST_BYTES:
        raise VerificationError("malformed", "this is no request to join: begin again at the unit")
    token = request.decode("ascii", errors="replace").strip()
    asked = joining.unverified(token, joining.UnitRequest)
    try:
        PublicKey.from_jwk(asked.jwk).verify(token, typ=joining.REQUEST_TYPE)
    except PosternError as error:
        raise VerificationError("forged", "the request is not signed by the key that it names") from error
    if asked.site != site.name:
        raise VerificationError("wrong_site", f"this is site {site.name}, the request is for another one")
    if asked.unit != unit:
        raise VerificationError("wrong_unit", f"the invitation is for {unit}, the request for another unit")
    invited = _invitations(site.files, unit)
    if not invited:
        raise VerificationError("unknown_claim", f"the site has no invitation for {unit} any more: make a new one")
    proven = [record for record in invited if joining.is_proof(decode_base64url(record.digest), asked)]
    if not proven:
        raise VerificationError(OUTDATED, f"a newer invitation for {unit} was made: use that one")
    if parse_time(proven[-1].expires_at) <= site.now():
        raise VerificationError("expired", f"the invitation for {unit} has expired: make a new one")
    return proven[-1]


def _invitations(files: SiteFiles, unit: str) -> list[TokenRecord]:
    tokens = load(files.tokens, TokenFile, secret=True).tokens
    return [record for record in tokens if record.unit == unit and record.invited]


def _claim(files: SiteFiles, unit: str, request: bytes) -> bytes | None:
    """The key by which a request of any content proves an invitation for ``unit``; None where it proves none."""
    if len(request) > MAX_REQUEST_BYTES:
        return None
    try:
        asked = joining.unverified(request.decode("ascii", errors="replace").strip(), joining.UnitRequest)
    except VerificationError:
        return None
    keys = (decode_base64url(record.digest) for record in _invitations(files, unit))
    return next((key for key in keys if joining.is_proof(key, asked)), None)


def _log_refusal(folder: Path, unit: str, reason: str, clock: Clock) -> bool:
    """Once for each unit and reason until the next invitation, so that nobody fills the log from outside.

    True where it was that once.
    """
    mark = _mark(SiteFiles(folder), unit, reason)
    if mark.exists():
        return False
    with changing(folder, clock=clock, needs_root=False) as site:
        site.log("joining_refused", unit=unit, reason=reason)
        write_atomic(mark, f"{reason} {round_down(site.now(), 1)}".encode())
    return True
