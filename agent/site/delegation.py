# SPDX-License-Identifier: Apache-2.0
"""Giving the site's service its limited power, once a year; and taking the root's keys away to where they are safe.

The service gets a signing key with a mandate (``agent.protocol.grant``), an issuing certificate below the root, the
epoch keys of the coming weeks, and a certificate for the broker. After that no act of every day needs the root's keys:
units join, are renewed and revoked without. Policies, the site's own key, a new generation of epoch keys, auditors'
grants, the broker's certificate and the next mandate still do.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from agent.clock import Clock
from agent.disk.files import (
    PUBLIC_MODE,
    SECRET_MODE,
    destroy,
    files_in,
    fsync_folder,
    make_private_folder,
    read_bounded,
    read_secret,
    remove,
    write_atomic,
)
from agent.errors import KeyStoreError, RefusedError
from agent.keys import SigningKey, load_private_key, save_private_key
from agent.mqtt.credentials import Credentials, read_ends
from agent.mqtt.records import BrokerSettings
from agent.protocol.grant import make_mandate
from agent.protocol.names import check_name
from agent.protocol.pseudonym import epochs_from
from agent.protocol.record import load, save
from agent.site.authority import Authority, common_names, pem, read_certificate
from agent.site.folder import DEFAULT_AUDIENCES, SYSTEM_CLOCK, SiteFolder, changing, check_site, opened
from agent.site.mandated import WEEKS, save_epochs
from agent.site.published import read_lists
from agent.site.records import SERVICE, CertificateRecord, ClientRecord, SiteFiles, SiteRecord
from agent.site.renewal import is_ahead

ROOT_KEYS = ("ca.key", "site.key", "master.key")
OWN_DAYS = 60  # left of the service's own certificate at the broker, when it makes itself another


def delegate(
    folder: Path,
    *,
    audiences: Iterable[str] = (),
    replace: bool = False,
    clock: Clock = SYSTEM_CLOCK,
    passphrase: bytes | None = None,
) -> None:
    """Give the site's service its keys and a mandate for a year and a month, or a new mandate.

    ``audiences`` are further ones than those of the site's units. With ``replace`` the service's keys are made anew,
    because somebody else has them: what the former signed counts no more where the new mandate was seen; certificates
    by the former issuing key still let units in until ``finish_replacement``, so that each can get a new one first.
    May be repeated after a power cut. RefusedError when a unit has the service's name.
    """
    named = [check_name("audience", audience) for audience in audiences]
    with changing(folder, clock=clock, passphrase=passphrase) as site:
        files = site.files
        if files.unit(SERVICE).exists():
            raise RefusedError(f"a unit is called {SERVICE}, which is the name of the site's service: rename the unit")
        site.authority.check_time(site.now())
        if replace and files.issuing_crt.exists():
            write_atomic(files.former_crl, read_lists(files).get(True, b""), mode=PUBLIC_MODE)
            _forget_issuer(site)
            for spent in (files.mandated_key, files.issuing_crt, files.issuing_key):
                destroy(spent)
        number = _next_number(site)
        _relax_root(site)
        _hand_issuing_key(site, number)
        site.__dict__.pop("issuing", None)  # it was looked for before there was one
        hand_epoch_keys(site, named)
        _hand_certificate(site)
        hand_mandate(site, number)
        site.log("service_delegated", number=number, replaced=str(replace))
    with changing(folder, clock=clock, needs_root=False):
        pass  # signs the list of units by the new mandate, so that subscribers hear of it


def finish_replacement(folder: Path, *, clock: Clock = SYSTEM_CLOCK, passphrase: bytes | None = None) -> None:
    """Shut out whoever has a certificate by the former issuing key. RefusedError when there is none."""
    with changing(folder, clock=clock, passphrase=passphrase) as site:
        if not site.files.former_crl.exists():
            raise RefusedError("the service's keys were not replaced: there is nothing to finish")
        remove(site.files.former_crl)
        site.log("service_replaced")
        site.complete("service_replaced")


def hand_mandate(site: SiteFolder, number: int | None = None) -> None:
    """Sign the service's mandate with the site's key of now; for an act that has the root's keys open."""
    number = _next_number(site) if number is None else number
    key = _made(site.files.mandated_key)
    mandate = make_mandate(SERVICE, key, site.signer, site=site.name, now=site.now(), number=number)
    write_atomic(site.files.mandate, mandate.encode(), mode=SECRET_MODE)


