# SPDX-License-Identifier: Apache-2.0
"""The programs of tools/: each starts what it names, and says in one sentence what it cannot do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.contract.test_readme import shown
from tools.lib.refused import main as refused
from tools.lib.rig.__main__ import MODES
from tools.lib.train.__main__ import main as train
from tools.lib.train.__main__ import steps

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PROGRAMS = sorted(path for path in (ROOT / "tools").iterdir() if path.is_file() and path.suffix == "")
LAUNCH = re.compile(r'^launch (\w+) (\.venv-\w+) (\w+) "\$@"$', re.MULTILINE)
LAUNCHED = [path for path in PROGRAMS if LAUNCH.search(path.read_text())]
GUARDED_NEEDS = ("agent/errors.py", "agent/cli/words.py")  # of what is installed, to tell what went wrong
OF_SHELL = {"arm64", "camera-stack", "check", "home-assistant", "image", "test"}


def test_every_program_is_a_shell_script_and_all_in_python_start_alike() -> None:
    assert {path.name for path in PROGRAMS} == OF_SHELL | {path.name for path in LAUNCHED}
    for path in PROGRAMS:
        assert os.access(path, os.X_OK), path
        assert path.read_text().startswith("#!/usr/bin/env bash\n"), path


@pytest.mark.parametrize("path", LAUNCHED, ids=lambda path: path.name)
def test_a_program_names_a_module_that_starts_and_an_extra_that_exists(path: Path) -> None:
    found = LAUNCH.search(path.read_text())
    assert found is not None
    module, environment, extra = found.groups()
    place = ROOT / "tools" / "lib" / module
    source = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
    assert 'if __name__ == "__main__":' in source.read_text()
    assert extra in EXTRAS
    assert environment == f".venv-{'test' if extra == 'dev' else extra}"


def test_no_python_is_told_in_one_sentence() -> None:
    done = subprocess.run(
        [ROOT / "tools" / "demo"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": "no-python"},
    )
    assert done.returncode == 1
    assert done.stderr == "demo: PYTHON=no-python is not a Python 3.11 or newer\n"


@pytest.mark.timeout(300)  # two environments, on a machine that may be busy
def test_a_missing_environment_is_made_and_packages_that_cannot_be_had_are_told_in_one_sentence(tmp_path: Path) -> None:
    """In a copy of the launcher with a project of its own, which needs no network and no time.

    The first environment is of the extra that gets a pip of its own, the second borrows the one of this Python.
    """
    copy = tmp_path / "checkout"
    (copy / "tools" / "lib").mkdir(parents=True)
    (copy / "agent" / "cli").mkdir(parents=True)
    for name in (
        *(f"tools/lib/{part}" for part in ("launch.sh", "setup.sh", "guarded.py", "refused.py")),
        *GUARDED_NEEDS,
    ):
        shutil.copy(ROOT / name, copy / name)
    (copy / "tools" / "lib" / "hello.py").write_text("import sys\nprint(sys.prefix, *sys.argv[1:])\n")
    program = copy / "tools" / "hello"
    launcher = '. "$(dirname "$0")/lib/launch.sh"\nlaunch hello .venv-hello {} "$@"\n'
    (copy / "pyproject.toml").write_text(PROJECT)
    words = ["bash", program, "a", "b"]
    env = {**os.environ, "PIP_NO_INDEX": "1", "PYTHON": sys.executable}

    program.write_text(launcher.format("bench"))
    (copy / "backend.py").write_text(BACKEND.replace("version: 1", "version: 1\\nRequires-Dist: no-such-thing"))
    missing = subprocess.run(words, capture_output=True, text=True, check=False, env=env, cwd="/")
    assert (missing.returncode, missing.stdout) == (1, "")
    doing, fetching, told = missing.stderr.splitlines()
    assert doing.startswith("setting up ")
    assert re.fullmatch(r"after \d+ s: fetching and installing what it needs", fetching)
    assert re.fullmatch(r"hello: packages cannot be installed: ERROR: .*no-such-thing.*; see .*install\.log", told)
    assert (copy / ".venv-hello" / "bin" / "pip").exists()

    program.write_text(launcher.format("hello"))
    (copy / "backend.py").write_text(BACKEND)
    made = subprocess.run(words, capture_output=True, text=True, check=False, env=env, cwd="/")
    assert made.returncode == 0, made.stderr
    assert re.fullmatch(r"after \d+ s: set up", made.stderr.splitlines()[-1])
    assert made.stdout.split() == [str(copy / ".venv-hello"), "a", "b"]
    again = subprocess.run(words, capture_output=True, text=True, check=False, env=env, cwd="/")
    assert (again.stdout, again.stderr) == (made.stdout, "")


PROJECT = """
[project]
name = "hello"
version = "1"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
# The least that pip takes for an editable package.
BACKEND = """
import zipfile

INFO = "hello-1.dist-info/"
FILES = {
    "METADATA": "Metadata-Version: 2.1\\nName: hello\\nversion: 1\\n",
    "WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    "RECORD": "",
}


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = "hello-1-py3-none-any.whl"
    with zipfile.ZipFile(f"{wheel_directory}/{name}", "w") as wheel:
        for file, text in FILES.items():
            wheel.writestr(INFO + file, text)
    return name


build_wheel = build_editable
"""


