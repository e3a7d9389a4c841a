# SPDX-License-Identifier: Apache-2.0
"""What a unit says of an enrolment, whole: each report, each refusal, each end; and to the moment when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.audit.chain import read_entries
from agent.errors import CaptureRefusedError, RefusedError
from agent.gallery.template import MIN_CAPTURES
from agent.unit.capturing import SESSION_NS
from agent.unit.enrolment import REPORT_NS, LiveEnrolment
from tests.simulators.acted import ANYWHERE, Acted
from tests.simulators.gallery_life import MODEL, captures, consent
from tests.simulators.heads import face
from tests.unit.test_enrolment_live import GOOD, PERSON, Unit

TIMED_OUT = ("timed_out", "the session is over: start a new one")


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Unit]:
    made = Unit(tmp_path)
    yield made
    made.audit.close()
    made.gallery.close()


def report(captured: int, refusal: str | None = None, advice: str = "", state: str = "capturing") -> dict[str, Any]:
    return {
        "enrolment": "e1",
        "state": state,
        "captured": captured,
        "wanted": 5,
        "refusal": refusal,
        "advice": advice,
    }


def refused(unit: Unit, act: str, *arguments: Any, **more: Any) -> tuple[str, str]:
    with pytest.raises(RefusedError) as refusal:
        getattr(unit.live, act)(*arguments, **more)
    return refusal.value.reason, str(refusal.value)


def test_each_report_is_whole_and_the_last_one_can_be_asked_for(unit: Unit) -> None:
    assert unit.live.last("e1") is None
    unit.begin()
    assert unit.live.last("e1") is None, "the answer to the command said it"
    assert unit.live.asked is None
    unit.show()
    small = face(300, 300, 100)
    unit.show(small)
    assert unit.live.asked == "small"
    unit.stand(5)
    assert unit.live.asked is None, "nobody is asked for anything once all captures are there"
    assert unit.live.last("e1") == (report(5, state="complete"), None)
    unit.live.commit("e1")
    committed = {"enrolment": "e1", "state": "committed"}
    assert [name for name, _, _ in unit.told] == ["e1"] * len(unit.told)
    assert [end for _, _, end in unit.told] == [None] * len(unit.told)
    assert [data for _, data, _ in unit.told] == [
        report(0, "none", "step in front of the camera"),
        report(0, "small", "come nearer"),
        *(report(count) for count in range(1, 5)),
        report(5, state="complete"),
        committed,
    ]
    assert unit.live.last("e1") == (committed, None)
    assert unit.live.last("e2") is None


def test_each_refusal_says_what_to_do(unit: Unit) -> None:
    nobody = ("no_enrolment", "there is no such enrolment: begin one, and name it by the begin's transaction")
    assert refused(unit, "commit", "e1") == nobody
    unit.begin()
    another = "another enrolment is under way: commit or abort it, or let its time pass"
    assert refused(unit, "begin", "e2", consent(unit.clock.now())) == ("enrolment_open", another)
    assert refused(unit, "commit", "e2") == nobody
    unit.stand(MIN_CAPTURES - 1)
    with pytest.raises(CaptureRefusedError) as few:
        unit.live.commit("e1")
    assert (few.value.reason, str(few.value)) == (
        "too_few_captures",
        f"{MIN_CAPTURES - 1} captures were taken, {MIN_CAPTURES} are needed: follow the advice",
    )
    assert unit.live.abort("e1") == {"enrolment": "e1"}
    assert unit.told[-1] == ("e1", None, ("aborted", "the enrolment was aborted, nothing was stored"))
    assert refused(unit, "abort", "e1") == nobody


def test_a_session_ends_after_its_last_moment_and_says_so_once(unit: Unit) -> None:
    unit.begin()
    unit.clock.advance(SESSION_NS / 1e9)
    unit.live.expire()
    assert unit.live.capturing, "at the moment itself it stands"
    unit.clock.advance(1e-6)
    unit.live.expire()
    unit.live.expire()
    assert not unit.live.capturing
    assert unit.told == [("e1", None, TIMED_OUT)]
    assert unit.live.last("e1") == (None, TIMED_OUT)


def test_a_session_that_is_over_keeps_the_next_from_nothing(unit: Unit) -> None:
    unit.begin()
    unit.clock.advance(SESSION_NS / 1e9 + 1)
    assert unit.begin("e2")["enrolment"] == "e2"
    assert unit.told == [("e1", None, TIMED_OUT)]
    unit.clock.advance(SESSION_NS / 1e9 + 1)
    assert refused(unit, "commit", "e2")[0] == "no_enrolment", "its time is over, too"


def test_an_erasure_ends_the_session_of_that_person_and_no_other(unit: Unit) -> None:
    unit.begin()
    unit.stand(5)
    unit.live.commit("e1")
    (subject,) = unit.gallery.subjects()
    unit.live.begin("e2", consent(unit.clock.now()), subject)
    unit.live.forget_subject(type(subject)(bytes(len(subject))))
    assert unit.live.capturing
    unit.live.forget_subject(subject)
    erased = ("subject_erased", "the person was erased meanwhile; nothing was stored")
    assert unit.told[-1] == ("e2", None, erased)
    assert not unit.live.capturing


def test_what_is_said_again_is_told_after_half_a_second_and_news_at_once(unit: Unit) -> None:
    unit.begin()
    step_s = REPORT_NS / 1e9
    for seconds, shown, told in (
        (0.01, (), True),  # the first
        (0.01, (face(300, 300, 100),), False),  # other advice, too early
        (step_s - 0.02, (face(300, 300, 100),), False),  # a hundredth of a second too early
        (0.01, (face(300, 300, 100),), True),
        (step_s, (face(300, 300, 100),), False),  # nothing new
        (0.0, (), True),
        (0.0, (face(300, 300, 100),), False),
        (step_s, (face(300, 300, 100),), True),
    ):
        before = len(unit.told)
        unit.show(*shown, seconds=seconds)
        assert len(unit.told) - before == told, (seconds, len(unit.told))
    before = len(unit.told)
    unit.vectors += captures(unit.rng, PERSON, 1)
    unit.show(GOOD, seconds=0.0)
    assert unit.told[before][1] == report(1), "a capture is news"


def test_the_button_of_whoever_stands_there_reaches_the_session_and_nothing_where_there_is_none(unit: Unit) -> None:
    pressed: list[int] = []

    class Pressed(Acted):
        def press(self, now_ns: int) -> None:
            pressed.append(now_ns)

    live = LiveEnrolment(unit.registrar, clock=unit.clock, tell=lambda *_: None, gate=ANYWHERE, act=Pressed)
    live.press(7)
    assert pressed == []
    live.begin("e1", consent(unit.clock.now()))
    live.press(7)
    live.press(9)
    assert pressed == [7, 9]


def test_while_files_are_in_doubt_nobody_is_enrolled_and_the_log_has_nothing_of_it(unit: Unit) -> None:
    doubtful = msgspec.structs.replace(unit.registrar, doubt=lambda: "outbox.db is from a backup: confirm it")
    with pytest.raises(RefusedError) as refusal:
        doubtful.open(consent(unit.clock.now()), None)
    assert (refusal.value.reason, str(refusal.value)) == ("files_in_doubt", "outbox.db is from a backup: confirm it")
    assert list(read_entries(unit.log_path)) == []


def test_what_the_log_says_of_an_enrolment_is_the_notice_the_model_and_how_many_captures(unit: Unit) -> None:
    given = consent(unit.clock.now())
    unit.live.begin("e1", given)
    unit.stand(MIN_CAPTURES)
    answer = unit.live.commit("e1")
    first, second = read_entries(unit.log_path)
    assert answer["captures"] == MIN_CAPTURES
    assert (first.kind, dict(first.facts)) == ("consent_given", {"notice_version": given.notice_version} | pick(first))
    assert (second.kind, dict(second.facts)) == ("enrolled", {"model": MODEL, "captures": MIN_CAPTURES} | pick(second))
    assert pick(first) == pick(second), "both of one person"


def pick(entry: Any) -> dict[str, Any]:
    """Of an entry's facts those that the log itself adds."""
    return {name: value for name, value in entry.facts.items() if name not in {"notice_version", "model", "captures"}}
