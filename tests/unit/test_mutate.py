# SPDX-License-Identifier: Apache-2.0
"""What ``tools/mutate`` says can be relied on: what it calls noticed is noticed because of the wrong line alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tools.lib.mutate import reach
from tools.lib.mutate.faults import Fault
from tools.lib.mutate.mutants import Made, _settings
from tools.lib.mutate.rooms import answering, starting
from tools.lib.mutate.runs import Runs

TESTS = {
    "test_sum.py": """
        import os, subprocess, sys, time
        from agent.sum import both

        def test_both():
            assert both(2, 2) == 4

        def test_hangs_when_told():
            if os.environ.get("WRONG") == "hang":
                subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
                time.sleep(60)

        def test_ends_the_process_when_told():
            if os.environ.get("WRONG") == "exit":
                os._exit(0)
    """,
    "test_always_fails.py": """
        def test_fails():
            assert False
    """,
}
LONG_S = 30.0


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for name, content in TESTS.items():
        (folder / "tests").mkdir(exist_ok=True)
        (folder / "tests" / name).write_text(dedent(content))
    (folder / "agent").mkdir()
    (folder / "agent/__init__.py").touch()
    (folder / "agent/sum.py").write_text(
        dedent("""
            import os

            def both(one, other):
                return one + other if os.environ.get("WRONG") != "sum" else one - other
        """)
    )
    (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


@pytest.fixture(scope="module", params=[True, False], ids=["imported-before", "imported-anew"])
def runs(checkout: Path, request: pytest.FixtureRequest) -> Iterator[Runs]:
    with Runs(checkout, ["tests/test_sum.py"], whole=request.param) as made:
        yield made


def test_what_a_test_has_to_notice_is_noticed_and_by_whom_is_said(runs: Runs) -> None:
    ended = runs.run(["tests/test_sum.py"], LONG_S, {"WRONG": "sum"})
    assert (runs.verdict(ended), ended.by) == ("noticed", "tests/test_sum.py::test_both")


def test_what_cannot_matter_survives(runs: Runs) -> None:
    assert runs.verdict(runs.run(["tests/test_sum.py"], LONG_S, {"WRONG": "nothing"})) == "survived"


def test_a_run_leaves_nothing_behind_for_the_next(runs: Runs) -> None:
    for _ in range(2):
        runs.run(["tests/test_sum.py"], LONG_S, {"WRONG": "sum"})
        assert runs.run(["tests/test_sum.py"], LONG_S).how == "passed"


def test_what_hangs_is_a_timeout_and_what_it_started_ends(runs: Runs) -> None:
    assert runs.verdict(runs.run(["tests/test_sum.py"], 1.0, {"WRONG": "hang"})) == "timeout"
    pid = runs._process.pid
    assert Path(f"/proc/{pid}/task/{pid}/children").read_text() == ""


def test_a_test_that_hangs_by_its_own_limit_is_a_timeout(runs: Runs) -> None:
    ended = runs.run(["--timeout=1", "tests/test_sum.py"], LONG_S, {"WRONG": "hang"})
    assert (ended.how, ended.by) == ("timeout", "tests/test_sum.py::test_hangs_when_told")


def test_a_process_that_ends_in_the_middle_of_a_test_is_noticed(runs: Runs) -> None:
    assert runs.verdict(runs.run(["tests/test_sum.py"], LONG_S, {"WRONG": "exit"})) == "noticed"


def test_a_test_that_fails_without_anything_wrong_notices_nothing(runs: Runs) -> None:
    assert runs.verdict(runs.run(["tests/test_always_fails.py"], LONG_S, {"WRONG": "sum"})) == "broken"


def test_a_test_that_is_not_there_is_broken_not_passed(runs: Runs) -> None:
    assert runs.verdict(runs.run(["tests/test_sum.py::test_gone"], LONG_S)) == "broken"


def test_a_wrong_line_of_the_same_length_in_the_same_second_is_seen(checkout: Path) -> None:
    fault = Fault("minus", "agent/sum.py", "one + other", "one - other")
    right = (checkout / fault.file).read_text()
    with Runs(checkout, ["tests/test_sum.py"], whole=False) as runs:
        for _ in range(2):
            assert runs.run(["tests/test_sum.py"], LONG_S).how == "passed"
            fault.put_into(checkout)
            assert runs.run(["tests/test_sum.py"], LONG_S).by == "tests/test_sum.py::test_both"
            fault.write(checkout, right)


def test_a_seed_draws_a_sample_and_a_longer_one_begins_with_it() -> None:
    made = Made("clock", Path(), "", [str(number) for number in range(100)])
    assert made.drawn(10, seed=1) == made.drawn(10, seed=1) != made.drawn(10, seed=2)
    assert len(set(made.drawn(10, seed=1))) == 10
    assert sorted(made.drawn(None, seed=1)) == sorted(made.drawn(1000, seed=1)) == sorted(made.names)


def test_who_reaches_a_function_is_asked_one_of_each_file_first_then_the_quickest() -> None:
    took = {
        "a.py::slow": 3.0,
        "a.py::quick": 0.1,
        "b.py::second": 0.2,
        "b.py::slow": 1.0,
        "c.py::slow": 0.4,
        "d.py::x": 0,
    }
    found = reach.Reach({"agent.sum.x_both": list(took)[:5]}, took)
    quickest, others = ["a.py::quick", "b.py::second", "c.py::slow"], ["b.py::slow", "a.py::slow"]
    assert found.tests_of("agent.sum.x_both") == quickest + others
    assert found.tests_of("agent.sum.x_neither") == []
    assert set(found.all_tests()) == set(took)
    assert found.limit_s(["a.py::slow"]) - found.limit_s([]) == pytest.approx(15.0)


def test_what_starts_programs_is_asked_last_and_tells_nobody_what_it_reaches() -> None:
    """Their cameras go on in real time: on a busy machine one of them failed, and no mutant of the room was tried."""
    started = starting("unit")
    assert started
    assert answering("unit")[-len(started) :] == started
    assert answering("unit")[0] in _settings("unit")
    assert not [test for test in started if test in _settings("unit")]


def test_a_function_has_the_name_that_mutmut_gives_it() -> None:
    source = "import os\n\ndef one():\n    return 1\n\nclass Two:\n    def three(self):\n        return 3\n"
    at = [reach.function_at("agent/sum/part.py", source, line) for line in (1, 4, 6, 8)]
    assert at == [None, "agent.sum.part.x_one", None, "agent.sum.part.xǁTwoǁthree"]
