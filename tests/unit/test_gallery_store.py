# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.clock import SimulatedClock
from agent.disk.process_lock import ProcessLock
from agent.embed.records import Embedding
from agent.errors import CaptureRefusedError, ConsentError, KeyStoreError, RefusedError, StorageError, VerificationError
from agent.gallery.template import mean_reference
from agent.keys import UnitKey
from agent.match.compare import compare
from agent.protocol.receipt import verify_receipt
from agent.protocol.subject import SubjectId, subject_digest
from tests.simulators.gallery_life import MODEL, OTHER_MODEL, PURPOSE, UNIT, captures, consent, open_store, unit_vector

DAY = 86_400


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def all_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_who_is_enrolled_is_found_again_also_after_a_restart(tmp_path, clock, rng) -> None:
    people = [unit_vector(rng) for _ in range(7)]
    with open_store(tmp_path, clock) as store:
        subjects = [store.enrol(captures(rng, p), consent=consent(clock.now()), model=MODEL) for p in people]
        assert len(store) == 7
    with open_store(tmp_path, clock) as store:
        references = store.references(MODEL)
        for person, subject in zip(people, subjects, strict=True):
            found = compare(Embedding(captures(rng, person, 1)[0], MODEL), references)
            assert found is not None
            assert found.subject == subject
            assert found.score > 0.9


def test_a_template_in_memory_is_the_mean_of_the_captures_to_the_last_bit_that_matters(tmp_path, clock, rng) -> None:
    taken = captures(rng, count=5)
    with open_store(tmp_path, clock) as store:
        store.enrol(taken, consent=consent(clock.now()), model=MODEL)
        assert np.allclose(store.references(MODEL).matrix[0], mean_reference(taken), atol=1e-6)


def test_nothing_that_is_stored_shows_a_template_or_a_consent(tmp_path, clock, rng) -> None:
    taken = captures(rng)
    reference = mean_reference(taken)
    with open_store(tmp_path, clock) as store:
        subject = store.enrol(taken, consent=consent(clock.now()), model=MODEL)
        on_disk = all_bytes(tmp_path)
        assert subject in on_disk, "the search would find it"
        for clear in (reference.tobytes()[:16], taken[0].tobytes()[:16], PURPOSE.encode(), b"door-4"):
            assert clear not in on_disk
        assert (tmp_path / "gallery.db").stat().st_mode & 0o777 == 0o600


def test_no_enrolment_without_a_consent_that_holds_here_and_now(tmp_path, clock, rng) -> None:
    with open_store(tmp_path, clock) as store:
        for wrong in (
            consent(clock.now(), units=("door-9",)),
            consent(clock.now() - timedelta(days=400)),
            consent(clock.now(), purpose="count how many hours each of them spends inside"),
            consent(clock.now(), age_class="under_14"),
        ):
            with pytest.raises(ConsentError):
                store.enrol(captures(rng), consent=wrong, model=MODEL)
        with pytest.raises(CaptureRefusedError):
            store.enrol(captures(rng, count=2), consent=consent(clock.now()), model=MODEL)
        assert len(store) == 0
        assert store.list() == ()


def test_an_erased_person_matches_no_more_even_in_a_matrix_that_is_in_use(tmp_path, clock, rng) -> None:
    person = unit_vector(rng)
    with open_store(tmp_path, clock) as store:
        subject = store.enrol(captures(rng, person), consent=consent(clock.now()), model=MODEL)
        old = store.references(MODEL)
        store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL)
        new = store.references(MODEL)
        store.erase(subject)
        assert store.references(MODEL) is not new
        for references in (old, new):
            found = compare(Embedding(person, MODEL), references)
            assert found is not None
            assert found.score < 0.3
        assert subject not in store.references(MODEL).subjects
        assert store.held(subject) is None


