# SPDX-License-Identifier: Apache-2.0
"""The site kit: one folder is the root of a site's trust, and each function here is one act on it.

The folder belongs on a machine that is not the broker, and into a safe as a backup: who holds it can add
units, sign commands, and resolve the pseudonyms of every epoch. Each act is durable, stands in the audit
log, and prints nothing. ``passphrase`` encrypts the three private keys.

A unit joins in three steps: ``new_token`` here; ``new_unit_request`` at the unit; ``add_unit`` here, whose
answer the unit takes by ``install``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

import msgspec

from agent.clock import Clock
from agent.disk.files import PUBLIC_MODE, read_bounded, write_atomic
from agent.errors import RefusedError, VerificationError
from agent.keys import PublicKey, SigningKey, decode_base64url, encode_base64url
from agent.parse.strict_json import MAX_SAFE_INTEGER
from agent.protocol import joining
from agent.protocol.epoch_keys import SealStatement, derive_epoch_key, read_seal_statement, seal_epoch_keys
from agent.protocol.names import check_name, parse_time, round_down
from agent.protocol.pseudonym import EPOCHS_AHEAD, EpochKey, is_epoch
from agent.protocol.record import encode, load, save
from agent.protocol.trust import MAX_KEYS_PER_UNIT, UnitKeyEntry
from agent.site.authority import public_pem, read_csr, read_public_pem
from agent.site.folder import DEFAULT_AUDIENCES, SYSTEM_CLOCK, SiteFolder, changing, opened
from agent.site.records import MAX_AUDIENCES, SiteFiles, TokenFile, TokenRecord, UnitRecord
from agent.site.renewal import is_ahead, is_newest
from agent.site.token_list import token_key

TOKEN_DAYS = 7  # an installer's week; a forgotten token is then worth nothing
MAX_TOKENS = 150  # units that are being installed at once; with the used ones the file stays below 64 KiB
MAX_USED_TOKENS = 50  # whose answer may be asked for again
REPLACED_KEY_DAYS = 30  # events signed by a unit's old key may wait this long for the broker


def new_token(
    folder: Path, unit: str, *, clock: Clock = SYSTEM_CLOCK, random: Callable[[int], bytes] = os.urandom
) -> str:
    """Make the one-time token by which a unit joins; it is shown once, here only its digest is kept.

    An earlier unused token of the same unit becomes worthless.
    """
    check_name("unit", unit)
    token = joining.spell_token(random(joining.TOKEN_BYTES))
    with opened(folder, clock=clock, random=random) as site:
        expires_at = round_down(site.now() + timedelta(days=TOKEN_DAYS), 1)
        check_free(site.files, unit)
        digest = encode_base64url(joining.token_key(token))
        keep_token(site, TokenRecord(unit=unit, digest=digest, expires_at=expires_at))
        site.log("token_issued", unit=unit)
    return token


def check_free(files: SiteFiles, unit: str) -> None:
    """Refuse a unit's name that a program has."""
    if files.program(unit).exists():
        raise RefusedError("a program has this name, and the broker tells them apart by name: choose another")


def keep_token(site: SiteFolder, fresh: TokenRecord) -> None:
    """Keep a new token; RefusedError where too many wait to be used."""
    others = [record for record in _kept_tokens(site) if record.unit != fresh.unit]
    waiting = [record for record in others if record.used is None]
    used = [record for record in others if record.used is not None]
    if len(waiting) >= MAX_TOKENS:  # then this moment's clock has to do
        waiting = [record for record in waiting if parse_time(record.expires_at) > site.now()]
    if len(waiting) >= MAX_TOKENS:
        raise RefusedError(f"{MAX_TOKENS} tokens wait to be used: use them, or let them expire")
    save(site.files.tokens, TokenFile(version=1, tokens=(*used[-MAX_USED_TOKENS:], *waiting, fresh)))


