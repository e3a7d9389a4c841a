# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.audit.chain import NO_ENTRY, AuditHead, read_entries, verify_log
from agent.audit.log import AuditLog
from agent.clock import SimulatedClock
from agent.errors import StorageError, VerificationError
from agent.protocol.subject import SubjectId, subject_digest
from tests.simulators.auditor import audited

ANNA, BO = SubjectId(b"\xaa" * 16), SubjectId(b"\xbb" * 16)


def open_log(path: Path, **limits: int) -> AuditLog:
    return AuditLog(path, clock=SimulatedClock(), random=secrets.token_bytes, **limits)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def fill(path: Path, n: int = 8) -> list[bytes]:
    log = open_log(path)
    for number in range(n):
        log.append("command_done", {"verb": "enrol", "number": number}, subject=(ANNA, BO, None)[number % 3])
    log.close()
    return path.read_bytes().splitlines(keepends=True)


def test_entries_chain_and_the_head_is_the_last_one(path) -> None:
    log = open_log(path)
    assert log.head() == AuditHead(0, NO_ENTRY)
    heads = [
        log.append("started", {"version": "1.0"}),
        log.append("consent_given", subject=ANNA),
        log.append("stopped"),
    ]
    assert [h.seq for h in heads] == [1, 2, 3]
    report = audited(log, heads[1])
    assert (report.first, report.head, report.personal, report.erased, report.loose) == (1, heads[2], 1, 0, 0)
    assert [e.kind for e in read_entries(path)] == ["started", "consent_given", "stopped"]
    log.close()
    again = open_log(path)
    assert again.head() == heads[2]
    assert again.append("started").seq == 4
    assert audited(again).head.seq == 4


def test_an_empty_log_verifies(path) -> None:
    assert audited(open_log(path)).head == AuditHead(0, NO_ENTRY)


def test_a_changed_entry_is_found(path) -> None:
    lines = fill(path)
    for number in range(len(lines) - 1):
        changed = [*lines]
        changed[number] = changed[number].replace(b'"enrol"', b'"erase"')
        path.write_bytes(b"".join(changed))
        with pytest.raises(VerificationError) as caught:
            verify_log(path)
        assert caught.value.reason == "chain_broken"


def test_a_changed_last_entry_is_found_by_the_head(path) -> None:
    lines = fill(path)
    head = verify_log(path).head
    path.write_bytes(b"".join(lines).replace(b'"number":7', b'"number":9'))
    assert verify_log(path).head != head
    with pytest.raises(VerificationError) as caught:
        verify_log(path, head)
    assert caught.value.reason == "cut_off"


@pytest.mark.parametrize(
    "tamper",
    [
        lambda lines: lines[:3] + lines[4:],
        lambda lines: lines[1:],
        lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
        lambda lines: [*lines[:2], lines[2], lines[2], *lines[3:]],
        lambda lines: [*lines[:2], b"{}\n", *lines[3:]],
        lambda lines: [*lines[:2], lines[2].replace(b"{", b"{ ", 1), *lines[3:]],
        lambda lines: [*lines[:2], b"\xff" * 9000 + b"\n", *lines[3:]],
    ],
)
def test_a_dropped_moved_doubled_or_foreign_line_is_found(path, tamper) -> None:
    head_lines = fill(path)
    path.write_bytes(b"".join(tamper(head_lines)))
    with pytest.raises(VerificationError) as caught:
        verify_log(path)
    assert caught.value.reason in ("chain_broken", "malformed")


def test_a_cut_end_is_found_by_the_head_of_a_health_message(path) -> None:
    lines = fill(path)
    head = verify_log(path).head
    path.write_bytes(b"".join(lines[:-2]))
    assert verify_log(path).head.seq == 6, "the chain alone cannot know"
    with pytest.raises(VerificationError) as caught:
        verify_log(path, head)
    assert caught.value.reason == "cut_off"


def test_forgetting_a_person_leaves_no_byte_of_them_and_the_chain_holds(path) -> None:
    log = open_log(path)
    for subject in (ANNA, BO, ANNA):
        log.append("consent_given", {"notice": "2026-1"}, subject=subject, personal={"evidence": subject.hex() * 2})
    (file,) = {log._personal_file(subject_digest(ANNA))}
    os.link(file, path.parent / "blocks")
    head = log.head()
    log.forget(ANNA)
    log.forget(ANNA)
    report = audited(log, head)
    assert (report.personal, report.erased, report.loose) == (1, 2, 0)
    everything = b"".join(p.read_bytes() for p in path.parent.rglob("*") if p.is_file())
    assert ANNA.hex().encode() not in everything
    assert BO.hex().encode() in everything
    assert not any((path.parent / "blocks").read_bytes()), "overwritten, not only unlinked"


