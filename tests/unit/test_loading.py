# SPDX-License-Identifier: Apache-2.0
"""What loads beside a start is what the unit then uses, and its faults are told where they matter."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agent.config.load import load_config
from agent.config.schema import Config
from agent.errors import ModelError
from agent.unit.loading import begin_models, begun
from tests.simulators.quiet_unit import Premises


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(Premises(tmp_path).config)


def with_detector(config: Config, name: str) -> Config:
    return msgspec.structs.replace(config, models=msgspec.structs.replace(config.models, detector=name))


def test_the_models_of_the_configuration_are_loaded(config: Config) -> None:
    assert begin_models(with_detector(config, "detector-640x480"))().detector.input_size == (640, 480)


def test_what_failed_beside_the_start_is_told_where_it_is_needed(config: Config) -> None:
    missing = with_detector(config, "detector-of-nobody")
    loaded = begin_models(missing)
    with pytest.raises(ModelError, match="detector-of-nobody"):
        loaded()


def test_work_that_nobody_waits_for_ends_before_the_program_does() -> None:
    """A daemon thread would be cut off within the runtime, which then aborts the program instead of ending it."""
    program = (
        "import sys, time\n"
        "from agent.unit.loading import begun\n"
        "begun(lambda: (time.sleep(0.2), print('done')))\n"
        "sys.exit(2)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "done\n")


def test_begun_work_gives_its_answer_to_whoever_asks() -> None:
    here: Callable[[], str] = lambda: threading.current_thread().name  # noqa: E731
    assert begun(here)() == "postern-loading"
