# SPDX-License-Identifier: Apache-2.0
"""A unit as its site knows it: real keys, real commands, real health; no camera, no models, no gallery."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import rfc8785
from cryptography import x509

from agent.audit.log import AuditLog
from agent.clock import Clock
from agent.keys import UnitKey, load_public_key
from agent.mqtt.credentials import Credentials
from agent.outbox.epoch_keys import EpochKeys
from agent.protocol.command import RENEW
from agent.protocol.health import SIGNATURE_TYPE, ConfigurationState, EventHead, Health
from agent.unit.endings import Endings
from agent.unit.key_files import UnitFiles
from agent.unit.key_rotation import KeyRotation
from agent.unit.mandate import take_mandate
from agent.uplink.answers import Answers
from agent.uplink.commands import CommandCounter, Commands
from tools.lib.lifetime.shown import Shown

AUDIENCE = "access"
SUBJECT = bytes(16)
NO_EVENT = "sha256:" + "0" * 64


class FleetUnit:
    """One unit that joined; a new object is a unit that was started anew."""

    def __init__(self, keys: Path, site: str, name: str, clock: Clock) -> None:
        self.files, self.site, self.name, self.clock = UnitFiles(keys), site, name, clock
        self._key = UnitKey.load(self.files.event_key)
        self.epoch_keys = EpochKeys.load(self.files.epoch_keys)
        self._boot = os.urandom(8).hex()
        self._began_ns = clock.monotonic_ns()
        self._audit = AuditLog(keys / "audit.log", clock=clock, random=os.urandom)
        rotation: Any = KeyRotation(
            keys=keys,
            policy=keys / "policy.jws",
            site=site,
            unit=name,
            audience=AUDIENCE,
            epoch_keys=self.epoch_keys,
            gallery=None,  # type: ignore[arg-type]  # no renewal by the service reaches it
            audit=self._audit,
            clock=clock,
            on_site_key=lambda _: None,
        )
        self._commands = Commands(
            site=site,
            unit=name,
            key=load_public_key(self.files.site_jwk),
            counter=CommandCounter(None),
            answers=Answers(site, name, self._key),
            clock=clock,
            random=os.urandom,
            on_outcome=lambda _: None,
            on_mandate=lambda number: take_mandate(self.files.mandate, number),
        )
        self._commands.bind({RENEW: lambda command: rotation.renew(command.args)})
        self._shown = Shown(self.credentials, clock, name=name)
        self._endings = Endings(self.credentials, clock, unit=name, weeks=self.weeks, tokens=lambda: None)

    @property
    def credentials(self) -> Credentials:
        """What it shows the broker."""
        return Credentials(self.files.ca_crt, self.files.tls_crt, self.files.tls_key)

    def weeks(self) -> int:
        """Weeks from now on that there are keys for."""
        return self.epoch_keys.left(AUDIENCE, self.clock.now())

    def days(self) -> int | None:
        """Days that its certificate lasts."""
        return self._endings.days_left()

    def health(self, configuration: ConfigurationState | None = None) -> bytes:
        """What it says each minute; ``configuration`` is how its settings from afar fared."""
        report = Health(
            type="io.postern.health.v1",
            source=f"/postern/{self.site}/{self.name}",
            boot=self._boot,
            uptime_s=(self.clock.monotonic_ns() - self._began_ns) // 1_000_000_000,
            time=self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            clock=self.clock.state(),
            recognition="running",
            fps_milli=15_000,
            queue_depth=0,
            temperature_c=None,
            disk_free_bytes=1 << 30,
            head=EventHead(0, NO_EVENT),
            epochs=self.weeks(),
            certificate_days=self.days(),
            configuration=configuration,
        )
        members: dict[str, Any] = msgspec.to_builtins(report)
        return rfc8785.dumps({**members, "sig": self._key.sign_detached(rfc8785.dumps(members), typ=SIGNATURE_TYPE)})

    def handle(self, verb: str, payload: bytes) -> bytes | None:
        """What it says to a command."""
        return self._commands.handle(verb, payload)

    def check(self) -> None:
        """Announce somebody: KeyStoreError where there is no key for this week, or no certificate the broker takes."""
        now = self.clock.now()
        self.epoch_keys.pseudonym(SUBJECT, AUDIENCE, now, settled=now)
        self._shown.check()

    def serial(self) -> int:
        """Number of its certificate."""
        return x509.load_pem_x509_certificate(self.files.tls_crt.read_bytes()).serial_number

    def close(self) -> None:
        """End this run of it."""
        self._audit.close()
