# SPDX-License-Identifier: Apache-2.0
"""A fleet of simulated units: its books are right, and what it cannot do is one sentence."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agent.clock import SimulatedClock
from agent.keys import UnitKey
from agent.outbox.queue import Outbox
from tools.lib.demo.brokers import DemoBroker
from tools.lib.fleet.__main__ import main
from tools.lib.fleet.books import Undelivered, find
from tools.lib.fleet.match import random_match
from tools.lib.fleet.report import Report, overtaken, percentiles
from tools.lib.fleet.site import FleetSite


@pytest.mark.broker
@pytest.mark.timeout(240)
def test_fleet_under_faults_loses_nothing_and_says_what_it_cost(capsys: pytest.CaptureFixture[str]) -> None:
    """A unit that is killed, links that are cut, a broker that forgets everything; what was missed is said again."""
    if shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin") is None:
        pytest.skip("mosquitto is not installed")
    words = ["--units", "3", "--rate", "15", "--seconds", "22", "--faults", "kill,cut,broker", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"]
    assert told["signed"] == told["delivered"] > 100
    assert told["faults"] == {"kill": 1, "cut": 1, "broker": 1}
    assert told["late"] > 0
    assert told["overtaken"] == 0
    assert 0 < told["latency_ms"]["p50"] <= told["latency_ms"]["p99"] <= told["latency_ms"]["max"]
    assert min(told["units_cpu_s"], told["subscriber_cpu_s"], told["broker_cpu_s"]) > 0


@pytest.mark.broker
@pytest.mark.timeout(180)
def test_fleet_runs_against_a_broker_that_is_there_and_does_so_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin") is None:
        pytest.skip("mosquitto is not installed")
    folder = tmp_path / "fleet"
    assert main(["join", str(folder), "--units", "2", "--host", "127.0.0.1"]) == 0
    capsys.readouterr()
    with DemoBroker(FleetSite(folder).files, tmp_path / "broker") as broker:
        words = ["run", str(folder), "--broker", f"127.0.0.1:{broker.port}", "--pid", str(broker.pid)]
        for _ in range(2):
            assert main([*words, "--rate", "10", "--seconds", "3", "--json"]) == 0
            told = json.loads(capsys.readouterr().out)
            assert 0 < told["signed"] == told["delivered"] < 60
            assert told["broker_cpu_s"] >= 0


@pytest.mark.parametrize(("kind", "file"), [("mosquitto", "acl"), ("rabbitmq", "definitions.json")])
def test_fleet_joins_a_site_for_a_given_broker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, file: str
) -> None:
    folder = tmp_path / "fleet"
    assert main(["join", str(folder), "--units", "2", "--host", "broker.example", "--kind", kind]) == 0
    assert f"as deploy/{kind}/README.md says" in capsys.readouterr().out
    assert (folder / "site" / "broker" / "broker.crt").exists()
    assert "unit-0002" in (folder / "site" / "broker" / file).read_text()
    assert {path.name for path in (folder / "units").iterdir()} == {"unit-0001", "unit-0002"}
    assert main(["join", str(folder), "--units", "2", "--host", "broker.example"]) > 0
    assert "holds a fleet already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "nowhere", "--broker", "127.0.0.1:1"], "holds no fleet"),
        (["--units", "0"], "--units is from 1"),
        (["--units", "1", "--kind", "rabbitmq"], "no RabbitMQ here"),
        (["verify", "--events", "5"], "--events at least"),
    ],
)
def test_fleet_that_cannot_be_is_one_sentence(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POSTERN_RABBITMQ", raising=False)
    assert main(words) > 0
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", [["--faults", "fire"], ["--rate", "0"]])
def test_fault_that_nobody_knows_ends_it_before_it_begins(words: list[str]) -> None:
    with pytest.raises(SystemExit, match="faults are of cut,kill,broker"):
        main([*words, "--units", "1"])


def test_broker_of_somebody_else_is_not_killed(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="broker of its own"):
        main(["run", str(tmp_path), "--broker", "127.0.0.1:1", "--faults", "broker"])


def test_verifier_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    main(["verify", "--units", "20", "--events", "2000", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["events"] == 2000
    assert told["per_second"] > 500, "even on a machine that does much else"
    assert told["restart_s"] < 5
    assert told["warm_mib"] > 0


def test_what_was_not_delivered_is_found_where_it_is(tmp_path: Path) -> None:
    """What waits at a unit is not lost; what it keeps was asked for in vain; the rest is nowhere."""
    clock = SimulatedClock()
    outbox = Outbox(tmp_path / "outbox.db", signer=UnitKey.generate(), source="/postern/hq/door-1", clock=clock)
    for _ in range(6):
        outbox.append(random_match(clock.now(), clock.state()))
    outbox.acked(1, 2, 3)
    outbox.close()
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as database, database:
        database.execute("DELETE FROM kept WHERE seq = 2")
    assert find(tmp_path / "outbox.db", [1, 2, 5]) == Undelivered(waiting=(5,), kept=(1,), gone=(2,))
    assert find(tmp_path / "nowhere.db", []) == Undelivered()


def test_run_that_ends_while_events_wait_is_no_loss_and_no_success() -> None:
    facts = dict.fromkeys(("lost", "altered", "repeated", "late", "overtaken"), 0)
    report = Report(
        units=1,
        seconds=1,
        signed=9,
        delivered=9,
        refused={},
        latency_ms={},
        units_cpu_s=0,
        subscriber_cpu_s=0,
        broker_cpu_s=None,
        **facts,
    )
    assert report.ok
    assert not replace(report, delivered=8, waiting={"unit-0001": (9,)}).ok


def test_an_event_that_comes_behind_a_later_one_and_does_not_say_so_is_out_of_order() -> None:
    assert overtaken([(1, False), (3, False), (2, True), (4, False)]) == 0
    assert overtaken([(2, False), (1, False), (3, False), (3, False)]) == 1


def test_percentiles_are_of_what_was_measured() -> None:
    assert percentiles([]) == {"p50": None, "p99": None, "max": None}
    assert percentiles([4, 1, 3, 2]) == {"p50": 2, "p99": 4, "max": 4}


@pytest.mark.broker
@pytest.mark.timeout(240)
def test_limits_of_a_broker_are_measured_and_not_copied(capsys: pytest.CaptureFixture[str]) -> None:
    """More waits than it keeps, a packet is too large, and a kill costs what was not saved."""
    if shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin") is None:
        pytest.skip("mosquitto is not installed")
    assert main(["limits", "--sessions", "2", "--said", "300", "--waited", "50", "--saved-after", "0"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["queue"]["taken"] == told["queue"]["kept"] == 300
    assert told["queue"]["kept_are_the_oldest"]
    assert 30_000 < told["largest_payload_bytes"] < 32_768
    ends = {f"the connection ends (reason {reason})" for reason in ("0x95", "0x80")}  # Mosquitto says one or the other
    assert told["larger_is_answered"] in ends
    assert told["unanswered"] == 32
    assert (told["kept_over_stop"], told["kept_over_kill"]) == (50, 0)
    assert told["live_a_second"] > 0


def test_limits_of_too_many_sessions_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["limits", "--sessions", "5000"]) > 0
    assert "--sessions is from 1 to 400" in capsys.readouterr().err
