# SPDX-License-Identifier: Apache-2.0
"""Certificates for what is not a unit: the broker, and the programs that listen or send commands."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from agent.clock import Clock
from agent.disk.files import PUBLIC_MODE, destroy, make_private_folder, read_bounded, remove, write_atomic
from agent.errors import RefusedError
from agent.keys import MAX_TOKEN_BYTES, SigningKey, save_private_key
from agent.protocol.grant import make_grant
from agent.protocol.names import check_name, parse_time
from agent.protocol.program import PROGRAM_FILE, Program, Role
from agent.protocol.record import encode, load, save
from agent.protocol.resolving_keys import RESOLVE_KEY
from agent.site.authority import (
    LEAF_DAYS,
    pem,
    public_pem,
    read_certificate,
    read_public_pem,
    record_of,
    validity,
)
from agent.site.folder import DEFAULT_AUDIENCES, SYSTEM_CLOCK, SiteFolder, changing, check_site
from agent.site.kinds import KINDS
from agent.site.published import list_number
from agent.site.records import BrokerKind, BrokerRecord, CertificateRecord, ClientRecord, SiteFiles
from agent.site.renewal import is_ahead
from agent.site.units import open_tokens

GAIN_DAYS = 30  # by which a renewed certificate lasts longer: a program may be away for eleven months
MAX_LOGGED = 8  # serial numbers in one entry of the log

ASKING: tuple[Role, ...] = ("auditor",)  # may ask units for events that they missed
ASK_KEY, GRANT = "ask.key", "grant.jws"  # by which they do


def issue_client(
    folder: Path,
    name: str,
    role: Role,
    *,
    resolves: Iterable[str] | None = None,
    clock: Clock = SYSTEM_CLOCK,
    passphrase: bytes | None = None,
) -> Path:
    """Make key and certificate of a program and put it on the access list; return the folder to carry to it.

    The same call renews the certificate and may change the role. The key is made here and unencrypted, mode
    0600: move the folder, do not copy it. An auditor gets a second key besides, and the site's grant for it: with these
    it asks units for what it missed. With ``resolves`` it may tell who is behind the pseudonyms of these audiences: the
    site's service seals it the keys of each week (``agent.site.handing``); by default what it may is left as it was.
    What was issued stays on record here, so it can be revoked.
    RefusedError when a unit has this name, or no unit speaks for such an audience.
    """
    check_name("program", name)
    with changing(folder, clock=clock, passphrase=passphrase) as site:
        files = site.files
        if files.unit(name).exists():
            raise RefusedError("a unit has this name, and the broker tells them apart by name: choose another")
        former = site.client(name) if files.program(name).exists() else None
        if former is None and any(token.unit == name and token.used is None for token in open_tokens(site)):
            raise RefusedError(
                "a unit of this name was invited, or has a token, and the broker tells them apart by name: choose"
                " another"
            )
        known = former.certificates if former else ()
        resolved = _resolved(site, role, former, resolves)
        resolve_key = SigningKey.generate() if resolved else None
        key = ec.generate_private_key(ec.SECP256R1())
        certificate, chain = site.certify(name, key.public_key(), days=LEAF_DAYS)
        issued = site.kept((*known, certificate))
        record = ClientRecord(
            version=1,
            name=name,
            role=role,
            revoked=False,
            certificates=issued,
            tls_key=public_pem(key.public_key()),
            resolves=resolved,
            resolve_jwk=resolve_key.public_jwk() if resolve_key else None,
            issued=former.issued if former else 0,
        )
        # On record before it is in a file: there is no certificate that cannot be revoked.
        site.put(
            record, "client_issued", name=name, role=role, **({"resolves": " ".join(resolved)} if resolved else {})
        )
        _unsend(files, name)  # it is for the keys before
        target = files.client(name)
        make_private_folder(target)
        for left in target.glob(".*"):  # of an act that a power cut ended
            destroy(left)
        save_private_key(key, target / "tls.key")
        write_atomic(target / "tls.crt", chain, mode=PUBLIC_MODE)
        told = Program(version=1, site=site.name, name=name, role=role)
        write_atomic(target / PROGRAM_FILE, encode(told), mode=PUBLIC_MODE)
        for former_file in (RESOLVE_KEY, ASK_KEY, GRANT):  # a former role's, of which nothing is left
            remove(target / former_file)
        if resolve_key is not None:
            resolve_key.save(target / RESOLVE_KEY)
        if role in ASKING:
            ask = SigningKey.generate()
            ask.save(target / ASK_KEY)
            grant = make_grant(name, ask, site.signer, site=site.name, now=site.now())
            write_atomic(target / GRANT, grant.encode(), mode=PUBLIC_MODE)
        for public in (files.ca_crt, files.site_jwk, files.trust, files.brokers_crl):
            if public == files.brokers_crl and not public.exists():
                continue  # no broker was revoked; with the others, it is all that a subscriber needs
            write_atomic(target / public.name, read_bounded(public, MAX_TOKEN_BYTES), mode=PUBLIC_MODE)
        return target


def _resolved(
    site: SiteFolder, role: Role, former: ClientRecord | None, wanted: Iterable[str] | None
) -> tuple[str, ...]:
    """Whose pseudonyms a program may resolve from now on."""
    if wanted is None:
        return former.resolves if former is not None and former.role == role and not former.revoked else ()
    names = tuple(sorted({check_name("audience", one) for one in wanted}))
    if names and role != "auditor":
        raise RefusedError("who may resolve hears events: give it the role auditor")
    spoken = {*DEFAULT_AUDIENCES, *(one for unit in site.files.all_units() for one in unit.audiences)}
    if unknown := [one for one in names if one not in spoken]:
        raise RefusedError(
            f"no unit of this site speaks for {', '.join(unknown)}: name one of {', '.join(sorted(spoken))}"
        )
    return names


def renew_client(folder: Path, name: str, *, clock: Clock = SYSTEM_CLOCK) -> bool:
    """Give a program a new certificate for its present key, where that lasts longer by ``GAIN_DAYS``; whether it did.

    It is public, and lies in ``sent`` until the program took it from the broker. Raises PosternError.
    """
    files = check_site(folder)
    if not _is_due(files, load(files.program(name), ClientRecord), clock):
        return False  # most days: nothing is opened for that
    with changing(folder, clock=clock, needs_root=False) as site:
        record = site.client(name)
        if not _is_due(files, record, clock) or record.tls_key is None:
            return False
        certificate, chain = site.certify(name, read_public_pem(record.tls_key), days=LEAF_DAYS)
        issued = site.kept((*record.certificates, certificate))
        site.put(msgspec.structs.replace(record, certificates=issued), "client_renewed", name=name)
        write_atomic(site.files.sent_certificate(name), chain, mode=PUBLIC_MODE)
        return True


def _is_due(files: SiteFiles, record: ClientRecord, clock: Clock) -> bool:
    if not may_renew(record) or record.tls_key is None or not files.issuing_crt.exists():
        return False
    newest, issuer = record.certificates[-1], read_certificate(files.issuing_crt)
    longest = min(clock.now() + timedelta(days=LEAF_DAYS), validity(issuer)[1])
    lasts = newest.issued and longest - parse_time(newest.expires_at) < timedelta(days=GAIN_DAYS)
    return not lasts or is_ahead(files.sent_certificate(record.name), clock.now())


def may_renew(record: ClientRecord) -> bool:
    """Whether the site's service renews this program: the service does its own, a revoked one gets none."""
    return not record.revoked and record.role != "service" and bool(record.certificates)


