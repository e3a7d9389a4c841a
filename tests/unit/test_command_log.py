# SPDX-License-Identifier: Apache-2.0
"""A flood of unsigned commands, or of recorded ones, does not push the audit log's history out."""

from __future__ import annotations

from collections.abc import Mapping

from agent.audit.chain import Fact, Kind
from agent.clock import SimulatedClock
from agent.errors import StorageError
from agent.protocol.command import READING
from agent.unit.command_log import MAX_SHARED, REFUSED_AT_ONCE, SHARED_S, CommandLog
from agent.uplink.commands import Outcome


def test_unsigned_commands_share_an_entry_and_signed_ones_have_their_own() -> None:
    clock, entries = SimulatedClock(), []

    def append(kind: Kind, facts: Mapping[str, Fact]) -> None:
        entries.append((kind, dict(facts)))

    log = CommandLog(append, clock=clock)
    for _ in range(500):
        log(Outcome("selftest", None, "bad_signature"))
    log(Outcome("health", 7, None, taken=True))
    log(Outcome("health", 8, "wrong_verb"))
    clock.advance(SHARED_S)
    log(Outcome("selftest", None, "malformed"))
    assert entries == [
        ("command_refused", {"verb": "selftest", "error": "bad_signature", "count": 1}),
        ("command_done", {"verb": "health", "cmd_seq": 7}),
        ("command_refused", {"verb": "health", "error": "wrong_verb", "cmd_seq": 8}),
        ("command_refused", {"verb": "selftest", "error": "malformed", "count": 500}),
    ]


def test_recorded_command_sent_again_and_again_neither_fills_the_log_nor_numbers_the_files_anew() -> None:
    clock, entries, numbered = SimulatedClock(), [], []

    def append(kind: Kind, facts: Mapping[str, Fact]) -> None:
        entries.append((kind, dict(facts)))

    log = CommandLog(append, clock=clock, taken=lambda: numbered.append(1))
    log(Outcome("recognition/pause", 7, None, taken=True))
    for _ in range(5 * 3600):  # an hour at the rate at which the unit answers
        log(Outcome("recognition/pause", 7, "replayed"))
        clock.advance(0.2)
    assert len(numbered) == 1
    assert len(entries) <= 1 + REFUSED_AT_ONCE + 3600 / SHARED_S
    clock.advance(SHARED_S)
    log(Outcome("recognition/pause", 7, "replayed"))
    assert sum(int(facts.get("count", 1)) for _, facts in entries) == 1 + 5 * 3600 + 1, "each is counted"


class Log:
    """A command log, its entries, and how often it numbered the files."""

    def __init__(self) -> None:
        self.clock, self.entries, self.numbered = SimulatedClock(), list[tuple[str, dict[str, Fact]]](), 0
        self.full = False
        self.log = CommandLog(self._append, clock=self.clock, taken=self._number)

    def _append(self, kind: Kind, facts: Mapping[str, Fact]) -> None:
        self.entries.append((kind, dict(facts)))

    def _number(self) -> None:
        self.numbered += 1
        if self.full:
            raise StorageError("no space left")


def test_a_program_is_named_and_its_commands_share_an_entry_by_how_they_ended() -> None:
    kept = Log()
    for program, error, taken in (
        ("auditor-1", None, False),
        ("auditor-1", None, False),
        ("auditor-1", "rate_limited", False),
        ("auditor-2", None, False),
        ("site-service", None, True),
    ):
        kept.log(Outcome("outbox/replay", 9, error, program=program, taken=taken))
    kept.clock.advance(SHARED_S - 0.001)
    kept.log(Outcome("outbox/replay", 9, None, program="auditor-1"))
    kept.clock.advance(0.001)
    kept.log(Outcome("outbox/replay", 9, None, program="auditor-1"))
    assert kept.entries == [
        (
            "command_done" if error is None else "command_refused",
            {"verb": "outbox/replay"} | ({} if error is None else {"error": error}) | {"program": who, "count": count},
        )
        for who, error, count in (
            ("auditor-1", None, 1),
            ("auditor-1", "rate_limited", 1),
            ("auditor-2", None, 1),
            ("site-service", None, 1),
            ("auditor-1", None, 3),
        )
    ]


def test_only_what_may_have_changed_something_numbers_the_files_and_a_full_disk_stops_no_command() -> None:
    kept = Log()
    for verb in READING:
        kept.log(Outcome(verb, 1, None, taken=True))
    kept.log(Outcome("recognition/pause", 2, "busy", taken=False))
    assert kept.numbered == 0
    kept.log(Outcome("recognition/pause", 3, "busy", taken=True))
    assert kept.numbered == 1, "its number counts from now on, whatever came of it"
    kept.full = True
    kept.log(Outcome("recognition/pause", 4, None, taken=True))
    assert kept.entries[-1] == ("command_done", {"verb": "recognition/pause", "cmd_seq": 4})


def test_refused_ones_by_the_sites_key_have_room_for_twenty_and_one_more_in_ten_minutes() -> None:
    kept = Log()
    refused = Outcome("selftest", 5, "replayed")
    for _ in range(REFUSED_AT_ONCE):
        kept.log(refused)
    assert (
        kept.entries == [("command_refused", {"verb": "selftest", "error": "replayed", "cmd_seq": 5})] * REFUSED_AT_ONCE
    )
    kept.log(refused)
    kept.clock.advance(SHARED_S - 1)
    kept.log(refused)
    assert len(kept.entries) == REFUSED_AT_ONCE
    kept.clock.advance(1)
    kept.log(refused)
    assert kept.entries[-1][1] == {"verb": "selftest", "error": "replayed", "cmd_seq": 5, "count": 3}
    kept.clock.advance(100 * SHARED_S)  # no more room than at first
    for _ in range(REFUSED_AT_ONCE + 5):
        kept.log(refused)
    assert len(kept.entries) == 2 * REFUSED_AT_ONCE + 1


def test_of_too_many_sorts_the_oldest_is_forgotten() -> None:
    kept = Log()
    for number in range(MAX_SHARED + 1):
        kept.log(Outcome("outbox/replay", 9, None, program=f"auditor-{number}"))
    assert len(kept.log._shared) == MAX_SHARED
    kept.log(Outcome("outbox/replay", 9, None, program="auditor-1"))
    assert len(kept.entries) == MAX_SHARED + 1, "known still"
    kept.log(Outcome("outbox/replay", 9, None, program="auditor-0"))
    assert len(kept.entries) == MAX_SHARED + 2, "told as if it were the first"
