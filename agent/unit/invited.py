# SPDX-License-Identifier: Apache-2.0
"""A new unit that joins its site by an invitation: it makes its keys, asks over the broker, and takes the answer.

Each step may be repeated, so a first boot that was cut off goes on where it was: the same request is sent until there
is an answer, the same answer is taken again. The request is kept until all is done; ``joined.json`` is written last.
What the site says is believed by the claim (``agent.unit.joining``), a refusal too: whoever runs the broker can only
delay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from cryptography.hazmat.primitives import serialization

from agent.clock import Clock
from agent.disk.files import PUBLIC_MODE, destroy, fsync_folder, make_private_folder, read_bounded, remove, write_atomic
from agent.errors import BrokerError, RefusedError, RetryError, printable
from agent.keys import decode_base64url, load_public_key, save_private_key
from agent.match.policy import POLICY_TYPE
from agent.mqtt.connection import Connection
from agent.mqtt.credentials import Credentials
from agent.mqtt.link import Link
from agent.mqtt.records import BrokerSettings
from agent.protocol.invitation import Invitation, claim_key
from agent.protocol.joining import JoinReply, is_proof, request_digest, token_key
from agent.protocol.names import JOINING_ROOT, JOINING_SUFFIX, Digest
from agent.protocol.record import Record, decode, load, save
from agent.site.authority import authority_name, common_names, read_certificate
from agent.unit.joining import install, new_unit_request, read_pending
from agent.unit.key_files import UnitFiles

ASK_S: Final = 10.0  # between two requests: a site's service that was away hears of it soon
POLL_S: Final = 0.5
UNPROVEN: Final = "a refusal that the site did not prove, so this unit asks on"  # a broker may make one


class Joined(Record, frozen=True):
    """``joined.json``: by which invitation this unit joined."""

    version: Literal[1]
    invitation: Digest


def join(
    invitation: Invitation,
    keys: Path,
    *,
    policy: Path,
    clock: Clock,
    patience_s: float,
    tell: Callable[[str], None],
    connect: Callable[..., Link] = Connection,
) -> None:
    """Join the site, or go on with it; at the end the unit has all its files. May be repeated after that, too.

    ``policy`` is written when the site sent one. Raises RefusedError with the site's reason, BrokerError, RetryError
    (``patience_s`` is over), KeyStoreError and StorageError.
    """
    waiting = UnitFiles(keys).waiting

    def ask(request: bytes) -> JoinReply:
        try:
            name = invitation.unit + JOINING_SUFFIX
            link = connect(claim_settings(waiting, invitation), client_id=name, clock=clock, session_expiry_s=0)
            return _ask(link, invitation, request, clock=clock, patience_s=patience_s, tell=tell)
        finally:
            for spent in (waiting.tls_crt, waiting.ca_crt):
                remove(spent)
            destroy(waiting.folder / "join.key")

    go_on(invitation, keys, policy=policy, clock=clock, ask=ask)


def go_on(invitation: Invitation, keys: Path, *, policy: Path, clock: Clock, ask: Callable[[bytes], JoinReply]) -> None:
    """Do what is left of joining; ``ask`` hands the request to the site and returns its answer."""
    files = UnitFiles(keys)
    mark = Joined(version=1, invitation=_digest(invitation))
    if files.joined.exists() and load(files.joined, Joined) == mark:
        _clear_waiting(files)
        return
    check_place(files, invitation)
    _check_time(invitation, clock)
    request = _request(files, invitation)
    reply = ask(request)
    install(keys, (reply.answer or "").encode(), clock=clock)
    if reply.policy is not None:
        load_public_key(files.site_jwk).verify(reply.policy.strip(), typ=POLICY_TYPE)
        write_atomic(policy, reply.policy.encode(), mode=PUBLIC_MODE)
    save(files.joined, mark)
    _clear_waiting(files)


def _check_time(invitation: Invitation, clock: Clock) -> None:
    """Refuse an invitation that is over; where the clock is not known to be right, say so and wait."""
    now, ends = clock.now(), datetime.fromtimestamp(invitation.ends, UTC)
    if now <= ends:
        return
    anew = f"make a new one at the site (postern site invite {invitation.unit})"
    statement = f"the invitation of {invitation.unit} ended on {ends:%Y-%m-%d %H:%M} UTC"
    if clock.state() == "synced":
        raise RefusedError(f"{statement} and has expired: {anew}", reason="expired")
    raise RetryError(
        f"{statement} and the clock says {now:%Y-%m-%d %H:%M}, but was never synchronised: wait for the time server or"
        f" set it; if that is right, {anew}"
    )


def check_place(files: UnitFiles, invitation: Invitation) -> None:
    """Refuse what would make another unit of one that has its keys: its events and people are bound to its name."""
    if not files.tls_crt.exists() or not files.ca_crt.exists():
        return
    unit, site = (common_names(read_certificate(path).subject) for path in (files.tls_crt, files.ca_crt))
    if unit != [invitation.unit] or site != [authority_name(invitation.site)]:
        raise RefusedError(
            f"the invitation is for {invitation.unit} of site {invitation.site}, and this unit is"
            f" {printable(unit[0])} already: bring its own ('postern site invite --replace'), or, where it is to be"
            " another unit, retire and purge it first (deploy/README.md, 'Replace a unit')",
            reason="other_unit",
        )


def _clear_waiting(files: UnitFiles) -> None:
    """Destroy what is left in the folder of the keys that waited, half-written files of a power cut too."""
    if files.waiting.folder.exists():
        for left in files.waiting.folder.iterdir():
            destroy(left)
        files.waiting.folder.rmdir()
        fsync_folder(files.folder)


def _request(files: UnitFiles, invitation: Invitation) -> bytes:
    """The request of this invitation: as it was made before, or a new one with new keys."""
    waiting = files.waiting
    if waiting.request.exists():
        pending = read_pending(waiting.pending)
        mine = token_key(invitation.token())
        if pending is None or decode_base64url(pending.token_key) == mine:
            return read_bounded(waiting.request)
    request = new_unit_request(files.folder, invitation.site, invitation.unit, invitation.token())
    write_atomic(waiting.request, request)
    return request


def _ask(
    link: Link,
    invitation: Invitation,
    request: bytes,
    *,
    clock: Clock,
    patience_s: float,
    tell: Callable[[str], None],
) -> JoinReply:
    """Ask until the site lets the unit in, or says why not."""
    base = f"{JOINING_ROOT}/{invitation.site}/{invitation.unit}{JOINING_SUFFIX}"
    link.open()
    try:
        link.subscribe(f"{base}/answer")
        end_ns = clock.monotonic_ns() + round(patience_s * 1e9)
        ask_ns, told, key = clock.monotonic_ns(), "", token_key(invitation.token())
        while clock.monotonic_ns() < end_ns:
            if clock.monotonic_ns() >= ask_ns:
                link.publish(f"{base}/request", request, expiry_s=round(ASK_S))
                ask_ns = clock.monotonic_ns() + round(ASK_S * 1e9)
            polled = link.poll(POLL_S)
            if any(not ack.accepted for ack in polled.acks):
                raise BrokerError("the broker does not let this unit ask: carry the site's newest acl to it, reload it")
            for message in polled.messages:
                reply = _read(message.payload, request, key)
                if reply is None:
                    continue
                if reply.state == "joined":
                    return reply
                said = printable(reply.message or "", 512)
                if reply.state == "refused":
                    if is_proof(key, reply):
                        raise RefusedError(f"the site refuses this unit: {said}", reason=printable(reply.reason or ""))
                    said = f"{UNPROVEN}: {said}"
                if said != told:
                    tell(said)
                    told = said
    finally:
        link.close()
    raise RetryError(told or "the site's service does not answer: is 'postern site serve' running? It is asked again")


def _read(payload: bytes, request: bytes, key: bytes) -> JoinReply | None:
    """A reply to this very request; None for anything else, such as one that was put together from others."""
    try:
        reply = decode(payload, JoinReply)
    except ValueError:
        return None
    if reply.request != request_digest(request) or (reply.state == "joined" and not is_proof(key, reply)):
        return None
    return reply


def claim_settings(waiting: UnitFiles, invitation: Invitation) -> BrokerSettings:
    """Write what the session needs: the claim's certificate, its key, and the site's authority."""
    make_private_folder(waiting.folder)
    key = waiting.folder / "join.key"
    save_private_key(claim_key(invitation.secret()), key)
    chain = b"".join(invitation.certificate(which).public_bytes(serialization.Encoding.PEM) for which in ("crt", "via"))
    write_atomic(waiting.tls_crt, chain, mode=PUBLIC_MODE)
    root = invitation.certificate("ca").public_bytes(serialization.Encoding.PEM)
    write_atomic(waiting.ca_crt, root, mode=PUBLIC_MODE)
    return BrokerSettings(invitation.host, Credentials(waiting.ca_crt, waiting.tls_crt, key), port=invitation.port)


def _digest(invitation: Invitation) -> str:
    return "sha256:" + hashlib.sha256(invitation.secret()).hexdigest()