def revoke_client(folder: Path, name: str, *, clock: Clock = SYSTEM_CLOCK, passphrase: bytes | None = None) -> None:
    """Shut a program out: certificates on the revocation list, no access, its files here erased. May be repeated."""
    with changing(folder, clock=clock, passphrase=passphrase, needs_root=False, shuts_out=True) as site:
        record = site.client(name)
        certificates = site.revoked(record.certificates)
        site.put(msgspec.structs.replace(record, revoked=True, certificates=certificates), "client_revoked", name=name)
        _unsend(site.files, name)
        if (left := site.files.client(name)).exists():  # it was not moved to the program
            for secret in ("tls.key", RESOLVE_KEY, ASK_KEY, GRANT):
                remove(left / secret)


def _unsend(files: SiteFiles, name: str) -> None:
    """Take back what waits to be handed to a program."""
    for sent in (files.sent_keys(name), files.sent_certificate(name)):
        remove(sent)


def issue_broker(
    folder: Path,
    hostnames: Iterable[str],
    *,
    port: int | None = None,
    kind: BrokerKind | None = None,
    clock: Clock = SYSTEM_CLOCK,
    passphrase: bytes | None = None,
) -> Path:
    """Make key and certificate of the broker for the names and addresses that clients connect to; return its folder.

    The same call renews them. ``port`` says where it listens, ``kind`` what it is; by default both are what they were.
    """
    names = list(hostnames)
    with changing(folder, clock=clock, passphrase=passphrase) as site:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = site.authority.issue_broker(names, key.public_key(), site.now())
        issued = site.kept((*_of_brokers(site), record_of(certificate)))
        before, kind, port = site.files.acl, kind or site.files.broker_kind, port or site.files.broker_port
        made = BrokerRecord(version=1, hosts=tuple(names), port=port, certificates=issued, kind=kind)
        save(site.files.broker_record, made)  # before it is in a file
        site.publish()  # the rules of a broker of another kind
        if before != site.files.acl:
            remove(before)
        target = site.files.broker
        for name, text in KINDS[kind].configuration().items():
            write_atomic(target / name, text.encode(), mode=PUBLIC_MODE)
        save_private_key(key, target / "broker.key")
        write_atomic(site.files.broker_crt, pem(certificate), mode=PUBLIC_MODE)
        write_atomic(target / "ca.crt", pem(site.authority.certificate), mode=PUBLIC_MODE)
        site.log("broker_issued", names=" ".join(names), serial=record_of(certificate).serial)
        return target


