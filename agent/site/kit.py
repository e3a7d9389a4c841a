# SPDX-License-Identifier: Apache-2.0
"""The site kit: one folder is the root of a site's trust, and each function here is one act on it.

The folder belongs on a machine that is not the broker, and into a safe as a backup: who holds it can add
units, sign commands, and resolve the pseudonyms of every epoch. Each act is durable, stands in the audit
log, and prints nothing. ``passphrase`` encrypts the three private keys.

A unit joins in three steps: ``new_token`` here; ``new_unit_request`` at the unit; ``add_unit`` here, whose
answer the unit takes by ``install``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

import msgspec

from agent.clock import Clock
from agent.errors import RefusedError, VerificationError
from agent.files import PUBLIC_MODE, make_private_folder, read_bounded, write_atomic
from agent.keys import MAX_TOKEN_BYTES, PublicKey, SigningKey, decode_base64url, encode_base64url, load_public_key
from agent.outbox.event import Epoch, parse_time, round_down
from agent.outbox.pseudonym import EPOCHS_AHEAD, EpochKey
from agent.outbox.trust import MAX_KEYS_PER_UNIT, TrustedUnits, UnitKeyEntry
from agent.site.authority import Authority, pem, public_pem, read_csr, read_public_pem, record_of
from agent.site.enrolment import (
    ANSWER_TYPE,
    REQUEST_TYPE,
    TOKEN_BYTES,
    check_name,
    install,
    install_epoch_keys,
    is_proof,
    new_unit_request,
    prove,
    spell_token,
    token_key,
    unverified,
)
from agent.site.office import SYSTEM_CLOCK, Office, opened
from agent.site.records import (
    SiteFiles,
    SiteRecord,
    TokenFile,
    TokenRecord,
    UnitAnswer,
    UnitRecord,
    UnitRequest,
    encode,
    load,
    save,
)
from agent.site.sealing import derive_epoch_key, seal_epoch_keys

__all__ = [
    "add_unit",
    "create_site",
    "epoch_key",
    "install",
    "install_epoch_keys",
    "issue_epoch_keys",
    "load_site_key",
    "new_token",
    "new_unit_request",
    "renew_unit",
    "revoke_unit",
    "trust",
]

TOKEN_DAYS = 7  # an installer's week; a forgotten token is then worth nothing
MAX_TOKENS = 1000  # units that are being installed at once
REPLACED_KEY_DAYS = 30  # events signed by a unit's old key may wait this long for the broker
DEFAULT_AUDIENCES = ("access",)

_EXPLANATION = """\
This folder is the root of trust of the Postern site '{site}'. Keep it off the broker, and a copy in a safe.

SECRET, mode 0600: whoever has one of these
  ca.key       can let machines into the broker
  site.key     can sign commands, policies and the list of units; site.key.next follows it while it is being changed
  master.key   can tell which person a pseudonym stands for, of every epoch
  tokens.json  lists enrolment tokens by their digests
PUBLIC
  ca.crt       for the broker, units and programs
  site.jwk     by which units check commands and policies
  trust.jws    the units and their keys: for every subscriber that verifies
  units/       what was issued to which unit
  audit.log    what was done here, as a hash chain: 'postern site log' verifies and lists it
TO CARRY AWAY
  broker/      all of the broker's files; ca.crl (revoked certificates) and acl (who may do what) change with every
               act: copy them again, then reload the broker
  clients/     key and certificate of each program: move them there, mode 0600

