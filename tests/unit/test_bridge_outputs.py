# SPDX-License-Identifier: Apache-2.0
"""Each output gets everything, in order, with its key; what is dead stops nobody else; the past moves no automation."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from agent.bridge.outputs import ACT_WITHIN_S, Item, Output, may_open, told
from agent.bridge.people import Resolving, read_people
from agent.bridge.pump import Pump
from agent.bridge.records import notice, records_of, withdrawn
from agent.bridge.settings import UNCHECKED
from agent.bridge.sql import Sql
from agent.bridge.status import Status
from agent.bridge.store import Store
from agent.bridge.webhook import MAX_ATTEMPTS, Webhook
from agent.clock import SimulatedClock
from agent.disk.files import write_atomic
from agent.errors import KeyStoreError, RefusedError
from agent.keys import encode_base64url
from agent.protocol.pseudonym import EpochKey, epoch_of, pseudonym, spell
from agent.subscribe.chain import Gap
from agent.subscribe.subscriber import Refusal
from agent.subscribe.verify import Loss, VerifiedEvent
from tests.simulators.receiver import SECRET, Receiver
from tests.simulators.signing_unit import START, SigningUnit, match_draft, verifier_of

OUTPUTS = ("hook", "archive")


@dataclass
class Bench:
    """A store that two outputs read, and what fills it: a unit's real events, verified."""

    folder: Path
    clock: SimulatedClock = field(default_factory=lambda: SimulatedClock(START))
    notices: list[str] = field(default_factory=list)
    pumps: list[Pump] = field(default_factory=list)
    states: dict[str, bool] = field(default_factory=dict)  # whether an output is failing

    def __post_init__(self) -> None:
        self.unit = SigningUnit(self.folder / "outbox.db", clock=self.clock)
        self.verifier = verifier_of(self.unit)
        self.store = Store(self.folder / "bridge.db", outputs=OUTPUTS, clock=self.clock)
        write_atomic(self.folder / "secret", SECRET)
        self.status = Status()

    @property
    def now_s(self) -> int:
        return int(self.clock.now().timestamp())

    def hear(self, *, zone: str = "door", subject: str = "p1_" + "9c41" * 8, leaf: str = "event") -> VerifiedEvent:
        draft = match_draft(self.clock, subject)
        draft = type(draft)(draft.kind, draft.time, draft.clock, {**draft.facts, "zone": zone})
        row = self.unit.say(draft)
        verified = self.verifier.check(self.unit.topic(row, leaf), row.payload, self.clock.now())
        self.store.put(records_of(verified, "hq", serial=self.store.serial), self.now_s)
        return verified

    def pump(self, name: str, output: Output, person: object = None) -> Pump:
        pump = Pump(
            name,
            output,
            store=self.store,
            clock=self.clock,
            random=secrets.token_bytes,
            person=person,  # type: ignore[arg-type]
            on_notice=self.notices.append,
            on_state=self.states.__setitem__,
        )
        self.pumps.append(pump)
        return pump

    def hook(self, receiver: Receiver, words: str | None = None) -> Pump:
        return self.pump("hook", Webhook(receiver.url, self.folder / "secret", words, self.clock))

    def archive(self, person: object = None) -> Pump:
        return self.pump("archive", Sql(f"sqlite:///{self.folder}/archive.db", None), person)

    def rows(self, query: str) -> list[tuple[object, ...]]:
        connection = sqlite3.connect(self.folder / "archive.db")
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    for pump in bench.pumps:
        pump.stop()
    bench.store.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


def test_gaps_losses_and_refusals_are_records_in_every_output(bench: Bench, receiver: Receiver) -> None:
    bench.hear()
    bench.unit.say()
    bench.hear()
    serial = bench.store.serial
    for outcome in (Refusal("replayed", "postern/hq/door-3/event/match", "older"), Loss("door-3", Gap(2, 2), 1)):
        bench.store.put(records_of(outcome, "hq", serial=serial), bench.now_s)
    bench.hook(receiver).step()
    bench.archive().step()
    kinds = ["match", "gap", "match", "refusal", "loss"]
    assert [one["kind"] for one in receiver.taken] == kinds
    assert receiver.forged == 0
    assert [row[0] for row in bench.rows("SELECT kind FROM postern_record ORDER BY number")] == kinds
    assert bench.store.behind() == {"hook": 0, "archive": 0}