def hand_epoch_keys(site: SiteFolder, further: Iterable[str] = ()) -> None:
    """Derive the epoch keys of the coming weeks for the service: for all units' audiences and ``further`` ones."""
    held = {path.stem for path in files_in(site.files.epochs, ".json")}
    of_units = {audience for unit in site.files.all_units() for audience in unit.audiences}
    for audience in sorted({*held, *of_units, *further, *DEFAULT_AUDIENCES}):
        keys = (site.epoch_key(audience, epoch) for epoch in epochs_from(site.now(), WEEKS))
        save_epochs(site.files.service_epochs(audience), keys)


def take_root_away(folder: Path, to: Path, *, clock: Clock = SYSTEM_CLOCK) -> None:
    """Move the root's private keys to ``to``, such as a stick for the safe; a link says where they are.

    Each is written and read back there before it is destroyed here; may be repeated after a power cut. Raises
    RefusedError, KeyStoreError and StorageError.
    """
    with opened(folder, clock=clock) as site:
        files = SiteFiles(site.files.folder)
        if not files.delegated:
            raise RefusedError("the site's service has no keys of its own yet: run 'postern site delegate' first")
        if (files.folder / "site.key.next").exists():
            raise RefusedError("the site's key is being changed: end that first (postern site change-key --finish)")
        there = to.resolve()
        if files.folder.resolve() in (there, *there.parents):
            raise RefusedError("this is in the site's own folder: name one that can be taken away, such as a stick's")
        if files.away.is_symlink() and files.away.readlink() != there:
            raise RefusedError(f"the root's keys are in {files.away.readlink()} already")
        names = [name for name in ROOT_KEYS if (files.folder / name).exists()]
        if not files.away.is_symlink():
            make_private_folder(there)
            _check_stick(files, there)
            for name in names:
                content = read_secret(files.folder / name)
                write_atomic(there / name, content)
                if (there / name).read_bytes() != content:
                    raise KeyStoreError(f"{there / name} is not what was written: use another stick")
            site.log("root_taken_away", keys=" ".join(names))
            files.away.symlink_to(there)
            fsync_folder(files.folder)
        for name in names:
            destroy(files.folder / name)


def _check_stick(files: SiteFiles, there: Path) -> None:
    """Refuse to replace keys in ``there`` that are not these, and to say of none that they are there."""
    for name in ROOT_KEYS:
        here, held = files.folder / name, there / name
        if not here.exists() and not held.exists():
            raise RefusedError(
                f"{name} is neither in {files.folder} nor in {there}: bring it back to one of them first"
            )
        if here.exists() and held.exists() and read_secret(here) != read_bounded(held):
            raise RefusedError(f"{held} is another key, perhaps of another site: name a folder of this site's own")


def _forget_issuer(site: SiteFolder) -> None:
    """Mark every certificate as by another issuer than the one to come: each holder is to get a new one."""
    files = site.files

    def marked(certificates: tuple[CertificateRecord, ...]) -> tuple[CertificateRecord, ...]:
        return tuple(msgspec.structs.replace(one, issued=False) for one in certificates)

    for unit in files.all_units():
        save(files.unit(unit.unit), msgspec.structs.replace(unit, certificates=marked(unit.certificates)))
    for client in files.all_clients():
        save(files.program(client.name), msgspec.structs.replace(client, certificates=marked(client.certificates)))
    for sent in files_in(files.sent, ".crt"):
        remove(sent)


