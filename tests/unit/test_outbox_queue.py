# SPDX-License-Identifier: Apache-2.0
"""The outbox: numbered, chained, signed, durable, bounded; what it drops it owns up to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import StorageError
from agent.keys import UnitKey
from agent.outbox.draft import Draft
from agent.outbox.queue import RETRY_S, TIDY_EVERY_S, Outbox
from agent.protocol.event import FIRST_PREV, MAX_EVENT_BYTES, SIGNATURE_TYPE, canonical, digest
from tests.simulators.signing_unit import SigningUnit, match_draft, presence_draft, unit_draft, verifier_of


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[SigningUnit]:
    made = SigningUnit(tmp_path / "outbox.db")
    yield made
    made.outbox.close()


def small(tmp_path: Path, **limits: int) -> SigningUnit:
    return SigningUnit(tmp_path / "small.db", **limits)


def data(payload: bytes) -> dict[str, object]:
    return json.loads(payload)["data"]


def test_numbers_rise_by_one_and_every_event_names_its_predecessor(unit: SigningUnit) -> None:
    prev = FIRST_PREV
    for number in range(1, 6):
        row = unit.say()
        assert row.seq == number
        assert data(row.payload)["seq"] == number
        assert data(row.payload)["prev"] == prev
        prev = digest(canonical(json.loads(row.payload)))
        assert unit.outbox.head() == (number, prev)


def test_every_row_is_signed_by_the_unit(unit: SigningUnit) -> None:
    members = json.loads(unit.say().payload)
    unit.key.public.verify_detached(members.pop("sig"), canonical(members), typ=SIGNATURE_TYPE)


def test_number_and_chain_go_on_after_a_restart(unit: SigningUnit) -> None:
    first = unit.say()
    unit.restart()
    second = unit.say()
    assert second.seq == 2
    assert data(second.payload)["prev"] == digest(canonical(json.loads(first.payload)))
    assert data(first.payload)["boot"] != data(second.payload)["boot"]


def test_acknowledged_row_leaves_and_its_number_does_not_come_back(unit: SigningUnit) -> None:
    unit.outbox.acked(unit.say().seq)
    assert unit.outbox.depth() == 0
    unit.restart()
    assert unit.say().seq == 2


def test_pending_gives_rows_in_order_and_in_pages(unit: SigningUnit) -> None:
    for _ in range(7):
        unit.say()
    assert [row.seq for row in unit.outbox.pending(3)] == [1, 2, 3]
    assert [row.seq for row in unit.outbox.pending(3, after=3)] == [4, 5, 6]
    unit.outbox.acked(1, 2, 5, 99)
    assert [row.seq for row in unit.outbox.pending(10)] == [3, 4, 6, 7]


def test_row_of_this_run_has_an_age_and_one_of_an_earlier_run_has_none(unit: SigningUnit) -> None:
    unit.say()
    unit.clock.advance(61)
    unit.clock.step_wall(-86_400)  # a wrong wall clock must not make it look live
    row = unit.outbox.pending(1)[0]
    assert row.age_s(unit.clock.monotonic_ns()) == 61
    unit.restart()
    row = unit.outbox.pending(1)[0]
    assert row.age_s(unit.clock.monotonic_ns()) is None


def test_parked_row_waits_longer_each_time_and_blocks_nobody(unit: SigningUnit) -> None:
    first, second = unit.say(), unit.say()
    pauses = []
    for attempt in range(1, 12):
        unit.outbox.parked(first.seq, "not_authorised")
        assert [row.seq for row in unit.outbox.pending(10)] == [second.seq]
        began = unit.clock.monotonic_ns()
        while unit.outbox.pending(10)[0].seq != first.seq:
            unit.clock.advance(5)
        pauses.append((unit.clock.monotonic_ns() - began) / 1e9)
        assert unit.outbox.pending(10)[0].attempts == attempt
    assert RETRY_S[0] / 2 <= pauses[0] <= RETRY_S[0] + 5
    assert pauses[-1] <= RETRY_S[1] + 5
    assert pauses[-1] > 20 * pauses[0]


def test_parked_rows_are_counted_by_reason_and_tried_again_after_a_restart(unit: SigningUnit) -> None:
    for reason in ("not_authorised", "not_authorised", "quota"):
        unit.outbox.parked(unit.say().seq, reason)
    assert unit.outbox.parked_reasons() == {"not_authorised": 2, "quota": 1}
    unit.outbox.parked(99, "gone")
    unit.restart()
    assert [row.attempts for row in unit.outbox.pending(10)] == [1, 1, 1]


@pytest.mark.parametrize("bound", ["max_rows", "max_bytes"])
def test_full_queue_drops_presence_first_then_unit_then_match(tmp_path: Path, bound: str) -> None:
    limits = {"max_rows": 6} if bound == "max_rows" else {"max_bytes": MAX_EVENT_BYTES}
    unit = small(tmp_path, **limits)
    kinds = []
    for draft in (presence_draft, unit_draft, match_draft, presence_draft, match_draft) * 8:
        unit.say(draft(unit.clock)) if draft is match_draft else unit.outbox.append(draft(unit.clock))
        kinds = [row.kind for row in unit.outbox.pending(100) if data(row.payload).get("condition") != "loss"]
    assert set(kinds) == {"match"}
    assert sum(len(row.payload) for row in unit.outbox.pending(100)) < MAX_EVENT_BYTES + 1000 or bound == "max_rows"
    unit.outbox.close()


def test_matches_survive_a_flood_of_presence(tmp_path: Path) -> None:
    unit = small(tmp_path, max_rows=10)
    matches = [unit.say().seq for _ in range(5)]
    for _ in range(50):
        unit.outbox.append(presence_draft(unit.clock))
    held = [row.seq for row in unit.outbox.pending(100)]
    assert set(matches) <= set(held)
    assert len(held) == 11  # ten rows and the one loss event
    unit.outbox.close()


def deliver(unit: SigningUnit, *, rounds: int = 10) -> list[dict[str, object]]:
    """Drain as an uplink does; every event passes a verifier, which must end with nothing unexplained."""
    verifier = verifier_of(unit)
    first = unit.outbox.pending(1)
    seen: list[dict[str, object]] = []
    for _ in range(rounds):
        for row in unit.outbox.pending(1000):
            seen.append(data(row.payload))
            verifier.check(unit.topic(row, "backlog"), row.payload, unit.clock.now())
            unit.outbox.acked(row.seq)
    assert unit.outbox.depth() == 0
    assert first
    assert verifier.missing(unit.name) == ()
    return seen


def test_every_loss_is_owned_up_to_without_endless_growth(tmp_path: Path) -> None:
    unit = small(tmp_path, max_rows=8)
    for _ in range(200):
        unit.outbox.append(match_draft(unit.clock))
        losses = [row for row in unit.outbox.pending(1000) if data(row.payload).get("condition") == "loss"]
        assert len(losses) <= 1
        assert unit.outbox.depth() <= 9
    appended = unit.outbox.head().seq
    seen = deliver(unit)
    reported = [event["lost"] for event in seen if event.get("condition") == "loss"]
    assert len(reported) == 2  # the first loss at once, all others when that was acknowledged
    assert sum(lost["count"] for lost in reported) + len(seen) == unit.outbox.head().seq
    assert unit.outbox.head().seq == appended + 1
    unit.outbox.close()


def test_loss_is_owned_up_to_across_a_restart(tmp_path: Path) -> None:
    unit = small(tmp_path, max_rows=3)
    for _ in range(9):
        unit.outbox.append(match_draft(unit.clock))
    unit.restart()
    seen = deliver(unit)
    assert sum(event["lost"]["count"] for event in seen if event.get("condition") == "loss") == 6
    unit.outbox.close()


def test_erased_subject_leaves_no_byte_and_a_signed_gap(unit: SigningUnit) -> None:
    alice, bob = b"alice-0123456789", b"bob---0123456789"
    marker = "p1_" + "deadbeef" * 4
    for number in range(40):
        draft = match_draft(unit.clock, marker if number % 2 else "p1_" + "00" * 16)
        unit.outbox.append(draft, owner=alice if number % 2 else bob)
    files = list(unit.path.parent.glob("outbox.db*"))
    assert any(marker.encode() in file.read_bytes() for file in files)
    assert unit.outbox.erase(alice) == 20
    for file in unit.path.parent.glob("outbox.db*"):
        content = file.read_bytes()
        assert marker.encode() not in content, file
        assert alice not in content
    assert unit.outbox.erase(alice) == 0
    seen = deliver(unit)
    assert [event["lost"] for event in seen if event.get("condition") == "loss"] == [
        {"first": 2, "last": 40, "count": 20, "reason": "erased"}
    ]


def test_whose_an_event_is_can_be_told_with_the_units_key_alone(tmp_path: Path) -> None:
    """Who has the file and a person's id, or another unit's file, cannot tell whether they were there."""
    tags = []
    for number in range(2):
        (folder := tmp_path / str(number)).mkdir()
        unit = small(folder, max_rows=10, owner_key=bytes([number]) * 32)
        unit.outbox.append(match_draft(unit.clock), owner=b"alice-0123456789")
        tags.append(list(unit.outbox._db.rows("SELECT owner FROM event WHERE owner IS NOT NULL")))
        unit.outbox.close()
        content = b"".join(file.read_bytes() for file in folder.glob("small.db*"))
        assert b"alice-0123" not in content
    assert tags[0] != tags[1]


def test_subjects_events_of_an_earlier_run_are_erased_as_well(unit: SigningUnit) -> None:
    unit.outbox.append(match_draft(unit.clock), owner=b"alice")
    unit.restart()
    assert unit.outbox.erase(b"alice") == 1
    assert unit.outbox.erase(b"bob") == 0


def test_events_queued_before_the_unit_got_a_new_event_key_are_erased_as_well(tmp_path: Path) -> None:
    unit = small(tmp_path, max_rows=10, owner_key=b"o" * 32)
    unit.outbox.append(match_draft(unit.clock), owner=b"alice")
    unit.outbox.append(match_draft(unit.clock), owner=b"bob")
    unit.key = UnitKey.generate()
    unit.restart()
    assert unit.outbox.erase(b"alice", b"nobody") == 1
    assert unit.outbox.depth() == 2  # bob's, and what the unit says about the gap
    unit.outbox.close()


@pytest.mark.parametrize("days", [0, 1, 7])
def test_acknowledged_events_leave_the_file_once_their_days_are_over(tmp_path: Path, days: int) -> None:
    unit = SigningUnit(tmp_path / "outbox.db", keep_days=days)
    marker = "p1_" + "deadbeef" * 4
    row = unit.say(match_draft(unit.clock, marker))
    unit.clock.advance(TIDY_EVERY_S + 1)
    unit.outbox.acked(row.seq)
    assert bool(unit.outbox.told(1, 1).events) == (days > 0)
    unit.clock.advance(days * 24 * 3600 + TIDY_EVERY_S + 2)
    unit.outbox.expire(unit.clock.now())
    assert not [file for file in unit.path.parent.glob("outbox.db*") if marker.encode() in file.read_bytes()]


def test_what_is_not_an_event_is_not_signed(unit: SigningUnit) -> None:
    good = match_draft(unit.clock)
    wrong: list[dict[str, object]] = [
        {"score": 93},
        {"zone": "Front Door"},
        {"zone": 1.5},
        {"subject": "alice"},
        {"policy": "sha256:0"},
        {"image": "data:image/png;base64,AAAA"},
    ]
    for change in wrong:
        with pytest.raises(ValueError, match="not an event"):
            unit.outbox.append(Draft(good.kind, good.time, good.clock, {**good.facts, **change}))
    assert unit.outbox.head().seq == 0
    assert unit.say().seq == 1


def test_facts_cannot_replace_the_chain(unit: SigningUnit) -> None:
    good = match_draft(unit.clock)
    unit.outbox.append(Draft(good.kind, good.time, good.clock, {**good.facts, "seq": 77, "boot": "0" * 16}))
    assert data(unit.outbox.pending(1)[0].payload)["seq"] == 1


def test_appending_and_draining_from_two_threads_keeps_order_and_loses_nothing(unit: SigningUnit) -> None:
    total, seen = 150, []

    def drain() -> None:
        after = 0
        while len(seen) < total:
            for row in unit.outbox.pending(20, after=after):
                seen.append(row.seq)
                after = row.seq
                unit.outbox.acked(row.seq)

    thread = threading.Thread(target=drain)
    thread.start()
    for _ in range(total):
        unit.outbox.append(match_draft(unit.clock))
    thread.join(30)
    assert seen == list(range(1, total + 1))
    assert unit.outbox.depth() == 0


def test_second_agent_on_the_same_outbox_is_refused(unit: SigningUnit) -> None:
    with pytest.raises(StorageError, match="another process holds it"):
        Outbox(unit.path, signer=unit.key, source=unit.source, clock=unit.clock)
    unit.say()


def test_outbox_of_another_unit_is_refused(unit: SigningUnit) -> None:
    unit.outbox.close()
    with pytest.raises(StorageError, match="/postern/hq/door-3"):
        Outbox(unit.path, signer=UnitKey.generate(), source="/postern/hq/door-4", clock=unit.clock)
    unit.open()


def test_files_are_the_owners_alone(unit: SigningUnit) -> None:
    unit.say()
    files = list(unit.path.parent.glob("outbox.db*"))
    assert unit.path in files
    for file in files:
        assert file.stat().st_mode & 0o077 == 0, file


@pytest.mark.parametrize("limits", [{"max_rows": 0}, {"max_bytes": 100}])
def test_queue_without_room_is_a_mistake(tmp_path: Path, limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="room for one event"):
        SigningUnit(tmp_path / "x.db", **limits)
