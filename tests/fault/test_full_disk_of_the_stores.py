# SPDX-License-Identifier: Apache-2.0
"""The disk is full at any point of a write to a store: one sentence, nothing half, and it is done once there is room.

The record of used rules, a subscriber's memory and the list of units beside it, a bridge's store, a policy. The gallery
and the outbox have files of their own (``test_gallery_full_disk``, ``test_outbox_disk``).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from agent.bridge.records import notice, withdrawn
from agent.bridge.store import Store
from agent.clock import SimulatedClock
from agent.door.rights import Rights, TokenUse
from agent.errors import StorageError
from agent.keys import SigningKey, load_public_key
from agent.match.policy import verify_policy
from agent.protocol.trust_file import TrustFile
from agent.site.policies import issue_policy, newest_policy
from agent.subscribe.files import StateFile
from agent.unit.new_policy import install_policy
from tests.simulators.full_disk import LIMITS, no_file_grows_beyond
from tests.simulators.signing_unit import START, SigningUnit, trust_list, verifier_of
from tests.simulators.site_office import SiteOffice
from tests.unit.test_match_policy import policy

OWNER = "sha256:" + "0" * 64
ADVICE = ("free space", "free the space", "check the disk")


def on_a_full_disk(limit: int, act: Callable[[], object]) -> bool:
    """Whether it went well all the same; else it said in one sentence what to do."""
    said = None
    try:
        with no_file_grows_beyond(limit):
            act()
    except StorageError as error:
        said = str(error)
    assert said is None or any(words in said for words in ADVICE), said
    assert said is None or "\n" not in said
    return said is None


@pytest.mark.parametrize("limit", LIMITS)
def test_a_rule_on_a_full_disk_is_used_or_not_and_never_twice(tmp_path: Path, limit: int) -> None:
    clock = SimulatedClock()
    token = TokenUse(b"t" * 12, clock.now() + timedelta(days=2))
    with Rights(tmp_path / "rights.db", clock) as rights:
        for rule, use in (("portion", None), ("gate", token)):
            used = on_a_full_disk(limit, lambda: rights.take(rule, OWNER, 540, use))  # noqa: B023 - called at once
            if use is not None:
                assert rights.is_spent(rule, use.token_id) == used
            assert rights.take(rule, OWNER, 540, use) is not used
            assert not rights.take(rule, OWNER, 540, use)
    with Rights(tmp_path / "rights.db", clock) as rights:
        assert rights.is_spent("gate", token.token_id)
        assert not rights.take("portion", OWNER, 540)


@pytest.mark.parametrize("limit", LIMITS)
def test_a_subscribers_memory_on_a_full_disk_is_that_of_before_or_the_new_one(tmp_path: Path, limit: int) -> None:
    unit = SigningUnit(tmp_path / "outbox.db")
    key, listed = SigningKey.generate(), tmp_path / "trust.jws"
    listed.write_text(trust_list(unit).sign(key))
    trust, verifier, state = TrustFile(listed, key.public), verifier_of(unit), StateFile(tmp_path / "seen.db")
    trust.load(site="hq")
    state.load()
    for _ in range(3):
        rows = [unit.say() for _ in range(4)]
        events = [verifier.check(unit.topic(row), row.payload, START) for row in rows]
        chains, before = verifier.take_changed(), len(state.look().events)
        commit = partial(state.commit, chains=chains, events=events, newest=trust.newest)
        if not on_a_full_disk(limit, commit):
            assert len(state.look().events) == before, "all of a batch, or none"
            commit()
        assert len(state.look().events) == before + 4
    state.close()
    kept = StateFile(tmp_path / "seen.db").look()
    assert kept.newest == trust.newest
    assert [event.event.data.seq for _, event in kept.events] == list(range(1, 13))  # type: ignore[union-attr]
    unit.outbox.close()


def test_a_list_of_units_on_a_full_disk_counts_and_that_it_is_not_remembered_is_said(tmp_path: Path) -> None:
    unit = SigningUnit(tmp_path / "outbox.db")
    key, listed = SigningKey.generate(), tmp_path / "trust.jws"
    listed.write_text(trust_list(unit, serial=7).sign(key))
    trust = TrustFile(listed, key.public)
    with no_file_grows_beyond(0):
        assert trust.load(site="hq").serial == 7
    assert "free space" in str(trust.forgetful)
    listed.write_text(trust_list(unit, serial=8).sign(key))
    assert trust.load_if_changed() is not None
    assert trust.forgetful is None
    assert TrustFile(listed, key.public).load().serial == 8
    unit.outbox.close()


@pytest.mark.parametrize("limit", LIMITS)
def test_a_bridges_store_on_a_full_disk_keeps_a_record_or_says_that_it_did_not(tmp_path: Path, limit: int) -> None:
    store = Store(tmp_path / "bridge.db", outputs=("hook",), clock=SimulatedClock())
    store.people(frozenset({"somebody"}))
    said = [notice("x" * 2000, serial=str(number)) for number in range(6)]
    left = withdrawn("somebody", serial=store.serial())
    acts: tuple[Callable[[], object], ...] = (
        lambda: store.put(said, 0),
        lambda: store.forget_person("somebody", left, 0),
        lambda: store.passed("hook", 2, [(store.upcoming("hook", 9)[0], "refused")], 0),
    )
    states: tuple[Callable[[], object], ...] = (
        lambda: len(store.upcoming("hook", 99)),
        lambda: len(store.upcoming("hook", 99)),
        lambda: (len(store.upcoming("hook", 99)), len(store.dead())),
    )
    for act, state, done in zip(acts, states, (6, 7, (5, 1)), strict=True):
        before = state()
        if not on_a_full_disk(limit, act):
            assert state() == before
            act()
        assert state() == done
    store.close()
    again = Store(tmp_path / "bridge.db", outputs=("hook",), clock=SimulatedClock())
    assert (len(again.upcoming("hook", 99)), len(again.dead())) == (5, 1)
    again.close()


@pytest.mark.parametrize("limit", LIMITS)
def test_a_policy_on_a_full_disk_is_the_old_one_until_it_is_the_new_one(tmp_path: Path, limit: int) -> None:
    office = SiteOffice(tmp_path)
    key = load_public_key(office.files.site_jwk)
    path, record = tmp_path / "policy.jws", tmp_path / "policy.json"
    made = [policy(model="sha256:" + "1" * 64), policy(model="sha256:" + "1" * 64, margin=0.06)]

    def install() -> None:
        newest = newest_policy(office.files)
        assert newest is not None
        assert newest.issue is not None
        install_policy(
            newest.token,
            newest.issue,
            path=path,
            record=record,
            site_key=key,
            site="hq",
            now=None,
            model=made[0].model,
            detector=made[0].detectors[0],
        )

    def in_force() -> str:
        return verify_policy(path.read_text(), key, model=made[0].model, detector=made[0].detectors[0]).digest

    issue_policy(office.site, made[0], clock=office.clock)
    install()
    issue_policy(office.site, made[1], clock=office.clock)
    if not on_a_full_disk(limit, install):
        assert in_force() == made[0].digest
        install()
    assert in_force() == made[1].digest
