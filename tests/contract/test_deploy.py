# SPDX-License-Identifier: Apache-2.0
"""What is installed on a board: the service, the package's scripts and the first-boot example."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from agent import errors
from tests.simulators.config import parse_config

DEPLOY = Path(__file__).parents[2] / "deploy"
SERVICE = (DEPLOY / "postern.service").read_text()
MAX_EXPOSURE = 1.7  # of 10, as systemd-analyze counts; an unhardened service has 9.6

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def setting(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", SERVICE, flags=re.MULTILINE)


@needs_systemd
def test_the_service_is_valid(tmp_path: Path) -> None:
    unit = tmp_path / "postern.service"
    unit.write_text(SERVICE.replace("/usr/bin/postern", "/bin/true"))  # the package is not installed here
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_the_service_is_hardened(tmp_path: Path) -> None:
    unit = tmp_path / "postern.service"
    unit.write_text(SERVICE)
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", unit]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert exposure
    assert float(exposure[1]) <= MAX_EXPOSURE


def test_the_service_never_hides_cpuinfo_from_the_model_runtime() -> None:
    assert setting("ProcSubset") == []


def test_the_service_is_restarted_unless_a_person_is_needed() -> None:
    assert setting("Restart") == ["always"]
    assert setting("RestartPreventExitStatus") == [str(errors.RefusedError.exit_status)]
    assert setting("StartLimitIntervalSec") == ["0"]
    assert setting("Type") == ["notify"]
    assert int(setting("WatchdogSec")[0]) <= 30


def test_references_in_memory_reach_no_disk() -> None:
    assert setting("LimitCORE") == setting("MemorySwapMax") == ["0"]
    assert "kernel.core_pattern = |/bin/false" in (DEPLOY / "sysctl.conf").read_text()


def test_the_service_opens_no_port_and_runs_without_rights() -> None:
    assert setting("SocketBindDeny") == ["any"]
    assert setting("CapabilityBoundingSet") == [""]
    assert setting("User") == ["postern"]


@pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
def test_the_scripts_of_the_package_are_plain_sh(script: str) -> None:
    path = DEPLOY / "debian" / script
    assert path.read_text().startswith("#!/bin/sh\n")
    subprocess.run(["sh", "-n", path], check=True, timeout=10)


def test_what_the_package_brings_along_is_pinned_by_digest() -> None:
    for name, files_each in (("vendor-native.txt", 2), ("vendor-pure.txt", 1)):
        text = (DEPLOY / "debian" / name).read_text().replace("\\\n", "")
        requirements = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert requirements
        for requirement in requirements:
            assert re.match(r"[a-z0-9-]+==[0-9.]+ ", requirement)
            assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", requirement)) >= files_each


@needs_systemd
def test_the_network_example_fits_the_service(tmp_path: Path) -> None:
    unit = tmp_path / "postern.service"
    unit.write_text(SERVICE.replace("/usr/bin/postern", "/bin/true"))
    drop_in = tmp_path / "postern.service.d"
    drop_in.mkdir()
    shutil.copy(DEPLOY / "network.conf.example", drop_in / "network.conf")
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


USER_DATA = DEPLOY / "cloud-init/user-data.example"


def test_the_first_boot_example_holds_an_acceptable_configuration_and_no_secret() -> None:
    data = yaml.safe_load(USER_DATA.read_text())
    files = {entry["path"]: entry["content"] for entry in data["write_files"]}
    assert parse_config(files["/etc/postern/config.yaml"].encode(), Path("config.yaml")).profile == "production"
    text = USER_DATA.read_text().lower()
    assert not re.search(r"private key|chpasswd|plain_text_passwd|hashed_passwd|password:", text)


@pytest.mark.skipif(shutil.which("cloud-init") is None, reason="needs cloud-init")
def test_the_first_boot_example_is_valid_cloud_config() -> None:
    done = subprocess.run(["cloud-init", "schema", "-c", USER_DATA], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
