# SPDX-License-Identifier: Apache-2.0
"""The number that all files of a unit carry: who gets it, in which order, and what is said of each that has another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from agent.disk.files import PUBLIC_MODE
from agent.outbox.numbers import Head, Remembered
from agent.protocol.event import FIRST_PREV
from agent.unit.generation import MAX_FILE_BYTES, MAX_REASON, RIGHTS, Generation, Known, read_known, remembered_of

DIGESTS = ["sha256:" + digit * 64 for digit in "0123"]
ASKED = (
    " put back or replaced: nobody is matched until the site has looked at the unit and says so (postern ask UNIT"
    " unit/confirm what=files reason=…, or here postern unit confirm files)"
)


class Part:
    """What carries the number; at each new one it writes down what the file says by then."""

    def __init__(self, files: Files, number: int) -> None:
        self.files, self.number = files, number
        self.last = 0
        self.advanced: list[int] = []

    def generation(self) -> int:
        return self.number

    def stamp(self, number: int) -> None:
        self.files.coming.append(self.files.known().coming)
        self.number = number

    def advance(self, cmd_seq: int) -> None:
        self.advanced.append(cmd_seq)
        self.last = cmd_seq

    def head(self) -> Head:
        return self.files.head


class Files:
    """All that carries the number, without a disk but for the file of it."""

    def __init__(self, folder: Path, numbers: Mapping[str, int] | None = None, known: Known | None = None) -> None:
        self.path = folder / "generation.json"
        if known is not None:
            self.path.write_bytes(msgspec.json.encode(known))
        numbers = numbers or {}
        self.parts = {
            name: Part(self, numbers.get(name, 0)) for name in ("gallery", "command counter", "outbox", RIGHTS)
        }
        self.head = Head(7, DIGESTS[1])
        self.coming: list[int | None] = []
        self.logged: list[tuple[str, Mapping[str, Any]]] = []
        if "audit log" in numbers:
            self.logged.append(("generation", {"number": numbers["audit log"]}))

    def last(self, kind: str) -> object:
        return next((SimpleNamespace(facts=facts) for one, facts in reversed(self.logged) if one == kind), None)

    def append(self, kind: str, facts: Mapping[str, Any]) -> None:
        self.logged.append((kind, facts))

    def known(self) -> Known:
        return msgspec.json.decode(self.path.read_bytes(), type=Known)

    def opened(self) -> Generation:
        gallery, counter, outbox, rights = self.parts.values()
        return Generation(
            self.path,
            gallery=gallery,
            audit=cast("Any", self),
            counter=counter,
            outbox=cast("Any", outbox),
            rights=rights,
        )

    def numbers(self) -> set[int]:
        return {part.number for part in self.parts.values()}


def all_at(number: int, **others: int) -> dict[str, int]:
    names = ("gallery", "command counter", "outbox", RIGHTS, "audit log")
    return dict.fromkeys(names, number) | {name.replace("_", " "): other for name, other in others.items()}


def test_a_new_unit_begins_with_one_and_says_so_before_the_first_carries_it(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.parts["command counter"].last = 5
    generation = files.opened()
    assert (generation.doubt, generation.doubted()) == (None, False)
    assert files.coming == [1, 1, 1, 1]
    assert files.numbers() == {1}
    facts = {"number": 1, "event_seq": 7, "event_digest": DIGESTS[1], "cmd_seq": 5}
    assert files.logged == [("generation", facts)]
    assert msgspec.json.decode(files.path.read_bytes()) == {**facts, "rights": True}
    assert files.path.stat().st_mode & 0o777 == PUBLIC_MODE
    generation.advance()
    assert files.numbers() == {2}
    assert files.known().number == 2


@pytest.mark.parametrize("reached", range(6))
def test_what_was_cut_off_between_two_parts_is_no_doubt_and_goes_on_with_the_same_number(
    tmp_path: Path, reached: int
) -> None:
    numbers = {name: 9 if n < reached else 4 for n, name in enumerate(all_at(0))}
    files = Files(tmp_path, numbers, Known(number=4, coming=9, rights=True))
    assert not files.opened().doubted()
    assert files.numbers() == {9}
    assert files.known() == Known(number=9, event_seq=7, event_digest=DIGESTS[1], rights=True)


def test_a_number_that_was_never_begun_is_the_next_one(tmp_path: Path) -> None:
    files = Files(tmp_path, all_at(4), Known(number=4, coming=2, rights=True))
    files.opened()
    assert files.numbers() == {5}


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (all_at(4, gallery=3), "gallery was"),
        (all_at(4, command_counter=3), "command counter was"),
        (all_at(4, outbox=3), "outbox was"),
        (all_at(4, record_of_used_rules=3), "record of used rules was"),
        (all_at(4, audit_log=3), "audit log was"),
        (all_at(4, gallery=3, outbox=2), "gallery, outbox were"),
        (all_at(5), "file of their common number was"),
        (all_at(0), "gallery, command counter, outbox, record of used rules, audit log were"),
        (all_at(3), "gallery, command counter, outbox, record of used rules, audit log were"),
    ],
)
def test_each_that_is_behind_is_named_and_the_highest_number_is_kept(
    tmp_path: Path, numbers: dict[str, int], said: str
) -> None:
    before = dict(numbers)
    files = Files(tmp_path, numbers, Known(number=4, rights=True))
    generation = files.opened()
    assert generation.doubt == f"the unit's {said}{ASKED}"
    assert generation.doubted()
    assert {name: part.number for name, part in files.parts.items()} == {n: before[n] for n in files.parts}
    number = max(4, *before.values())
    assert files.known() == Known(
        number=number, event_seq=7, event_digest=DIGESTS[1], rights=True, doubt=generation.doubt
    )
    assert files.opened().doubt == generation.doubt, "also after a restart"


@pytest.mark.parametrize("content", [None, b"", b"{}}", b" " * (MAX_FILE_BYTES - 1) + b"{}"])
def test_a_file_of_the_number_that_is_lost_is_a_doubt_where_anybody_carries_one(
    tmp_path: Path, content: bytes | None
) -> None:
    files = Files(tmp_path, all_at(4))
    if content is not None:
        files.path.write_bytes(content)
    assert files.opened().doubt == f"the unit's file of their common number was{ASKED}"
    assert files.known().number == 4


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "generation.json"
    path.write_bytes(b" " * (MAX_FILE_BYTES - 12) + b'{"number":7}')
    assert read_known(path) == Known(number=7)


def test_the_record_of_used_rules_counts_from_the_first_number_that_it_was_given(tmp_path: Path) -> None:
    files = Files(tmp_path, all_at(4, record_of_used_rules=0), Known(number=4))
    assert not files.opened().doubted(), "of a release before it"
    assert files.parts[RIGHTS].number == 5
    assert files.known().rights
    files.parts[RIGHTS].number = 0
    assert files.opened().doubt == f"the unit's record of used rules was{ASKED}"


@pytest.mark.parametrize(("at", "advanced"), [(11, [12]), (12, []), (13, [])])
def test_in_doubt_the_counter_goes_on_behind_what_the_log_says(tmp_path: Path, at: int, advanced: list[int]) -> None:
    files = Files(tmp_path, all_at(4, gallery=3), Known(number=4, rights=True))
    files.logged = [("generation", {"number": 4, "event_seq": 3, "event_digest": DIGESTS[2], "cmd_seq": 12})]
    counter = files.parts["command counter"]
    counter.last = at
    files.opened()
    assert counter.advanced == advanced
    assert files.known().cmd_seq == max(at, 12)


def test_without_a_doubt_the_counter_is_left_alone(tmp_path: Path) -> None:
    files = Files(tmp_path, all_at(4), Known(number=4, cmd_seq=12, rights=True))
    files.opened()
    assert files.parts["command counter"].advanced == []


def test_while_the_site_is_asked_the_number_stays_and_how_far_the_events_went_is_written_once(tmp_path: Path) -> None:
    files = Files(tmp_path, all_at(4, gallery=3), Known(number=4, rights=True))
    generation = files.opened()
    files.head = Head(8, DIGESTS[2])
    generation.advance()
    known = files.known()
    assert (known.number, known.event_seq, known.event_digest, known.doubt) == (4, 8, DIGESTS[2], generation.doubt)
    files.path.unlink()
    generation.advance()
    assert not files.path.exists(), "nothing went on"
    assert files.parts["gallery"].number == 3


@pytest.mark.parametrize("length", [1, MAX_REASON, MAX_REASON + 1])
def test_a_person_ends_the_doubt_with_a_reason_that_stands_in_the_log(tmp_path: Path, length: int) -> None:
    files = Files(tmp_path, all_at(4, gallery=3), Known(number=4, rights=True))
    generation = files.opened()
    generation.accept("r" * length)
    assert files.logged[-2] == ("confirmed", {"what": "files", "reason": "r" * min(length, MAX_REASON)})
    assert files.logged[-1][0] == "generation"
    assert (generation.doubt, files.numbers(), files.known().doubt) == (None, {5}, None)


LOGGED = {"number": 6, "event_seq": 5, "event_digest": DIGESTS[2], "cmd_seq": 8}


@pytest.mark.parametrize(
    ("known", "told", "expected"),
    [
        (None, LOGGED, Known(6, None, 5, DIGESTS[2], 8)),
        (Known(7, None, 4, DIGESTS[1], 9), LOGGED, Known(7, None, 5, DIGESTS[2], 9)),
        (Known(5, None, 5, DIGESTS[1], 7), LOGGED, Known(6, None, 5, DIGESTS[1], 8)),
        (Known(5, None, 6, DIGESTS[1], 7, rights=True), LOGGED, Known(6, None, 6, DIGESTS[1], 8, rights=True)),
        (Known(5, 6, 6, DIGESTS[1], 7), {"number": "6"}, Known(5, 6, 6, DIGESTS[1], 7)),
        (Known(5, 6, 6, DIGESTS[1], 7), None, Known(5, 6, 6, DIGESTS[1], 7)),
        (None, {"number": "6"}, None),
        (None, None, None),
    ],
)
def test_file_and_log_tell_together_how_far_a_unit_went(
    tmp_path: Path, known: Known | None, told: dict[str, Any] | None, expected: Known | None
) -> None:
    files = Files(tmp_path, known=known)
    if told is not None:
        files.logged.append(("generation", told))
    files.logged.append(("confirmed", {"number": 99}))
    assert read_known(files.path, cast("Any", files)) == expected
    assert read_known(files.path) == known


def test_a_number_in_the_log_that_is_none_counts_as_before_the_first(tmp_path: Path) -> None:
    files = Files(tmp_path, all_at(1), Known(number=1, rights=True))
    files.logged = [("generation", {"number": "1"})]
    assert files.opened().doubt == f"the unit's audit log was{ASKED}"


def test_the_outbox_is_told_the_number_only_while_nobody_has_to_be_asked() -> None:
    assert remembered_of(None) == Remembered()
    assert remembered_of(Known(4, None, 7, DIGESTS[1])) == Remembered(Head(7, DIGESTS[1]), 4)
    assert remembered_of(Known(4, None, 7, DIGESTS[1], doubt="put back")) == Remembered(Head(7, DIGESTS[1]), 0)
    assert remembered_of(Known()) == Remembered(Head(0, FIRST_PREV), 0)


def test_a_file_that_is_damaged_before_the_first_number_is_a_doubt_too(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.path.write_bytes(b"{")
    assert files.opened().doubt == f"the unit's file of their common number was{ASKED}"


def test_where_the_file_is_lost_each_that_is_behind_is_named_with_it(tmp_path: Path) -> None:
    files = Files(tmp_path, {"gallery": 1})
    behind = "command counter, outbox, record of used rules, audit log, file of their common number"
    assert files.opened().doubt == f"the unit's {behind} were{ASKED}"
