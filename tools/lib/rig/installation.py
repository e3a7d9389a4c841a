# SPDX-License-Identifier: Apache-2.0
"""A unit's folder made from a seed: the same keys each time, so that the same scenario signs the same bytes."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from agent.audit.ageing import Ageing
from agent.camera.scene.script import SceneScript
from agent.clock import Clock
from agent.config.load import load_config
from agent.config.schema import Config
from agent.disk.files import make_private_folder, write_atomic
from agent.errors import ConfigError
from agent.gallery.template import Vector
from agent.keys import SigningKey, UnitKey, save_private_key
from agent.match.policy import sign_policy
from agent.notices.notice import notice_id
from agent.outbox.epoch_keys import save
from agent.protocol.epoch_keys import derive_epoch_key
from agent.protocol.pseudonym import EpochKey, epochs_from
from agent.protocol.trust import TrustedUnits, TrustList, UnitKeyEntry
from agent.site.authority import Authority, pem
from agent.unit.assemble import load_key
from agent.unit.key_files import KeptFiles, UnitFiles
from agent.unit.models import Models, load_models
from agent.unit.stores import open_gallery
from tools.lib.demo.site import ROOT, SITE, UNIT, DemoSite
from tools.lib.rig.enrolment import captures, consent, policy
from tools.lib.rig.tokens import Desk, Token, in_view

# Order of the group of P-256 (FIPS 186-5, SP 800-186 sec. 3.2.1.3).
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
AUDIENCE = "access"


class Installation:
    """A site and a unit in ``folder``, both made from ``seed``; ``random`` is the unit's own chance from then on."""

    def __init__(self, folder: Path, *, seed: int, start: datetime, changes: Mapping[str, Any], scene: Path) -> None:
        self._seed, self._start = seed, start
        self._chance = random.Random(seed)
        self._files: list[Path] = []
        self.folder = folder
        self.site_key = self._key("site", SigningKey)
        self._master = self._key("master", SigningKey)
        self.unit_key = self._key("unit", UnitKey)
        make_private_folder(folder / "keys")
        shutil.copytree(ROOT / "models", folder / "models")
        self._write_keys()
        self.configure(changes, scene)

    def random(self, count: int) -> bytes:
        """Bytes of the unit's chance, the same sequence each time."""
        return self._chance.randbytes(count)

    @property
    def config_file(self) -> Path:
        return self.folder / "config.yaml"

    def config(self) -> Config:
        """What the unit's file says now; raises ConfigError."""
        config = load_config(self.config_file)
        self._files = [file.relative_to(self.folder.resolve()) for file in stores(config)]
        return config

    def stores(self) -> list[Path]:
        """Outbox, gallery and audit log, by the last file that could be read: a scenario may have spoiled it since."""
        return [self.folder / file for file in self._files]

    def configure(self, changes: Mapping[str, Any], scene: Path) -> None:
        """Write the unit's file: the demo's, with ``changes`` by dotted key."""
        DemoSite(self.folder).write_config(self.config_file, port=8883, protocol="5", scene=scene)
        self.change({"models.manifest": "models/manifest.yaml", "broker.home_assistant": False, **changes})

    def change(self, changes: Mapping[str, Any]) -> None:
        """Set dotted keys of the unit's file."""
        content: dict[str, Any] = yaml.safe_load(self.config_file.read_text())
        apply(content, changes)
        self.config_file.write_text(yaml.safe_dump(content, sort_keys=False))

    def trusted(self) -> TrustedUnits:
        """The site's list of units."""
        entry = UnitKeyEntry(jwk=self.unit_key.public_jwk(), status="active")
        issued = "2026-01-01T00:00:00Z"
        return TrustedUnits(TrustList(version=1, site=SITE, serial=1, issued_at=issued, units={UNIT: (entry,)}))

    def epoch_key(self, epoch: str) -> EpochKey:
        """By which the site resolves the pseudonyms of an epoch."""
        return derive_epoch_key(self._master, site=SITE, audience=AUDIENCE, epoch=epoch)

    def enrol(self, who: str, *, clock: Clock, expires_at: datetime | None) -> str:
        """Hold an enrolment session; the subject id in hex."""
        config = self.config()
        models = load_models(config)
        record = consent(self._start, expires_at, signed=who, notice=notice_id(config))
        vectors = _captures(who, models)
        Ageing(clock, KeptFiles(config.outbox.path).time).confirm(clock.now())  # as an installer does
        with open_gallery(config, load_key(config), clock, random=self.random) as gallery:
            subject = gallery.enrol([vector.copy() for vector in vectors], consent=record, model=models.embedder.model)
        return subject.hex()

    def issue_tokens(self, tokens: Sequence[Token], script: SceneScript) -> tuple[SceneScript, dict[bytes, str]]:
        """Tokens of people who are not enrolled here: the scene in which they are held up, and whose they are."""
        people: dict[bytes, str] = {}
        if not tokens:
            return script, people
        key = hashlib.sha256(f"postern rig {self._seed} tokens".encode()).digest()
        desk = Desk(self._key("desk", UnitKey), self.site_key, start=self._start, seed_key=key)
        models = load_models(self.config())
        for token in tokens:
            chance = hashlib.sha256(f"postern rig {self._seed} token {len(people)}".encode()).digest()
            subject, made = desk.issue(token, _captures(token.who, models), model=models.embedder.model, chance=chance)
            script, people[subject] = in_view(script, token, made), token.who
        desk.hand_over(UnitFiles(self.folder / "keys"))
        return script, people

    def copy_to(self, folder: Path) -> None:
        """Go on in a copy: what the disk holds when the process dies here."""
        shutil.copytree(self.folder, folder)
        self.folder = folder

    def _key(self, label: str, kind: type[SigningKey]) -> Any:  # noqa: ANN401 - of the kind that was asked for
        digest = hashlib.sha512(f"postern rig {self._seed} {label}".encode()).digest()
        return kind(ec.derive_private_key(int.from_bytes(digest, "big") % (P256_ORDER - 1) + 1, ec.SECP256R1()))

    def _write_keys(self) -> None:
        keys = self.folder / "keys"
        self.unit_key.save(keys / "unit.key")
        write_atomic(keys / "site.jwk", json.dumps(self.site_key.public_jwk()).encode())
        save(keys / "epoch-keys.json", [self.epoch_key(epoch) for epoch in epochs_from(self._start)])
        authority = Authority.create(SITE, self._start)
        tls = ec.generate_private_key(ec.SECP256R1())
        save_private_key(tls, keys / "tls.key")
        write_atomic(keys / "tls.crt", pem(authority.issue_client(UNIT, tls.public_key(), self._start)))
        write_atomic(keys / "ca.crt", pem(authority.certificate))
        write_atomic(self.folder / "policy.jws", sign_policy(policy(), self.site_key).encode())


def apply(content: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Set dotted keys in a nested mapping; None removes a key. Raises ConfigError where the path ends in a value."""
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        inner: Any = content
        for depth, name in enumerate(path, start=1):
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise ConfigError(
                    f"configuration: {dotted}: '{'.'.join(path[:depth])}' has a value and no keys below it"
                )
        if value is None:
            inner.pop(last, None)
        else:
            inner[last] = value


def stores(config: Config) -> list[Path]:
    """Outbox, gallery and audit log of a unit."""
    return [config.outbox.path, config.gallery.path, config.audit.path]


def disk_bytes(files: Sequence[Path]) -> int:
    """What ``stores`` of a stopped unit take; not the outbox's reserve, which never changes."""
    logs = [file.with_name(f"{file.name}-wal") for file in files]
    return sum(file.stat().st_size for file in (*files, *logs) if file.exists())


_TAKEN: dict[tuple[str, str, str], list[Vector]] = {}


def _captures(who: str, models: Models) -> list[Vector]:
    """Captures of a demo person by these models; taken once a process."""
    key = (who, models.detector.engine.digest, models.embedder.model)
    if key not in _TAKEN:
        _TAKEN[key] = captures(who, models)
    return _TAKEN[key]