The notice for the people in front of a unit is made at the unit from its configuration.
"""


def create_site(folder: Path, site: str, *, clock: Clock = SYSTEM_CLOCK, passphrase: bytes | None = None) -> SiteFiles:
    """Make a new site in an empty or new folder; RefusedError when there is something in it already."""
    check_name("site", site)
    make_private_folder(folder)
    if any(folder.iterdir()):
        raise RefusedError(f"{folder} is not empty: choose a new folder, an existing site is never overwritten")
    files = SiteFiles(folder)
    now = clock.now()
    for made in (files.units, files.clients, files.broker):
        make_private_folder(made)
    Authority.create(site, now).save(files.ca_key, files.ca_crt, passphrase)
    signer = SigningKey.generate()
    signer.save(files.site_key, passphrase)
    SigningKey.generate().save(files.master_key, passphrase)
    write_atomic(files.site_jwk, json.dumps(signer.public_jwk()).encode(), mode=PUBLIC_MODE)
    write_atomic(files.explanation, _EXPLANATION.format(site=site).encode(), mode=PUBLIC_MODE)
    save(files.tokens, TokenFile(version=1, tokens=()))
    save(files.record, SiteRecord(version=1, site=site, created_at=round_down(now, 1), trust_serial=0))
    with opened(folder, clock=clock, passphrase=passphrase) as office:
        office.refresh()
        office.log("site_created", site=site)
    return files


def new_token(
    folder: Path, unit: str, *, clock: Clock = SYSTEM_CLOCK, random: Callable[[int], bytes] = os.urandom
) -> str:
    """Make a one-time enrolment token for a unit; it is shown once, here only its digest is kept.

    An earlier unused token of the same unit becomes worthless.
    """
    check_name("unit", unit)
    token = spell_token(random(TOKEN_BYTES))
    with opened(folder, clock=clock, random=random) as office:
        waiting = [record for record in _open_tokens(office) if record.unit != unit]
        if len(waiting) >= MAX_TOKENS:
            raise RefusedError(f"{MAX_TOKENS} tokens wait to be used: use them, or let them expire")
        expires_at = round_down(office.now() + timedelta(days=TOKEN_DAYS), 1)
        fresh = TokenRecord(unit=unit, digest=encode_base64url(token_key(token)), expires_at=expires_at)
        save(office.files.tokens, TokenFile(version=1, tokens=(*waiting, fresh)))
        office.log("token_issued", unit=unit)
    return token


def add_unit(
    folder: Path,
    request: bytes,
    *,
    audiences: Iterable[str] = DEFAULT_AUDIENCES,
    replace: bool = False,
    clock: Clock = SYSTEM_CLOCK,
    passphrase: bytes | None = None,
) -> bytes:
    """Check a unit's request and answer it with certificate, authority, site key and epoch keys.

    ``replace`` gives a known unit new keys: its old event key counts for 30 more days, because events signed by
    it may still wait. Raises VerificationError when the request is forged, for another site or without a valid
    token, RefusedError when the name is taken.
    """
    token = request.decode("ascii", errors="replace").strip()
    asked = unverified(token, UnitRequest)
    key = PublicKey.from_jwk(asked.jwk)
    key.verify(token, typ=REQUEST_TYPE)
    with opened(folder, clock=clock, passphrase=passphrase) as office:
        if asked.site != office.site:
            raise VerificationError("wrong_site", "the request is for another site: make a new one at the unit")
        proof_key = _check_token(office, asked)
        tls_key = read_csr(asked.csr.encode(), asked.unit)
        seal_jwk = PublicKey.from_jwk(asked.seal_jwk).jwk()
        known = _check_unit_name(office, asked.unit, replace=replace)
        entry = UnitKeyEntry(jwk=key.jwk(), status="active")
        record = UnitRecord(
            version=1,
            unit=asked.unit,
            revoked=False,
            audiences=tuple(check_name("audience", name) for name in audiences),
            keys=(*_replaced_keys(office, known), entry)[-MAX_KEYS_PER_UNIT:],
            seal_jwk=seal_jwk,
            tls_key=public_pem(tls_key),
            certificates=known.certificates if known else (),
        )
        answer = _answer(office, record)
        _use_up(office, asked.unit)
        office.refresh()
        office.log("unit_replaced" if known else "unit_added", unit=asked.unit, kid=key.kid)
        answer = msgspec.structs.replace(answer, proof=prove(proof_key, answer))
        return office.signer.sign(encode(answer), typ=ANSWER_TYPE).encode()


def renew_unit(folder: Path, unit: str, *, clock: Clock = SYSTEM_CLOCK, passphrase: bytes | None = None) -> bytes:
    """Give a unit a new certificate for its present keys, and its epoch keys; the unit takes it by ``install``."""
    with opened(folder, clock=clock, passphrase=passphrase) as office:
        record = office.unit(unit)
        if record.revoked:
            raise RefusedError("this unit is revoked: enrol it anew with a token")
        answer = _answer(office, record)
        office.refresh()
        office.log("unit_renewed", unit=unit)
        return office.signer.sign(encode(answer), typ=ANSWER_TYPE).encode()


def issue_epoch_keys(
    folder: Path,
    unit: str,
    *,
    ahead: int = EPOCHS_AHEAD,
    clock: Clock = SYSTEM_CLOCK,
    passphrase: bytes | None = None,
) -> bytes:
    """Seal the keys of this epoch and the ``ahead`` next ones to a unit; memory stick or broker may carry them."""
    with opened(folder, clock=clock, passphrase=passphrase) as office:
        record = office.unit(unit)
        if record.revoked:
            raise RefusedError("this unit is revoked: it gets no more keys")
        sealed = _sealed_epoch_keys(office, record, ahead)
        office.log("epoch_keys_issued", unit=unit, ahead=ahead)
        return sealed.encode()


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
    try:
        msgspec.convert(epoch, Epoch)
    except msgspec.ValidationError:
        raise RefusedError("an epoch is an ISO week, such as 2026-W47: take it from the event") from None
    with opened(folder, clock=clock, passphrase=passphrase) as office:
        if generation is None:
            generation = office.generation
        if not 0 <= generation <= office.generation:
            raise RefusedError(f"the site has issued epoch keys of the generations 0 to {office.generation}")
        office.log("epoch_key_taken_out", audience=audience, epoch=epoch, generation=generation)
        return derive_epoch_key(office.master, site=office.site, audience=audience, epoch=epoch, generation=generation)


def revoke_unit(folder: Path, unit: str, *, clock: Clock = SYSTEM_CLOCK, passphrase: bytes | None = None) -> None:
    """Shut a unit out: certificates on the revocation list, event keys revoked, no access, no more epoch keys.

    The broker must get ``broker/ca.crl`` and ``broker/acl``, subscribers ``trust.jws``. The epoch keys that the unit
    has stay in a thief's hands until their epochs are over. May be repeated.
    """
    with opened(folder, clock=clock, passphrase=passphrase) as office:
        record = office.unit(unit)
        keys = tuple(msgspec.structs.replace(key, status="revoked") for key in record.keys)
        certificates = office.revoked(record.certificates)
        save(
            office.files.unit(unit),
            msgspec.structs.replace(record, revoked=True, keys=keys, certificates=certificates),
        )
        office.refresh()
        office.log("unit_revoked", unit=unit)


def trust(folder: Path) -> TrustedUnits:
    """Read the site's signed list of units, as a subscriber does."""
    files = SiteFiles(folder)
    return TrustedUnits.from_signed(read_bounded(files.trust, MAX_TOKEN_BYTES), load_public_key(files.site_jwk))


