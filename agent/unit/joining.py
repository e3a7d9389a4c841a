# SPDX-License-Identifier: Apache-2.0
"""The unit's side of joining a site. Private keys are made here and never leave.

The installer carries a one-time token from the site to the unit (typed or scanned), a request from the
unit to the site, and an answer back. The token lets each side know the other before it knows any key:
both prove that they hold it (HMAC-SHA-256), and it is never in the request or the answer. Until the
answer is installed the new keys wait beside the old ones, so a unit in service goes on working.
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec
from cryptography import x509

from agent.clock import Clock, ClockState
from agent.disk.files import (
    FOLDER_MODE,
    PUBLIC_MODE,
    destroy,
    fsync_folder,
    make_private_folder,
    read_secret,
    remove,
    replace,
    write_atomic,
)
from agent.errors import KeyStoreError, VerificationError
from agent.keys import (
    PublicKey,
    SigningKey,
    UnitKey,
    decode_base64url,
    encode_base64url,
    load_private_key,
    load_public_key,
)
from agent.outbox.epoch_keys import EpochKeys
from agent.protocol import joining
from agent.protocol.epoch_keys import IssuedKeys, open_epoch_keys
from agent.protocol.grant import SIGNS_ANSWERS, verify_document
from agent.protocol.invitation import PREFIX as INVITATION
from agent.protocol.names import Name, check_name
from agent.protocol.record import Record, encode, load, save
from agent.site.authority import make_csr
from agent.unit import seal_key as seal
from agent.unit.certificate import check_certificate
from agent.unit.key_files import UnitFiles
from agent.unit.mandate import take_mandate
from agent.unit.revocations import is_newest


class PendingRequest(Record, frozen=True):
    """``pending.json``: what a unit remembers until the answer comes."""

    site: Name
    unit: Name
    token_key: joining.Base64url


def new_unit_request(keys: Path, site: str, unit: str, token: str) -> bytes:
    """Make new keys in ``keys``/waiting and the request that the site must answer.

    The same call replaces the keys of a unit in service; an unanswered request is replaced by the next.
    Raises RefusedError when a name or the token is not one.
    """
    check_name("site", site)
    check_name("unit", unit)
    key = joining.token_key(token)
    waiting = UnitFiles(keys).waiting
    if waiting.request.exists():  # of the keys before these
        remove(waiting.request)
    make_private_folder(waiting.folder)
    keys.chmod(FOLDER_MODE)  # one that was made by hand may be open to others
    event_key, tls_key, seal_key, next_seal_key = (UnitKey.generate() for _ in range(4))
    for made, path in (
        (event_key, waiting.event_key),
        (tls_key, waiting.tls_key),
        (seal_key, waiting.seal_key),
        (next_seal_key, waiting.next_seal_key),
    ):
        made.save(path)
    csr = make_csr(unit, load_private_key(waiting.tls_key))
    request = joining.UnitRequest(
        version=1,
        site=site,
        unit=unit,
        jwk=event_key.public_jwk(),
        seal_jwk=joining.seal_members(seal_key.public, next_seal_key.public),
        csr=csr.decode(),
    )
    save(waiting.pending, PendingRequest(site=site, unit=unit, token_key=encode_base64url(key)))
    request = msgspec.structs.replace(request, proof=joining.prove(key, request))
    return event_key.sign(encode(request), typ=joining.REQUEST_TYPE).encode()


def install(keys: Path, answer: bytes, *, clock: Clock, configured: tuple[str, str] | None = None) -> str:
    """Check the site's answer and put keys, certificates and epoch keys in force; return the unit's name.

    Safe to repeat after a power cut. An answer to the keys in force is taken also while a newer request waits, which
    then waits on. ``configured`` is the site and the unit that the configuration names. Raises VerificationError when
    the answer is not from this unit's site or not for this unit, KeyStoreError when it does not fit the keys that wait
    here.
    """
    files = UnitFiles(keys)
    waiting = files.waiting
    pending = read_pending(waiting.pending)
    token = answer.decode("ascii", errors="replace").strip()
    content = _verified(files, token, pending)
    if configured is not None and (content.site, content.unit) != configured:
        site, unit = configured
        raise VerificationError(
            "wrong_unit",
            f"the answer is for {content.unit} of site {content.site}, the configuration for {unit} of site {site}:"
            " fetch the answer for that one, or correct the section unit",
        )
    answered = pending is not None and _answers(content, pending)
    waits_on = pending is not None and not answered
    if pending is None and not files.tls_key.exists():
        raise KeyStoreError(f"{keys} waits for no answer: make a request first")
    new = waiting if answered else files
    _check_certificate(content, _existing(new.tls_key, files.tls_key))
    revoked = _revoked_brokers(keys, content)
    seal.settle(files)
    issued = _open(content, files, new, clock, above=0 if answered else seal.last_issue(files))
    # From here on nothing can be refused any more, and each step may be repeated.
    if issued is not None:
        _epoch_keys(files).add(issued.keys)
        seal.keep_token_key(files, issued)
        _go_on(files, waiting if answered else None, issued, content.epoch_keys)
    write_atomic(files.ca_crt, content.ca_crt.encode(), mode=PUBLIC_MODE)
    write_atomic(files.site_jwk, json.dumps(content.site_jwk).encode(), mode=PUBLIC_MODE)
    for source, target in (
        (waiting.event_key, files.event_key),
        (waiting.tls_key, files.tls_key),
    ):
        if source.exists() and not waits_on:
            replace(source, target)
    if revoked is not None:
        write_atomic(files.revoked_brokers, revoked, mode=PUBLIC_MODE)
    write_atomic(files.tls_crt, content.tls_crt.encode(), mode=PUBLIC_MODE)
    if waiting.pending.exists() and not waits_on:
        for spent in (waiting.seal_key, waiting.next_seal_key, waiting.pending):
            destroy(spent)
        if not waiting.request.exists():  # else who joins by an invitation has more to do, see ``unit.invited``
            waiting.folder.rmdir()
            fsync_folder(keys)
    return content.unit


def install_epoch_keys(
    keys: Path, sealed: bytes, *, site: str, unit: str, now: datetime, clock: ClockState
) -> EpochKeys:
    """Add epoch keys that the site issued to this unit to ``epoch-keys.json``; return the keys now held."""
    files = UnitFiles(keys)
    held = _epoch_keys(files)
    seal.take_issue(
        files,
        held,
        sealed.decode("ascii", errors="replace").strip(),
        site_key=load_public_key(files.site_jwk),
        site=site,
        unit=unit,
        now=now,
        clock=clock,
    )
    return held


def read_pending(path: Path) -> PendingRequest | None:
    """What waits for an answer; None also for a file that was half overwritten for its removal at a power cut."""
    if not path.exists() or not (content := read_secret(path)) or b"\0" in content:
        return None
    return load(path, PendingRequest, secret=True)


def _verified(files: UnitFiles, token: str, pending: PendingRequest | None) -> joining.UnitAnswer:
    """Read an answer: by the site's key where it is known, by the token where it is not, else by both.

    One to the keys in force needs no token: a request that waits for another answer is not in its way.
    """
    if token.upper().startswith(INVITATION):
        raise VerificationError("malformed", "this is an invitation: 'postern unit join FILE' takes it")
    content = joining.unverified(token, joining.UnitAnswer)
    known = load_public_key(files.site_jwk) if files.site_jwk.exists() else PublicKey.from_jwk(content.site_jwk)
    verify_document(
        token,
        known,
        typ=joining.ANSWER_TYPE,
        power=SIGNS_ANSWERS,
        site=content.site,
        now=None,
        on_mandate=partial(take_mandate, files.mandate),
    )
    if content.site_jwk != known.jwk():
        raise VerificationError("wrong_key", "the answer names another site's key: ask this unit's own site")
    if pending is None:
        if not files.site_jwk.exists():
            raise KeyStoreError(f"{files.folder} waits for no answer: make a request first")
        return content
    if (content.site, content.unit) != (pending.site, pending.unit):
        raise VerificationError("wrong_unit", "the answer is for another unit: fetch the one for this unit")
    if not _answers(content, pending) and not _is_for_keys_in_force(content, files):
        raise VerificationError(
            "bad_proof",
            "the answer is to another request than this unit's newest: bring the answer to that, or make a new request",
        )
    return content


def _answers(content: joining.UnitAnswer, pending: PendingRequest) -> bool:
    return joining.is_proof(decode_base64url(pending.token_key), content)


def _is_for_keys_in_force(content: joining.UnitAnswer, files: UnitFiles) -> bool:
    try:
        _check_certificate(content, files.tls_key)
    except (KeyStoreError, VerificationError):
        return False
    return files.site_jwk.exists()


def _check_certificate(content: joining.UnitAnswer, tls_key: Path) -> None:
    try:
        root = x509.load_pem_x509_certificate(content.ca_crt.encode())
    except ValueError:
        raise VerificationError("malformed", "a certificate in the answer is not readable") from None
    check_certificate(content.tls_crt, root, content.unit, tls_key)


def _revoked_brokers(keys: Path, content: joining.UnitAnswer) -> bytes | None:
    """The list of the answer; None when there is none, or a newer one came here since the site answered."""
    if content.revoked_brokers is None:
        return None
    listed, root = content.revoked_brokers.encode(), x509.load_pem_x509_certificate(content.ca_crt.encode())
    return listed if is_newest(keys, listed, root=root) else None


def _open(
    content: joining.UnitAnswer, files: UnitFiles, new: UnitFiles, clock: Clock, *, above: int
) -> IssuedKeys | None:
    """The epoch keys of the answer; None when this very answer was taken before, and the seal key is gone."""
    if seal.was_taken(files, content.epoch_keys):
        return None
    return open_epoch_keys(
        content.epoch_keys,
        seal_key=_existing(new.seal_key, files.seal_key),
        site_key=PublicKey.from_jwk(content.site_jwk),
        site=content.site,
        unit=content.unit,
        above=above,
        now=clock.now(),
        clock=clock.state(),
        on_mandate=partial(take_mandate, files.mandate),
    )


def _go_on(files: UnitFiles, waiting: UnitFiles | None, issued: IssuedKeys, sealed: str) -> None:
    """Put the next seal key in force: the one that the request named too, of a unit in service a new one."""
    if issued.number == 0:  # a site of release 0.1 seals to the first key again
        if waiting is not None:
            seal.forget(files)
            if waiting.seal_key.exists():
                replace(waiting.seal_key, files.seal_key)
        return
    if waiting is None:
        if not files.next_seal_key.exists():
            SigningKey.generate().save(files.next_seal_key)
    elif waiting.next_seal_key.exists():
        remove(files.seal_state)  # of the keys before these; not overwritten first, half of it would stop the unit
        replace(waiting.next_seal_key, files.next_seal_key)
    seal.write_state(files, issued, sealed, SigningKey.load(files.next_seal_key))
    seal.settle(files)


def _existing(new: Path, old: Path) -> Path:
    """Where a key lies: it may have moved already when an installation is repeated."""
    return new if new.exists() else old


def _epoch_keys(files: UnitFiles) -> EpochKeys:
    return EpochKeys.load(files.epoch_keys) if files.epoch_keys.exists() else EpochKeys((), files.epoch_keys)
