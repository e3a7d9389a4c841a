# SPDX-License-Identifier: Apache-2.0
"""Certificates for what is not a unit: the broker, and the programs that listen or send commands."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from agent.clock import Clock
from agent.errors import RefusedError
from agent.files import PUBLIC_MODE, make_private_folder, write_atomic
from agent.keys import save_private_key
from agent.site.authority import pem, record_of
from agent.site.enrolment import check_name
from agent.site.office import SYSTEM_CLOCK, opened
from agent.site.records import ClientRecord, Role, save


def issue_client(
    folder: Path, name: str, role: Role, *, clock: Clock = SYSTEM_CLOCK, passphrase: bytes | None = None
) -> Path:
    """Make key and certificate of a program and put it on the access list; return the folder to carry to it.

    The same call renews the certificate and may change the role. The key is made here and unencrypted, mode
    0600: move the folder's content, do not copy it. RefusedError when a unit has this name.
    """
    check_name("program", name)
    with opened(folder, clock=clock, passphrase=passphrase) as office:
        if office.files.unit(name).exists():
            raise RefusedError("a unit has this name, and the broker tells them apart by name: choose another")
        target = office.files.client(name)
        known = office.client(name) if target.exists() else None
        make_private_folder(target)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = office.authority.issue_client(name, key.public_key(), office.now())
        issued = (*(known.certificates if known else ()), record_of(certificate, office.now()))
        save(
            target / "client.json",
            ClientRecord(version=1, name=name, role=role, revoked=False, certificates=office.kept(issued)),
        )
        save_private_key(key, target / "tls.key")
        write_atomic(target / "tls.crt", pem(certificate), mode=PUBLIC_MODE)
        write_atomic(target / "ca.crt", pem(office.authority.certificate), mode=PUBLIC_MODE)
        office.refresh()
        office.log("client_issued", name=name, role=role)
        return target


def revoke_client(folder: Path, name: str, *, clock: Clock = SYSTEM_CLOCK, passphrase: bytes | None = None) -> None:
    """Shut a program out: certificates on the revocation list, no access. May be repeated."""
    with opened(folder, clock=clock, passphrase=passphrase) as office:
        record = office.client(name)
        save(
            office.files.client(name) / "client.json",
            msgspec.structs.replace(record, revoked=True, certificates=office.revoked(record.certificates)),
        )
        office.refresh()
        office.log("client_revoked", name=name)


def issue_broker(
    folder: Path, hostnames: Iterable[str], *, clock: Clock = SYSTEM_CLOCK, passphrase: bytes | None = None
) -> Path:
    """Make key and certificate of the broker for the names and addresses that clients connect to; return its folder.

    The same call renews them.
    """
    names = list(hostnames)
    with opened(folder, clock=clock, passphrase=passphrase) as office:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = office.authority.issue_broker(names, key.public_key(), office.now())
        target = office.files.broker
        save_private_key(key, target / "broker.key")
        write_atomic(target / "broker.crt", pem(certificate), mode=PUBLIC_MODE)
        write_atomic(target / "ca.crt", pem(office.authority.certificate), mode=PUBLIC_MODE)
        office.log("broker_issued", names=" ".join(names), serial=record_of(certificate, office.now()).serial)
        return target