def test_what_comes_again_is_one_record(bench: Bench, receiver: Receiver) -> None:
    verified = bench.hear()
    bench.hook(receiver).step()
    bench.store.put(records_of(verified, "hq", serial=bench.store.serial), bench.now_s)
    bench.hook(receiver).step()
    assert len(receiver.taken) == 1


def test_dead_receiver_is_told_once_and_the_database_goes_on(bench: Bench) -> None:
    gone = Receiver()
    gone.stop()
    hook, archive = bench.hook(gone), bench.archive()
    for _ in range(3):
        bench.hear()
        assert hook.step() > 0
        archive.step()
    assert len(bench.notices) == 1
    assert "cannot be reached" in bench.notices[0]
    assert bench.rows("SELECT count(*) FROM postern_record") == [(3,)]
    assert bench.states == {"hook": True}
    again = Receiver(gone.port)
    try:
        assert hook.step() == 0
        assert [seq for _, seq in again.events()] == [1, 2, 3]
        assert bench.notices[-1] == "output hook works again"
        assert bench.states == {"hook": False}
    finally:
        again.stop()


@pytest.mark.parametrize(("status", "attempts"), [(400, 1), (302, MAX_ATTEMPTS), (500, MAX_ATTEMPTS)])
def test_record_that_a_receiver_never_takes_becomes_a_dead_letter(
    bench: Bench, receiver: Receiver, status: int, attempts: int
) -> None:
    bench.hear()
    bench.hear(zone="safe")
    bench.hear()
    receiver.answers["safe"] = status
    hook = bench.hook(receiver)
    for _ in range(attempts):
        hook.step()
    assert [seq for _, seq in receiver.events()] == [1, 3]
    (letter,) = bench.store.dead()
    assert (letter.output, letter.body.seq) == ("hook", 2)
    assert str(status) in letter.reason
    assert bench.store.dead_counts() == {"hook": 1}


@pytest.mark.parametrize("status", [401, 403, 407])
def test_wrong_secret_is_one_sentence_and_nothing_is_lost_while_it_is_wrong(
    bench: Bench, receiver: Receiver, status: int
) -> None:
    receiver.answer = status
    hook = bench.hook(receiver)
    for _ in range(2 * MAX_ATTEMPTS):
        bench.hear()
        assert hook.step() > 0
    assert len(bench.notices) == 1
    assert "it does not take this secret" in bench.notices[0]
    assert bench.store.dead() == []
    receiver.answer = 204
    while hook.step() == 0 and bench.store.behind()["hook"]:
        pass
    assert [seq for _, seq in receiver.events()] == list(range(1, 2 * MAX_ATTEMPTS + 1))


def test_wrong_address_is_tried_for_long_before_a_record_is_a_dead_letter(bench: Bench, receiver: Receiver) -> None:
    bench.hear()
    receiver.answer = 404
    hook = bench.hook(receiver)
    for _ in range(MAX_ATTEMPTS - 1):
        assert hook.step() > 0
    assert bench.store.dead() == []
    receiver.answer = 204
    hook.step()
    assert [seq for _, seq in receiver.events()] == [1]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_receiver_that_moved_costs_no_record_and_nobody_is_followed(
    bench: Bench, receiver: Receiver, status: int
) -> None:
    elsewhere = Receiver()
    try:
        receiver.answer, receiver.location = status, elsewhere.url
        bench.hear()
        hook = bench.hook(receiver)
        assert hook.step() > 0
        assert hook.step() > 0
        assert elsewhere.taken == [], "what is for one receiver is sent to no other"
    finally:
        elsewhere.stop()
    assert len(bench.notices) == 1
    assert f"answers {status}, and is not followed to another address: correct the URL" in bench.notices[0]
    assert bench.store.dead() == []
    receiver.answer = 204
    assert hook.step() == 0
    assert [seq for _, seq in receiver.events()] == [1]