def add_unit(
    folder: Path,
    request: bytes,
    *,
    audiences: Iterable[str] = DEFAULT_AUDIENCES,
    replace: bool = False,
    last_seq: int | None = None,
    clock: Clock = SYSTEM_CLOCK,
    passphrase: bytes | None = None,
) -> bytes:
    """Check a unit's request and answer it with certificate, authority, site key and epoch keys.

    ``replace`` gives a known unit new keys: its old certificate is revoked at once, its old event key counts for 30
    more days, as backlog alone, because events signed by it may still wait; ``last_seq``, when it is known, is the
    number of the last event that the unit itself signed with it. An answer that was lost is given again, with a new
    certificate, to the same request. Raises VerificationError when the request is forged, for another site or
    without a valid token, RefusedError when the name is taken.
    """
    token = request.decode("ascii", errors="replace").strip()
    asked = joining.unverified(token, joining.UnitRequest)
    key = PublicKey.from_jwk(asked.jwk)
    key.verify(token, typ=joining.REQUEST_TYPE)
    with changing(folder, clock=clock, passphrase=passphrase, needs_root=False) as site:
        if asked.site != site.name:
            raise VerificationError("wrong_site", "the request is for another site: make a new one at the unit")
        check_free(site.files, asked.unit)
        known = site.unit(asked.unit) if site.files.unit(asked.unit).exists() else None
        entry = UnitKeyEntry(jwk=key.jwk(), status="active")
        following = joining.following_seal_key(asked.seal_jwk)
        if following is None:
            raise RefusedError("the unit's release is older than the site's: upgrade the unit first, then ask again")
        joined = UnitRecord(
            version=1,
            unit=asked.unit,
            revoked=False,
            audiences=_checked_audiences(audiences),
            keys=(*_replaced_keys(site, known, last_seq), entry)[-MAX_KEYS_PER_UNIT:],
            seal_jwk=following,
            issued=known.issued if known else 0,
            tls_key=public_pem(read_csr(asked.csr.encode(), asked.unit)),
            certificates=site.revoked(known.certificates) if known else (),
        )
        answered = known if known is not None and _is_answered(known, joined) else None
        proof_key = _check_token(site, asked, token, again=answered is not None)
        if answered is not None:
            step = "unit_answered_again"
            joined = msgspec.structs.replace(
                joined,
                keys=answered.keys,
                certificates=answered.certificates,
                seal_jwk=answered.seal_jwk,
                taken=answered.taken,
            )
        elif known is None:
            step = "unit_added"
        elif known.revoked or replace:
            step = "unit_replaced"
        else:
            raise RefusedError("the site has a unit of this name: revoke it first, or say that its keys are replaced")
        joined, answer = _certified(site, joined, PublicKey.from_jwk(asked.seal_jwk).jwk())
        signed = _signed(site, msgspec.structs.replace(answer, proof=joining.prove(proof_key, answer)))
        site.put(joined, step, unit=asked.unit, kid=key.kid)
        _use_up(site, asked.unit, token)
        return signed


def renew_unit(folder: Path, unit: str, *, clock: Clock = SYSTEM_CLOCK, passphrase: bytes | None = None) -> bytes:
    """Give a unit a new certificate for its present keys, and its epoch keys; the unit takes it by ``install``."""
    with changing(folder, clock=clock, passphrase=passphrase, needs_root=False) as site:
        record = site.unit(unit)
        if record.revoked:
            raise RefusedError("this unit is revoked: enrol it anew with a token")
        record, answer = _certified(site, record, record.seal_jwk)
        signed = _signed(site, answer)
        site.put(record, "unit_renewed", unit=unit)
        return signed


def certify_unit(folder: Path, unit: str, *, below: int, clock: Clock = SYSTEM_CLOCK) -> str:
    """Make a new certificate for a unit's present key, as the site's service sends it: a chain in PEM.

    One that was made before, counts already and lasts ``below`` days or more is given again: the unit may have missed
    it.
    """
    with changing(folder, clock=clock, needs_root=False) as site:
        record = site.unit(unit)
        if record.revoked:
            raise RefusedError("this unit is revoked: it gets no more certificates")
        sent = site.files.sent_certificate(unit)
        newest, now = record.certificates[-1], site.now()
        lasts = newest.issued and parse_time(newest.expires_at) >= now + timedelta(days=below)
        if lasts and is_newest(sent, newest) and not is_ahead(sent, now):
            return read_bounded(sent).decode()
        certificate, chain = site.certify(unit, read_public_pem(record.tls_key))
        record = msgspec.structs.replace(record, certificates=site.kept((*record.certificates, certificate)))
        site.put(record, "certificate_renewed", unit=unit)
        write_atomic(sent, chain, mode=PUBLIC_MODE)
        return chain.decode()


