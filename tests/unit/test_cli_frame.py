# SPDX-License-Identifier: Apache-2.0
"""The command line: quick help, one line per error, an exit status that says what to do next."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import agent
from agent.audit.chain import verify_log
from agent.cli import COMMANDS, INTERRUPTED, TERMINATED, main
from agent.errors import CameraLostError, ConfigError, PosternError, StorageError
from tests.simulators.broker import PATIENCE_S

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "deploy/config.example.yaml"
HEAVY = ("numpy", "msgspec", "yaml", "cryptography", "paho", "ai_edge_litert", "PIL", "sqlite3")


def postern(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", *words]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=30, env={**os.environ, **(env or {})}
    )


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from agent.cli import main\ntry: main(['--help'])\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=30)
    assert done.returncode == 0
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("    ") and line[4] != " "}
    assert set(COMMANDS) <= listed
    assert not set(HEAVY) & set(done.stderr.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_module_and_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"agent.cli.{name.replace('-', '_')}")
    assert module.__doc__
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: postern {name}")


def test_an_unknown_command_is_refused_without_a_traceback() -> None:
    done = postern("recognise-everybody")
    assert done.returncode == 2
    assert "invalid choice" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_command_at_all_shows_usage() -> None:
    done = postern()
    assert done.returncode == 2
    assert done.stderr.startswith("usage: postern")


def test_version_names_what_a_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    out = capsys.readouterr().out
    assert f"postern {agent.__version__}\n" in out
    assert "configuration urn:postern:config:1\n" in out


@pytest.mark.parametrize("what", ["config", "event", "trust"])
def test_each_schema_is_a_json_schema(capsys: pytest.CaptureFixture[str], what: str) -> None:
    assert main(["schema", what]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_a_good_configuration_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", str(EXAMPLE)]) == 0
    out = capsys.readouterr().out
    assert "only who stays 600 ms in zone 'entrance'" in out
    assert "To open the staff entrance" in out


def test_a_bad_configuration_is_told_line_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(EXAMPLE.read_text().replace("dwell_ms", "dwel_ms").replace("threads: 1 ", "threads: 0 "))
    assert main(["check-config", str(file)]) == ConfigError.exit_status == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 2
    assert "activation.dwel_ms: unknown key; the nearest valid key is 'dwell_ms'" in lines[0]
    assert all(line.startswith(f"postern: {file}:") for line in lines)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.yaml")
    assert "Traceback" not in postern("check-config", missing).stderr
    assert "Traceback" in postern("check-config", missing, env={"POSTERN_DEBUG": "1"}).stderr


@pytest.mark.parametrize("error", [PosternError, ConfigError, CameraLostError, StorageError])
def test_an_error_gives_its_exit_status(error: type[PosternError]) -> None:
    statuses = {PosternError: 1, ConfigError: 2, CameraLostError: 75, StorageError: 70}
    assert error.exit_status == statuses[error]


PROBE = """
import sys, time, types, agent.cli
probe = types.ModuleType("agent.cli.version")
def run(arguments):
    try:
        print("ready", flush=True)
        time.sleep(3600)
    finally:
        print("closed", flush=True)
probe.configure, probe.run = (lambda parser: None), run
sys.modules["agent.cli.version"] = probe
sys.exit(agent.cli.main(["version"]))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, TERMINATED), (signal.SIGINT, INTERRUPTED)])
def test_a_signal_closes_everything_and_says_so(number: signal.Signals, status: int) -> None:
    """The probe takes a command's place: whatever a command holds is closed by its ``finally``."""
    with subprocess.Popen(
        [sys.executable, "-c", PROBE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        child.send_signal(number)
        out, err = child.communicate(timeout=PATIENCE_S)
    assert (out, err, child.returncode) == ("closed\n", "", status)


NOISY = """
import os, secrets, sys, types, agent.cli
from pathlib import Path
from agent.audit.log import AuditLog
from agent.clock import SimulatedClock
probe = types.ModuleType("agent.cli.run")
def run(arguments):
    log = AuditLog(Path(sys.argv[1]), clock=SimulatedClock(), random=secrets.token_bytes)
    for number in (1, 2):
        os.write(number, b"INFO: a library is at work")
    print("done", flush=True)
    print("done", file=sys.stderr, flush=True)
    log.append("started", {})
    log.close()
    return 0
probe.configure, probe.run = (lambda parser: None), run
sys.modules["agent.cli.run"] = probe
sys.exit(agent.cli.main(["run"]))
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- 2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_what_a_library_writes_to_a_stream_that_was_closed_lands_in_no_file(closed: str, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", NOISY, str(log)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert verify_log(log).head.seq == 1


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = "import sys; from agent.cli import main; sys.exit(main(['schema', 'config']))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as child:
        assert child.stdout
        assert child.stderr
        child.stdout.close()
        assert b"Traceback" not in child.stderr.read()
