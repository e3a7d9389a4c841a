# SPDX-License-Identifier: Apache-2.0
"""No order of commands enrols anybody without a consent that holds, or keeps anything past withdrawal or retention.

A seeded driver plays random commands, restarts and deaths in mid-erasure against a whole unit: gallery, waiting events
and audit log, as the service opens them, with ``Registrar`` making the references as it does for service and command
line. It compares with a model that is a few dates, and searches the unit's files
for whom should be gone. POSTERN_COMMANDS is how many commands are played (default 400; the long form 100000).
``tests/unit/test_gallery_consent_is_binding.py`` does the same to the gallery alone, and shrinks what it finds.
"""

from __future__ import annotations

import os
import random
import re
import secrets
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.clock import SimulatedClock
from agent.errors import ConsentError, RefusedError
from agent.gallery.consent import MAX_CONSENT_DAYS, ConsentRecord
from agent.gallery.records import TOMBSTONE_DAYS
from agent.protocol.subject import SubjectId
from agent.unit.assemble import make_registrar
from agent.unit.forget import Forgetting, owner_of
from tests.simulators.auditor import audited
from tests.simulators.gallery_life import EVIDENCE, MODEL, captures, unit_vector
from tests.simulators.signing_unit import match_draft
from tests.simulators.unit_life import agreed, opened, write_unit
from tests.unit.test_match_policy import policy
from tools.lib.no_camera import NoCamera

COMMANDS = int(os.environ.get("POSTERN_COMMANDS", "400"))
MOST = 12  # people held at once: more only make each command slower
SEARCH_EVERY = 50  # commands
UNUSED_DAYS = 365  # of the example configuration

