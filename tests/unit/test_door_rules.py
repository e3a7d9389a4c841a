# SPDX-License-Identifier: Apache-2.0
"""What opens for whom: rules with all their conditions, and rights that last, are used once and go with the person."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from agent.clock import SimulatedClock
from agent.door.rights import MAX_COOLDOWN_S, Rights, TokenUse
from agent.door.rules import Rule, Rules
from agent.errors import PosternError, StorageError
from agent.match.records import Match
from agent.protocol.subject import SubjectId, subject_digest

ANN, BOB = SubjectId(b"a" * 16), SubjectId(b"b" * 16)
NINE_MINUTES = 540
OPEN = Rule("door", when="match", zone=None, needs_liveness=False, cooldown_s=10, then=("strike",))


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture
def rights(tmp_path: Path, clock: SimulatedClock) -> Iterator[Rights]:
    with Rights(tmp_path / "rights.db", clock) as made:
        yield made


def opened(rights: Rights, *rules: Rule, verified: bool = False, **match: object) -> tuple[str, ...]:
    problems: list[PosternError] = []
    made = Match(**{"subject": ANN, "zone": "door", "timestamp_ns": 0, **match})  # type: ignore[arg-type]
    found = Rules(rules, rights, on_problem=problems.append).outputs(made, verified=verified)
    assert not problems
    return found


def rule(**changes: object) -> Rule:
    values = {
        "name": "door",
        "when": "match",
        "zone": None,
        "needs_liveness": False,
        "cooldown_s": 10,
        "then": ("strike",),
    }
    return Rule(**{**values, **changes})  # type: ignore[arg-type]


def test_without_a_rule_nothing_opens(rights: Rights) -> None:
    assert opened(rights) == ()


@pytest.mark.parametrize("liveness", ["not_checked", "failed"])
def test_a_rule_that_asks_for_liveness_opens_for_nothing_else(rights: Rights, liveness: str) -> None:
    assert opened(rights, rule(needs_liveness=True), liveness=liveness) == ()
    assert opened(rights, rule(needs_liveness=True), liveness="passed") == ("strike",), "and nothing was used up"


def test_a_rule_of_another_zone_or_another_act_opens_nothing(rights: Rights) -> None:
    assert opened(rights, rule(zone="ramp")) == ()
    assert opened(rights, rule(when="verified")) == ()
    assert opened(rights, rule(when="verified"), verified=True) == ("strike",)


def test_several_rules_open_each_output_once(rights: Rights) -> None:
    rules = rule(name="a", then=("strike", "lamp")), rule(name="b", then=("lamp", "bell"))
    assert opened(rights, *rules) == ("strike", "lamp", "bell")


def test_the_same_person_waits_and_the_next_does_not(rights: Rights, clock: SimulatedClock) -> None:
    portion = rule(cooldown_s=NINE_MINUTES)
    assert opened(rights, portion)
    clock.advance(NINE_MINUTES - 1)
    assert not opened(rights, portion)
    assert opened(rights, portion, subject=BOB)
    clock.advance(1)
    assert opened(rights, portion)


def test_a_refusal_makes_nobody_wait_longer(rights: Rights, clock: SimulatedClock) -> None:
    assert opened(rights, OPEN)
    for _ in range(9):
        clock.advance(1)
        assert not opened(rights, OPEN)
    clock.advance(1)
    assert opened(rights, OPEN)


def test_a_restart_forgets_no_use(tmp_path: Path, clock: SimulatedClock) -> None:
    for expected in (True, False, False):
        with Rights(tmp_path / "rights.db", clock) as rights:
            assert rights.take("portion", "sha256:1", NINE_MINUTES) == expected
        clock.advance(60)


@pytest.mark.parametrize("vouched", [True, False])
@pytest.mark.parametrize("seconds", [-1, -3600, -20 * 365 * 86_400])
def test_a_clock_set_back_gives_no_second_right_and_locks_nobody_out(
    tmp_path: Path, seconds: float, *, vouched: bool
) -> None:
    clock = SimulatedClock()

    def settled() -> datetime | None:
        return clock.now() if vouched else None

    with Rights(tmp_path / "rights.db", clock, settled=settled) as rights:
        assert rights.take("portion", "sha256:1", NINE_MINUTES)
        clock.step_wall(seconds)
        assert not rights.take("portion", "sha256:1", NINE_MINUTES), "the running clock knows better"
    with Rights(tmp_path / "rights.db", clock, settled=settled) as rights:
        assert not rights.take("portion", "sha256:1", NINE_MINUTES)
        clock.advance(NINE_MINUTES)
        assert rights.take("portion", "sha256:1", NINE_MINUTES), "one waiting time from the start on, and no more"


def test_a_clock_set_forward_gives_nothing_while_the_unit_runs(rights: Rights, clock: SimulatedClock) -> None:
    assert opened(rights, rule(cooldown_s=NINE_MINUTES))
    clock.step_wall(20 * 365 * 86_400.0)
    assert not opened(rights, rule(cooldown_s=NINE_MINUTES))


def test_who_is_erased_leaves_no_trace_of_having_used_anything(tmp_path: Path, clock: SimulatedClock) -> None:
    with Rights(tmp_path / "rights.db", clock) as rights:
        opened(rights, OPEN)
        opened(rights, OPEN, subject=BOB)
        rights.erase(subject_digest(ANN))
        assert opened(rights, OPEN), "a new person of that id is nobody known"
        rights.erase(subject_digest(ANN))
        content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        assert subject_digest(ANN).encode() not in content
        assert subject_digest(BOB).encode() in content


def test_uses_that_no_rule_can_ask_for_are_dropped(tmp_path: Path, clock: SimulatedClock) -> None:
    with Rights(tmp_path / "rights.db", clock, settled=clock.now) as rights:
        opened(rights, OPEN)
        clock.advance(MAX_COOLDOWN_S + 1)
        opened(rights, OPEN, subject=BOB)
        assert subject_digest(ANN).encode() not in (tmp_path / "rights.db").read_bytes()


class FullDisk(Rights):
    def take(self, rule: str, owner: str, cooldown_s: int, token: TokenUse | None = None) -> bool:
        raise StorageError("the disk is full")


def test_where_a_use_cannot_be_written_nothing_opens(tmp_path: Path, clock: SimulatedClock) -> None:
    problems: list[PosternError] = []
    with FullDisk(tmp_path / "rights.db", clock) as rights:
        rules = Rules([OPEN], rights, on_problem=problems.append)
        assert rules.outputs(Match(ANN, "door", 0), verified=False) == ()
    assert [str(one) for one in problems] == ["the disk is full"]


def test_a_file_that_is_none_is_refused_in_one_sentence(tmp_path: Path, clock: SimulatedClock) -> None:
    (tmp_path / "rights.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(StorageError, match="it is damaged: move it away"):
        Rights(tmp_path / "rights.db", clock)


# -- tokens ------------------------------------------------------------------------------------------


def use(number: int, clock: SimulatedClock, *, days: int = 3) -> TokenUse:
    return TokenUse(number.to_bytes(12, "big"), clock.now() + timedelta(days=days))


BOARDING = rule(name="boarding", when="token", needs_liveness=True, cooldown_s=5, single_use=True)
BY_TOKEN: dict[str, object] = {"method": "token", "liveness": "passed"}


def by_token(rights: Rights, token: TokenUse | None, *rules: Rule, **match: object) -> tuple[str, ...]:
    made = Match(**{"subject": ANN, "zone": "door", "timestamp_ns": 0, **BY_TOKEN, **match})  # type: ignore[arg-type]
    return Rules(rules or (BOARDING,), rights, on_problem=pytest.fail).outputs(made, verified=False, token=token)


def test_a_token_opens_a_rule_of_one_use_once_and_another_token_does_again(
    rights: Rights, clock: SimulatedClock
) -> None:
    assert by_token(rights, use(1, clock)) == ("strike",)
    clock.advance(3600)
    assert by_token(rights, use(1, clock)) == (), "used before"
    clock.advance(3600)
    assert by_token(rights, use(2, clock)) == ("strike",)


def test_a_rule_for_tokens_opens_for_no_other_match(rights: Rights, clock: SimulatedClock) -> None:
    assert by_token(rights, use(1, clock), method="face") == ()
    assert by_token(rights, None) == ()
    assert by_token(rights, use(1, clock), liveness="not_checked") == ()
    assert by_token(rights, use(1, clock)) == ("strike",), "and nothing was used up"


def test_a_waiting_time_uses_no_token_up(rights: Rights, clock: SimulatedClock) -> None:
    assert by_token(rights, use(1, clock))
    assert not by_token(rights, use(2, clock)), "the same person, a moment later"
    clock.advance(6)
    assert by_token(rights, use(2, clock))


def test_a_used_token_is_told_before_anybody_is_embedded(rights: Rights, clock: SimulatedClock) -> None:
    rules = Rules([BOARDING], rights, on_problem=pytest.fail)
    assert not rules.used_up(use(1, clock).token_id)
    by_token(rights, use(1, clock))
    assert rules.used_up(use(1, clock).token_id)
    assert not Rules([BOARDING, OPEN], rights, on_problem=pytest.fail).used_up(use(1, clock).token_id)
    assert not Rules([], rights, on_problem=pytest.fail).used_up(use(1, clock).token_id)


def test_a_use_of_a_token_outlasts_a_restart_and_goes_after_its_end_or_with_its_person(
    tmp_path: Path, clock: SimulatedClock
) -> None:
    with Rights(tmp_path / "rights.db", clock, settled=clock.now) as rights:
        assert by_token(rights, use(1, clock))
    clock.advance(60)
    with Rights(tmp_path / "rights.db", clock, settled=clock.now) as rights:
        assert rights.is_spent("boarding", use(1, clock).token_id)
        rights.erase(subject_digest(ANN))
        assert not rights.is_spent("boarding", use(1, clock).token_id)
        assert by_token(rights, use(2, clock))
        clock.advance(4 * 86_400)
        assert by_token(rights, use(3, clock), subject=BOB)
        assert rights.is_spent("boarding", use(2, clock).token_id), "a clock that is set back makes it valid again"
        clock.advance(7 * 86_400)
        assert by_token(rights, use(4, clock), subject=BOB)
        assert not rights.is_spent("boarding", use(2, clock).token_id), "its token ended a week ago"


def test_a_file_of_a_release_without_tokens_goes_on(tmp_path: Path, clock: SimulatedClock) -> None:
    with Rights(tmp_path / "rights.db", clock) as rights:
        assert opened(rights, OPEN)
        rights._file.connection.execute("DROP TABLE spent")
    with Rights(tmp_path / "rights.db", clock) as rights:
        assert not opened(rights, OPEN)
        assert by_token(rights, use(1, clock), subject=BOB)
