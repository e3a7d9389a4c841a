# SPDX-License-Identifier: Apache-2.0
"""Holding back, repeating, reordering and hiding events: refused, or reported."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from agent.errors import StorageError
from agent.keys import encode_base64url
from agent.outbox.numbers import numbers_path
from agent.protocol.event import FIRST_PREV
from agent.protocol.trust import TrustedUnits
from agent.subscribe.verify import Verifier
from tests.simulators.signing_unit import (
    DIGEST,
    START,
    SigningUnit,
    presence_draft,
    refused,
    trust_list,
    verifier_of,
)


def test_revoked_unit_is_refused(unit: SigningUnit) -> None:
    trusted = trust_list(unit)
    entry = trusted.units["door-3"][0]
    revoked = type(trusted)(
        **{
            **{name: getattr(trusted, name) for name in trusted.__struct_fields__},
            "units": {"door-3": (type(entry)(jwk=entry.jwk, status="revoked"),)},
        }
    )
    row = unit.say()
    assert refused(Verifier(TrustedUnits(revoked)), unit.topic(row), row.payload) == "revoked"


def test_replaced_key_counts_until_its_last_day(unit: SigningUnit) -> None:
    verifier = Verifier(TrustedUnits(trust_list(unit, until="2026-11-23T00:00:00Z")))
    first, second = unit.say(), unit.say()
    assert refused(verifier, unit.topic(first), first.payload) == "revoked", "a replaced key speaks live no more"
    verifier.check(unit.topic(first, "backlog"), first.payload, START)
    topic = unit.topic(second, "backlog")
    assert refused(verifier, topic, second.payload, now=START + timedelta(days=1)) == "revoked"


def test_live_event_that_was_held_back_is_taken_and_never_fresh(unit: SigningUnit, verifier: Verifier) -> None:
    first, second = unit.say(), unit.say()
    assert verifier.check(unit.topic(first), first.payload, START + timedelta(seconds=71)).fresh
    held = verifier.check(unit.topic(second), second.payload, START + timedelta(seconds=72))
    assert (held.fresh, held.age_s) == (False, 72)
    again = refused(verifier, unit.topic(second), second.payload, now=START + timedelta(seconds=72))
    assert again == "duplicate", "what stops a replay is its number"


def test_old_event_is_welcome_as_backlog_and_is_not_fresh(unit: SigningUnit, verifier: Verifier) -> None:
    first, second = unit.say(), unit.say()
    later = START + timedelta(days=9)
    verified = verifier.check(unit.topic(first, "backlog"), first.payload, later)
    assert (verified.backlog, verified.fresh) == (True, False)
    assert not verifier.check(
        unit.topic(second), second.payload, later, backlog=True
    ).fresh  # an audit of stored events


def test_backlog_event_sent_as_live_is_not_fresh(unit: SigningUnit, verifier: Verifier) -> None:
    row = unit.say()
    assert not verifier.check(unit.topic(row), row.payload, START + timedelta(hours=1)).fresh


@pytest.mark.parametrize("leaf", ["event", "backlog"])
def test_event_from_the_future_is_taken_and_never_fresh(unit: SigningUnit, verifier: Verifier, leaf: str) -> None:
    first, second = unit.say(), unit.say()
    ahead = verifier.check(unit.topic(first, leaf), first.payload, START - timedelta(seconds=11))
    assert (ahead.fresh, ahead.age_s) == (False, -11)
    within = verifier.check(unit.topic(second, leaf), second.payload, START - timedelta(seconds=10))
    assert within.fresh == (leaf == "event")


def test_unit_without_the_time_is_heard_but_never_fresh(unit: SigningUnit, verifier: Verifier) -> None:
    unit.clock.step_wall(-86_400 * 365 * 50, "unsynced")
    row = unit.say()
    assert not verifier.check(unit.topic(row), row.payload, START).fresh


def test_exact_repetition_is_a_duplicate(unit: SigningUnit, verifier: Verifier) -> None:
    rows = [unit.say() for _ in range(3)]
    for row in rows:
        verifier.check(unit.topic(row), row.payload, START)
    for row in rows:
        assert refused(verifier, unit.topic(row), row.payload) == "duplicate"
        assert refused(verifier, unit.topic(row, "backlog"), row.payload) == "duplicate"


def test_replayed_event_is_refused(unit: SigningUnit, verifier: Verifier) -> None:
    first = unit.say()
    rows = [first, *(unit.say() for _ in range(70))]
    for row in rows:
        verifier.check(unit.topic(row), row.payload, START)
    assert refused(verifier, unit.topic(first), first.payload) == "replayed"


def test_event_from_before_the_subscriber_began_is_refused(unit: SigningUnit, verifier: Verifier) -> None:
    rows = [unit.say() for _ in range(5)]
    assert verifier.check(unit.topic(rows[4]), rows[4].payload, START).gap is None
    for row in rows[:4]:
        assert refused(verifier, unit.topic(row), row.payload) == "replayed"


def test_hidden_events_leave_a_gap_that_is_reported(unit: SigningUnit, verifier: Verifier) -> None:
    rows = [unit.say() for _ in range(6)]
    verifier.check(unit.topic(rows[0]), rows[0].payload, START)
    gap = verifier.check(unit.topic(rows[5]), rows[5].payload, START).gap
    assert gap is not None
    assert (gap.first, gap.last, gap.count) == (2, 5, 4)
    assert verifier.missing("door-3") == (gap,)


def test_reordered_events_fill_the_gap_once(unit: SigningUnit, verifier: Verifier) -> None:
    rows = [unit.say() for _ in range(5)]
    for number in (0, 4, 2, 1, 3):
        verified = verifier.check(unit.topic(rows[number]), rows[number].payload, START)
        assert verified.late == (number in {1, 2, 3})
    assert verifier.missing("door-3") == ()
    for row in rows:
        assert refused(verifier, unit.topic(row), row.payload) == "duplicate"


def signed_as(unit: SigningUnit, payload: bytes, **data: Any) -> bytes:
    """A second history: the unit's own key over another content."""
    members = json.loads(payload)
    members["data"].update(data)
    members["id"] = f"{members['data']['boot']}-{members['data']['seq']}"
    return unit.sign(members)