def _next_number(site: SiteFolder) -> int:
    record = load(site.files.record, SiteRecord)
    record = msgspec.structs.replace(record, mandates=record.mandates + 1)
    save(site.files.record, record)  # before it is signed: no number stands in two mandates
    return record.mandates


def _relax_root(site: SiteFolder) -> None:
    """A root of release 0.1 forbids what it certifies to certify: the same key gets a certificate that does not."""
    if site.authority.lets_issue:
        return
    relaxed = pem(site.authority.relaxed().certificate)
    if (site.files.broker / "ca.crt").exists():
        write_atomic(site.files.broker / "ca.crt", relaxed, mode=PUBLIC_MODE)
    write_atomic(site.files.ca_crt, relaxed, mode=PUBLIC_MODE)
    site.authority = Authority.load(site.files.ca_key, site.files.ca_crt, site.passphrase)


def _hand_issuing_key(site: SiteFolder, number: int) -> None:
    """Make or keep the issuing key; its name stays while the key does, or its revocation list would be nobody's."""
    files = site.files
    if files.issuing_crt.exists():
        name = common_names(read_certificate(files.issuing_crt).subject)[0]
    else:
        name = f"{site.name} postern issuing {number}"
    if not files.issuing_key.exists():
        save_private_key(ec.generate_private_key(ec.SECP256R1()), files.issuing_key)
    issuing = site.authority.delegate(name, site.now(), load_private_key(files.issuing_key))
    write_atomic(files.issuing_crt, pem(issuing.certificate), mode=PUBLIC_MODE)


def service_settings(folder: Path, host: str | None = None) -> BrokerSettings:
    """How the service reaches the broker, at ``host`` or where the site certified it. RefusedError where neither is."""
    files = check_site(folder)
    if not host:
        broker = files.reached_broker()
        host, port = broker.hosts[0], broker.port
    else:
        port = files.broker_port
    if not files.delegated:
        raise RefusedError("the site's service has no keys yet: run 'postern site delegate' first")
    return BrokerSettings(host, service_credentials(files), port=port)


def renew_own_certificate(folder: Path, *, clock: Clock = SYSTEM_CLOCK) -> None:
    """Give the service a new certificate at the broker when less than ``OWN_DAYS`` are left, or it counts later.

    Raises PosternError.
    """
    files, now = SiteFiles(folder), clock.now()
    own = service_credentials(files)
    if min(read_ends(own)) - now < timedelta(days=OWN_DAYS) or is_ahead(own.certificate, now):
        with changing(folder, clock=clock, needs_root=False) as site:
            _hand_certificate(site)


def service_credentials(files: SiteFiles) -> Credentials:
    """The service's own files at the broker."""
    return Credentials.in_folder(files.service)


def _hand_certificate(site: SiteFolder) -> None:
    """Certify the service itself at the broker, by its own issuing key."""
    files = site.files
    key = _made_tls(files.service / "tls.key")
    known = site.client(SERVICE).certificates if files.program(SERVICE).exists() else ()
    certificate, chain = site.certify(SERVICE, key)
    issued = site.kept((*known, certificate))
    record = ClientRecord(version=1, name=SERVICE, role="service", revoked=False, certificates=issued)
    site.put(record, "client_issued", name=SERVICE, role="service")
    write_atomic(files.service / "ca.crt", pem(read_certificate(files.ca_crt)), mode=PUBLIC_MODE)
    write_atomic(files.service / "tls.crt", chain, mode=PUBLIC_MODE)


def _made(path: Path) -> SigningKey:
    if not path.exists():
        SigningKey.generate().save(path)
    return SigningKey.load(path)


def _made_tls(path: Path) -> ec.EllipticCurvePublicKey:
    if not path.exists():
        save_private_key(ec.generate_private_key(ec.SECP256R1()), path)
    return load_private_key(path).public_key()