def test_dead_database_is_told_in_one_sentence_and_the_receiver_goes_on(bench: Bench, receiver: Receiver) -> None:
    pump = bench.pump("archive", Sql(f"sqlite:///{bench.folder}/no/such/folder.db", None))
    bench.hear()
    assert pump.step() > 0
    assert pump.step() > 0
    bench.hook(receiver).step()
    assert len(bench.notices) == 1
    assert "whose folder has to be there and writable for the bridge" in bench.notices[0]
    assert "\n" not in bench.notices[0]
    assert len(receiver.taken) == 1


def test_output_that_breaks_altogether_stops_no_other(bench: Bench, receiver: Receiver) -> None:
    class Broken(Webhook):
        def send(self, *_: object) -> object:  # type: ignore[override]
            raise ZeroDivisionError

    bench.hear()
    pump = bench.pump("archive", Broken(receiver.url, bench.folder / "secret", None, bench.clock))
    assert pump.step() > 0
    assert "report this" in bench.notices[0]
    bench.hook(receiver).step()
    assert len(receiver.taken) == 1


def test_output_that_is_too_far_behind_loses_the_oldest_and_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "bridge.db", outputs=OUTPUTS, clock=SimulatedClock(), max_behind=1000)
    try:
        for number in range(1600):
            store.put([notice(str(number), serial=str(number))], 0)
            store.passed("hook", number + 1, [], 0)
        assert store.behind()["archive"] <= 1100
        (letter,) = store.dead()
        assert letter.output == "archive"
        assert "were dropped" in letter.reason
    finally:
        store.close()


def test_the_place_of_an_output_never_goes_back(bench: Bench) -> None:
    """An answer that comes late, of a batch before, has nothing handed over once more."""
    for _ in range(3):
        bench.hear()
    bench.store.passed("hook", 3, [], bench.now_s)
    bench.store.passed("hook", 1, [], bench.now_s)
    assert bench.store.behind() == {"hook": 0, "archive": 3}
    assert bench.store.upcoming("hook", 9) == []


def test_dead_letters_of_one_output_are_kept_up_to_a_bound_and_the_oldest_goes(tmp_path: Path) -> None:
    store = Store(tmp_path / "bridge.db", outputs=OUTPUTS, clock=SimulatedClock(), max_dead=3)
    try:
        store.put([notice(str(number), serial=str(number)) for number in range(6)], 0)
        records = store.upcoming("hook", 6)
        store.passed("archive", 1, [(records[0], "no")], 0)
        for record in records[1:]:
            store.passed("hook", record.number, [(record, "no")], 0)
        kept = [(letter.output, letter.key) for letter in store.dead()]
        assert kept == [("archive", records[0].key), *(("hook", record.key) for record in records[3:])]
        assert store.dead_counts() == {"archive": 1, "hook": 3}
    finally:
        store.close()


def test_late_and_waiting_events_move_no_automation(bench: Bench) -> None:
    fresh = bench.hear()
    late = bench.hear(leaf="backlog")
    (first, second) = bench.store.upcoming("hook", 2)
    assert (fresh.fresh, late.fresh) == (True, False)
    assert may_open(first, bench.now_s, UNCHECKED)
    assert not may_open(second, bench.now_s, UNCHECKED)
    assert not may_open(first, bench.now_s + ACT_WITHIN_S + 1, UNCHECKED)
    for changes in ({"repeat": True}, {"fresh": False}, {"kind": "presence"}, {"kind": "unit"}):
        other = msgspec.structs.replace(first, body=msgspec.structs.replace(first.body, **changes))
        assert other.age_s is not None
        assert not may_open(other, bench.now_s, UNCHECKED), changes


@pytest.mark.parametrize("words", [None, "yes", "true", UNCHECKED.upper()])
def test_no_door_opens_on_a_face_alone_unless_somebody_wrote_it_down(bench: Bench, words: str | None) -> None:
    bench.hear()
    (record,) = bench.store.upcoming("hook", 1)
    assert record.body.liveness == "not_checked"
    assert not may_open(record, bench.now_s, words)
    assert may_open(record, bench.now_s, UNCHECKED)


