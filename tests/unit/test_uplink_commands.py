# SPDX-License-Identifier: Apache-2.0
"""Commands: signed, for this unit and verb, once, in time; everything else changes nothing and says why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from agent.clock import ClockState, SimulatedClock
from agent.errors import BrokerError, CaptureRefusedError, StorageError
from agent.keys import SigningKey, UnitKey
from agent.protocol.command import MAX_COMMAND_BYTES, SIGNATURE_TYPE, VERBS, Command
from agent.protocol.response import MAX_RESPONSE_BYTES
from agent.uplink.commands import (
    BURST,
    MAX_NONCES,
    MAX_SKEW_S,
    MAX_VALIDITY_S,
    NONCE_LIFE_S,
    RECENT,
    CommandCounter,
    Commands,
    Outcome,
)
from tests.simulators.answering import answers, outcome_of

SITE_KEY, UNIT_KEY = SigningKey.generate(), UnitKey.generate()


class Station:
    """An operator's tool and the unit it talks to."""

    def __init__(self, folder: Path, state: ClockState = "synced") -> None:
        self.clock = SimulatedClock(state=state)
        self.file = folder / "command.json"
        self.done: list[tuple[str, Mapping[str, Any]]] = []
        self.outcomes: list[Outcome] = []
        self.seq = 0
        self.unit = self.boot()

    def boot(self, **handlers: Any) -> Commands:
        def note(verb: str) -> Any:
            return lambda command: self.done.append((verb, command.args)) or {"did": verb}

        self.unit = Commands(
            site="hq",
            unit="door-1",
            key=SITE_KEY.public,
            counter=CommandCounter(self.file),
            answers=answers(UNIT_KEY),
            clock=self.clock,
            random=_counting(),
            on_outcome=self.outcomes.append,
        )
        self.unit.bind({verb: note(verb) for verb in VERBS if verb != "key/rotate"} | handlers)
        return self.unit

    def make(self, verb: str = "selftest", **changes: Any) -> dict[str, Any]:
        self.seq += 1
        now = int(self.clock.now().timestamp())
        command = {
            "site": "hq",
            "unit": "door-1",
            "verb": verb,
            "cmd_seq": self.seq,
            "issued_at": now,
            "expires_at": now + 60,
            "transaction": f"t-{self.seq}",
            "args": {},
        }
        return command | changes

    def send(self, command: dict[str, Any], *, verb: str | None = None, **signing: Any) -> dict[str, Any]:
        return self.deliver(verb or command["verb"], sign(command, **signing))

    def deliver(self, verb: str, payload: bytes) -> dict[str, Any]:
        self.clock.advance(1)  # so that the flood limit stays out of the way
        answer = self.unit.handle(verb, payload)
        assert answer is not None
        return outcome_of(answer, UNIT_KEY)


def sign(command: Any, *, key: SigningKey = SITE_KEY, typ: str = SIGNATURE_TYPE) -> bytes:
    return key.sign(msgspec.json.encode(command), typ=typ).encode()


def _counting() -> Any:
    numbers = iter(range(1, 10_000))
    return lambda n: next(numbers).to_bytes(n, "big")


@pytest.fixture
def station(tmp_path: Path) -> Station:
    return Station(tmp_path)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "key/rotate"])
def test_valid_command_is_done_once_and_answered(station: Station, verb: str) -> None:
    answer = station.send(station.make(verb, args={"n": 1}))
    assert answer == {"status": "ok", "transaction": "t-1", "data": {"did": verb}}
    assert station.done == [(verb, {"n": 1})]
    assert station.outcomes == [Outcome(verb, 1, None, taken=True)]


def test_replayed_command_is_refused_also_after_a_restart(station: Station) -> None:
    command = station.make()
    station.send(command)
    assert station.send(command)["error"] == "replayed"
    station.boot()
    assert station.send(command)["error"] == "replayed"
    assert len(station.done) == 1
    assert [outcome.taken for outcome in station.outcomes] == [True, False, False]


def test_command_that_later_ones_overtook_is_told_from_a_repeated_one_also_after_a_restart(station: Station) -> None:
    early, late = station.make(cmd_seq=4), station.make(cmd_seq=5)
    assert station.send(late)["status"] == "ok"
    assert station.send(early)["error"] == "out_of_order"
    station.boot()
    assert station.send(early)["error"] == "out_of_order"
    assert station.send(late)["error"] == "replayed"
    assert len(station.done) == 1


def test_what_a_unit_remembers_of_taken_commands_is_bounded(station: Station) -> None:
    for seq in range(3, 2 * RECENT + 3, 2):
        station.clock.advance(1)
        assert station.send(station.make(cmd_seq=seq))["status"] == "ok"
    assert station.send(station.make(cmd_seq=2 * RECENT))["error"] == "out_of_order"
    assert station.send(station.make(cmd_seq=2))["error"] == "replayed", "too long ago to be told apart"
    assert len(json.loads(station.file.read_text())["recent"]) == RECENT


