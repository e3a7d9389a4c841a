# SPDX-License-Identifier: Apache-2.0
"""``postern resolve``: who holds the key of a week and audience learns that much, and is told why it is no more."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.cli import main
from agent.disk.files import destroy, overwrite, write_atomic
from agent.errors import ConfigError, KeyStoreError, RefusedError, VerificationError
from agent.keys import encode_base64url
from agent.outbox.draft import make_unit
from agent.outbox.epoch_keys import EpochKeys, save
from agent.protocol.event import Event
from agent.protocol.pseudonym import EpochKey, pseudonym, spell
from agent.subscribe.resolve import Keys, read_epoch_key, read_subjects
from tests.simulators.signing_unit import START, SigningUnit, match_draft
from tests.simulators.site_office import SiteOffice

EPOCH, LATER = "2026-W47", "2026-W48"
ANNA, BO = bytes(range(16)), bytes(range(16, 32))


def key(audience: str = "access", epoch: str = EPOCH, site: str = "hq") -> EpochKey:
    return EpochKey(site, audience, epoch, encode_base64url(os.urandom(32)))


@pytest.fixture
def unit(tmp_path: Path) -> SigningUnit:
    return SigningUnit(tmp_path / "outbox.db")


def event_about(unit: SigningUnit, name: str, **changes: str) -> Event:
    draft = match_draft(unit.clock, name)
    draft = type(draft)(draft.kind, draft.time, draft.clock, {**draft.facts, **changes})
    return msgspec.json.decode(unit.say(draft).payload, type=Event)


def name_of(held: EpochKey, subject: bytes) -> str:
    return spell(pseudonym(held.secret(), subject))


def reason(keys: Keys, event: Event) -> str:
    with pytest.raises(VerificationError) as refusal:
        keys.resolve(event)
    assert f"``{refusal.value.reason}``" in (Keys.resolve.__doc__ or ""), "a reason that is promised"
    return refusal.value.reason


def test_the_key_holder_learns_who_it_was(unit: SigningUnit) -> None:
    held = key()
    assert Keys([held], [BO, ANNA]).resolve(event_about(unit, name_of(held, ANNA))) == ANNA


def test_week_whose_keys_were_replaced_is_resolved_with_both(unit: SigningUnit) -> None:
    before, after = key(), key()
    events = [event_about(unit, name_of(held, ANNA)) for held in (before, after)]
    assert [Keys([after, before], [ANNA, BO]).resolve(event) for event in events] == [ANNA, ANNA]
    assert reason(Keys([after], [ANNA]), events[0]) == "unknown_subject"


def test_outside_its_rights_the_holder_is_refused_with_the_reason(unit: SigningUnit) -> None:
    held = key()
    event = event_about(unit, name_of(held, ANNA))
    assert reason(Keys([key(audience="canteen")], [ANNA]), event) == "wrong_audience"
    assert reason(Keys([key(epoch=LATER)], [ANNA]), event) == "no_key"
    assert reason(Keys([key(site="annex")], [ANNA]), event) == "wrong_site"
    assert reason(Keys([held], [BO]), event) == "unknown_subject"
    assert reason(Keys([held], [ANNA]), event_about(unit, "s1_" + "A" * 86)) == "sealed"
    about_nobody = unit.say(make_unit("started", now=START, clock="synced"))
    assert reason(Keys([held], [ANNA]), msgspec.json.decode(about_nobody.payload, type=Event)) == "no_subject"


def test_keys_that_leave_it_open_are_refused() -> None:
    held = key()
    with pytest.raises(RefusedError, match="given twice"):
        Keys([held, held], [])
    with pytest.raises(RefusedError, match="give the key"):
        Keys([], [ANNA])


def test_a_sealed_subject_needs_the_consumers_own_key(unit: SigningUnit) -> None:
    try:
        from agent.protocol.sealed import generate_consumer_key, seal  # noqa: PLC0415 - an optional extra
    except ConfigError as error:
        pytest.skip(str(error))
    held, consumer = key(), generate_consumer_key()
    sealed = seal(name_of(held, ANNA), consumer.public_key(), site="hq", audience="access", epoch=EPOCH)
    event = event_about(unit, sealed)
    assert Keys([held], [ANNA], consumer=consumer).resolve(event) == ANNA
    assert reason(Keys([held], [ANNA]), event) == "sealed"
    assert reason(Keys([held], [ANNA], consumer=generate_consumer_key()), event) == "bad_seal"
    moved = event_about(unit, sealed, epoch=LATER)
    assert reason(Keys([held, key(epoch=LATER)], [ANNA], consumer=consumer), moved) == "bad_seal"


def test_a_destroyed_missing_or_damaged_key_says_so(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    write_atomic(path, msgspec.json.encode(key()))
    assert read_epoch_key(path).epoch == EPOCH
    overwrite(path)
    with pytest.raises(KeyStoreError, match="was destroyed"):
        read_epoch_key(path)
    for damaged in (b"{}", msgspec.json.encode(key()).replace(b'"key":"', b'"key":"!')):
        write_atomic(path, damaged)
        with pytest.raises(KeyStoreError, match=r"no epoch key|damaged"):
            read_epoch_key(path)
    destroy(path)
    with pytest.raises(KeyStoreError, match="cannot read"):
        read_epoch_key(path)


def test_a_list_of_subjects_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "subjects.txt"
    path.write_text(f"# staff\n{ANNA.hex()}  since 2026-11-01\n\n{BO.hex()}\n")
    assert read_subjects(path) == (ANNA, BO)
    path.write_text(f"{ANNA.hex()}\nAnna\n")
    with pytest.raises(RefusedError, match="line 2"):
        read_subjects(path)


def accepted(event: Event) -> dict[str, Any]:
    return {"outcome": "accepted", "unit": "door-1", "kind": event.kind, "event": msgspec.to_builtins(event)}


def test_lines_of_the_subscriber_are_answered_one_by_one(
    unit: SigningUnit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a key that the site took out, on the command line."""
    office = SiteOffice(tmp_path)
    file, events, subjects = tmp_path / "key.json", tmp_path / "events.jsonl", tmp_path / "subjects.txt"
    taken_out = ["site", "epoch-key", "access", EPOCH, "-f", str(office.site), "-o", str(file)]
    assert main(taken_out) == 0
    subjects.write_text(ANNA.hex() + "\n")
    known = event_about(unit, name_of(read_epoch_key(file), ANNA))
    lines = [accepted(known), accepted(event_about(unit, "p1_" + "00" * 16)), {"outcome": "refused", "reason": "fork"}]
    events.write_text("\n".join(map(json.dumps, lines)) + "\nno line\n")
    words = ["resolve", str(events), "--key", str(file), "--subjects", str(subjects)]
    capsys.readouterr()
    assert main(words) == 2
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[0] == {
        "source": known.source,
        "seq": known.data.seq,
        "time": known.time,
        "event_type": "match",
        "subject": ANNA.hex(),
    }
    assert [line.get("refused") for line in told[1:]] == ["unknown_subject", "not_verified", "malformed"]
    events.write_text(json.dumps(accepted(known)) + "\n")
    assert main(words) == 0
    assert b"epoch_key_taken_out" in office.files.audit.read_bytes()