pytestmark = pytest.mark.timeout(120 + COMMANDS // 5)

# What makes a consent hold nowhere, or not here and not now; ``days`` and ``ago`` are its length and its age.
INVALID: dict[str, dict[str, object]] = {
    "another site": {"site": "annex"},
    "another unit": {"units": ("door-9",)},
    "another purpose": {"purpose": "count how many hours each of them spends inside the building"},
    "another notice": {"notice_digest": EVIDENCE},
    "another version": {"notice_version": "2020-01"},
    "no guardian": {"age_class": "under_16"},
    "expired": {"days": 10, "ago": 11},
    "not begun": {"days": 10, "ago": -1},
    "too long": {"days": MAX_CONSENT_DAYS + 1, "ago": 0},
    "ends before it begins": {"days": -1, "ago": 0},
}


class Driver:
    """One unit's life; ``held`` is the model: when each consent ends, and the day of the last use."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chance, self.rng = folder / "unit", random.Random(seed), np.random.default_rng(seed)
        self.clock = SimulatedClock()
        self.config = write_unit(folder / "config.yaml", self.folder)
        self.held: dict[SubjectId, tuple[datetime, datetime]] = {}
        self.names: dict[SubjectId, str] = {}  # pseudonym of the event that waits
        self.papers: dict[SubjectId, ConsentRecord] = {}  # what each agreed to last
        self.faces: dict[SubjectId, np.ndarray] = {}  # whose reference it is stays theirs
        self.spent: list[tuple[ConsentRecord, datetime]] = []  # what may not be used again, and since when
        self.gone: dict[SubjectId, datetime] = {}
        self.unsearched: set[bytes] = set()
        self.played: Counter[str] = Counter()
        self.open()

    def open(self) -> None:
        self.stack = ExitStack()
        self.stores = self.stack.enter_context(opened(self.config, self.clock))
        self.forgetting = Forgetting(self.stores.gallery, self.stores.outbox, self.stores.audit, self.stores.rights)
        self.forgetting.settle()
        self.stores.ageing.confirm(self.clock.now())  # the site says so: a start after months does not destroy at once
        self.forgetting.sweep(self.clock.now())
        self.registrar = make_registrar(
            self.config, NoCamera(), policy(model=MODEL), self.stores, clock=self.clock, random=secrets.token_bytes
        )

    # -- commands ------------------------------------------------------------------------------------

    def enrol(self) -> None:
        if len(self.held) < MOST:
            self._enrol(None)

    def renew(self) -> None:
        subject = self._anybody()
        if subject is not None:
            self._enrol(subject)

    def enrol_without_consent(self) -> None:
        changes = dict(self.chance.choice(list(INVALID.values())))
        now = self.clock.now()
        if "ago" in changes:
            given_at = now - timedelta(days=changes.pop("ago"))  # type: ignore[arg-type]
            ends = given_at + timedelta(days=changes.pop("days"))  # type: ignore[arg-type]
            changes |= {"given_at": given_at, "expires_at": ends}
        record = msgspec.structs.replace(agreed(self.config, self.clock), **changes)
        subject = self.chance.choice([None, self._anybody()])
        self._refused(record, subject)

    def same_consent_again_after_withdrawal(self) -> None:
        known = [record for record, at in self.spent if self.clock.now() - at < timedelta(days=TOMBSTONE_DAYS)]
        if known:
            self._refused(self._typed_anew(self.chance.choice(known)), self.chance.choice([None, self._anybody()]))

    def one_consent_for_two_people(self) -> None:
        subject = self._anybody()
        if subject is not None:
            other = self.chance.choice([None, *(set(self.held) - {subject})])
            self._refused(self._typed_anew(self.papers[subject]), other)

    def return_under_the_old_id(self) -> None:
        recent = [s for s, at in self.gone.items() if self.clock.now() - at < timedelta(days=TOMBSTONE_DAYS - 1)]
        if recent:
            self._refused(agreed(self.config, self.clock), recent[-1])

    def match(self) -> None:
        subject = self._anybody()
        if subject is not None:
            name = "p1_" + self.rng.bytes(16).hex()
            self.stores.outbox.append(match_draft(self.clock, name), owner=owner_of(subject))
            self.stores.gallery.matched(subject)
            self.names[subject] = name
            self.held[subject] = (self.held[subject][0], self.clock.now())

    def deliver(self) -> None:
        self.stores.outbox.acked(*(row.seq for row in self.stores.outbox.pending(1000)))

    def withdraw(self) -> None:
        subject = self._anybody()
        if subject is not None:
            self.forgetting.erase(subject)
            self._gone(subject)

    def withdraw_and_die(self) -> None:
        subject = self._anybody()
        if subject is not None:
            self.stores.gallery.erase(subject)
            self._gone(subject)
            self.restart()

    def withdraw_nobody(self) -> None:
        with pytest.raises(RefusedError):
            self.forgetting.erase(SubjectId(self.rng.bytes(16)))

    def wait(self) -> None:
        self.clock.advance(self.chance.choice([60, 3600, 86_400, 7 * 86_400, 60 * 86_400]))
        self.forgetting.sweep(self.clock.now())
        self._expire()

    def restart(self) -> None:
        self.stack.close()
        off = timedelta(seconds=self.chance.choice([1, 3600, 30 * 86_400]))
        self.clock = SimulatedClock(self.clock.now() + off)  # a machine that starts counts from zero
        self.open()
        self._expire()

    # -- the model -----------------------------------------------------------------------------------

    def _enrol(self, subject: SubjectId | None) -> None:
        now = self.clock.now()
        ends = now + timedelta(days=self.chance.randint(1, MAX_CONSENT_DAYS))
        record = msgspec.structs.replace(agreed(self.config, self.clock), expires_at=ends)
        self.registrar.open(record, subject).cancel()
        face = unit_vector(self.rng) if subject is None else self.faces[subject]
        made = self.registrar.keep(captures(self.rng, face), record, subject)
        self.faces[made] = face
        if subject is not None:
            self.spent.append((self.papers[subject], now))
        self.held[made], self.papers[made] = (ends, now), record

    def _refused(self, record: ConsentRecord, subject: SubjectId | None) -> None:
        """Neither begin nor end of a session takes it, and the log says nothing of it."""
        head = self.stores.audit.head()
        with pytest.raises(ConsentError):
            self.registrar.open(record, subject)
        with pytest.raises(ConsentError):
            self.registrar.keep(captures(self.rng), record, subject)
        assert self.stores.audit.head() == head

    def _typed_anew(self, record: ConsentRecord) -> ConsentRecord:
        now = self.clock.now()
        return msgspec.structs.replace(record, given_at=now, expires_at=now + timedelta(days=30))

    def _anybody(self) -> SubjectId | None:
        return self.chance.choice(sorted(self.held)) if self.held else None

    def _expire(self) -> None:
        now = self.clock.now()
        for subject, (ends, used) in list(self.held.items()):
            if ends <= now or (now.date() - used.date()).days >= UNUSED_DAYS:
                self._gone(subject)

    def _gone(self, subject: SubjectId) -> None:
        del self.held[subject]
        self.spent.append((self.papers.pop(subject), self.clock.now()))
        self.gone[subject] = self.clock.now()
        self.unsearched |= {subject, subject.hex().encode()}
        if subject in self.names:
            self.unsearched.add(self.names.pop(subject).encode())

    def check(self) -> None:
        assert {one.subject for one in self.stores.gallery.list()} == set(self.held)
        assert set(self.stores.gallery.references(MODEL).subjects) == set(self.held)

    def search(self) -> None:
        """Nobody who went since the last search is found; finished files of the log were searched before."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and not re.search(r"log\.\d+$", path.name)]
        content = b"\0".join(path.read_bytes() for path in files)
        assert not [marker for marker in self.unsearched if marker in content]
        assert all(subject in content for subject in self.held)
        self.unsearched.clear()


def test_no_order_of_commands_enrols_without_consent_or_keeps_what_must_go(work: Path) -> None:
    driver = Driver(work, seed=2026)
    weights: dict[Callable[[], None], int] = {
        driver.enrol: 6,
        driver.renew: 2,
        driver.enrol_without_consent: 4,
        driver.same_consent_again_after_withdrawal: 2,
        driver.one_consent_for_two_people: 2,
        driver.return_under_the_old_id: 1,
        driver.match: 6,
        driver.deliver: 2,
        driver.withdraw: 2,
        driver.withdraw_and_die: 1,
        driver.withdraw_nobody: 1,
        driver.wait: 2,
        driver.restart: 1,
    }
    commands = driver.chance.choices(list(weights), list(weights.values()), k=COMMANDS)
    for number, command in enumerate(commands, start=1):
        command()
        driver.played[command.__name__] += 1
        driver.check()
        if number % SEARCH_EVERY == 0:
            driver.search()
    driver.search()
    audited(driver.stores.audit)
    driver.stack.close()
    assert set(driver.played) == {command.__name__ for command in weights}
    assert len(driver.gone) > COMMANDS // 20, "people came and went"