def test_number_restored_by_hand_says_nothing_of_the_commands_below(station: Station) -> None:
    station.file.write_text('{"cmd_seq": 90}')
    station.boot()
    assert station.send(station.make(cmd_seq=80))["error"] == "replayed"
    assert station.send(station.make(cmd_seq=95))["status"] == "ok"
    assert station.send(station.make(cmd_seq=80))["error"] == "replayed"
    assert station.send(station.make(cmd_seq=92))["error"] == "out_of_order"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"site": "other"}, "wrong_site"),
        ({"unit": "door-2"}, "wrong_unit"),
        ({"cmd_seq": 0}, "malformed"),
        ({"cmd_seq": 2**53}, "malformed"),
        ({"transaction": "<script>"}, "malformed"),
        ({"transaction": ""}, "malformed"),
        ({"transaction": "t\n"}, "malformed"),
        ({"extra": 1}, "malformed"),
        ({"args": {"score": 0.5}}, "malformed"),
        ({"args": []}, "malformed"),
        ({"nonce": "00" * 16}, "bad_nonce"),
        ({"nonce": "xyz"}, "malformed"),
    ],
)
def test_command_that_does_not_fit_is_refused_with_its_reason(
    station: Station, changes: dict[str, Any], error: str
) -> None:
    assert station.send(station.make(**changes))["error"] == error
    assert station.done == []
    assert not station.file.exists()


def test_command_for_another_verb_is_refused(station: Station) -> None:
    assert station.send(station.make("health"), verb="subject/revoke")["error"] == "wrong_verb"
    assert station.done == []


def test_command_of_another_key_is_refused_and_its_transaction_is_not_echoed(station: Station) -> None:
    answer = station.send(station.make(), key=SigningKey.generate())
    assert answer["error"] == "wrong_key"
    assert answer["transaction"] is None


def test_signature_made_for_another_purpose_is_refused(station: Station) -> None:
    assert station.send(station.make(), typ="postern-policy+jws")["error"] == "wrong_type"


def test_expired_future_and_long_lived_commands_are_refused(station: Station) -> None:
    now = int(station.clock.now().timestamp())
    assert station.send(station.make(issued_at=now - 100, expires_at=now - 40))["error"] == "expired"
    assert station.send(station.make(issued_at=now + 100, expires_at=now + 160))["error"] == "not_yet_valid"
    long = station.make(issued_at=now, expires_at=now + MAX_VALIDITY_S + 1)
    assert station.send(long)["error"] == "too_long_valid"
    assert station.send(station.make(issued_at=now, expires_at=now - 1))["error"] == "too_long_valid"


@pytest.mark.parametrize(
    ("issued", "expires", "error"),
    [
        (-9, 0, None),
        (-9, -1, "expired"),
        (MAX_SKEW_S, MAX_SKEW_S, None),
        (MAX_SKEW_S + 1, MAX_SKEW_S + 1, "not_yet_valid"),
        (0, MAX_VALIDITY_S, None),
        (0, MAX_VALIDITY_S + 1, "too_long_valid"),
    ],
)
def test_a_command_is_in_time_to_its_last_second_and_no_longer(
    station: Station, issued: int, expires: int, error: str | None
) -> None:
    read_at = int(station.clock.now().timestamp()) + 1  # one second after it is sent
    answer = station.send(station.make(issued_at=read_at + issued, expires_at=read_at + expires))
    assert answer.get("error") == error


def test_unit_without_the_time_asks_for_a_nonce_and_acts_on_the_answer(tmp_path: Path) -> None:
    station = Station(tmp_path, state="unsynced")
    command = station.make(expires_at=1, issued_at=1)  # meaningless while the clock is wrong
    challenge = station.send(command)
    assert challenge["error"] == "challenge"
    assert challenge["transaction"] == "t-1"
    assert station.done == []
    answer = station.send({**command, "nonce": challenge["nonce"]})
    assert answer["status"] == "ok"
    assert station.send({**command, "nonce": challenge["nonce"], "cmd_seq": 9})["error"] == "bad_nonce"


def test_nonce_gets_too_old_and_old_ones_make_room(tmp_path: Path) -> None:
    station = Station(tmp_path, state="unsynced")
    nonces = [station.send(station.make())["nonce"] for _ in range(MAX_NONCES + 1)]
    assert station.send(station.make(nonce=nonces[0]))["error"] == "bad_nonce"
    assert station.send(station.make(nonce=nonces[1]))["status"] == "ok"
    station.clock.advance(NONCE_LIFE_S + 1)
    assert station.send(station.make(nonce=nonces[2]))["error"] == "bad_nonce"


def test_clock_that_jumps_back_revives_no_command(station: Station) -> None:
    command = station.make()
    station.send(command)
    station.clock.step_wall(-timedelta(days=3650).total_seconds())
    assert station.send(command)["error"] == "replayed"


def test_verb_without_a_handler_is_not_available_and_uses_no_number(station: Station) -> None:
    assert station.send(station.make("key/rotate"))["error"] == "not_available"
    assert not station.file.exists()


