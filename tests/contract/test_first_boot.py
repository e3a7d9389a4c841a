# SPDX-License-Identifier: Apache-2.0
"""The first boot of a unit: the script, its unit file, and the example for cloud-init that carries both."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.simulators.config import parse_config

USER_DATA = Path(__file__).parents[2] / "deploy" / "cloud-init" / "user-data.example"


def test_the_first_boot_example_holds_an_acceptable_configuration_and_no_secret() -> None:
    data = yaml.safe_load(USER_DATA.read_text())
    files = {entry["path"]: entry["content"] for entry in data["write_files"]}
    assert parse_config(files["/etc/postern/config.yaml"].encode(), Path("config.yaml")).profile == "production"
    text = USER_DATA.read_text().lower()
    assert not re.search(r"private key|chpasswd|plain_text_passwd|hashed_passwd|password:", text)


class FirstBoot:
    """The script as the example carries it, with stand-ins for the machine's own commands."""

    def __init__(self, folder: Path) -> None:
        data = yaml.safe_load(USER_DATA.read_text())
        files = {entry["path"]: entry["content"] for entry in data["write_files"]}
        self.boot, self.bin, self.calls = folder / "boot", folder / "bin", folder / "calls"
        self.config = folder / "config.yaml"
        self.config.write_text("unit: {}\n")
        self.boot.mkdir()
        self.bin.mkdir()
        self.script = folder / "first-boot"
        self.script.write_text(files["/usr/local/sbin/postern-first-boot"])
        self.command("sync", "exit 0")
        self.command("timedatectl", "echo no")
        self.command("apt-get", "exit 100")
        self.command("setpriv", 'shift 3; exec "$@"')
        self.command("chown", "exit 0")

    def command(self, name: str, does: str) -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.calls}\n{does}\n')
        path.chmod(0o755)

    def __call__(self) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "POSTERN_BOOT": str(self.boot),
            "POSTERN_CONFIG": str(self.config),
        }
        return subprocess.run(
            ["sh", self.script], env=environment, capture_output=True, text=True, timeout=30, check=False
        )


def test_a_first_boot_waits_for_the_time_tries_again_and_ends_with_the_request(tmp_path: Path) -> None:
    unit = FirstBoot(tmp_path)
    assert (unit().returncode, "waiting for a time server" in unit().stderr) == (75, True)
    assert "apt-get" not in unit.calls.read_text(), "nothing is fetched on a clock that is behind"
    unit.command("timedatectl", "echo yes")
    assert "the package is missing" in unit().stderr
    (unit.boot / "postern_0.1.0_arm64.deb").touch()
    failed = unit()
    assert (failed.returncode, "could not be installed" in failed.stderr) == (75, True)
    request = 'case "$1 $2" in "unit request") [ -s "$4" ] && echo request || exit 2 ;; esac'
    unit.command("postern", request)
    assert "the invitation is missing" in unit().stderr
    (unit.boot / "postern-token").touch()
    assert unit().returncode == 75
    assert sorted(path.name for path in unit.boot.glob("postern-*")) == ["postern-token"], "half a request is none"
    (unit.boot / "postern-token").write_text("aaaa")
    assert unit().returncode == 0
    assert sorted(path.name for path in unit.boot.glob("postern-*")) == ["postern-request"]
    before = unit.calls.read_text()
    assert unit().returncode == 0
    assert unit.calls.read_text() == before, "once it exists, nothing is done again"


def test_a_first_boot_with_an_invitation_asks_until_it_has_joined_and_then_starts_the_service(tmp_path: Path) -> None:
    unit = FirstBoot(tmp_path)
    unit.command("timedatectl", "echo yes")
    (unit.boot / "postern-invite").write_text("POSTERN1:A")
    unit.command("postern", 'case "$1 $2" in "unit join") exit 75 ;; esac')
    unit.command("systemctl", "exit 0")
    waiting = unit()
    assert (waiting.returncode, "has not joined yet" in waiting.stderr) == (75, True)
    assert "systemctl" not in unit.calls.read_text()
    assert [path.name for path in unit.boot.glob("postern-*")] == ["postern-invite"]
    unit.command("postern", 'case "$1 $2" in "unit join") grep -q POSTERN1 "$3" ;; esac')
    unit.command("systemctl", "exit 1")
    assert unit().returncode == 75, "joined, and not yet in service: it goes on there"
    unit.command("systemctl", "exit 0")
    assert unit().returncode == 0
    assert [path.name for path in unit.boot.glob("postern-*")] == ["postern-joined"], "the claim is gone from the card"
    calls = unit.calls.read_text()
    assert f"unit join {unit.boot}" not in calls, "the unit's user may not look onto a card that is mounted for root"
    handed = {
        line.split()[-1] for line in calls.splitlines() if line.startswith(("chown postern", "postern unit join"))
    }
    assert not any(Path(copy).exists() for copy in handed)
    assert "systemctl enable --now postern.service" in unit.calls.read_text()
    before = unit.calls.read_text()
    assert unit().returncode == 0
    assert unit.calls.read_text() == before


