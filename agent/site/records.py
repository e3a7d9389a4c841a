# SPDX-License-Identifier: Apache-2.0
"""What lies in a site's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from agent.disk.files import REVOKED_BROKERS, files_in, make_private_folder
from agent.errors import RefusedError
from agent.parse import strict_json
from agent.protocol.joining import Base64url, Pem
from agent.protocol.names import Digest, Epoch, Name, Time
from agent.protocol.program import Role
from agent.protocol.record import Record, load
from agent.protocol.trust import MAX_KEYS_PER_UNIT, UnitKeyEntry

MAX_AUDIENCES = 16  # who a unit's events are for; each has a key per epoch
MAX_MANDATES = 9_999
MAX_CERTIFICATES = 64  # kept per name until they expire: one a month for five years

SERVICE = "site-service"  # the program's name
BROKER_PORT = 8883  # MQTT over TLS (IANA)
BrokerKind = Literal["mosquitto", "rabbitmq"]
_RULES: dict[BrokerKind, str] = {"mosquitto": "acl", "rabbitmq": "definitions.json"}  # where each has them
Serial = Annotated[str, Meta(pattern=r"^[0-9a-f]{1,40}$(?!\n)")]  # 20 bytes at the most (RFC 5280 sec. 4.1.2.2)
Generation = Annotated[int, Meta(ge=0, le=9999)]


class SiteRecord(Record, frozen=True):
    """``site.json``."""

    version: Literal[1]
    site: Name
    created_at: Time
    trust_serial: Annotated[int, Meta(ge=0, le=strict_json.MAX_SAFE_INTEGER)]
    mandates: Annotated[int, Meta(ge=0, le=MAX_MANDATES)] = 0  # given to the site's service; the last one counts
    generation: Generation = 0  # of the epoch keys: rises when those that units hold have become known to somebody
    policies: Annotated[int, Meta(ge=0, le=strict_json.MAX_SAFE_INTEGER)] = 0  # number of the last one that was signed
    configurations: Annotated[int, Meta(ge=0, le=strict_json.MAX_SAFE_INTEGER)] = 0  # of the settings applied last


class CertificateRecord(Record, frozen=True):
    """A certificate that was issued; ``revoked_at`` puts it on the revocation list of whoever issued it.

    ``issued`` says that this was the service's issuing key, not the root.
    """

    serial: Serial
    expires_at: Time
    revoked_at: Time | None = None
    issued: bool = False


class UnitRecord(Record, frozen=True):
    """``units/<unit>.json``: the public side of a unit."""

    version: Literal[1]
    unit: Name
    revoked: bool
    audiences: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MAX_AUDIENCES)]
    keys: Annotated[tuple[UnitKeyEntry, ...], Meta(max_length=MAX_KEYS_PER_UNIT)]
    seal_jwk: dict[str, str]  # for the next issue of epoch keys; each key serves once
    tls_key: Pem  # the public half, for the next certificate
    certificates: Annotated[tuple[CertificateRecord, ...], Meta(max_length=MAX_CERTIFICATES)]
    issued: Annotated[int, Meta(ge=0, le=strict_json.MAX_SAFE_INTEGER)] = 0  # number of the last issue
    taken: Annotated[int, Meta(ge=0, le=strict_json.MAX_SAFE_INTEGER)] = 0  # of the one after which ``seal_jwk`` came
    generation: Generation = 0  # of the epoch keys in the last issue


class ClientRecord(Record, frozen=True):
    """``programs/<name>.json``: a program that talks to the broker. Not in its own folder, which is carried away."""

    version: Literal[1]
    name: Name
    role: Role
    revoked: bool
    certificates: Annotated[tuple[CertificateRecord, ...], Meta(max_length=MAX_CERTIFICATES)]
    tls_key: Pem | None = None  # the public half, for the next certificate; None of a program of release 0.1
    # Whose pseudonyms it may resolve, and what the keys for that are sealed to; which keys it was sent last.
    resolves: Annotated[tuple[Name, ...], Meta(max_length=MAX_AUDIENCES)] = ()
    resolve_jwk: dict[str, str] | None = None
    issued: Annotated[int, Meta(ge=0, le=strict_json.MAX_SAFE_INTEGER)] = 0
    issued_epoch: Epoch | None = None
    generation: Generation = 0


class BrokerRecord(Record, frozen=True):
    """``broker.json``: what the broker proves itself with, and did before; where its clients reach it."""

    version: Literal[1]
    certificates: Annotated[tuple[CertificateRecord, ...], Meta(max_length=MAX_CERTIFICATES)]
    hosts: Annotated[tuple[str, ...], Meta(max_length=16)] = ()
    port: Annotated[int, Meta(ge=1, le=65535)] = 8883
    kind: BrokerKind = "mosquitto"


class TokenRecord(Record, frozen=True):
    """The token by which a unit joins: its digest, from which the token cannot be found.

    ``used`` is the digest of the request it was used for, which may be answered once more if the answer was lost.
    """

    unit: Name
    digest: Base64url
    expires_at: Time
    used: Base64url | None = None
    invited: bool = False  # by one file; the request comes over the broker
    accepted: bool = False  # whoever holds the claim is let in without being looked at
    replace: bool = False  # as of ``add_unit``


class SentAnswer(Record, frozen=True):
    """``sent/<unit>.json``: the answer to a unit that joined, for the case that it was lost."""

    version: Literal[1]
    request: Digest
    answer: Annotated[str, Meta(max_length=32 * 1024)]


class TokenFile(Record, frozen=True):
    """``tokens.json``."""

    version: Literal[1]
    tokens: tuple[TokenRecord, ...]


class SiteFiles:
    """Where everything of a site lies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.away = folder / "root"  # a link to where the root's keys were taken, such as a stick in a safe
        root = self.away if self.away.is_symlink() else folder
        self.record = folder / "site.json"
        self.ca_key = root / "ca.key"
        self.ca_crt = folder / "ca.crt"
        self.site_key = root / "site.key"
        self.next_site_key = root / "site.key.next"
        self.site_jwk = folder / "site.jwk"
        self.master_key = root / "master.key"
        self.tokens = folder / "tokens.json"
        self.trust = folder / "trust.jws"
        self.newer_list = folder / "newer-trust.jws"  # what the broker retained, where this folder was put back
        self.token_record = folder / "token-list.json"
        self.token_list = folder / "token-list.jws"
        self.audit = folder / "audit.log"
        self.explanation = folder / "README.txt"
        self.units = folder / "units"
        self.programs = folder / "programs"
        self.clients = folder / "clients"
        self.broker = folder / "broker"
        self.crl = self.broker / "ca.crl"
        self.broker_crt = self.broker / "broker.crt"
        self.broker_record = folder / "broker.json"
        self.brokers_crl = folder / REVOKED_BROKERS
        self.service = folder / "service"
        self.issuing_key = self.service / "issuing.key"
        self.issuing_crt = self.service / "issuing.crt"
        self.mandated_key = self.service / "service.key"
        self.mandate = self.service / "mandate.jws"
        self.service_time = self.service / "time.json"
        self.epochs = self.service / "epochs"
        self.former_crl = self.service / "former.crl"
        self.policy = folder / "policy.jws"
        self.policy_issue = folder / "policy-issue.jws"
        self.configuration = folder / "configuration.json"
        self.joining = folder / "joining"
        self.sent = folder / "sent"
        self.seen = folder / "seen"

    def service_epochs(self, audience: str) -> Path:
        """Where the service's epoch keys of one audience lie."""
        return self.epochs / f"{audience}.json"

    @property
    def known_broker(self) -> BrokerRecord | None:
        """What is known of the broker; None before it got its certificate."""
        return load(self.broker_record, BrokerRecord) if self.broker_record.exists() else None

    def reached_broker(self) -> BrokerRecord:
        """The broker, with the hosts that it is reached at; RefusedError where it was not made yet.

        Asked before the keys of the service: for a new site the same command makes those, too.
        """
        broker = self.known_broker
        if broker is None or not broker.hosts:
            raise RefusedError("the site does not know where its broker is: run 'postern site broker HOST' first")
        return broker

    @property
    def broker_kind(self) -> BrokerKind:
        """What the broker is; Mosquitto until somebody said otherwise."""
        broker = self.known_broker
        return "mosquitto" if broker is None else broker.kind

    @property
    def broker_port(self) -> int:
        """Where the broker listens; at the usual port until somebody said otherwise."""
        broker = self.known_broker
        return BROKER_PORT if broker is None else broker.port

    @property
    def acl(self) -> Path:
        """What names the broker's users and says what each may."""
        return self.broker / _RULES[self.broker_kind]

    @property
    def delegated(self) -> bool:
        """Whether the site's service was given its keys and mandate."""
        return self.mandate.exists()

    def unit(self, unit: str) -> Path:
        return self.units / f"{unit}.json"

    def sent_certificate(self, name: str) -> Path:
        """Where the newest certificate of a unit or program lies until it has taken it; both are one set of names."""
        return self.sent / f"{name}.crt"

    def sent_keys(self, name: str) -> Path:
        """Where the newest epoch keys of a program that may resolve lie, sealed to it."""
        return self.sent / f"{name}.keys"

    def program(self, name: str) -> Path:
        return self.programs / f"{name}.json"

    def client(self, name: str) -> Path:
        """Give the folder that is carried to a program."""
        return self.clients / name

    def all_units(self) -> tuple[UnitRecord, ...]:
        """Read all units, in order of their names. Raises KeyStoreError."""
        return tuple(load(path, UnitRecord) for path in files_in(self.units, ".json"))

    def all_clients(self) -> tuple[ClientRecord, ...]:
        """Read all programs, in order of their names. Raises KeyStoreError."""
        return tuple(load(path, ClientRecord) for path in files_in(self.programs, ".json"))

    def never_taken(self, unit: str) -> bool:
        """Whether nothing is known of a unit that would tell that it reads numbered issues of epoch keys."""
        record = load(self.unit(unit), UnitRecord)
        return record.taken == 0 and record.issued == 1

    def make_folders(self) -> None:
        """Make the folders in this one; those that are there are kept.

        Those of units and programs only for a new site: of one that lost them, empty ones would shut everybody out.
        """
        kept = (self.units, self.programs) if self.record.exists() else ()
        for folder in (self.folder, *self.folders):
            if folder not in kept:
                make_private_folder(folder)

    @property
    def own(self) -> tuple[Path, ...]:
        """Each file and folder of the site's folder, there or not yet: nothing else is written to these places."""
        return tuple(path for path in vars(self).values() if path != self.folder)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Those that a site has from its first moment on."""
        further = (self.clients, self.broker, self.epochs, self.joining, self.sent, self.seen)
        return (self.units, self.programs, *further)