def test_erasure_leaves_no_byte_and_a_receipt_that_the_unit_signed(tmp_path, clock, rng) -> None:
    key = UnitKey.generate()
    with open_store(tmp_path, clock, key=key) as store:
        subjects = [store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL) for _ in range(50)]
        kek = (tmp_path / "kek").read_bytes()
        row = store._database.row(
            "SELECT template, record, wrapped FROM subjects JOIN keys USING (subject) WHERE subject=?", subjects[7]
        )
        markers = [subjects[7], kek, *(part[at : at + 16] for part in row for at in range(0, len(part) - 16, 16))]
        assert all(marker in all_bytes(tmp_path) for marker in markers)

        receipt = store.erase(subjects[7])
        assert not [m for m in markers if m in all_bytes(tmp_path)]
        assert len(store.references(MODEL).subjects) == 49

        verify_receipt(receipt, key.public)
        assert receipt.subject == subject_digest(subjects[7])
        assert (receipt.reason, receipt.unit) == ("withdrawn", UNIT)
        with pytest.raises(VerificationError):
            verify_receipt(msgspec.structs.replace(receipt, erased_at="2020-01-01T00:00:00Z"), key.public)
        with pytest.raises(VerificationError):
            verify_receipt(receipt, UnitKey.generate().public)
    assert not [m for m in markers if m in all_bytes(tmp_path)]


def test_whoever_else_knows_a_subject_is_told_that_it_was_erased(tmp_path, clock, rng) -> None:
    with open_store(tmp_path, clock) as store:
        withdrawn, expired = (
            store.enrol(captures(rng), consent=consent(clock.now(), days=d), model=MODEL) for d in (300, 10)
        )
        store.erase(withdrawn)
        assert [one.subject for one in store.take_erased()] == [withdrawn]
        assert store.take_erased() == ()
    clock.advance(11 * DAY)
    with open_store(tmp_path, clock) as store:
        assert [one.subject for one in store.take_erased()] == [expired]
        assert set(store.tombstones()) == {subject_digest(withdrawn), subject_digest(expired)}


def test_erasing_twice_gives_the_same_receipt_and_erasing_nobody_is_refused(tmp_path, clock, rng) -> None:
    with open_store(tmp_path, clock) as store:
        subject = store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL)
        first = store.erase(subject)
        clock.advance(DAY)
        assert store.erase(subject) == first
        with pytest.raises(RefusedError, match="no such subject"):
            store.erase(SubjectId(bytes(16)))


def test_an_erased_subject_does_not_return_under_the_old_id(tmp_path, clock, rng) -> None:
    with open_store(tmp_path, clock) as store:
        subject = store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL)
        store.erase(subject)
    with open_store(tmp_path, clock) as store, pytest.raises(ConsentError, match="must not return"):
        store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL, subject=subject)


def test_replacing_a_reference_destroys_the_old_one_and_its_keys(tmp_path, clock, rng) -> None:
    person = unit_vector(rng)
    with open_store(tmp_path, clock) as store:
        subject = store.enrol(captures(rng, person), consent=consent(clock.now()), model=OTHER_MODEL)
        kek = (tmp_path / "kek").read_bytes()
        (template,) = store._database.row("SELECT template FROM subjects")
        assert store.references(MODEL).subjects == (), "a template of another model never matches"
        assert store.enrol(captures(rng, person), consent=consent(clock.now()), model=MODEL, subject=subject) == subject
        assert store.references(MODEL).subjects == (subject,)
        assert store.references(OTHER_MODEL).subjects == ()
        assert len(store) == 1
        for gone in (kek, template[:32], template[-32:]):
            assert gone not in all_bytes(tmp_path)


def test_an_access_request_is_answered_with_what_why_and_until_when(tmp_path, clock, rng) -> None:
    with open_store(tmp_path, clock, unused_days=90) as store:
        subject = store.enrol(captures(rng, count=5), consent=consent(clock.now()), model=MODEL)
        held = store.held(subject)
        assert held is not None
        assert (held.purpose, held.captures, held.model, held.notice_version) == (PURPOSE, 5, MODEL, "2026-1")
        assert held.erased_by == date(2026, 1, 5) + timedelta(days=90)
        clock.advance(250 * DAY)
        store.matched(subject)
        (held,) = store.list()
        assert held.erased_by == held.expires_at.date()
        assert not any(isinstance(value, (float, np.ndarray)) for value in msgspec.structs.astuple(held))