def test_unknown_verb_gets_no_answer(station: Station) -> None:
    assert station.unit.handle("reboot", sign(station.make("reboot"))) is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CaptureRefusedError("come closer"), "refused"),
        (BrokerError("try again"), "try_later"),
        (StorageError("full"), "fault"),
    ],
)
def test_refusal_of_a_verb_is_told_in_its_own_words(station: Station, error: Exception, code: str) -> None:
    def fail(_: object) -> Any:
        raise error

    station.boot(selftest=fail)
    answer = station.send(station.make())
    assert (answer["error"], answer["message"]) == (code, str(error))


def test_fault_in_a_verb_is_answered_without_its_details(station: Station) -> None:
    def fail(_: object) -> Any:
        raise RuntimeError("secret")

    station.boot(selftest=fail)
    answer = station.send(station.make())
    assert answer["error"] == "fault"
    assert "secret" not in answer["message"]


def test_answer_that_is_too_long_or_not_encodable_is_an_error(station: Station) -> None:
    station.boot(selftest=lambda _: {"x": "y" * MAX_RESPONSE_BYTES}, health=lambda _: {"x": object()})
    assert station.send(station.make())["error"] == "too_large"
    assert station.send(station.make("health"))["error"] == "fault"


def test_nothing_is_done_when_the_number_cannot_be_stored(tmp_path: Path) -> None:
    station = Station(tmp_path / "missing")
    assert station.send(station.make())["error"] == "fault"
    assert station.done == []


def test_number_is_on_disk_before_the_verb_acts(station: Station) -> None:
    seen: list[bytes] = []
    station.boot(selftest=lambda _: seen.append(station.file.read_bytes()) or {})
    station.send(station.make())
    assert [json.loads(content)["cmd_seq"] for content in seen] == [1]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"cmd_seq": "1"}', b"null", b'{"cmd_seq": 1.5}', b"x" * 2000])
def test_damaged_counter_stops_commands_instead_of_starting_at_zero(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "command.json"
    file.write_bytes(content)
    with pytest.raises(StorageError, match="damaged"):
        CommandCounter(file)


def test_flood_gets_silence_and_later_commands_are_heard_again(station: Station) -> None:
    answers = [station.unit.handle("selftest", b"x") for _ in range(BURST + 5)]
    assert answers.count(None) == 5
    station.clock.advance(1)
    assert station.unit.handle("selftest", b"x") is not None


def test_command_beyond_the_limit_is_not_even_parsed(station: Station) -> None:
    assert station.deliver("selftest", b"a" * (MAX_COMMAND_BYTES + 1))["error"] == "too_large"


def test_handler_for_an_unknown_verb_is_a_mistake_at_start(station: Station) -> None:
    with pytest.raises(ValueError, match="unknown verbs"):
        station.boot(reboot=lambda _: {})


# -- fuzzing: random bytes, and valid commands with one thing changed ---------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
MUTABLE = ("site", "unit", "cmd_seq", "issued_at", "expires_at", "transaction", "args", "nonce", "verb")


def _snapshot(station: Station) -> tuple[object, ...]:
    return (len(station.done), station.file.exists() and station.file.read_bytes())


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(verb=st.sampled_from(VERBS), payload=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_random_bytes_change_nothing_and_get_a_reason(station: Station, verb: str, payload: bytes) -> None:
    before = _snapshot(station)
    assert station.deliver(verb, payload)["status"] == "error"
    assert _snapshot(station) == before


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(where=st.integers(0, 10_000), what=st.integers(1, 255), cut=st.integers(0, 3), data=st.data())
def test_altered_signed_command_changes_nothing(
    station: Station, where: int, what: int, cut: int, data: st.DataObject
) -> None:
    payload = bytearray(sign(station.make()))
    how = data.draw(st.sampled_from(["flip", "cut", "grow", "swap"]))
    at = where % len(payload)
    if how == "flip":
        payload[at] ^= what
    elif how == "cut":
        del payload[at : at + cut + 1]
    elif how == "grow":
        payload[at:at] = data.draw(st.binary(min_size=1, max_size=8))
    else:
        header, content, signature = bytes(payload).split(b".")
        payload = bytearray(b".".join(data.draw(st.permutations([header, content, signature]))))
        if bytes(payload) == b".".join([header, content, signature]):
            return
    before = _snapshot(station)
    answer = station.deliver("selftest", bytes(payload))
    assert answer["status"] == "error"
    assert _snapshot(station) == before


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(field=st.sampled_from(MUTABLE), value=JSON, drop=st.booleans())
def test_honestly_signed_nonsense_does_at_most_what_a_command_may(
    station: Station, field: str, value: object, drop: bool
) -> None:
    """The key is right and the content is not: only a command that still is one may act."""
    command = station.make()
    if drop:
        command.pop(field, None)
    else:
        command[field] = value
    try:
        payload = sign(command)
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
        return  # not even the sender can write it
    before = _snapshot(station)
    answer = station.deliver("selftest", payload)
    if answer["status"] == "error":
        assert _snapshot(station) == before
    else:
        msgspec.convert({**command}, Command)
        assert len(station.done) == before[0] + 1
        assert field in {"args", "nonce", "cmd_seq", "issued_at", "expires_at", "transaction"}
