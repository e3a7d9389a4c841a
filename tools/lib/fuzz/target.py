# SPDX-License-Identifier: Apache-2.0
"""The command side of a unit as ``agent.unit`` assembles it, without camera and broker, and a look at its state."""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml

from agent.clock import SimulatedClock
from agent.config.load import load_config
from agent.door.acts import Request
from agent.gallery.consent import ConsentRecord
from agent.match.policy import parse_policy, sign_policy
from agent.notices.notice import notice_id
from agent.outbox.draft import make_unit
from agent.outbox.epoch_keys import EpochKeys
from agent.parse.strict_json import decode
from agent.protocol.response import RESPONSE_TYPE, SignedResponse
from agent.site import units
from agent.site.creation import create_site
from agent.site.records import SiteFiles
from agent.unit.assemble import (
    command_side,
    load_key,
    make_answers,
    make_enrolment,
    make_registrar,
    make_verification,
)
from agent.unit.at_the_door import make_gate
from agent.unit.configuring import Configuring
from agent.unit.forget import Forgetting
from agent.unit.joining import install, new_unit_request
from agent.unit.key_files import KeptFiles, UnitFiles
from agent.unit.pause import Pause
from agent.unit.stores import open_stores
from agent.uplink.commands import CommandCounter
from agent.uplink.mailbox import Mailbox
from tools.lib.no_camera import NoCamera

ROOT = Path(__file__).parents[3]
SITE, UNIT = "hq", "door-1"
PURPOSE = "To open a door for people who asked for it, while its commands are attacked."
MODEL = "sha256:" + "1" * 64
START = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
POLICY = msgspec.structs.replace(parse_policy((ROOT / "models" / "policy.json").read_bytes()), model=MODEL)
STEP_S = 0.25  # between payloads: the limit on floods stays out of the way


