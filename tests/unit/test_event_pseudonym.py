# SPDX-License-Identifier: Apache-2.0
"""Pseudonyms: unlinkable without the key, gone with the key, and resolved for one epoch only."""

from __future__ import annotations

import hashlib
import hmac
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.disk.files import write_atomic
from agent.errors import KeyStoreError
from agent.keys import encode_base64url
from agent.outbox.epoch_keys import EpochKeys, save
from agent.protocol import pseudonym as module
from agent.protocol.pseudonym import EpochKey, Resolver, epoch_of, epochs_from, pseudonym, spell

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)  # Sunday of week 47
SUBJECT = bytes(range(16))


def issue(audience: str = "access", now: datetime = NOW, site: str = "hq") -> list[EpochKey]:
    return [EpochKey(site, audience, epoch, encode_base64url(os.urandom(32))) for epoch in epochs_from(now)]


def test_pseudonym_is_the_documented_hmac() -> None:
    key = bytes(32)
    by_hand = hmac.new(key, b"postern/subject/v1" + b"\x10" + SUBJECT, hashlib.sha256).digest()[:16]
    assert pseudonym(key, SUBJECT) == by_hand
    assert spell(by_hand) == "p1_" + by_hand.hex()


def test_length_prefix_keeps_subjects_apart() -> None:
    assert pseudonym(bytes(32), b"a") != pseudonym(bytes(32), b"a\x00")
    for wrong in (b"", bytes(256)):
        with pytest.raises(ValueError, match="1 to 255"):
            pseudonym(bytes(32), wrong)


def test_same_person_differs_between_epochs_and_audiences() -> None:
    keys = EpochKeys(issue("access") + issue("canteen"))
    names = {
        keys.pseudonym(SUBJECT, audience, NOW + timedelta(weeks=week), settled=None)[0]
        for audience in ("access", "canteen")
        for week in range(3)
    }
    assert len(names) == 6


def test_epoch_is_the_iso_week() -> None:
    assert epoch_of(NOW) == "2026-W47"
    assert epoch_of(datetime(2027, 1, 1, tzinfo=UTC)) == "2026-W53"
    assert epochs_from(datetime(2026, 12, 30, tzinfo=UTC)) == ("2026-W53", "2027-W01", "2027-W02")


def test_health_is_told_for_how_many_weeks_on_end_there_are_keys() -> None:
    weeks = (NOW - timedelta(weeks=1), NOW, NOW + timedelta(weeks=1), NOW + timedelta(weeks=3))
    keys = EpochKeys([EpochKey("hq", "access", epoch_of(week), encode_base64url(bytes(32))) for week in weeks])
    assert keys.left("access", NOW) == 2
    assert keys.left("access", NOW + timedelta(weeks=1)) == 1
    assert keys.left("access", NOW + timedelta(weeks=2)) == 0
    assert keys.left("canteen", NOW) == 0


def test_past_key_is_gone_from_disk_and_memory_when_its_epoch_is_over(tmp_path: Path) -> None:
    path, twin = tmp_path / "epoch-keys.json", tmp_path / "twin"
    issued = issue()
    save(path, issued)
    os.link(path, twin)  # the old file's own blocks
    keys = EpochKeys.load(path)
    old = keys._held["access", "2026-W47"].secret
    assert keys.pseudonym(SUBJECT, "access", NOW, settled=NOW)[1] == "2026-W47"
    assert (
        keys.pseudonym(SUBJECT, "access", NOW + timedelta(weeks=1), settled=NOW + timedelta(weeks=1))[1] == "2026-W48"
    )
    assert keys.epochs("access") == ("2026-W48", "2026-W49")
    assert old == bytes(32)
    assert issued[0].key.encode() not in path.read_bytes()
    assert not any(twin.read_bytes())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["epoch-keys.json", "twin"]
    with pytest.raises(KeyStoreError, match="2026-W47"):
        EpochKeys.load(path).pseudonym(SUBJECT, "access", NOW, settled=NOW)


def test_clock_that_was_never_set_destroys_nothing(tmp_path: Path) -> None:
    path = tmp_path / "epoch-keys.json"
    save(path, issue())
    keys = EpochKeys.load(path)
    with pytest.raises(KeyStoreError, match="check the clock"):
        keys.pseudonym(SUBJECT, "access", NOW + timedelta(days=3650), settled=None)
    assert keys.pseudonym(SUBJECT, "access", NOW, settled=NOW)[1] == "2026-W47"