def test_expired_and_unused_references_go_by_themselves(tmp_path, clock, rng) -> None:
    with open_store(tmp_path, clock, unused_days=90) as store:
        brief = store.enrol(captures(rng), consent=consent(clock.now(), days=10), model=MODEL)
        idle = store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL)
        busy = store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL)
        assert store.sweep(clock.now()) == ()
        clock.advance(10 * DAY)
        assert [r.reason for r in store.sweep(clock.now())] == ["expired"]
        assert brief not in store.references(MODEL).subjects
        clock.advance(40 * DAY)
        store.matched(busy)
        clock.advance(40 * DAY)
        (receipt,) = store.sweep(clock.now())
        assert (receipt.reason, receipt.subject) == ("unused", subject_digest(idle))
    clock.advance(40 * DAY)
    with open_store(tmp_path, clock, unused_days=90) as store:
        assert len(store) == 1, "the last use was remembered"
    clock.advance(11 * DAY)
    with open_store(tmp_path, clock, unused_days=90) as store:
        assert [one.receipt.reason for one in store.take_erased()] == ["unused"], (
            "a unit that was off sweeps when it starts"
        )
        assert len(store) == 0


def test_a_clock_that_lost_its_time_hides_but_does_not_destroy(tmp_path, clock, rng) -> None:
    with open_store(tmp_path, clock) as store:
        subject = store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL)
        in_use = store.references(MODEL)
        clock.step_wall(3650 * DAY, "unsynced")
        assert store.sweep(clock.now()) == ()
        assert store.references(MODEL).subjects == ()
        assert not in_use.matrix.any()
        assert len(store) == 1
    with open_store(tmp_path, clock) as store:
        assert store.references(MODEL).subjects == (), "nor after a restart"
        clock.step_wall(-3650 * DAY, "synced")
        assert store.sweep(clock.now()) == ()
        assert store.references(MODEL).subjects == (subject,)


def test_a_site_that_never_synchronises_forgets_all_the_same(tmp_path, clock, rng) -> None:
    clock.step_wall(0, "unsynced")
    with open_store(tmp_path, clock) as store:
        store.enrol(captures(rng), consent=consent(clock.now(), days=10), model=MODEL)
        clock.advance(10 * DAY)
        assert store.sweep(clock.now()) == ()
        assert store.references(MODEL).subjects == ()
        clock.advance(20 * DAY - 1)
        assert store.sweep(clock.now()) == (), "nothing was ever known of the time: it forgets after a month of running"
        clock.advance(1)
        assert [r.reason for r in store.sweep(clock.now())] == ["expired"]


def test_a_clock_in_the_past_neither_enrols_nor_erases(tmp_path, clock, rng) -> None:
    with open_store(tmp_path, clock) as store:
        store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL)
        record = consent(clock.now())
        clock.step_wall((datetime(1970, 1, 1, tzinfo=UTC) - clock.now()).total_seconds(), "unsynced")
        assert store.sweep(clock.now()) == ()
        assert len(store.references(MODEL).subjects) == 1
        with pytest.raises(ConsentError):
            store.enrol(captures(rng), consent=record, model=MODEL)


def test_a_match_is_noted_once_a_day(tmp_path, clock, rng) -> None:
    with open_store(tmp_path, clock) as store:
        subject = store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL)
        before = (tmp_path / "gallery.db").read_bytes()
        for _ in range(5):
            clock.advance(600)
            store.matched(subject)
        assert (tmp_path / "gallery.db").read_bytes() == before
        clock.advance(DAY)
        store.matched(subject)
        after = (tmp_path / "gallery.db").read_bytes()
        assert after != before
        assert clock.now().strftime("%H:%M").encode() not in after
        store.matched(SubjectId(bytes(16)))  # erased a moment ago: nothing to note