def issue_epoch_keys(
    folder: Path,
    unit: str,
    *,
    ahead: int = EPOCHS_AHEAD,
    clock: Clock = SYSTEM_CLOCK,
    passphrase: bytes | None = None,
) -> bytes:
    """Seal the keys of this epoch and the ``ahead`` next ones to a unit; memory stick or broker may carry them."""
    with changing(folder, clock=clock, passphrase=passphrase, needs_root=False) as site:
        record = site.unit(unit)
        if record.revoked:
            raise RefusedError("this unit is revoked: it gets no more keys")
        record = msgspec.structs.replace(record, issued=record.issued + 1, generation=site.generation)
        sealed = _sealed_epoch_keys(site, record, record.seal_jwk, ahead)
        site.put(record, "epoch_keys_issued", unit=unit, ahead=ahead, number=record.issued)
        return sealed.encode()


def take_seal_key(folder: Path, token: str, *, clock: Clock = SYSTEM_CLOCK) -> str:
    """Keep the key that a unit wants its next epoch keys sealed to, as it signed that; the unit's name.

    Needs no private key of the site. Raises VerificationError (``malformed``, ``unknown_unit``, ``revoked``,
    ``old_issue`` when a newer one is known, or as ``PublicKey.verify``) and KeyStoreError.
    """
    claimed = joining.unverified(token, SealStatement)
    with opened(folder, clock=clock) as site:
        if not site.files.unit(claimed.unit).exists():
            raise VerificationError("unknown_unit", "the seal key is of a unit that this site does not have")
        record = site.unit(claimed.unit)
        if record.revoked:
            raise VerificationError("revoked", "the seal key is of a unit that was revoked")
        signer = PublicKey.from_jwk(record.keys[-1].jwk)
        stated = read_seal_statement(token, signer, site=site.name, unit=record.unit)
        if stated.jwk == record.seal_jwk:
            return record.unit
        if stated.number <= record.taken:
            raise VerificationError("old_issue", "the site knows a newer seal key of this unit: ask the unit again")
        issued = max(record.issued, stated.number)  # a folder from a backup may have forgotten some
        save(
            site.files.unit(record.unit),
            msgspec.structs.replace(record, seal_jwk=stated.jwk, taken=stated.number, issued=issued),
        )
        site.log("seal_key_taken", unit=record.unit, number=stated.number)
        return record.unit


def epoch_key(
    folder: Path,
    audience: str,
    epoch: str,
    *,
    generation: int | None = None,
    clock: Clock = SYSTEM_CLOCK,
    passphrase: bytes | None = None,
) -> EpochKey:
    """Derive the key by which the holder resolves the pseudonyms of one audience and epoch; it stands in the log.

    ``generation`` is asked for when the epoch's keys were replaced in its course (see ``rotation``); default is the
    newest.
    """
    check_name("audience", audience)
    if not is_epoch(epoch):
        raise RefusedError("an epoch is an ISO week that exists, such as 2026-W47: take it from the event")
    with changing(folder, clock=clock, passphrase=passphrase) as site:
        if generation is None:
            generation = site.generation
        if not 0 <= generation <= site.generation:
            raise RefusedError(f"the site has issued epoch keys of the generations 0 to {site.generation}")
        site.log("epoch_key_taken_out", audience=audience, epoch=epoch, generation=generation)
        return derive_epoch_key(site.master, site=site.name, audience=audience, epoch=epoch, generation=generation)


def revoke_unit(folder: Path, unit: str, *, clock: Clock = SYSTEM_CLOCK, passphrase: bytes | None = None) -> None:
    """Shut a unit out: certificates on the revocation list, event keys revoked, no access, no more epoch keys.

    The broker must get ``broker/ca.crl`` and ``broker/acl``, subscribers ``trust.jws``. The epoch keys that the unit
    has stay in a thief's hands until their epochs are over. May be repeated.
    """
    with changing(folder, clock=clock, passphrase=passphrase, needs_root=False, shuts_out=True) as site:
        record = site.unit(unit)
        keys = tuple(msgspec.structs.replace(key, status="revoked") for key in record.keys)
        revoked = msgspec.structs.replace(
            record, revoked=True, keys=keys, certificates=site.revoked(record.certificates)
        )
        site.put(revoked, "unit_revoked", unit=unit)


def load_site_key(folder: Path, *, passphrase: bytes | None = None) -> SigningKey:
    """Load the key that signs commands and policies."""
    return SigningKey.load(SiteFiles(folder).site_key, passphrase)