def revoke_broker(folder: Path, *, clock: Clock = SYSTEM_CLOCK, passphrase: bytes | None = None) -> Path:
    """Have nobody believe the broker's certificates of until now, whose key somebody else has; the list of them.

    Units and programs that have the list refuse whoever proves to be the broker by one of them. A new certificate is
    made by ``issue_broker``. May be repeated. RefusedError when no broker was ever certified.
    """
    with changing(folder, clock=clock, passphrase=passphrase) as site:
        revoked = site.revoked(_of_brokers(site))
        if not revoked:
            raise RefusedError("this site has certified no broker: there is nothing to revoke")
        save(site.files.broker_record, msgspec.structs.replace(_broker_record(site), certificates=revoked))
        site.log("broker_revoked", serials=" ".join(record.serial for record in revoked[-MAX_LOGGED:]))
        listed = site.authority.revocation_list(revoked, site.now(), above=list_number(site.files.brokers_crl))
        write_atomic(site.files.brokers_crl, listed, mode=PUBLIC_MODE)
        return site.files.brokers_crl


def _of_brokers(site: SiteFolder) -> tuple[CertificateRecord, ...]:
    """All of the broker's certificates that have not expired; of a site of release 0.1 the one in its folder."""
    return site.kept(_broker_record(site).certificates)


def _broker_record(site: SiteFolder) -> BrokerRecord:
    files = site.files
    if (broker := files.known_broker) is not None:
        return broker
    known = (record_of(read_certificate(files.broker_crt)),) if files.broker_crt.exists() else ()
    return BrokerRecord(version=1, certificates=known)