def test_a_power_cut_between_erasure_and_forgetting_is_made_good_by_the_tombstones(path) -> None:
    log = open_log(path)
    log.append("enrolled", subject=ANNA)
    log.append("enrolled", subject=BO)
    for digest in (subject_digest(ANNA), subject_digest(SubjectId(bytes(16)))):
        log.forget_digest(digest)
    assert (audited(log).personal, audited(log).erased) == (1, 1)


def test_a_changed_personal_part_is_counted_as_loose(path) -> None:
    fill(path)
    for file in (path.parent / "audit.jsonl.personal").iterdir():
        file.write_bytes(file.read_bytes().replace(b"aaaa", b"aaab"))
    report = verify_log(path)
    assert report.loose > 0
    assert report.erased > 0


@pytest.mark.parametrize("torn", [b'{"at":"2026', b"\x00" * 700, b"half a line\n", b"\x00" * 5000 + b"\n"])
def test_a_torn_end_is_healed_and_told(path, torn) -> None:
    fill(path, 4)
    head = verify_log(path).head
    with path.open("ab") as file:
        file.write(torn)
    log = open_log(path)
    entries = list(read_entries(path))
    assert entries[-1].kind == "log_healed"
    assert entries[-1].facts == {"bytes_dropped": len(torn)}
    assert audited(log, head).head.seq == 5


def test_damage_in_the_middle_is_not_healed_away(path) -> None:
    lines = fill(path)
    path.write_bytes(b"".join([*lines[:3], b"garbage\n", *lines[4:]]))
    open_log(path).close()
    assert len(path.read_bytes().splitlines()) == len(lines)
    with pytest.raises(VerificationError):
        verify_log(path)


def test_a_torn_personal_part_does_not_spoil_the_next_one(path) -> None:
    log = open_log(path)
    log.append("consent_given", subject=ANNA)
    with log._personal_file(subject_digest(ANNA)).open("ab") as file:
        file.write(b'{"salt":"12')
    log.append("enrolled", subject=ANNA)
    report = audited(log)
    assert (report.personal, report.loose) == (2, 0)


def test_the_log_is_bounded_and_still_verifies_after_the_oldest_file_went(path) -> None:
    log = open_log(path, max_file_bytes=2000, max_files=3)
    for number in range(100):
        log.append("command_refused", {"number": number})
    files = [p for p in path.parent.iterdir() if p.is_file() and "lock" not in p.name]
    assert len(files) == 3
    assert sum(p.stat().st_size for p in files) <= 6000
    report = audited(log, log.head())
    assert report.head.seq == 100
    assert 1 < report.first < 100
    log.close()
    path.unlink()  # the power failed between the two steps of beginning a new file
    assert open_log(path, max_file_bytes=2000).append("started").seq == verify_log(path).head.seq


def test_what_does_not_belong_in_a_log_is_refused(path) -> None:
    log = open_log(path)
    for facts in ({"score": 0.87}, {"list": [1]}, {"none": None}, {f"f{i}": i for i in range(17)}, {"x" * 5000: 1}):
        with pytest.raises(ValueError, match=r"facts|entry"):
            log.append("command_done", facts)
    with pytest.raises(ValueError, match="kind"):
        log.append("face_seen")
    assert log.head().seq == 0
    log.append("command_refused", {"reason": "bad\nline\x1b[31m" + "x" * 500})
    assert len(path.read_bytes().splitlines()) == 1


def test_a_second_writer_is_refused_and_a_reader_is_not(path) -> None:
    log = open_log(path)
    log.append("started")
    with pytest.raises(StorageError, match="in use"):
        open_log(path)
    assert verify_log(path).head.seq == 1


steps = st.lists(
    st.sampled_from(["append", "anna", "bo", "forget anna", "forget bo", "reopen", "torn"]), min_size=1, max_size=25
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps)
def test_no_history_breaks_the_chain(tmp_path, history) -> None:
    path = tmp_path / secrets.token_hex(4) / "audit.jsonl"
    path.parent.mkdir()
    log, there = open_log(path), {ANNA: 0, BO: 0}
    for step in history:
        before = log.head()
        if step == "append":
            log.append("command_done")
        elif step in ("anna", "bo"):
            subject = ANNA if step == "anna" else BO
            log.append("enrolled", subject=subject)
            there[subject] += 1
        elif step.startswith("forget"):
            subject = ANNA if step.endswith("anna") else BO
            log.forget(subject)
            there[subject] = 0
        else:
            log.close()
            if step == "torn":
                with path.open("ab") as file:
                    file.write(b'{"at"')
            log = open_log(path)
        report = audited(log, before)
        assert report.head.seq == before.seq + (step in ("append", "anna", "bo", "torn"))
        assert (report.personal, report.loose) == (sum(there.values()), 0)
    log.close()
    for line in path.read_bytes().splitlines():
        assert json.loads(line)["v"] == 1