def test_a_unit_that_is_taken_down_forgets_everybody(tmp_path, clock, rng) -> None:
    with open_store(tmp_path, clock) as store:
        subjects = [store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL) for _ in range(5)]
        receipts = store.erase_all()
        assert {r.subject for r in receipts} == {subject_digest(s) for s in subjects}
        assert {r.reason for r in receipts} == {"wiped"}
        assert len(store) == 0
        assert not any(s in all_bytes(tmp_path) for s in subjects)


def test_renewal_changes_every_template_and_no_match(tmp_path, clock, rng) -> None:
    person = unit_vector(rng)
    with open_store(tmp_path, clock) as store:
        subject = store.enrol(captures(rng, person), consent=consent(clock.now()), model=MODEL)
        store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL)
        kek, secret = (tmp_path / "kek").read_bytes(), store._vault._secret()
        rows = [t for (t,) in store._database.rows("SELECT template FROM subjects")]
        before = store.references(MODEL).matrix.copy()
        store.renew()
        assert store._vault._secret() != secret
        assert not any(gone[:32] in all_bytes(tmp_path) for gone in (kek, *rows))
    with open_store(tmp_path, clock) as store:
        assert np.allclose(store.references(MODEL).matrix, before, atol=1e-5)
        found = compare(Embedding(person, MODEL), store.references(MODEL))
        assert found is not None
        assert found.subject == subject
        assert len(store.list()) == 2


def test_the_gallery_of_another_unit_is_refused(tmp_path, clock) -> None:
    open_store(tmp_path, clock).close()
    with pytest.raises(StorageError, match="another unit"):
        open_store(tmp_path, clock, unit="door-4")


def test_a_second_process_is_refused(tmp_path, clock) -> None:
    with open_store(tmp_path, clock), pytest.raises(StorageError, match="in use"):
        open_store(tmp_path, clock)
    open_store(tmp_path, clock).close()


def test_a_lost_key_is_said_plainly_and_nothing_is_changed(tmp_path, clock, rng) -> None:
    with open_store(tmp_path, clock) as store:
        store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL)
    before = (tmp_path / "gallery.db").read_bytes()
    (tmp_path / "kek").unlink()
    with pytest.raises(KeyStoreError, match="enrol anew"):
        open_store(tmp_path, clock)
    assert (tmp_path / "gallery.db").read_bytes() == before


@pytest.mark.parametrize("damage", ["not a database", "overwritten page", "cut", "newer", "head row"])
def test_a_damaged_file_is_said_plainly(tmp_path, clock, rng, damage) -> None:
    with open_store(tmp_path, clock) as store:
        for _ in range(10):
            store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL)
        if damage == "newer":
            store._database.connection.execute("PRAGMA user_version=9")
        elif damage == "head row":
            store._database.connection.execute("DELETE FROM gallery")
    path = tmp_path / "gallery.db"
    content = path.read_bytes()
    if damage == "not a database":
        path.write_bytes(b"garbage" * 1000)
    elif damage == "overwritten page":
        path.write_bytes(content[:4096] + b"\xff" * 8192 + content[12288:])
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(StorageError, match=r"delete the file|newer version|another unit"):
        open_store(tmp_path, clock)
    open_store_elsewhere = tmp_path / "fresh"
    open_store_elsewhere.mkdir()
    open_store(open_store_elsewhere, clock).close()


def test_threads_may_share_the_store(tmp_path, clock) -> None:
    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(4):
            subject = store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL)
            assert subject in store.references(MODEL).subjects
            store.matched(subject)
            store.erase(subject)

    with open_store(tmp_path, clock) as store, ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(3))) == [None] * 3
        assert len(store) == 0


def test_a_unit_that_starts_while_the_doctor_looks_waits_for_it(tmp_path, clock, rng) -> None:
    """It once did not begin, and went back to the settings of before: a zone that was drawn was gone."""
    looking = ProcessLock(tmp_path / "gallery.db")
    away = threading.Timer(0.3, looking.release)
    away.start()
    with open_store(tmp_path, clock) as store:
        assert len(store) == 0
    away.join()
