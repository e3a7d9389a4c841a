# SPDX-License-Identifier: Apache-2.0
"""The parts without pictures: comparison with a gallery, durable events, verified events."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from agent.clock import Clock, SystemClock
from agent.embed.records import EMBEDDING_DIM, Embedding
from agent.gallery.references import References
from agent.keys import UnitKey
from agent.match.compare import compare
from agent.match.records import Match
from agent.outbox.draft import Draft, make_match
from agent.outbox.queue import Outbox, Row
from agent.protocol.subject import SubjectId
from agent.protocol.trust import TrustedUnits, TrustList, UnitKeyEntry
from agent.subscribe.subscriber import BATCH
from agent.subscribe.verify import Verifier
from tools.lib.bench.effort import Effort
from tools.lib.bench.report import Bar, Section
from tools.lib.bench.timing import alternate

SIZES = (1_000, 10_000, 100_000)
MAX_COMPARE_MS, MIN_COMMITS = 0.5, 500.0
SITE, UNIT, DIGEST = "bench", "door-1", "sha256:" + "5a" * 32


def gallery_section(effort: Effort) -> Section:
    """One probe against galleries of several sizes."""
    section = Section("gallery")
    random = np.random.default_rng(1)
    matrix = random.standard_normal((max(SIZES), EMBEDDING_DIM), dtype=np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    subjects = tuple(SubjectId(number.to_bytes(16, "big")) for number in range(max(SIZES)))
    probe = Embedding(matrix[3].copy(), DIGEST)

    def case(size: int) -> Callable[[], object]:
        references = References(subjects[:size], matrix[:size], DIGEST)
        return lambda: compare(probe, references)

    timings = alternate({str(size): case(size) for size in SIZES}, rounds=effort.rounds, round_s=effort.round_s)
    for size in SIZES:
        section.timing(_compare_name(size), timings[str(size)])
    section.bars.append(Bar("10 000 references in at most 0.5 ms", _compare_name(10_000), "<=", MAX_COMPARE_MS))
    return section


def outbox_section(folder: Path, effort: Effort) -> Section:
    """Events numbered, chained, signed and on disk, one commit each; in wall time, as a disk is waited for."""
    section = Section("outbox")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name, _outbox(Path(name), UnitKey.generate()) as outbox:
        draft = _draft(SystemClock())
        wall, cpu = [], []
        for _ in range(effort.rounds):
            began, began_cpu = time.perf_counter(), time.process_time()
            for _ in range(effort.commits):
                outbox.append(draft)
            wall.append(effort.commits / (time.perf_counter() - began))
            cpu.append(effort.commits / (time.process_time() - began_cpu))
    section.values("durable events, wall time", "event/s", wall)
    section.values("durable events, processor time", "event/s", cpu)
    section.bars.append(Bar("at least 500 durable events per second", "durable events, wall time", ">=", MIN_COMMITS))
    section.notes.append(f"on the disk of {folder}")
    return section


def verifier_section(folder: Path, effort: Effort) -> Section:
    """What a subscriber does with each event: parse, signature, trust, time, chain."""
    section = Section("verifier")
    key, clock = UnitKey.generate(), SystemClock()
    entry = UnitKeyEntry(jwk=key.public_jwk(), status="active")
    trust = TrustedUnits(
        TrustList(
            version=1, site=SITE, serial=1, issued_at=clock.now().isoformat(timespec="seconds"), units={UNIT: (entry,)}
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name, _outbox(Path(name), key) as outbox:
        rows = _rows(outbox, _draft(clock), effort.events)
    topic, now = f"postern/{SITE}/{UNIT}/event/match", clock.now()
    rates = []
    for _ in range(effort.rounds):
        verifier = Verifier(trust)
        began = time.process_time()
        for at in range(0, len(rows), BATCH):  # as a subscriber does that has much to read
            verifier.check_all([(topic, row.payload) for row in rows[at : at + BATCH]], now)
        rates.append(len(rows) / (time.process_time() - began))
    section.values("verified events, processor time", "event/s", rates)
    return section


def _rows(outbox: Outbox, draft: Draft, count: int) -> list[Row]:
    rows: list[Row] = []
    for _ in itertools.repeat(None, count):
        seq = outbox.append(draft)
        rows += outbox.pending(1, after=seq - 1)
    return rows


def _outbox(folder: Path, key: UnitKey) -> Outbox:
    return Outbox(folder / "outbox.db", signer=key, source=f"/postern/{SITE}/{UNIT}", clock=SystemClock())


def _draft(clock: Clock) -> Draft:
    return make_match(
        Match(subject=SubjectId(bytes(16)), zone="door", timestamp_ns=0),
        subject="p1_" + "9c41" * 8,
        audience="access",
        epoch="2026-W47",
        policy=DIGEST,
        model=DIGEST,
        now=clock.now(),
        clock=clock.state(),
    )


def _compare_name(size: int) -> str:
    return f"compare() with {size} references"
