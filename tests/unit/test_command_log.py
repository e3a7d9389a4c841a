# SPDX-License-Identifier: Apache-2.0
"""A flood of unsigned commands, or of recorded ones, does not push the audit log's history out."""

from __future__ import annotations

from collections.abc import Mapping

from agent.audit.chain import Fact, Kind
from agent.clock import SimulatedClock
from agent.unit.command_log import REFUSED_AT_ONCE, SHARED_S, CommandLog
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
