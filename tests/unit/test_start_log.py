# SPDX-License-Identifier: Apache-2.0
"""What was changed while the unit was off stands in the audit log at the next start."""

from __future__ import annotations

import secrets
from contextlib import closing
from pathlib import Path

import pytest

from agent.audit.chain import read_entries
from agent.audit.log import AuditLog
from agent.clock import SimulatedClock
from agent.config.load import load_config
from agent.unit.start_log import CHANGES, digest_of, log_start
from tests.simulators.auditor import audited

FACTS = {"version": "1.0", "config": "sha256:c", "policy": "sha256:p", "model": "sha256:m", "kid": "k"}
EXAMPLE = Path(__file__).parents[2] / "deploy/config.example.yaml"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def start(path: Path, **limits: int) -> AuditLog:
    return AuditLog(path, clock=SimulatedClock(), random=secrets.token_bytes, **limits)


def test_the_first_start_changes_nothing_and_the_same_again_neither(path: Path) -> None:
    with closing(start(path)) as log:
        log_start(log, FACTS)
        log_start(log, FACTS)
    assert [entry.kind for entry in read_entries(path)] == ["started", "started"]


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_has_its_own_entry_with_before_and_after(path: Path, name: str) -> None:
    with closing(start(path)) as log:
        log_start(log, FACTS)
        log.append("command_done", {"verb": '"kind":"started"'})  # no start, whatever it says
        log_start(log, {**FACTS, name: "other"})
        audited(log)
    (entry,) = [entry for entry in read_entries(path) if entry.kind == CHANGES[name]]
    assert entry.facts == {"before": FACTS[name], "after": "other"}


def test_a_change_is_seen_over_a_rotation(path: Path) -> None:
    with closing(start(path, max_file_bytes=1200, max_files=9)) as log:
        log_start(log, FACTS)
        for number in range(8):
            log.append("command_done", {"number": number})
        log_start(log, {**FACTS, "policy": "other"})
        assert log.last("policy_changed") is not None
        assert log.last("tamper") is None


def test_the_digest_of_a_configuration_is_of_what_it_says(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    file = tmp_path / "config.yaml"
    file.write_text(text)
    digest = digest_of(load_config(file))
    file.write_text("# another comment\n" + text)
    assert digest_of(load_config(file)) == digest
    file.write_text(text.replace("retention_days: 365", "retention_days: 364"))
    assert digest_of(load_config(file)) != digest