def test_a_first_boot_takes_one_configuration_for_all_cards_and_says_what_is_missing(tmp_path: Path) -> None:
    unit = FirstBoot(tmp_path)
    unit.command("timedatectl", "echo yes")
    unit.command("systemctl", "exit 0")
    unit.command("postern", 'case "$1 $2" in "unit configure") grep -q right "$3" || exit 2 ;; esac')
    unit.config.unlink()
    assert "the configuration is missing: put config.yaml on the card" in unit().stderr
    (unit.boot / "config.yaml").write_text("wrong")
    assert "the invitation is missing" in unit().stderr
    (unit.boot / "postern-invite").write_text("POSTERN1:A")
    wrong = unit()
    assert (wrong.returncode, "correct config.yaml on the card" in wrong.stderr) == (75, True)
    assert "unit join" not in unit.calls.read_text()
    (unit.boot / "config.yaml").write_text("right")
    assert unit().returncode == 0
    configured = (
        f"unit configure {unit.boot}/config.yaml --invitation {unit.boot}/postern-invite --config {unit.config}"
    )
    assert configured in unit.calls.read_text()
    assert sorted(path.name for path in unit.boot.iterdir()) == ["config.yaml", "postern-joined"]


def test_the_first_boot_example_carries_the_files_that_lie_beside_it() -> None:
    data = yaml.safe_load(USER_DATA.read_text())
    files = {Path(entry["path"]).name: entry["content"] for entry in data["write_files"]}
    assert files["postern-first-boot"] == (USER_DATA.parent / "first-boot").read_text()
    assert files["postern-first-boot.service"] == (USER_DATA.parent / "postern-first-boot.service").read_text()
    assert "package_update" not in data
    assert "packages" not in data
    service = files["postern-first-boot.service"]
    assert "Restart=on-failure" in service


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_a_first_boot_is_over_once_its_mark_is_there_and_what_is_good_once_is_gone(tmp_path: Path) -> None:
    """Both on the card, as a power cut leaves them: it goes on, or the card says for ever that it is being used."""
    text = (USER_DATA.parent / "postern-first-boot.service").read_text().replace("/boot/firmware", str(tmp_path))
    conditions = re.findall(r"^Condition.*$", text, re.MULTILINE)

    def starts(*names: str) -> bool:
        for name in names:
            (tmp_path / f"postern-{name}").touch()
        done = subprocess.run(
            ["systemd-analyze", "condition", *conditions], capture_output=True, timeout=30, check=False
        )
        for name in names:
            (tmp_path / f"postern-{name}").unlink()
        return done.returncode == 0

    assert starts()
    assert starts("invite")
    assert not starts("joined")
    assert not starts("request")
    assert starts("joined", "invite"), "one that joins once more, too"
    assert starts("request", "token")
    assert starts("request.new", "token")


def test_what_a_power_cut_ended_of_the_example_is_done_again_at_the_next_boot(tmp_path: Path) -> None:
    """cloud-init marks a step as done before it does it, and never syncs what it wrote."""
    data = yaml.safe_load(USER_DATA.read_text())
    instance = tmp_path / "instance"
    (instance / "sem").mkdir(parents=True)

    def run(command: list[str]) -> None:
        words = [word.replace("/var/lib/cloud/instance", str(instance)) for word in command]
        subprocess.run(words, check=True, timeout=30)

    def boot() -> list[str]:
        """The steps that are left out, because they count as done."""
        for name in ("config_write_files", "config_runcmd", "config_scripts_user"):
            (instance / "sem" / name).touch()
        run(data["bootcmd"][0])
        return [path.name for path in (instance / "sem").iterdir()]

    assert boot() == []
    *_, enable, mark, start = data["runcmd"]
    assert enable == ["systemctl", "enable", "postern-first-boot.service"]
    assert start == ["systemctl", "start", "--no-block", "postern-first-boot.service"], "at later boots it is enabled"
    run(mark)
    assert len(boot()) == 3


@pytest.mark.skipif(shutil.which("cloud-init") is None, reason="needs cloud-init")
def test_the_first_boot_example_is_valid_cloud_config() -> None:
    done = subprocess.run(["cloud-init", "schema", "-c", USER_DATA], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