def early(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """What is said before there is an environment, by a Python with nothing installed."""
    found = LAUNCH.search((ROOT / "tools" / program).read_text())
    assert found is not None
    asked = ["-I", ROOT / "tools/lib/refused.py", program, found[1], *words]
    return subprocess.run([sys.executable, *asked], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("program", [path.name for path in LAUNCHED])
def test_an_option_that_there_is_not_is_refused_before_an_environment_is_made(program: str) -> None:
    done = early(program, *(["embedder"] if program == "train" else []), "--no-such-option=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"tools/{program}: there is no option --no-such-option\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train no-such-step", "there is no step no-such-step; there are "),
        ("convert --pack nothing", "there is no pack 'nothing'; there are mobilefacenet, "),
        ("convert --pack=nothing", "there is no pack 'nothing'; there are mobilefacenet, "),
        ("convert", "give --pack NAME, or "),
        ("bridge", "give --demo, or "),
        ("evaluate", "give what to measure"),
        ("evaluate nothing", "there is no 'nothing'; there are calibrate, "),
        ("manifest", "give add, check or bind"),
        ("manifest nothing", "there is no 'nothing'; there are add, bind, check"),
        ("mutate", "give faults or rooms"),
        ("lifetime nothing", "there is no 'nothing'; there are days, join"),
        ("scene-to-video", "give a scene, "),
    ],
)
def test_a_word_that_is_missing_or_that_there_is_not_is_refused_before_an_environment_is_made(
    line: str, said: str
) -> None:
    program, *words = line.split(" ")
    done = early(program, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"tools/{program}: {said}")
    assert done.stderr.count("\n") == 1


def test_what_the_documents_show_is_refused_by_none_before_its_environment_is_made() -> None:
    modules = {f"tools/{path.name}": found[1] for path in LAUNCHED if (found := LAUNCH.search(path.read_text()))}
    lines = [command for command in shown() if command.program in modules and len(command.words) > 1]
    assert len(lines) > 30
    for line in lines:
        assert refused([line.program, modules[line.program], *line.words[1:]]) == 0, line


def test_the_steps_of_training_are_told_before_its_environment_is_made() -> None:
    done = early("train")
    assert done.returncode == 64
    assert "  embedder " in done.stdout


@pytest.mark.parametrize(
    ("line", "said"), [("check all", "takes no argument"), ("test tests/none.py::x", "no tests/none")]
)
def test_what_checks_and_tests_refuses_what_there_is_not_at_once(line: str, said: str) -> None:
    program, *words = line.split(" ")
    done = subprocess.run(["bash", ROOT / "tools" / program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert not done.stdout


def test_training_lists_its_steps_each_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    known = steps()
    assert {"align-faces", "pool", "embedder", "scenes", "detector", "patches", "landmarks", "from-tflite"} <= set(
        known
    )
    assert all(summary.endswith(".") for summary in known.values())
    assert train([]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in known)


def test_a_step_that_there_is_not_is_told_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["quantise"]) == 2  # a module of the package, and no step
    assert re.fullmatch(r"tools/train: there is no step quantise; there are .*\n", capsys.readouterr().err)


def test_the_long_runs_are_modes_of_the_rig() -> None:
    assert set(MODES) == {"soak", "kills", "pulses", "idle"}
    for mode in MODES:
        done = subprocess.run(
            [sys.executable, "-m", "tools.lib.rig", mode, "--help"],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        assert done.stdout.startswith(f"usage: tools/rig {mode} ")
