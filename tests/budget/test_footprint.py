# SPDX-License-Identifier: Apache-2.0
"""What a unit costs in counts that no machine changes: bytes an event, bytes on disk, memory, threads, open files.

POSTERN_EVENTS=100000 is the long form of the disk's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml

from agent import pipeline
from agent.camera.base import Frame
from agent.clock import SimulatedClock
from agent.outbox.queue import TIDY_EVERY_S
from tests.simulators.gallery_life import MODEL, captures, consent, open_store
from tests.simulators.signing_unit import SigningUnit, match_draft, presence_draft, unit_draft
from tests.unit.test_pipeline import face, make_stages
from tools.lib.rig.installation import Installation
from tools.lib.rig.process import UnitProcess, Usage, usage_of

EVENTS = int(os.environ.get("POSTERN_EVENTS", "2000"))
MAX_MATCH_BYTES, MAX_OTHER_BYTES = 1000, 900
MAX_OUTBOX_BYTES = 4 * 1024 * 1024  # 2 MiB of reserve, 1 MiB of log, the rest for what waits
MAX_REFERENCE_BYTES = 4096  # on disk: 512 of template, a consent record, keys, and SQLite's pages
MAX_GROWTH_KIB = 1024  # of resident memory over the short form
MAX_RESIDENT_KIB = 110 * 1024
MAX_THREADS, MAX_FILES = 6, 24
BATCH = 50


def test_an_event_is_about_a_kilobyte(tmp_path: Path) -> None:
    unit = SigningUnit(tmp_path / "outbox.db")
    assert len(unit.say(match_draft(unit.clock)).payload) <= MAX_MATCH_BYTES
    assert len(unit.say(presence_draft(unit.clock)).payload) <= MAX_OTHER_BYTES
    assert len(unit.say(unit_draft(unit.clock)).payload) <= MAX_OTHER_BYTES


@pytest.mark.timeout(60 + EVENTS // 20)
def test_the_outbox_is_as_small_after_many_events_as_after_few_and_memory_stays(work: Path) -> None:
    unit = SigningUnit(work / "outbox.db", keep_days=0)  # what is kept for days has a bound of its own

    def live(count: int) -> None:
        for _ in range(count // BATCH):
            seqs = [unit.outbox.append(match_draft(unit.clock)) for _ in range(BATCH)]
            unit.clock.advance(TIDY_EVERY_S + 1)
            unit.outbox.acked(*seqs)

    def size() -> int:
        return sum(file.stat().st_blocks * 512 for file in work.glob("outbox.db*"))

    live(EVENTS // 4)  # warm
    early, before = size(), usage_of(os.getpid())
    live(EVENTS - EVENTS // 4)
    assert unit.outbox.head().seq >= EVENTS - BATCH
    assert size() <= max(early, MAX_OUTBOX_BYTES)
    assert size() - early <= 64 * 1024
    assert usage_of(os.getpid()).resident_kib - before.resident_kib <= MAX_GROWTH_KIB
    unit.outbox.close()


def test_a_reference_takes_a_few_kilobytes_and_erasing_gives_them_back(tmp_path: Path) -> None:
    clock, rng = SimulatedClock(), np.random.default_rng(0)

    def size() -> int:
        return sum(file.stat().st_size for file in tmp_path.iterdir())

    with open_store(tmp_path, clock) as store:
        empty = size()
        subjects = [store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL) for _ in range(20)]
        assert size() - empty <= 20 * MAX_REFERENCE_BYTES
        for subject in subjects:
            store.erase(subject)
        assert size() - empty <= 20 * MAX_REFERENCE_BYTES
        full = size()
        for _ in range(20):
            store.erase(store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL))
        assert size() <= full + MAX_REFERENCE_BYTES * 4  # what is left of the erased is a digest each


def test_thousands_of_frames_with_people_in_them_leave_memory_where_it_was() -> None:
    crowd = [face(100 + 60 * n, 240) for n in range(6)]
    frames = 1500
    stages = make_stages([crowd] * frames, [], count=frames)
    for camera_frame in _frames(stages, 500):
        pipeline.process(stages, camera_frame)
    before = usage_of(os.getpid())
    for camera_frame in _frames(stages, 1000):
        pipeline.process(stages, camera_frame)
    assert usage_of(os.getpid()).resident_kib - before.resident_kib <= MAX_GROWTH_KIB


def _frames(stages: pipeline.Stages, count: int) -> Iterator[Frame]:
    stages.camera.count = count  # type: ignore[attr-defined]
    stages.embedder.crops, stages.embedder.embeddings = _Last(), _Last()  # type: ignore[attr-defined]
    for frame in stages.camera.frames():
        stages.camera.made.clear()  # type: ignore[attr-defined]
        with frame:
            yield frame


class _Last(list):
    """What the stand-ins would keep of every face: here of the last one alone."""

    def append(self, item: object) -> None:
        self[:] = [item]


@pytest.mark.timeout(180)
def test_the_running_service_keeps_within_memory_threads_and_files(tmp_path: Path) -> None:
    """Without a broker: it must cost no more while it waits for one."""
    scene = tmp_path / "scene.yaml"
    person = {"who": "person-01", "path": [{"at": 0, "x": 320, "y": 150, "face": 123}]}
    # A small view: drawing a large one takes memory that no camera takes.
    view = {"size": [640, 360], "duration": 4, "frames_per_second": 10, "people": [person]}
    scene.write_text(yaml.safe_dump(view))
    start = datetime.now(UTC) - timedelta(minutes=1)
    unit = Installation(tmp_path / "unit", seed=1, start=start, changes={}, scene=scene)
    process = UnitProcess(unit.config_file, outbox=unit.folder / "outbox.db")
    process.start()
    seen: list[Usage] = []
    while process.running:
        usage = process.usage()
        seen += [usage] if usage is not None else []
        time.sleep(0.1)
    assert process.wait(5) == 0, list(process.log)
    print(f"at most {max(one.resident_kib for one in seen) / 1024:.1f} MiB resident")
    assert max(one.resident_kib for one in seen) <= MAX_RESIDENT_KIB
    assert max(one.threads for one in seen) <= MAX_THREADS
    assert max(one.files for one in seen) <= MAX_FILES
