# SPDX-License-Identifier: Apache-2.0
"""The reports of the rig: whatever goes wrong while it plays, what was found reaches people and build servers."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from agent.errors import KeyStoreError
from tools.lib.rig.__main__ import main, play
from tools.lib.rig.outcome import Check, Run
from tools.lib.rig.report import Verdict, all_held, as_json, as_junit, table, traces
from tools.lib.rig.scenario import Scenario, load_scenario

SHORT = """\
promise: Nobody is there and the unit says so by its start and its end.
script: {size: [64, 36], frames_per_second: 2, duration: 1}
expect:
  - {event: unit, condition: started}
  - {event: unit, condition: stopping}
"""
VERDICTS = (
    Verdict(
        "first",
        "service",
        "a promise",
        (Check("a", ok=True, found="fine"), Check("b", ok=False, found="<broken> & odd"), Check("c", None, "far away")),
        Run("service", log=[f"line {number}" for number in range(100)] + ["x" * 1000], status=3),
    ),
    Verdict("second", "service", "a promise", skipped="needs a clock"),
    Verdict("third", "service", "a promise", error="no such disk"),
)


def written(folder: Path, name: str, text: str = SHORT) -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(text)
    return file


def suites_of(content: bytes) -> list[ET.Element]:
    return list(ET.fromstring(content))  # written by ourselves


def test_reports_tell_what_failed_to_people_programs_and_build_servers() -> None:
    counts = [
        tuple(suite.get(name) for name in ("tests", "failures", "errors", "skipped"))
        for suite in suites_of(as_junit(VERDICTS))
    ]
    assert counts == [("3", "1", "0", "1"), ("1", "0", "0", "1"), ("1", "0", "1", "0")]
    told = json.loads(json.dumps(as_json(VERDICTS)))
    assert [one["ok"] for one in told] == [False, None, False]
    assert [check["ok"] for check in told[0]["checks"]] == [True, False, None]
    assert told[2]["error"] == "no such disk"
    assert table(VERDICTS, every_check=False).row_count == 5
    assert table(VERDICTS, every_check=True).row_count == 6


def test_how_the_unit_ended_and_its_last_lines_stand_beside_what_failed() -> None:
    said = suites_of(as_junit(VERDICTS))[0].findtext("system-out") or ""
    for shown in (said, "\n".join(traces(VERDICTS)), "\n".join(as_json(VERDICTS)[0]["log"])):
        assert "exit status 3" in shown
        assert "line 99" in shown
        assert "line 10\n" not in shown
        assert len(shown) < 2000
    passed = Verdict("good", "service", "a promise", (Check("a", ok=True, found=""),), Run("service", log=["a line"]))
    assert traces([passed]) == []
    assert suites_of(as_junit([passed]))[0].find("system-out") is None


def test_control_characters_of_a_unit_do_not_spoil_the_xml() -> None:
    odd = 'a\x00\x01\x1b[31m\ud800\ufffe<&>"]]>'
    checks = (Check(odd, ok=False, found=odd),)
    verdict = Verdict("odd", "service", odd, checks, Run("service", log=[odd], ended=odd))
    (suite,) = suites_of(as_junit([verdict]))
    assert '<&>"]]>' in (suite.findtext("system-out") or "")
    assert suite[0].get("name", "").startswith("a???[31m")


def test_a_run_in_which_nothing_was_played_is_no_success() -> None:
    assert not all_held([])
    assert not all_held([VERDICTS[1]])
    good = Verdict(
        "good", "service", "a promise", (Check("a", ok=True, found=""), Check("b", None, "")), Run("service")
    )
    assert all_held([good, VERDICTS[1]])
    assert not all_held([good, VERDICTS[2]])


def test_what_goes_wrong_with_one_scenario_is_its_own_verdict(tmp_path: Path) -> None:
    def fails(_: Scenario) -> Run:
        raise KeyStoreError("the key is gone")

    def crashes(_: Scenario) -> Run:
        raise ZeroDivisionError

    scenario = load_scenario(written(tmp_path, "one"))
    assert play("one", scenario, "service", fails).error == "the key is gone"
    assert "ZeroDivisionError" in str(play("one", scenario, "service", crashes).error)
    assert play("one", scenario, "service", lambda _: "no clock").ok is None


def test_the_report_of_the_others_survives_a_scenario_that_cannot_be_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = written(tmp_path, "bad", SHORT + "configuration: {profile.x: 1}\n")
    worse = written(tmp_path, "worse", SHORT + "configuration: {activation.max_turn_degrees: banana}\n")
    good = written(tmp_path, "good")
    junit = tmp_path / "report.xml"
    assert main([str(bad), str(worse), str(good), "--json", "--junit", str(junit)]) == 1
    verdicts = json.loads(capsys.readouterr().out)
    assert [one["ok"] for one in verdicts] == [False, False, True]
    assert "'profile' has a value" in verdicts[0]["error"]
    assert "max_turn_degrees" in verdicts[1]["error"]
    assert [suite.get("errors") for suite in suites_of(junit.read_bytes())] == ["1", "1", "0"]


def test_all_wrong_files_are_told_before_anything_is_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [written(tmp_path, name, SHORT.replace("script", name)) for name in ("scipt", "skript")]
    junit = tmp_path / "report.xml"
    assert main([*map(str, files), str(written(tmp_path, "good")), "--junit", str(junit)]) == 2
    told = capsys.readouterr().err
    assert "scipt.yaml:2: scipt" in told
    assert "skript.yaml:2: skript" in told
    assert not junit.exists()


def test_a_report_that_could_not_be_written_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as refusal:
        main([str(written(tmp_path, "good")), "--junit", str(tmp_path / "nowhere" / "report.xml")])
    assert refusal.value.code == 2


def test_a_run_of_nothing_but_skipped_scenarios_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = "faults: [{at: 0.1, do: disk_slow, until: 0.5, delay_ms: 9}]\n"
    assert main([str(written(tmp_path, "slow", SHORT + slow))]) == 1
    assert "nothing was played" in capsys.readouterr().out


def test_a_scenes_file_is_written_for_the_camera_of_a_unit_far_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = written(tmp_path, "killed", SHORT + "faults: [{at: 0.5, do: kill}]\n")
    assert main([str(written(tmp_path, "quiet")), str(killed), "--export", str(tmp_path / "for-it")]) == 0
    said = capsys.readouterr().out
    assert f"camera: {{source: scene, script: {tmp_path / 'for-it' / 'quiet.yaml'}}}" in said
    assert "killed: needs faults" in said
    again = written(tmp_path, "again", SHORT.replace(SHORT.splitlines()[1], "scene: for-it/quiet.yaml"))
    assert load_scenario(again).view() == load_scenario(tmp_path / "quiet.yaml").script
    assert not (tmp_path / "for-it" / "killed.yaml").exists()