def test_second_event_with_one_number_is_a_fork(unit: SigningUnit, verifier: Verifier) -> None:
    row = unit.say()
    verifier.check(unit.topic(row), row.payload, START)
    assert refused(verifier, unit.topic(row), signed_as(unit, row.payload, zone="vault")) == "fork"


def test_event_that_continues_another_history_is_a_fork(unit: SigningUnit, verifier: Verifier) -> None:
    first, second = unit.say(), unit.say()
    verifier.check(unit.topic(first), first.payload, START)
    assert refused(verifier, unit.topic(second), signed_as(unit, second.payload, prev=DIGEST)) == "fork"
    assert refused(verifier, unit.topic(second), second.payload) == "quarantined"


def test_event_that_names_no_predecessor_is_a_fork(unit: SigningUnit, verifier: Verifier) -> None:
    first, second = unit.say(), unit.say()
    verifier.check(unit.topic(first), first.payload, START)
    assert refused(verifier, unit.topic(second), signed_as(unit, second.payload, prev=FIRST_PREV)) == "fork"


def test_forged_filler_of_a_gap_is_a_fork(unit: SigningUnit, verifier: Verifier) -> None:
    rows = [unit.say() for _ in range(3)]
    verifier.check(unit.topic(rows[0]), rows[0].payload, START)
    verifier.check(unit.topic(rows[2]), rows[2].payload, START)
    assert refused(verifier, unit.topic(rows[1]), signed_as(unit, rows[1].payload, zone="vault")) == "fork"


def test_unit_whose_storage_was_put_back_is_noticed(unit: SigningUnit, verifier: Verifier, tmp_path: Path) -> None:
    unit.say()
    unit.outbox.close()
    copy = {file: file.read_bytes() for file in (unit.path, numbers_path(unit.path))}
    unit.open()
    for row in (unit.say(), unit.say()):
        verifier.check(unit.topic(row), row.payload, START)
    unit.outbox.close()
    for file, content in copy.items():
        file.write_bytes(content)
    unit.open()
    row = unit.say(presence_draft(unit.clock))
    assert refused(verifier, unit.topic(row), row.payload) == "fork"


def test_second_valid_signature_over_one_event_is_no_fork(unit: SigningUnit, verifier: Verifier) -> None:
    """ECDSA lets anyone turn (r, s) into (r, n - s); that must not look like the unit's doing."""
    first, second = unit.say(), unit.say()
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    members = json.loads(first.payload)
    header, _, signature = members["sig"].split(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    s = order - int.from_bytes(raw[32:], "big")
    members["sig"] = f"{header}..{encode_base64url(raw[:32] + s.to_bytes(32, 'big'))}"
    verifier.check(unit.topic(first), rfc8785.dumps(members), START)
    assert refused(verifier, unit.topic(first), first.payload) == "duplicate"
    verifier.check(unit.topic(second), second.payload, START)


def test_restarted_subscriber_remembers_what_it_saw(unit: SigningUnit, verifier: Verifier) -> None:
    rows = [unit.say() for _ in range(5)]
    for number in (0, 3):
        verifier.check(unit.topic(rows[number]), rows[number].payload, START)
    again = verifier_of(unit, state=verifier.export())
    assert again.export() == verifier.export()
    assert refused(again, unit.topic(rows[3]), rows[3].payload) == "duplicate"
    assert again.check(unit.topic(rows[1]), rows[1].payload, START).late
    assert again.check(unit.topic(rows[4]), rows[4].payload, START).gap is None


@pytest.mark.parametrize(
    "state", [b"", b"{}", b'{"version":2,"chains":[]}', b'{"version":1,"chains":[{"source":"x"}]}']
)
def test_damaged_memory_is_not_silently_forgotten(unit: SigningUnit, state: bytes) -> None:
    with pytest.raises(StorageError, match="restore it"):
        verifier_of(unit, state=state)


def test_new_key_of_a_unit_starts_a_chain_of_its_own(unit: SigningUnit, tmp_path: Path) -> None:
    repaired = SigningUnit(tmp_path / "new.db")
    listed = trust_list(unit)
    keys = (*listed.units["door-3"], *trust_list(repaired).units["door-3"])
    verifier = Verifier(
        TrustedUnits(type(listed)(version=1, site="hq", serial=2, issued_at=listed.issued_at, units={"door-3": keys}))
    )
    old, new = unit.say(), repaired.say()
    verifier.check(unit.topic(old), old.payload, START)
    assert verifier.check(repaired.topic(new), new.payload, START).event.data.seq == 1
    repaired.outbox.close()
