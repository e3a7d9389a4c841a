# SPDX-License-Identifier: Apache-2.0
"""A subscriber's memory on disk: one transaction for each batch, what was perhaps handed over, files of before."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from agent.errors import StorageError
from agent.protocol.trust import TrustedUnits
from agent.subscribe.chain import Chains, Gap, read_chains
from agent.subscribe.files import Kept, StateFile
from agent.subscribe.show import as_columns, as_json
from agent.subscribe.verify import VerifiedEvent, Verifier
from tests.simulators.signing_unit import (
    START,
    SigningUnit,
    presence_draft,
    refused,
    trust_list,
    unit_draft,
    verifier_of,
)


@pytest.fixture
def unit(tmp_path: Path) -> SigningUnit:
    return SigningUnit(tmp_path / "o.db")


def heard(unit: SigningUnit, verifier: Verifier, count: int = 3) -> list[VerifiedEvent]:
    drafts = [None, presence_draft(unit.clock), unit_draft(unit.clock)]
    rows = [unit.say(drafts[number % 3]) for number in range(count)]
    return [verifier.check(unit.topic(row), row.payload, START) for row in rows]


def test_events_that_were_perhaps_handed_over_come_again_as_repeats(unit: SigningUnit, tmp_path: Path) -> None:
    verifier, state = verifier_of(unit), StateFile(tmp_path / "seen.db")
    assert state.load() == Kept()
    events = heard(unit, verifier)
    numbers = state.commit(chains=verifier.take_changed(), events=events)
    kept = StateFile(tmp_path / "seen.db").look()
    assert [number for number, _ in kept.events] == numbers
    assert [event.event for _, event in kept.events] == [event.event for event in events]
    assert all(event.repeat and not event.fresh for _, event in kept.events), "a repeat opens no door"
    assert '"repeat": true' in as_json(kept.events[0][1])
    assert "REPEAT" in as_columns(kept.events[0][1])
    state.settle(numbers[1], sure=True)
    ((number, last),) = state.load().events
    assert (number, last.repeat, last.fresh) == (numbers[2], False, False)
    assert verifier_of(unit, state=state.look().chains).export() == verifier.export()
    state.close()


def test_only_the_chain_that_changed_is_written(tmp_path: Path) -> None:
    units = [SigningUnit(tmp_path / f"{name}.db", name) for name in ("door-3", "door-4")]
    verifier = verifier_of(*units)
    for unit in units:
        heard(unit, verifier)
    assert {record.source for record in verifier.take_changed()} == {"/postern/hq/door-3", "/postern/hq/door-4"}
    heard(units[1], verifier)
    assert [record.source for record in verifier.take_changed()] == ["/postern/hq/door-4"]
    assert verifier.take_changed() == []
    for unit in units:
        unit.outbox.close()


def test_json_file_of_a_release_before_is_moved_over_once(unit: SigningUnit, tmp_path: Path) -> None:
    verifier, path = verifier_of(unit), tmp_path / "seen.json"
    heard(unit, verifier)
    path.write_bytes(verifier.export())
    state = StateFile(path)
    assert Chains(state.look().chains).export() == verifier.export()
    assert Chains(state.load().chains).export() == verifier.export()
    assert path.read_bytes().startswith(b"SQLite format 3")
    assert not (tmp_path / "seen.json.new").exists()
    state.close()
    assert Chains(StateFile(path).load().chains).export() == verifier.export()


OLD_RECORD = (
    b'{"version":1,"chains":[{"source":"/postern/hq/door-3","kid":"%s","last":1,"known":[[1,"sha256:%s"]],'
    b'"missing":[],"admitted":[],"expected":[]}]}' % (b"k" * 43, b"5a" * 32)
)


def test_record_without_the_newer_members_is_read() -> None:
    (record,) = read_chains(OLD_RECORD)
    assert (record.last, record.here, record.boot, record.quarantined) == (1, None, None, None)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"SQLite format 3\0 and then nothing of the kind" * 40])
def test_damaged_memory_is_said_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "seen.db"
    path.write_bytes(content)
    with pytest.raises(StorageError):
        StateFile(path).load()
    assert path.read_bytes() == content


def test_memory_that_is_in_use_is_not_opened_twice(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "seen.db")
    state.load()
    with pytest.raises(StorageError, match="in use"):
        StateFile(tmp_path / "seen.db").load()
    state.close()
    state.close()
    StateFile(tmp_path / "seen.db").load()
    with pytest.raises(StorageError, match="not open"):
        state.commit()


def test_state_that_is_no_utf8_is_damaged_memory() -> None:
    with pytest.raises(StorageError, match="restore it"):
        Chains(b'{"version":1,"chains":[{"source":"\xff"}]}')


def test_units_can_be_asked_for_what_they_signed_under_keys_that_were_heard_and_count_on(tmp_path: Path) -> None:
    """Whoever throws away what waits at the broker relies on it."""
    speaking, silent = SigningUnit(tmp_path / "a.db", "door-3"), SigningUnit(tmp_path / "b.db", "door-4")
    verifier = verifier_of(speaking)
    assert not verifier.knows_all(START)
    heard(speaking, verifier, 1)
    assert verifier.knows_all(START)
    verifier.update_trust(TrustedUnits(trust_list(speaking, silent, serial=2)))
    assert not verifier.knows_all(START)
    replaced = trust_list(speaking, serial=3, until="2026-11-23T00:00:00Z")
    verifier.update_trust(TrustedUnits(replaced))
    assert not verifier.knows_all(START), "it empties its outbox, and nobody can ask"
    assert verifier.knows_all(START + timedelta(days=2))


def test_what_a_unit_said_that_joined_meanwhile_is_missed_from_its_first_event_on(tmp_path: Path) -> None:
    """Its first events may come before the list that names it, or expire at a busy broker."""
    old, joined = SigningUnit(tmp_path / "a.db", "door-3"), SigningUnit(tmp_path / "b.db", "door-4")
    rows = [joined.say() for _ in range(3)]
    verifier = verifier_of(old)
    assert refused(verifier, joined.topic(rows[0]), rows[0].payload) == "unknown_unit"
    verifier.update_trust(TrustedUnits(trust_list(old, joined, serial=2)))
    third = verifier.check(joined.topic(rows[2]), rows[2].payload, START)
    assert third.gap == Gap(1, 2)
    assert verifier.all_missing() == {"door-4": (Gap(1, 2),)}
    assert verifier.check(joined.topic(rows[0], "backlog"), rows[0].payload, START).late


def test_a_new_key_of_a_unit_that_was_there_before_begins_nothing_anew(tmp_path: Path) -> None:
    """Its numbers go on: those before were signed under the former key, and came."""
    before, after = SigningUnit(tmp_path / "a.db", "door-3"), SigningUnit(tmp_path / "b.db", "door-3")
    rows = [after.say() for _ in range(3)]
    verifier = verifier_of(before)
    verifier.update_trust(TrustedUnits(trust_list(after, serial=2)))
    assert verifier.check(after.topic(rows[2]), rows[2].payload, START).gap is None