class Known:
    """Two ids of one person, with the key of the week."""

    def __init__(self, bench: Bench) -> None:
        self.secret, self.ids = secrets.token_bytes(32), [secrets.token_bytes(16) for _ in range(2)]
        self.people, self.keys = bench.folder / "people", bench.folder / "epoch-keys"
        self.keys.mkdir()
        epoch = epoch_of(bench.clock.now())
        key = EpochKey(site="hq", audience="access", epoch=epoch, key=encode_base64url(self.secret))
        write_atomic(self.keys / "week.json", msgspec.json.encode(key))
        self.write(*self.ids)

    def write(self, *ids: bytes) -> None:
        write_atomic(self.people, "".join(f"{one.hex()} anna Anna Bauer\n" for one in ids).encode())

    def names(self) -> list[str]:
        return [spell(pseudonym(self.secret, one)) for one in self.ids]


def test_two_ids_are_one_person_and_a_withdrawal_takes_the_name_out_of_every_row(bench: Bench) -> None:
    known = Known(bench)
    resolving = Resolving(known.people, known.keys, None)
    for name in known.names():
        bench.hear(subject=name)
    archive = bench.archive(resolving.person)
    archive.step()
    assert bench.rows("SELECT person FROM postern_record") == [("anna",), ("anna",)]
    assert bench.store.people(frozenset(resolving.everybody())) == set()
    known.write()
    assert resolving.refresh()
    (gone,) = bench.store.people(frozenset(resolving.everybody()))
    bench.store.forget_person(gone, withdrawn(gone, serial=bench.store.serial()), bench.now_s)
    archive.step()
    assert bench.rows("SELECT count(*) FROM postern_record WHERE person IS NOT NULL") == [(0,)]
    assert bench.store.people(frozenset()) == set()


def test_output_is_told_who_it_was_only_where_it_may_know(bench: Bench, receiver: Receiver) -> None:
    bench.hear(subject=Known(bench).names()[0])
    bench.hook(receiver).step()
    assert "person" not in receiver.taken[0]


@pytest.mark.parametrize("line", ["abc anna", "00" * 16, "00" * 16 + " Anna", "00" * 15 + " anna Anna"])
def test_map_of_people_that_is_wrong_names_its_line(tmp_path: Path, line: str) -> None:
    write_atomic(tmp_path / "people", f"# who\n{line}\n".encode())
    with pytest.raises(RefusedError, match="line 2"):
        read_people(tmp_path / "people")


def test_map_of_people_that_others_can_read_is_refused(tmp_path: Path) -> None:
    write_atomic(tmp_path / "people", b"", mode=0o644)
    with pytest.raises(KeyStoreError):
        read_people(tmp_path / "people")


def test_map_that_others_may_read_later_is_told_and_changes_nothing(bench: Bench) -> None:
    known = Known(bench)
    resolving = Resolving(known.people, known.keys, None)
    known.people.chmod(0o644)
    assert not resolving.refresh()
    assert "can be read by others" in str(resolving.refusal)
    assert resolving.everybody().keys() == {"anna"}
    known.people.chmod(0o600)
    assert resolving.refresh()
    assert resolving.refusal is None


def test_wrong_map_laid_down_later_changes_nothing(bench: Bench) -> None:
    known = Known(bench)
    resolving = Resolving(known.people, known.keys, None)
    write_atomic(known.people, b"nonsense\n")
    assert not resolving.refresh()
    assert resolving.refusal is not None
    assert set(resolving.everybody()) == {"anna"}


def test_everything_told_is_plain(bench: Bench) -> None:
    bench.hear()
    (record,) = bench.store.upcoming("hook", 1)
    content = told(Item(record, None), bench.now_s, None)
    assert content["kind"] == "match"
    assert content["act"] is True
    assert content["may_open"] is False
    assert content["event"]["sig"]
