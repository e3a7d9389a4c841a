# SPDX-License-Identifier: Apache-2.0
"""A command from the operator's tool through a real broker to a unit and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.errors import BrokerError, VerificationError
from agent.keys import SigningKey, UnitKey
from agent.protocol.command import VERBS
from agent.protocol.response import Asked, read_response
from agent.site.operator import Operator
from agent.uplink.commands import CommandCounter, Commands, Outcome
from tests.simulators.answering import answers
from tests.simulators.broker import RealBroker
from tests.simulators.desk import trusting
from tests.simulators.unit_on_broker import SkippingClock, UnitOnBroker

pytestmark = pytest.mark.broker

KEY, UNIT_KEY = SigningKey.generate(), UnitKey.generate()
TRUSTED = trusting({"door-1": UNIT_KEY})
ASKED = Asked("hq", "door-1", "selftest", "t-1", "sha256:" + "0" * 64)


class Commanded(UnitOnBroker):
    """A unit that answers every verb."""

    def __init__(self, folder: Path, broker: RealBroker, clock: SkippingClock) -> None:
        self.outcomes: list[Outcome] = []
        commands = Commands(
            site="hq",
            unit="door-1",
            key=KEY.public,
            counter=CommandCounter(folder / "commands.json"),
            answers=answers(UNIT_KEY),
            clock=clock,
            random=lambda n: b"\x07" * n,
            on_outcome=self.outcomes.append,
        )
        commands.bind({verb: lambda command: {"asked": dict(command.args)} for verb in VERBS})
        super().__init__(folder, broker.settings(broker.authority.issue("door-1")), on_request=commands.handle)


def operator(broker: RealBroker, key: SigningKey = KEY, name: str = "operator") -> Operator:
    return Operator(
        broker.settings(broker.authority.issue(name)), site="hq", key=key, trusted=TRUSTED, clock=SystemClock()
    )


@pytest.mark.parametrize("verb", ["selftest", "enrol/begin"])
def test_command_is_carried_out_and_answered(broker: RealBroker, tmp_path: Path, verb: str) -> None:
    unit = Commanded(tmp_path, broker, SkippingClock())
    unit.start()
    answer = operator(broker).ask("door-1", verb, {"n": 1})
    assert (answer.status, answer.data) == ("ok", {"asked": {"n": 1}})
    assert [outcome.error for outcome in unit.outcomes] == [None]
    assert unit.uplink.stop()


def test_unit_without_the_time_is_answered_its_challenge(broker: RealBroker, tmp_path: Path) -> None:
    unit = Commanded(tmp_path, broker, SkippingClock("unsynced"))
    unit.start()
    assert operator(broker).ask("door-1", "selftest").status == "ok"
    assert [outcome.error for outcome in unit.outcomes] == ["challenge", None]
    assert unit.uplink.stop()


def test_operator_with_another_key_is_told_so(broker: RealBroker, tmp_path: Path) -> None:
    unit = Commanded(tmp_path, broker, SkippingClock())
    unit.start()
    assert operator(broker, SigningKey.generate()).ask("door-1", "selftest").error == "wrong_key"
    assert unit.uplink.stop()


def test_unit_that_is_away_is_said_so(broker: RealBroker) -> None:
    with pytest.raises(BrokerError, match="does not answer"):
        operator(broker).ask("door-5", "selftest", timeout_s=0.5)


def test_program_without_the_role_is_said_so(broker: RealBroker) -> None:
    with pytest.raises(BrokerError, match="role of an operator"):
        operator(broker, name="auditor").ask("door-1", "selftest", timeout_s=5)


@pytest.mark.parametrize(
    "payload",
    [b"", b"junk", b"[]", b'{"status":"maybe","transaction":null}', b'{"status":"ok"}', b"x" * 20_000, b"\xff"],
)
def test_what_is_no_answer_is_passed_over(payload: bytes) -> None:
    with pytest.raises(VerificationError, match=r"no answer|at most"):
        read_response(payload, ASKED, TRUSTED)