def test_outage_longer_than_the_issued_epochs_leaves_no_key_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "epoch-keys.json"
    save(path, issue())
    with pytest.raises(KeyStoreError, match="issue epoch keys"):
        EpochKeys.load(path).pseudonym(SUBJECT, "access", NOW + timedelta(weeks=5), settled=NOW + timedelta(weeks=5))
    assert b'"keys":[]' in path.read_bytes()


def test_keys_installed_while_the_agent_runs_are_used_and_survive_its_next_week(tmp_path: Path) -> None:
    path = tmp_path / "epoch-keys.json"
    save(path, issue())
    running = EpochKeys.load(path)
    running.pseudonym(SUBJECT, "access", NOW, settled=NOW)
    EpochKeys.load(path).add(issue(now=NOW + timedelta(weeks=2)))  # another process: weeks 49 to 51
    for week in (1, 2, 3, 4):
        assert (
            running.pseudonym(SUBJECT, "access", NOW + timedelta(weeks=week), settled=NOW + timedelta(weeks=week))[1]
            == f"2026-W{47 + week}"
        )
    assert EpochKeys.load(path).epochs("access") == ("2026-W51",)


def test_keys_for_a_week_that_had_none_are_found_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "epoch-keys.json"
    save(path, issue())
    running = EpochKeys.load(path)
    later = NOW + timedelta(weeks=3)
    with pytest.raises(KeyStoreError):
        running.pseudonym(SUBJECT, "access", later, settled=later)
    EpochKeys.load(path).add(issue(now=later))
    running.pseudonym(SUBJECT, "access", later, settled=later)


def test_interrupted_destruction_is_finished_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "epoch-keys.json"
    issued = issue()
    save(path, issued)
    # A power cut after the new file was complete, in the middle of overwriting the old one.
    write_atomic(path.with_name("epoch-keys.json.new"), path.read_bytes().replace(b"2026-W47", b"2026-W50"))
    path.write_bytes(bytes(50) + path.read_bytes()[50:])
    assert EpochKeys.load(path).epochs("access") == ("2026-W48", "2026-W49", "2026-W50")
    assert not path.with_name("epoch-keys.json.new").exists()


def test_missing_open_or_damaged_key_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "epoch-keys.json"
    with pytest.raises(KeyStoreError):
        EpochKeys.load(path)
    save(path, issue())
    path.chmod(0o644)
    with pytest.raises(KeyStoreError, match="chmod 600"):
        EpochKeys.load(path)
    path.chmod(0o600)
    for damaged in (b"{}", b'{"version":1,"keys":[{"site":"hq"}]}', b"\xff"):
        path.write_bytes(damaged)
        with pytest.raises(KeyStoreError, match="issue the epoch keys again"):
            EpochKeys.load(path)


def test_key_holder_resolves_its_own_epoch_and_refuses_others() -> None:
    issued = issue()
    subjects = [os.urandom(16) for _ in range(5)]
    name, epoch = EpochKeys(issued).pseudonym(subjects[3], "access", NOW, settled=NOW)
    resolver = Resolver(issued[0], subjects)
    assert resolver.resolve(name, audience="access", epoch=epoch) == subjects[3]
    assert resolver.resolve("p1_" + "00" * 16, audience="access", epoch=epoch) is None
    for audience, other in (("access", "2026-W48"), ("canteen", epoch)):
        with pytest.raises(KeyStoreError, match="alone"):
            resolver.resolve(name, audience=audience, epoch=other)


def test_key_is_not_printed() -> None:
    key = issue()[0]
    assert key.key not in repr(key)
    assert key.key not in str([key])


@given(st.binary(min_size=1, max_size=255), st.binary(min_size=32, max_size=32))
def test_pseudonym_always_fits_the_event(subject: bytes, key: bytes) -> None:
    assert len(spell(pseudonym(key, subject))) == 35


def test_no_key_has_a_life_of_its_own_in_the_module() -> None:
    assert not [value for value in vars(module).values() if isinstance(value, bytearray)]