def _certified(site: SiteFolder, record: UnitRecord, seal_jwk: dict[str, str]) -> tuple[UnitRecord, joining.UnitAnswer]:
    """Certify a unit: its record with the certificate, and what the unit has to know. Nothing is written."""
    certificate, chain = site.certify(record.unit, read_public_pem(record.tls_key))
    record = msgspec.structs.replace(
        record,
        issued=record.issued + 1,
        generation=site.generation,
        certificates=site.kept((*record.certificates, certificate)),
    )
    revoked = site.files.brokers_crl
    answer = joining.UnitAnswer(
        version=1,
        site=site.name,
        unit=record.unit,
        tls_crt=chain.decode(),
        ca_crt=read_bounded(site.files.ca_crt).decode(),
        site_jwk=site.public.jwk(),
        epoch_keys=_sealed_epoch_keys(site, record, seal_jwk, EPOCHS_AHEAD),
        revoked_brokers=read_bounded(revoked).decode() if revoked.exists() else None,
    )
    return record, answer


def _signed(site: SiteFolder, answer: joining.UnitAnswer) -> bytes:
    return site.signs.sign(encode(answer), typ=joining.ANSWER_TYPE).encode()


def _sealed_epoch_keys(site: SiteFolder, record: UnitRecord, seal_jwk: dict[str, str], ahead: int) -> str:
    return seal_epoch_keys(
        site=site.name,
        unit=record.unit,
        seal_jwk=seal_jwk,
        audiences=record.audiences,
        now=site.now(),
        ahead=ahead,
        number=record.issued,
        key_of=site.epoch_key,
        signer=site.signs,
        token_key=token_key(site),
    )


def _kept_tokens(site: SiteFolder) -> tuple[TokenRecord, ...]:
    """Tokens that may not be forgotten yet: a clock that is ahead for an hour would end every card that lies ready."""
    tokens = load(site.files.tokens, TokenFile, secret=True).tokens
    return tuple(record for record in tokens if not site.is_over(record.expires_at))


def open_tokens(site: SiteFolder) -> tuple[TokenRecord, ...]:
    """Tokens whose time is not over."""
    return tuple(record for record in _kept_tokens(site) if parse_time(record.expires_at) > site.now())


def _check_token(site: SiteFolder, asked: joining.UnitRequest, token: str, *, again: bool) -> bytes:
    """Find the key of the proofs: a token that is unused, or was used for this very request."""
    for record in open_tokens(site):
        key = decode_base64url(record.digest)
        fits = record.used is None or (again and record.used == used_by(token))
        if fits and record.unit == asked.unit and joining.is_proof(key, asked):
            return key
    raise VerificationError(
        "bad_token", "no token that is still valid was used for this request: make a new token, then a new request"
    )


def _use_up(site: SiteFolder, unit: str, token: str) -> None:
    tokens = (
        msgspec.structs.replace(record, used=used_by(token)) if record.unit == unit else record
        for record in _kept_tokens(site)
    )
    save(site.files.tokens, TokenFile(version=1, tokens=tuple(tokens)))


def used_by(token: str) -> str:
    """How a token's record names the request that it was used for."""
    return encode_base64url(hashlib.sha256(token.encode()).digest())


def _is_answered(known: UnitRecord, joined: UnitRecord) -> bool:
    """Whether a unit that counts has these very keys already: its request was answered before."""
    mine, others = ((unit.keys[-1].jwk, unit.tls_key) for unit in (known, joined))
    return not known.revoked and mine == others


def _checked_audiences(audiences: Iterable[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(check_name("audience", name) for name in audiences))
    if not 0 < len(names) <= MAX_AUDIENCES:
        raise RefusedError(f"a unit's events are for 1 to {MAX_AUDIENCES} audiences: name so many")
    return names


def _replaced_keys(site: SiteFolder, known: UnitRecord | None, last_seq: int | None) -> tuple[UnitKeyEntry, ...]:
    if last_seq is not None and not 1 <= last_seq <= MAX_SAFE_INTEGER:
        raise RefusedError("the number of an event is at least 1: take it from the subscriber or the unit")
    if known is None:
        if last_seq is not None:
            raise RefusedError("the site has no unit of this name whose old key signed anything: leave --last-seq out")
        return ()
    until = round_down(site.now() + timedelta(days=REPLACED_KEY_DAYS), 1)
    return tuple(
        key if key.status == "revoked" or key.until else msgspec.structs.replace(key, until=until, last_seq=last_seq)
        for key in known.keys
    )
