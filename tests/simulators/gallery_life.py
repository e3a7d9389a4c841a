# SPDX-License-Identifier: Apache-2.0
"""Parts that gallery tests share: people made of random vectors, consents, and a store of one unit.

As a program, ``python -m tests.simulators.gallery_life FOLDER`` lives a short gallery life that a test
interrupts, and marks each promise it was given.
"""

from __future__ import annotations

import hashlib
import secrets
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from agent.audit.ageing import Ageing
from agent.clock import Clock, SimulatedClock
from agent.gallery.consent import ConsentRecord, Terms
from agent.gallery.keyring import FileKeyring
from agent.gallery.retention import Retention
from agent.gallery.store import GalleryStore
from agent.keys import UnitKey
from agent.protocol.receipt import RECEIPT_TYPE
from tests.simulators.power import mark

SITE, UNIT = "hq", "door-3"
PURPOSE = "open the laboratory door for its members, who carry samples in both hands"
MODEL = "sha256:" + hashlib.sha256(b"embedder").hexdigest()
OTHER_MODEL = "sha256:" + hashlib.sha256(b"another embedder").hexdigest()
EVIDENCE = "sha256:" + hashlib.sha256(b"signed paper").hexdigest()


def unit_vector(rng: np.random.Generator) -> np.ndarray:
    vector = rng.normal(size=128)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def captures(rng: np.random.Generator, of: np.ndarray | None = None, count: int = 4) -> list[np.ndarray]:
    """Captures of one person: their vector and some noise."""
    person = unit_vector(rng) if of is None else of
    noisy = [person + rng.normal(size=128) * 0.03 for _ in range(count)]
    return [(vector / np.linalg.norm(vector)).astype(np.float32) for vector in noisy]


def consent(now: datetime, *, days: float = 300, **changes: object) -> ConsentRecord:
    """A consent that somebody has just signed: no two have one paper."""
    fields: dict[str, object] = {
        "purpose": PURPOSE,
        "site": SITE,
        "units": (UNIT, "door-4"),
        "notice_version": "2026-1",
        "notice_digest": EVIDENCE,
        "evidence_digest": "sha256:" + secrets.token_hex(32),
        "given_at": now,
        "expires_at": now + timedelta(days=days),
        "age_class": "of_age",
    }
    return ConsentRecord(**{**fields, **changes})  # type: ignore[arg-type]


def open_store(
    folder: Path,
    clock: Clock,
    *,
    key: UnitKey | None = None,
    unit: str = UNIT,
    unused_days: int = 365,
    random: Callable[[int], bytes] = secrets.token_bytes,
    look_only: bool = False,
) -> GalleryStore:
    """The store of ``unit`` in ``folder``; receipts are signed by ``key``, or by a seal that costs no time."""

    def sign(payload: bytes) -> str:
        return "unsigned" if key is None else key.sign_detached(payload, typ=RECEIPT_TYPE)

    return GalleryStore(
        folder / "gallery.db",
        keyring=FileKeyring(folder / "kek", random=random),
        terms=Terms(SITE, unit, PURPOSE),
        ageing=Ageing(clock, folder / "time.json"),
        sign=sign,
        retention=Retention(unused_days),
        random=random,
        look_only=look_only,
    )


def live(folder: Path) -> None:
    """Enrol, erase, replace, renew, sweep; ``begin`` marks say what is asked for, the others what was promised."""
    clock = SimulatedClock()
    rng = np.random.default_rng(7)
    with open_store(folder, clock) as store:

        def note(event: str, subject: bytes) -> None:
            mark(f"{event} {subject.hex()}")
            mark(f"kek {(folder / 'kek').read_bytes().hex()}")

        subjects = []
        for days in (300, 300, 300, 10, 20):
            record = consent(clock.now(), days=days)
            subject = store.enrol(captures(rng), consent=record, model=MODEL)
            note("enrolled", subject)
            mark("paper " + record.evidence_digest.removeprefix("sha256:"))
            subjects.append(subject)
        for subject in subjects[:2]:
            mark(f"begin {subject.hex()}")
            store.erase(subject)
            note("erased", subject)
        store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL, subject=subjects[2])
        note("enrolled", subjects[2])
        store.renew()
        note("renewed", b"")
        clock.advance(15 * 86_400)
        mark(f"begin {subjects[3].hex()}")
        store.sweep(clock.now())
        note("erased", subjects[3])
        store.matched(subjects[4])
        mark(f"begin {subjects[2].hex()}")
        mark(f"begin {subjects[4].hex()}")
        store.erase_all()
        note("erased", subjects[2])
        note("erased", subjects[4])


if __name__ == "__main__":
    live(Path(sys.argv[1]))
