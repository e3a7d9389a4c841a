# SPDX-License-Identifier: Apache-2.0
"""What an installer copies for the bridge is valid as it lies there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.bridge.settings import load_settings

FOLDER = Path(__file__).parents[2] / "deploy" / "bridge"
MAX_EXPOSURE = 2.0  # of 10, as systemd-analyze counts


def test_example_is_a_valid_configuration() -> None:
    settings = load_settings(FOLDER / "bridge.example.yaml")
    assert [output.name for output in settings.outputs] == ["siem", "archive", "prometheus"]
    assert all(output.liveness_not_checked is None for output in settings.outputs)


def test_everything_that_the_example_offers_is_valid_too(tmp_path: Path) -> None:
    text = (FOLDER / "bridge.example.yaml").read_text()
    offered = re.sub(
        r"^(\s*)# (people|epoch_keys|consumer_key|liveness_not_checked|password|- kind|  [a-z_]+:)",
        r"\1\2",
        text,
        flags=re.MULTILINE,
    )
    (tmp_path / "bridge.yaml").write_text(offered)
    settings = load_settings(tmp_path / "bridge.yaml")
    assert [output.name for output in settings.outputs] == ["siem", "archive", "prometheus", "home"]
    assert settings.people == tmp_path / "people"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_service_is_hardened() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", FOLDER / "postern-bridge.service"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert exposure, done.stderr
    assert float(exposure[1]) <= MAX_EXPOSURE
