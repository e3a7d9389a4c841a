# SPDX-License-Identifier: Apache-2.0
"""A flood of unsigned commands does not push the audit log's history out."""

from __future__ import annotations

from collections.abc import Mapping

from agent.audit.chain import Fact, Kind
from agent.clock import SimulatedClock
from agent.unit.command_log import SHARED_S, CommandLog
from agent.uplink.commands import Outcome


def test_unsigned_commands_share_an_entry_and_signed_ones_have_their_own() -> None:
    clock, entries = SimulatedClock(), []

    def append(kind: Kind, facts: Mapping[str, Fact]) -> None:
        entries.append((kind, dict(facts)))

    log = CommandLog(append, clock=clock)
    for _ in range(500):
        log(Outcome("selftest", None, "bad_signature"))
    log(Outcome("health", 7, None))
    log(Outcome("health", 8, "wrong_verb"))
    clock.advance(SHARED_S)
    log(Outcome("selftest", None, "malformed"))
    assert entries == [
        ("command_refused", {"verb": "selftest", "error": "bad_signature", "count": 1}),
        ("command_done", {"verb": "health", "cmd_seq": 7}),
        ("command_refused", {"verb": "health", "error": "wrong_verb", "cmd_seq": 8}),
        ("command_refused", {"verb": "selftest", "error": "malformed", "count": 500}),
    ]
