# SPDX-License-Identifier: Apache-2.0
"""What is installed beside the broker: the site's service, and what carries its lists to Mosquitto."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
SERVICE = DEPLOY / "site" / "postern-site.service"
UNITS = ("postern-broker.service", "postern-broker.path")
CONSOLE = DEPLOY / "site" / "postern-site-console"
BROKER = [DEPLOY / "mosquitto" / name for name in UNITS]
CLUSTER = [DEPLOY / "rabbitmq" / name for name in UNITS]
TAKE = DEPLOY / "mosquitto" / "postern-broker-take"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("broker", [BROKER, CLUSTER])
def test_the_units_are_valid(broker: list[Path], tmp_path: Path) -> None:
    for unit in (SERVICE, *broker):
        text = re.sub(r"(?m)^(ExecStart=)\S+", r"\1/bin/true", unit.read_text())
        (tmp_path / unit.name).write_text(text)
    units = sorted(tmp_path.iterdir())
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_both_speak_of_the_same_folder_and_the_service_listens_nowhere_and_has_no_right() -> None:
    service, taking = SERVICE.read_text(), BROKER[0].read_text()
    (folder,) = re.findall(r"--folder (\S+)", service)
    assert f"{folder}/broker /etc/mosquitto/postern" in taking
    watched = set(re.findall(r"PathChanged=(\S+)", BROKER[1].read_text()))
    assert watched == {f"{folder}/broker/acl", f"{folder}/broker/ca.crl"}
    assert f"{folder}/broker /etc/rabbitmq/postern" in CLUSTER[0].read_text()
    watched = set(re.findall(r"PathChanged=(\S+)", CLUSTER[1].read_text()))
    assert watched == {f"{folder}/broker/definitions.json", f"{folder}/broker/ca.crl"}
    assert all("\nWants=postern-broker.service\n" in path.read_text() for _, path in (BROKER, CLUSTER))  # at each start
    for setting in (
        "CapabilityBoundingSet=",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "UMask=0077",
        "LimitCORE=0",
    ):
        assert f"\n{setting}\n" in service


def test_the_console_is_a_valid_unit_that_reads_the_page_and_has_neither_key_nor_right(tmp_path: Path) -> None:
    words = shlex.split(CONSOLE.read_text().partition("exec systemd-run ")[2].replace("\\\n", " "))
    settings = [word.removeprefix("--property=") for word in words if word.startswith("--property=")]
    started = words[words.index("--") + 1 :]
    assert started[1:3] == ["site", "console"]
    page = started[started.index("--page") + 1]
    service = SERVICE.read_text()
    assert f"--page {page}\n" in service
    (folder,) = re.findall(r"--folder (\S+)/site ", service)
    assert page.startswith("/run/postern-site/")
    for setting in ("RuntimeDirectory=postern-site", "RuntimeDirectoryMode=0750", "Group=postern-site"):
        assert f"\n{setting}\n" in service
    for setting in (
        "DynamicUser=yes",
        "SupplementaryGroups=postern-site",
        f"InaccessiblePaths=-{folder}",
        "CapabilityBoundingSet=",
        "ProtectSystem=strict",
        "LimitCORE=0",
    ):
        assert setting in settings
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    unit = tmp_path / "postern-site-console.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n" + "\n".join(settings) + "\n")
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def take(source: Path, target: Path, reload: str = "true") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "POSTERN_BROKER_RELOAD": reload}
    return subprocess.run([TAKE, source, target], capture_output=True, text=True, env=environment, check=False)


def test_lists_are_taken_whole_and_no_link_is_followed(tmp_path: Path) -> None:
    source, target = tmp_path / "site", tmp_path / "broker"
    source.mkdir()
    target.mkdir()
    secret = tmp_path / "shadow"
    secret.write_text("of root alone")
    (source / "acl").write_text("user a\n")
    (source / "ca.crl").symlink_to(secret)
    (target / ".acl.new").write_text("half")  # what a kill left
    done = take(source, target)
    assert done.returncode == 0, done.stderr
    assert "acl" in done.stdout
    assert (target / "acl").read_text() == "user a\n"
    assert (target / "acl").stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in target.iterdir()) == ["acl"]
    assert "what was there" in take(source, target).stdout
    assert take(source, target, reload="false").returncode != 0, "a broker that was not told is noticed"


def test_neither_a_pipe_nor_what_is_no_list_takes_the_place_of_one(tmp_path: Path) -> None:
    source, target = tmp_path / "site", tmp_path / "broker"
    source.mkdir()
    target.mkdir()
    (target / "acl").write_text("user a\n")
    os.mkfifo(source / "acl")
    assert take(source, target).returncode == 0, "a pipe is passed over"
    (source / "acl").unlink()
    with (source / "acl").open("wb") as file:
        file.truncate(16 * 1024 * 1024 + 1)
    done = take(source, target)
    assert done.returncode == 1
    assert "more than 16 MiB" in done.stderr
    assert (target / "acl").read_text() == "user a\n"
