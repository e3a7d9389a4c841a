# SPDX-License-Identifier: Apache-2.0
"""No traceback reaches a person: whatever a command raises is one sentence, with where the details are."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.cli import guarded, main
from agent.errors import PosternError, StorageError
from tests.simulators.broker import wait_until

ROOT = Path(__file__).parents[2]


def raising(error: BaseException) -> Callable[[], int]:
    def run() -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "told", "status"),
    [
        (KeyError("secret-of-somebody"), "a fault of this program (KeyError at ", 70),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), "cannot use /root/x (Permission denied)", 2),
        (OSError(errno.ENOSPC, "No space left on device", "x.db"), "cannot use x.db (No space left", 2),
        (ModuleNotFoundError("No module named 'numpy'", name="numpy"), "numpy cannot be loaded", 78),
        (MemoryError(), "there is not enough memory", 70),
        (RecursionError(), "a fault of this program (RecursionError at ", 70),
        (UnicodeEncodeError("ascii", "门", 0, 1, "no"), "a fault of this program (UnicodeEncodeError", 70),
    ],
)
def test_what_nobody_foresaw_is_one_sentence(
    error: Exception,
    told: str,
    status: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert guarded(raising(error)) == status
    shown = capsys.readouterr().err
    assert told in shown
    assert shown.count("\n") == 1
    assert "secret-of-somebody" not in shown
    assert "Traceback" not in shown


def test_who_asks_for_the_traceback_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTERN_DEBUG", "1")
    with pytest.raises(KeyError):
        guarded(raising(KeyError("x")))


def test_every_command_is_guarded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["site", "create", "hq", "-f", str(tmp_path / "file" / "site")]) == StorageError.exit_status
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("wait", ["nan", "inf", "-1", "0", "1e9", "soon"])
@pytest.mark.parametrize(
    "words",
    [
        ("unit", "join", "x", "--wait"),
        ("ask", "door-1", "health", "--timeout"),
        ("withdraw", "ab" * 16, "--timeout"),
        ("aim", "--seconds"),
    ],
)
def test_a_time_to_wait_is_one(words: tuple[str, ...], wait: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main([*words, wait])
    assert refused.value.code == 2
    assert f"'{wait}' is no time to wait: give seconds, up to 86400" in capsys.readouterr().err


@pytest.mark.parametrize("program", [["-m", "agent"], [str(ROOT / "deploy/debian/launcher")]])
def test_ctrl_c_while_the_program_is_still_being_loaded_shows_no_traceback(program: list[str], tmp_path: Path) -> None:
    slow = "import time\nprint('loading', flush=True)\ntime.sleep(60)\n"
    (tmp_path / "argparse.py").write_text(slow)  # what the command line imports first
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    words = [sys.executable, "-P", *program, "version"]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "loading\n"
        started.send_signal(signal.SIGINT)
        told = started.communicate(timeout=60)[1]
    assert (started.returncode, told) == (-signal.SIGINT, "")


LAUNCHED = sorted(
    name
    for launcher in (ROOT / "tools").iterdir()
    if launcher.is_file()
    for name in re.findall(r"^launch (\w+) ", launcher.read_text(), flags=re.MULTILINE)
)


@pytest.mark.parametrize("tool", LAUNCHED)
def test_no_tool_shows_a_traceback(tool: str, tmp_path: Path) -> None:
    """An own line at the end of every tool: started as its launcher does, with what makes it fail inside."""
    broken = tmp_path / "sitecustomize.py"
    broken.write_text("import argparse\ndef fail(*_, **__): raise KeyError('x')\nargparse.ArgumentParser = fail\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-m", "tools.lib.guarded", tool],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert ": a fault of this program (KeyError at " in done.stderr
        assert done.stderr.count("\n") == 1
    else:
        assert done.stderr == "", "it had nothing to do that could fail"


def test_a_reader_that_goes_away_ends_a_tool_without_a_word(tmp_path: Path) -> None:
    """As ``tools/demo | head`` does: what is printed first here is printed into a pipe that nobody reads."""
    says = "import argparse\ndef say(*_, **__): print('x', flush=True)\nargparse.ArgumentParser = say\n"
    (tmp_path / "sitecustomize.py").write_text(says)
    words = [sys.executable, "-m", "tools.lib.guarded", "rig"]
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=120
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (PosternError.exit_status, "")


def speaking_of(place: Path) -> list[str]:
    """The command lines of this machine that name a folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if str(place) in line]


@pytest.mark.broker
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_whoever_ends_a_tool_ends_what_it_started(how: signal.Signals, tmp_path: Path) -> None:
    """Also where it was put into the background by a shell, which lets it ignore Ctrl-C."""
    words = [sys.executable, "-P", "-m", "tools.lib.guarded", "fleet", "--units", "1", "--seconds", "600"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    ignoring = ["env", "--ignore-signal=INT", *words]
    tool = subprocess.Popen(ignoring, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: any(" running" in log.read_text() for log in tmp_path.glob("*/broker/log")))
        tool.send_signal(how)
        told = tool.communicate(timeout=60)[1]
    finally:
        tool.kill()
    assert tool.returncode == 128 + how
    assert told == ""
    assert speaking_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == [], "its folders are gone as well"
