# SPDX-License-Identifier: Apache-2.0
"""What an installer copies for the bridge is valid as it lies there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client import CollectorRegistry, generate_latest

from agent.bridge.metrics import Gathered
from agent.bridge.settings import load_settings
from agent.bridge.status import Status
from agent.bridge.store import Store
from agent.clock import SimulatedClock
from agent.errors import DamagedError, KeyStoreError, RefusedError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "bridge"
MAX_EXPOSURE = 1.7  # of 10, as systemd-analyze counts


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
    assert [output.name for output in settings.outputs] == ["siem", "archive", "prometheus", "logs", "syslog", "home"]
    assert settings.people == tmp_path / "people"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_service_is_hardened() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", FOLDER / "postern-bridge.service"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert exposure, done.stderr
    assert float(exposure[1]) <= MAX_EXPOSURE


def test_service_waits_for_a_person_where_only_one_can_mend_it() -> None:
    lines = (FOLDER / "postern-bridge.service").read_text().splitlines()
    statuses = f"{RefusedError.exit_status} {KeyStoreError.exit_status}"
    assert f"RestartPreventExitStatus={statuses}" in lines
    assert KeyStoreError.exit_status == DamagedError.exit_status
    # libpq looks for a certificate beneath it and, where it may not look, gives up TLS.
    (state,) = [line.partition("=")[2] for line in lines if line.startswith("StateDirectory=")]
    assert f"Environment=HOME=/var/lib/{state}" in lines


def test_dashboard_is_one_of_grafana_and_asks_for_what_the_bridge_tells(tmp_path: Path) -> None:
    """Read by Grafana's own types: what they do not know would not come out again."""
    text = (FOLDER.parent / "grafana" / "postern.json").read_text()
    dashboard = Dashboard.from_json(json.loads(text))
    assert _without_nothing(json.loads(json.dumps(dashboard, cls=JSONEncoder))) == _without_nothing(json.loads(text))
    registry, store = CollectorRegistry(), Store(tmp_path / "bridge.db", outputs=[], clock=SimulatedClock())
    registry.register(Gathered(Status(), store, lambda: 0))
    told = {line.split()[2] for line in generate_latest(registry).decode().splitlines() if line.startswith("# TYPE ")}
    store.close()
    asked = set(re.findall(r"postern_[a-z_]+", " ".join(re.findall(r'"expr": "(.*)"', text))))
    assert len(asked) > 10
    assert asked <= told, "no such metric"


def _without_nothing(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nothing(part) for name, part in value.items() if part is not None}
    return [_without_nothing(part) for part in value] if isinstance(value, list) else value


def test_container_runs_the_bridge_as_nobody_special() -> None:
    """What it copies is there, and what it installs comes by version and digest."""
    lines = (FOLDER / "Containerfile").read_text().splitlines()
    copied = [
        word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    ]
    assert all((ROOT / name).exists() for name in copied)
    assert "agent" in copied
    assert "USER 990:990" in lines
    assert "tools/lib/locks/bridge.txt" in copied
    assert any("--require-hashes -r /src/bridge.txt" in line for line in lines)
