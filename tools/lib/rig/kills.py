# SPDX-License-Identifier: Apache-2.0
"""kill -9 at random moments of a unit's life: enrol, match, publish, erase; then what was promised against what is.

A worker is forked, works on the gallery and the outbox as a unit does, says what it promised when it had promised it,
and is killed. What must hold after each death: no signed event is lost, none is taken twice, no number is used twice,
the chain holds, who was enrolled is there, who was erased is not in any byte, and both stores open clean.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import yaml

from agent.clock import SystemClock
from agent.config.load import load_config
from agent.config.schema import Config
from agent.errors import VerificationError
from agent.keys import UnitKey
from agent.match.policy import parse_policy
from agent.notices.notice import notice_id
from agent.outbox.draft import Draft
from agent.outbox.queue import MAX_PENDING
from agent.protocol.names import round_down
from agent.protocol.subject import SubjectId
from agent.protocol.trust import TrustedUnits, TrustList, UnitKeyEntry
from agent.subscribe.verify import Verifier
from agent.unit.assemble import load_key, make_registrar
from agent.unit.forget import Forgetting, owner_of
from agent.unit.stores import Stores, open_stores
from tools.lib.demo.site import PURPOSE, ROOT, SITE, UNIT
from tools.lib.no_camera import NoCamera
from tools.lib.rig import kill_run
from tools.lib.rig.enrolment import DIGEST, consent
from tools.lib.rig.nursery import ENDS, KILLED, Nursery, nurse, say

MODEL = "sha256:" + "5a" * 32
POLICY = msgspec.structs.replace(parse_policy((ROOT / "models" / "policy.json").read_bytes()), model=MODEL)
MAX_HELD = 6  # references of a worker's gallery: it erases as often as it enrols
MAX_PATIENCE = 30  # lines that a worker may say before it is killed
LAST_BREATH_S = 0.004  # within which the kill comes: anywhere in the next step


def write_config(folder: Path) -> Config:
    """The configuration of the worker's unit: the demo's, with everything in ``folder``, where its key lies."""
    data = yaml.safe_load((ROOT / "deploy" / "config.example.yaml").read_text())
    data["profile"], data["purpose"] = "demo", PURPOSE
    data["unit"] |= {"site": SITE, "id": UNIT}
    for section, name in (("gallery", "gallery.db"), ("outbox", "outbox.db"), ("audit", "audit.jsonl")):
        data[section]["path"] = str(folder / name)
    data["keys"]["folder"] = str(folder)
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(data))
    return load_config(file)


def opened(config: Config) -> AbstractContextManager[Stores]:
    """The worker's stores, opened as the service opens them."""
    return open_stores(config, load_key(config), SystemClock())


class Worker:
    """One life; each line it says is one write, which a pipe takes whole or not at all."""

    def __init__(self, config: Config, stores: Stores) -> None:
        self._dice = random.Random()
        self._rng = np.random.default_rng()
        self._gallery, self._outbox = stores.gallery, stores.outbox
        self._notice = notice_id(config)
        self._forgetting = Forgetting(stores.gallery, stores.outbox, stores.audit, stores.rights)
        self._forgetting.settle()  # as a start of the agent finishes what was cut off
        self._registrar = make_registrar(
            config, NoCamera(), POLICY, stores, clock=SystemClock(), random=secrets.token_bytes
        )

    def live(self) -> None:
        """Until it is killed."""
        while True:
            held = [one.subject for one in self._gallery.list()]
            if not held or (len(held) < MAX_HELD and self._dice.random() < 0.25):
                self._enrol()
            elif self._dice.random() < 0.2:
                self._erase(self._dice.choice(held))
            else:
                self._match(self._dice.choice(held))
            self._publish(self._dice.randint(0, 3))

    def _enrol(self) -> None:
        person = self._rng.normal(size=128)
        captures = [person + self._rng.normal(size=128) * 0.03 for _ in range(4)]
        vectors = [(one / np.linalg.norm(one)).astype(np.float32) for one in captures]
        record = consent(datetime.now(UTC), signed=secrets.token_hex(), notice=self._notice)
        subject = self._registrar.keep(vectors, record, None)
        say(f"enrolled {subject.hex()}")

    def _match(self, subject: SubjectId) -> None:
        facts = {"subject": "p1_" + "ab" * 16, "audience": "access", "epoch": "2026-W47", "zone": "door"}
        facts |= {"method": "face", "liveness": "not_checked", "policy": DIGEST, "model": MODEL}
        seq = self._outbox.append(
            Draft("match", round_down(datetime.now(UTC), 1), "synced", facts), owner=owner_of(subject)
        )
        say(f"signed {seq}")
        self._gallery.matched(subject)

    def _publish(self, count: int) -> None:
        for row in self._outbox.pending(count):
            say(f"published {row.payload.decode()}")
            self._outbox.acked(row.seq)

    def _erase(self, subject: SubjectId) -> None:
        say(f"asked {subject.hex()}")
        self._forgetting.erase(subject)
        say(f"erased {subject.hex()}")


def nursery(folder: Path) -> None:
    """Fork a worker for each line of standard input."""
    config = load_config(folder / "config.yaml")

    def live(_: str) -> None:
        with opened(config) as stores:
            Worker(config, stores).live()

    nurse(live)