def load_site_key(folder: Path, *, passphrase: bytes | None = None) -> SigningKey:
    """Load the key that signs commands and policies."""
    return SigningKey.load(SiteFiles(folder).site_key, passphrase)


def _answer(office: Office, record: UnitRecord) -> UnitAnswer:
    """Certify a unit, write its record, and say what the unit has to know."""
    certificate = office.authority.issue_client(record.unit, read_public_pem(record.tls_key), office.now())
    issued = (*record.certificates, record_of(certificate, office.now()))
    save(office.files.unit(record.unit), msgspec.structs.replace(record, certificates=office.kept(issued)))
    return UnitAnswer(
        version=1,
        site=office.site,
        unit=record.unit,
        tls_crt=pem(certificate).decode(),
        ca_crt=pem(office.authority.certificate).decode(),
        site_jwk=office.signer.public_jwk(),
        epoch_keys=_sealed_epoch_keys(office, record, EPOCHS_AHEAD),
    )


def _sealed_epoch_keys(office: Office, record: UnitRecord, ahead: int) -> str:
    return seal_epoch_keys(
        site=office.site,
        unit=record.unit,
        seal_jwk=record.seal_jwk,
        audiences=record.audiences,
        now=office.now(),
        ahead=ahead,
        generation=office.generation,
        master=office.master,
        signer=office.signer,
    )


def _open_tokens(office: Office) -> tuple[TokenRecord, ...]:
    tokens = load(office.files.tokens, TokenFile, secret=True).tokens
    return tuple(record for record in tokens if parse_time(record.expires_at) > office.now())


def _check_token(office: Office, asked: UnitRequest) -> bytes:
    for record in _open_tokens(office):
        key = decode_base64url(record.digest)
        if record.unit == asked.unit and is_proof(key, asked):
            return key
    raise VerificationError(
        "bad_token", "no token that is still valid was used for this request: make a new token, then a new request"
    )


def _use_up(office: Office, unit: str) -> None:
    rest = tuple(record for record in _open_tokens(office) if record.unit != unit)
    save(office.files.tokens, TokenFile(version=1, tokens=rest))


def _check_unit_name(office: Office, unit: str, *, replace: bool) -> UnitRecord | None:
    if office.files.client(unit).exists():
        raise RefusedError("a program has this name already, and the broker tells them apart by name: choose another")
    if not office.files.unit(unit).exists():
        return None
    known = office.unit(unit)
    if not known.revoked and not replace:
        raise RefusedError("the site has a unit of this name: revoke it first, or say that its keys are replaced")
    return known


def _replaced_keys(office: Office, known: UnitRecord | None) -> tuple[UnitKeyEntry, ...]:
    if known is None:
        return ()
    until = round_down(office.now() + timedelta(days=REPLACED_KEY_DAYS), 1)
    return tuple(
        key if key.status == "revoked" or key.until else msgspec.structs.replace(key, until=until) for key in known.keys
    )