class Target:
    """Site ``hq`` and its unit ``door-1`` below ``folder``, put together by the product's own assembly.

    One person is enrolled, one event waits.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.clock = clock = SimulatedClock(START)
        self.site = SiteFiles(folder / "site")
        self.unit = UnitFiles(folder / "unit")
        create_site(self.site.folder, SITE, clock=clock)
        token = units.new_token(self.site.folder, UNIT, clock=clock)
        request = new_unit_request(self.unit.folder, SITE, UNIT, token)
        install(self.unit.folder, units.add_unit(self.site.folder, request, clock=clock), clock=clock)
        self.site_key = units.load_site_key(self.site.folder)
        self.config = load_config(_write_config(folder, self.unit.folder))
        self.config.match.policy.write_text(sign_policy(POLICY, self.site_key))
        self.event_key = load_key(self.config)
        self.stores = stack.enter_context(open_stores(self.config, self.event_key, clock))
        self.gallery, self.outbox = self.stores.gallery, self.stores.outbox
        self.outbox.append(make_unit("started", now=clock.now(), clock="synced"))
        self.epoch_keys = EpochKeys.load(self.unit.epoch_keys)
        self.paused = Pause(KeptFiles(self.config.outbox.path).pause)
        registrar = make_registrar(
            self.config, NoCamera(), POLICY, self.stores, clock=clock, random=secrets.token_bytes
        )
        answers = make_answers(self.config, self.event_key)
        self.enrolment = make_enrolment(
            self.config,
            registrar,
            make_gate(self.config),
            Mailbox(),
            answers,
            clock=clock,
            random=secrets.token_bytes,
        )
        self.verification = make_verification(Mailbox(), clock, answers)
        self.configuring = Configuring(self.config, clock)
        self.outcomes: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.commands = command_side(
            self.config,
            self.stores,
            Forgetting(self.gallery, self.outbox, self.stores.audit, self.stores.rights),
            policy=POLICY,
            detector=POLICY.detectors[0],
            configuring=self.configuring,
            epoch_keys=self.epoch_keys,
            enrolment=self.enrolment,
            verification=self.verification,
            request=Request(),
            paused=self.paused,
            health=lambda: b'{"fps_milli":1}',
            log=self.stores.audit.append,
            answers=answers,
            clock=clock,
            random=secrets.token_bytes,
        ).commands
        self.subject = self.enrol()

    def enrol(self) -> str:
        """Have one person enrolled, as a live session would."""
        base = np.random.default_rng(1).normal(size=128)
        vectors = [(base + np.random.default_rng(n).normal(0, 0.1, 128)).astype(np.float32) for n in range(3)]
        unit_vectors = [(vector / np.linalg.norm(vector)).astype(np.float32) for vector in vectors]
        return self.gallery.enrol(unit_vectors, consent=self.consent(), model=MODEL).hex()

    def consent(self) -> ConsentRecord:
        """A consent that holds here and now, each on a paper of its own."""
        now, notice = self.clock.now(), notice_id(self.config)
        return ConsentRecord(
            purpose=PURPOSE,
            site=SITE,
            units=(UNIT,),
            notice_version=notice.version,
            notice_digest=notice.digest,
            evidence_digest="sha256:" + secrets.token_hex(32),
            given_at=now,
            expires_at=now + timedelta(days=30),
            age_class="of_age",
        )

    @property
    def last_number(self) -> int:
        """The highest ``cmd_seq`` that the unit acted on, as it stands on disk."""
        return CommandCounter(self.config.outbox.path.with_name("commands.json")).last

    def state(self) -> tuple[object, ...]:
        """All that a command may change, cheap enough to be read around each payload."""
        return (
            self.last_number,
            self.gallery.subjects(),
            self.outbox.head(),
            self.paused.is_set(),
            self.enrolment.capturing,
            self.verification.subject,
            self.epoch_keys.epochs("access"),
            self.unit.site_jwk.read_bytes(),
            sum(self.done.values()),
        )

    def files(self) -> str:
        """Digest over every byte that the unit has on disk."""
        whole = hashlib.sha256()
        for path in sorted(path for path in self.unit.folder.rglob("*") if path.is_file()):
            whole.update(path.name.encode() + b"\0" + path.read_bytes())
        return whole.hexdigest()

    def deliver(self, verb: str, payload: bytes) -> bytes | None:
        """Let a moment pass and hand over one payload."""
        self.clock.advance(STEP_S)
        answer = self.commands.handle(verb, payload)
        if answer is not None:
            content = self.event_key.public.verify(answer.decode(), typ=RESPONSE_TYPE)
            told = decode(content, SignedResponse, len(content))
            self.outcomes[told.error or "done"] += 1
            if told.error is None:
                self.done[verb] += 1
        return answer

    def valid(self, verb: str, args: dict[str, Any]) -> dict[str, Any]:
        """A command of ``verb`` that would be obeyed now."""
        now = int(self.clock.now().timestamp())
        return {
            "site": SITE,
            "unit": UNIT,
            "verb": verb,
            "cmd_seq": self.last_number + 1,
            "issued_at": now,
            "expires_at": now + 60,
            "transaction": f"t-{self.last_number + 1}",
            "args": args,
        }


def _write_config(folder: Path, unit: Path) -> Path:
    """The example configuration, with everything below ``folder``."""
    data = yaml.safe_load((ROOT / "deploy" / "config.example.yaml").read_text())
    data["purpose"], data["profile"] = PURPOSE, "demo"
    data["unit"] |= {"site": SITE, "id": UNIT}
    data["models"]["manifest"] = str(ROOT / "models" / "manifest.yaml")
    data["gallery"]["path"], data["outbox"]["path"] = str(unit / "gallery.db"), str(unit / "outbox.db")
    data["audit"]["path"] = str(folder / "audit.log")  # elsewhere: refusals are written down, and nothing else may be
    data["match"]["policy"], data["keys"]["folder"] = str(unit / "policy.jws"), str(unit)
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(data))
    return file