@dataclass(slots=True)
class Books:
    """What was promised over all lives, and what did not hold."""

    verifier: Verifier
    did: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    erased: set[str] = field(default_factory=set)
    published: dict[int, bytes] = field(default_factory=dict)
    last: int = 0

    def note(self, line: str) -> None:
        """One line of a worker."""
        word, _, rest = line.partition(" ")
        self.did[word] += 1
        if word == "signed":
            self.check(int(rest) > self.last, f"number {rest} was given twice")
            self.last = int(rest)
        elif word == "published":
            self.receive(rest.encode())
        elif word in {"enrolled", "asked", "erased"}:
            {"enrolled": self.held, "asked": self.asked, "erased": self.erased}[word].add(rest)

    def receive(self, payload: bytes) -> None:
        """What a subscriber does with at-least-once delivery; a refused event counts as if it had never come."""
        try:
            data = json.loads(payload)["data"]
            seq, kind = int(data["seq"]), data["event_type"]
        except (ValueError, KeyError, TypeError):
            self.did["refused"] += 1
            self.wrong.append(f"{len(payload)} bytes were published that are no event")
            return
        if seq in self.published:
            self.check(self.published[seq] == payload, f"number {seq} was used twice")
            self.did["resent"] += 1
            return
        topic = f"postern/{SITE}/{UNIT}/backlog/{kind}"
        try:
            self.verifier.check(topic, payload, datetime.now(UTC), backlog=True)
        except VerificationError as error:
            self.did["refused"] += 1
            self.wrong.append(f"event {seq} was refused as {error.reason}: {error}")
            return
        self.published[seq] = payload

    def check(self, holds: bool, sentence: str) -> None:  # noqa: FBT001 - a condition and what it means
        if not holds:
            self.wrong.append(sentence)

    def look(self, config: Config) -> None:
        """Open the stores as the next start would, and compare."""
        finished: set[str] = set()
        with opened(config) as stores:
            there = {one.subject.hex() for one in stores.gallery.list()}
            matching = {subject.hex() for subject in stores.gallery.references(MODEL).subjects}
            damaged = stores.gallery.damaged
            Forgetting(
                stores.gallery,
                stores.outbox,
                stores.audit,
                stores.rights,
                on_erased=lambda one: finished.add(one.subject.hex()),
            ).settle()
        self.erased |= finished
        self.check(self.held - self.asked <= there, "somebody who was enrolled is gone")
        self.check(not there & self.erased, "somebody who was erased is back")
        self.check(matching == there and not damaged, "a reference does not open")
        content = b"".join(file.read_bytes() for file in config.keys.folder.rglob("*") if file.is_file())
        traces = [subject for subject in self.erased if bytes.fromhex(subject) in content]
        self.check(not traces, "an erased subject id is still on the disk")
        self.held, self.asked = there, set()

    def close(self, config: Config) -> None:
        """Deliver what waits, and balance."""
        with opened(config) as stores:
            head = stores.outbox.head().seq
            while rows := stores.outbox.pending(MAX_PENDING):
                for row in rows:
                    self.receive(row.payload)
                stores.outbox.acked(*(row.seq for row in rows))
        self.check(self.last <= head, "a signed event is not in the chain")
        lost = sum(gap.count for gap in self.verifier.missing(UNIT))
        self.check(lost == 0, f"{lost} signed events never came and nobody owned up to them")


def open_books(key: UnitKey) -> Books:
    """Books of a site that trusts the unit with ``key`` and nobody else."""
    entry = UnitKeyEntry(jwk=key.public_jwk(), status="active")
    trusted = TrustList(version=1, site=SITE, serial=1, issued_at="2026-01-01T00:00:00Z", units={UNIT: (entry,)})
    return Books(Verifier(TrustedUnits(trusted)))


def run(folder: Path, kills: int, *, seed: int) -> Books:
    """Kill ``kills`` workers in ``folder``."""
    key = UnitKey.generate()
    key.save(folder / "unit.key")
    config = write_config(folder)
    books, dice = open_books(key), random.Random(seed)
    with Nursery("-m", "tools.lib.rig.kills", "--nursery", folder) as workers:
        for _ in range(kills):
            _kill_one(workers, books, dice)
            books.look(config)
    books.close(config)
    return books


def _kill_one(workers: Nursery, books: Books, dice: random.Random) -> None:
    """Let one worker live for some lines, or none: then it dies while it opens its files."""
    workers.birth("")
    worker, said, patience = 0, 0, dice.choice([0, dice.randint(1, MAX_PATIENCE)])
    while (line := workers.hear()) not in ENDS:
        if line.startswith("born "):
            worker = int(line[5:])
        else:
            books.note(line)
            said += 1
        if worker and said >= patience:
            time.sleep(dice.random() * LAST_BREATH_S)
            with suppress(ProcessLookupError):  # it ended by itself meanwhile, as its nurse will say
                os.kill(worker, signal.SIGKILL)
            patience = sys.maxsize
    books.check(line == KILLED, "a worker ended by itself: its errors stand above")


def main(words: Sequence[str] | None = None) -> int:
    """``tools/rig kills``: exit status 0 only if every promise held."""

    def told(folder: Path, kills: int, seed: int) -> tuple[dict[str, int], list[str]]:
        books = run(folder, kills, seed=seed)
        return {"kills": kills, **dict(sorted(books.did.items())), "events": len(books.published)}, books.wrong

    well = "nothing lost, nothing doubled, no number used twice, both stores open clean"
    return kill_run.main("kills", __doc__, words, nursery=nursery, run=told, well=well)


if __name__ == "__main__":
    sys.exit(main())
