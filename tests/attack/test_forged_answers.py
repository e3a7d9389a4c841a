# SPDX-License-Identifier: Apache-2.0
"""Who runs the broker reads every command and answers first: only the unit's own signature on this answer counts."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.keys import SigningKey, UnitKey
from tests.simulators.broker import RealBroker
from tests.simulators.desk import Desk, read_command

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

TYP = "postern-response+jws"
SUBJECT = "5a" * 16
STRANGER = UnitKey.generate()
Lie = Callable[[Desk, str, bytes], bytes]


@pytest.fixture
def desk(tmp_path: Path, broker: RealBroker) -> Iterator[Desk]:
    made = Desk(tmp_path, broker)
    yield made
    made.stop()


def outcome(request: bytes, **changes: Any) -> dict[str, Any]:
    """The lie that the command was done."""
    return {"status": "ok", "transaction": read_command(request)["transaction"], "data": {}, **changes}


def sign(desk: Desk, verb: str, request: bytes, key: SigningKey | None = None, **changes: Any) -> bytes:
    """An answer as ``door-1`` signs it."""
    content = {
        "site": "hq",
        "unit": "door-1",
        "verb": verb,
        "command": "sha256:" + hashlib.sha256(request).hexdigest(),
        "number": 1,
        **outcome(request),
        **changes,
    }
    return (key or desk.keys["door-1"]).sign(json.dumps(content).encode(), typ=TYP).encode()


def altered(desk: Desk, verb: str, request: bytes) -> bytes:
    head, _, last = sign(desk, verb, request).split(b".")
    return b".".join([head, sign(desk, verb, request, data={"recognition": "paused"}).split(b".")[1], last])


LIES: dict[str, Lie] = {
    "unsigned": lambda desk, verb, request: json.dumps(outcome(request)).encode(),
    "unsigned, as before a signature": lambda desk, verb, request: json.dumps(
        {"status": "error", "transaction": None, "error": "wrong_key", "message": "Another key."}
    ).encode(),
    "signed by another unit of the site": lambda desk, verb, request: sign(desk, verb, request, desk.keys["door-2"]),
    "signed by nobody's key": lambda desk, verb, request: sign(desk, verb, request, STRANGER),
    "signed by the site": lambda desk, verb, request: sign(desk, verb, request, desk.site_key),
    "altered": altered,
    "an earlier answer to the same verb": lambda desk, verb, request: sign(desk, verb, b"a.b.c"),
    "the answer to another verb": lambda desk, verb, request: sign(desk, "health", request),
    "the answer of another site's unit": lambda desk, verb, request: sign(desk, verb, request, site="annex"),
    "of another transaction": lambda desk, verb, request: sign(desk, verb, request, transaction="t-0"),
    "a receipt's signature": lambda desk, verb, request: (
        desk.keys["door-1"].sign(json.dumps(outcome(request)).encode(), typ="postern-receipt+jws").encode()
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_broker_that_says_paused_is_not_believed(desk: Desk, capsys: pytest.CaptureFixture[str], lie: str) -> None:
    desk.start("door-1", lambda verb, request: LIES[lie](desk, verb, request))
    assert main(["ask", "door-1", "recognition/pause", *desk.words, "--timeout", "1.5"]) == 75
    told = capsys.readouterr()
    assert told.out == ""
    assert "does not answer" in told.err


def test_broker_that_answers_a_withdrawal_with_unknown_subject_ends_nothing(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    """The unit that the broker speaks for has still to be asked, and the command says so by its status."""
    no = {"data": None, "status": "error", "error": "unknown_subject", "message": "no such subject"}
    desk.start("door-1", lambda verb, request: json.dumps(outcome(request, **no)).encode())
    desk.start("door-2", lambda verb, request: json.dumps(outcome(request, **no)).encode())
    assert main(["withdraw", SUBJECT, *desk.words, "--timeout", "1.5"]) == 75
    assert "ask again, the person is not known to be erased at: door-1, door-2" in capsys.readouterr().err


def test_unit_of_the_release_before_is_told_to_be_upgraded_first(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.start("door-1", lambda verb, request: json.dumps(outcome(request)).encode())
    assert main(["ask", "door-1", "selftest", *desk.words, "--timeout", "1.5"]) == 75
    (line,) = capsys.readouterr().err.splitlines()
    assert "upgrade the unit first" in line
    assert "postern version" in line


def test_forged_answer_before_the_units_own_is_waited_past(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    unit = desk.start("door-1", lambda verb, request: honest(verb, request))

    def honest(verb: str, request: bytes) -> bytes:
        unit.mailbox.report(verb, sign(desk, verb, request, data={"depth": 7}))
        return json.dumps(outcome(request, data={"depth": 0})).encode()

    assert main(["ask", "door-1", "outbox/status", *desk.words, "--timeout", "20"]) == 0
    assert json.loads(capsys.readouterr().out) == {"depth": 7}


def test_replayed_reordered_and_forged_reports_of_an_enrolment_tell_nobody_anything(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    """What comes again, late or unsigned while an enrolment goes on is not shown and ends nothing."""

    def state(request: bytes, state: str, captured: int) -> dict[str, Any]:
        name = read_command(request)["transaction"]
        return {"data": {"enrolment": name, "state": state, "captured": captured, "wanted": 9}}

    def begin(verb: str, request: bytes) -> bytes:
        reports = [sign(desk, verb, request, number=n, **state(request, "capturing", n)) for n in (2, 3, 4)]
        forged = json.dumps(outcome(request, **state(request, "complete", 9))).encode()
        done = sign(desk, verb, request, number=5, **state(request, "complete", 9))
        for report in (reports[0], reports[0], reports[2], reports[1], forged, reports[0], done):
            unit.mailbox.report(verb, report)
        return sign(desk, verb, request, **state(request, "capturing", 0))

    unit = desk.start("door-1", begin)
    assert main(["ask", "door-1", "enrol/begin", *desk.words, "--timeout", "20"]) == 0
    told = capsys.readouterr()
    assert told.err.splitlines() == ["0 of 9", "2 of 9", "4 of 9"]
    assert json.loads(told.out)["state"] == "complete"


def test_reports_of_one_enrolment_are_numbered_whoever_makes_them(desk: Desk) -> None:
    """The unit itself never gives a number twice, also when camera and uplink report at once."""
    from agent.uplink.answers import Answers  # noqa: PLC0415 - what is attacked here

    key = desk.keys["door-1"]
    made = Answers("hq", "door-1", key)
    numbers: list[int] = []

    def report() -> None:
        for _ in range(50):
            told = made.report("t-1", {"state": "capturing"}, None)
            assert told is not None
            numbers.append(json.loads(key.public.verify(told[1].decode(), typ=TYP))["number"])

    with made.under_way("enrol/begin", "sha256:" + "0" * 64, "t-1"):
        threads = [threading.Thread(target=report) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(numbers) == list(range(2, 202))
    assert made.report("t-2", {}, None) is None