def test_the_consumers_key_pair_is_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cryptography.hazmat.primitives.hpke")
    from agent.protocol.sealed import consumer_jwk, load_consumer_key  # noqa: PLC0415 - an optional extra

    path = tmp_path / "consumer.key"
    assert main(["consumer-key", str(path)]) == 0
    assert json.loads(capsys.readouterr().out) == consumer_jwk(load_consumer_key(path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert main(["consumer-key", str(path)]) == 2
    assert "choose another name" in capsys.readouterr().err


def test_no_byte_of_a_past_weeks_key_is_left_on_the_units_disk(tmp_path: Path) -> None:
    """After the roll-over whoever takes the unit cannot resolve what it said before."""
    folder = tmp_path / "keys"
    folder.mkdir()
    issued = [key(epoch=epoch) for epoch in (EPOCH, LATER, "2026-W49")]
    save(folder / "epoch-keys.json", issued)
    running = EpochKeys.load(folder / "epoch-keys.json")
    name = running.pseudonym(ANNA, "access", START, settled=START)[0]
    later = START + timedelta(weeks=1)
    running.pseudonym(ANNA, "access", later, settled=later)
    on_disk = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    for spelling in (issued[0].key.encode(), bytes(issued[0].secret()), issued[0].secret().hex().encode()):
        assert spelling not in on_disk
    assert issued[1].key.encode() in on_disk
    left = [held for held in issued if held.key.encode() in on_disk]
    assert [held.epoch for held in left] == [LATER, "2026-W49"]
    assert name not in {spell(pseudonym(held.secret(), ANNA)) for held in left}
