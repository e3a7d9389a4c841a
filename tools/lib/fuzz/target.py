# SPDX-License-Identifier: Apache-2.0
"""The command side of a unit as ``agent.unit`` assembles it, without camera and broker, and a look at its state."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from agent.audit.log import AuditLog
from agent.clock import SimulatedClock
from agent.embed.records import Crop, Embedding
from agent.gallery.consent import ConsentRecord
from agent.gallery.keyring import FileKeyring
from agent.gallery.store import GalleryStore
from agent.keys import PublicKey, UnitKey, load_public_key
from agent.match.policy import Policy, TailPoint, Votes, sign_policy
from agent.outbox.draft import make_unit
from agent.outbox.epoch_keys import EpochKeys
from agent.outbox.queue import Outbox
from agent.protocol.receipt import RECEIPT_TYPE
from agent.site import units
from agent.site.creation import create_site
from agent.site.records import SiteFiles
from agent.unit.enrolment import LiveEnrolment, Registrar
from agent.unit.joining import install, new_unit_request
from agent.unit.key_files import UnitFiles
from agent.unit.key_rotation import KeyRotation
from agent.unit.verbs import Parts, make_handlers
from agent.uplink.commands import CommandCounter, Commands, Outcome

SITE, UNIT = "hq", "door-1"
PURPOSE = "To open a door for people who asked for it, while its commands are attacked."
MODEL = "sha256:" + "1" * 64
DIGEST = "sha256:" + "2" * 64
START = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
POLICY = Policy(1, MODEL, 1e-3, 10**6, (TailPoint(1e-2, 0.3), TailPoint(1e-4, 0.5)), 0.05, Votes(3, 5, 1500))
STEP_S = 0.25  # between payloads: the limit on floods stays out of the way


class NoCamera:
    """No frame is shown to an enrolment here."""

    def embed(self, crop: Crop) -> Embedding:
        raise AssertionError(crop)


class Target:
    """Site ``hq`` and its unit ``door-1`` below ``folder``; one person is enrolled, one event waits."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.clock = clock = SimulatedClock(START)
        self.site = SiteFiles(folder / "site")
        self.unit = UnitFiles(folder / "unit")
        create_site(self.site.folder, SITE, clock=clock)
        token = units.new_token(self.site.folder, UNIT, clock=clock)
        request = new_unit_request(self.unit.folder, SITE, UNIT, token)
        install(self.unit.folder, units.add_unit(self.site.folder, request, clock=clock), clock=clock)
        self.site_key = units.load_site_key(self.site.folder)
        self.key = UnitKey.load(self.unit.event_key)
        self.policy = self.unit.folder / "policy.jws"
        self.policy.write_text(sign_policy(POLICY, self.site_key))
        self.audit = AuditLog(folder / "audit.log", clock=clock, random=secrets.token_bytes)
        stack.callback(self.audit.close)
        self.gallery = stack.enter_context(
            GalleryStore(
                self.unit.folder / "gallery.db",
                keyring=FileKeyring(self.unit.folder / "kek", random=secrets.token_bytes),
                site=SITE,
                unit=UNIT,
                purpose=PURPOSE,
                clock=clock,
                sign=lambda payload: self.key.sign_detached(payload, typ=RECEIPT_TYPE),
            )
        )
        self.outbox = stack.enter_context(
            Outbox(self.unit.folder / "outbox.db", signer=self.key, source=f"/postern/{SITE}/{UNIT}", clock=clock)
        )
        self.outbox.append(make_unit("started", now=clock.now(), clock="synced"))
        self.epoch_keys = EpochKeys.load(self.unit.epoch_keys)
        self.paused = threading.Event()
        self.enrolment = LiveEnrolment(self._registrar(), clock=clock, tell=lambda *_: None)
        self.counter = CommandCounter(self.unit.folder / "commands.json")
        self.outcomes: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.obeyed = self.site_key.kid
        self.commands = self._commands()
        self.subject = self.enrol()

    def enrol(self) -> str:
        """Have one person enrolled, as a live session would."""
        base = np.random.default_rng(1).normal(size=128)
        vectors = [(base + np.random.default_rng(n).normal(0, 0.1, 128)).astype(np.float32) for n in range(3)]
        unit_vectors = [(vector / np.linalg.norm(vector)).astype(np.float32) for vector in vectors]
        return self.gallery.enrol(unit_vectors, consent=self.consent(), model=MODEL).hex()

    def consent(self) -> ConsentRecord:
        """A consent that holds here and now, each on a paper of its own."""
        now = self.clock.now()
        return ConsentRecord(
            purpose=PURPOSE,
            site=SITE,
            units=(UNIT,),
            notice_version="1",
            notice_digest=DIGEST,
            evidence_digest="sha256:" + secrets.token_hex(32),
            given_at=now,
            expires_at=now + timedelta(days=30),
            age_class="of_age",
        )

    def state(self) -> tuple[object, ...]:
        """All that a command may change, cheap enough to be read around each payload."""
        return (
            self.counter.last,
            self.gallery.generation,
            self.gallery.subjects(),
            self.outbox.head(),
            self.paused.is_set(),
            self.enrolment.capturing,
            self.epoch_keys.epochs("access"),
            self.obeyed,
            sum(self.done.values()),
        )

    def files(self) -> str:
        """Digest over every byte that the unit has on disk."""
        whole = hashlib.sha256()
        for path in sorted(path for path in self.unit.folder.rglob("*") if path.is_file()):
            whole.update(path.name.encode() + b"\0" + path.read_bytes())
        return whole.hexdigest()

    def _registrar(self) -> Registrar:
        return Registrar(
            gallery=self.gallery,
            audit=self.audit,
            embedder=NoCamera(),
            model=MODEL,
            policy=POLICY,
            site=SITE,
            unit=UNIT,
            purpose=PURPOSE,
            notice_version="1",
            notice=None,
            clock=self.clock,
            random=secrets.token_bytes,
        )

    def _commands(self) -> Commands:
        rotation = KeyRotation(
            keys=self.unit.folder,
            policy=self.policy,
            site=SITE,
            unit=UNIT,
            audience="access",
            epoch_keys=self.epoch_keys,
            gallery=self.gallery,
            audit=self.audit,
            clock=self.clock,
            on_site_key=self._obey,
        )
        handlers = make_handlers(
            Parts(
                gallery=self.gallery,
                outbox=self.outbox,
                measured_to=POLICY.measured_references,
                health=lambda: b'{"fps_milli":1}',
                facts={"profile": "demo"},
                self_test=lambda: {"models": "ok"},
                forget_erased=lambda: None,
                paused=self.paused,
                enrolment=self.enrolment,
                rotate=rotation.rotate,
            )
        )
        return Commands(
            site=SITE,
            unit=UNIT,
            key=load_public_key(self.unit.site_jwk),
            counter=self.counter,
            clock=self.clock,
            random=secrets.token_bytes,
            handlers=handlers,
            on_outcome=self._note,
        )

    def _obey(self, key: PublicKey) -> None:
        self.obeyed = key.kid
        self.commands.obey(key)

    def _note(self, outcome: Outcome) -> None:
        self.outcomes[outcome.error or "done"] += 1
        if outcome.error is None:
            self.done[outcome.verb] += 1

    def deliver(self, verb: str, payload: bytes) -> bytes | None:
        """Let a moment pass and hand over one payload."""
        self.clock.advance(STEP_S)
        return self.commands.handle(verb, payload)

    def valid(self, verb: str, args: dict[str, Any]) -> dict[str, Any]:
        """A command of ``verb`` that would be obeyed now."""
        now = int(self.clock.now().timestamp())
        return {
            "site": SITE,
            "unit": UNIT,
            "verb": verb,
            "cmd_seq": self.counter.last + 1,
            "issued_at": now,
            "expires_at": now + 60,
            "transaction": f"t-{self.counter.last + 1}",
            "args": args,
        }
