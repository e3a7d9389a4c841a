# SPDX-License-Identifier: Apache-2.0
"""What is on a card's image: a system that keeps nothing it should not, and lets nobody in.

That the image starts, joins and announces is shown by ``tools/image boot``, which is no part of an ordinary run.
"""

from __future__ import annotations

import configparser
import os
import re
import struct
import subprocess
from pathlib import Path

import pytest
import yaml

from tools.lib.image.__main__ import configuration
from tools.lib.image.time_server import EPOCH, answer

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "deploy" / "image"
TREE = IMAGE / "tree"
UNITS = TREE / "etc" / "systemd" / "system"


class Script:
    """``card`` with stand-ins for what belongs to the machine."""

    def __init__(self, folder: Path) -> None:
        self.boot, self.networks, self.config = folder / "boot", folder / "networks", folder / "config.yaml"
        self.calls, self._bin = folder / "calls", folder / "bin"
        self.boot.mkdir()
        self._bin.mkdir()
        self.calls.touch()
        for name in ("postern", "hostname"):
            path = self._bin / name
            path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.calls}\n')
            path.chmod(0o755)

    def __call__(self, what: str) -> None:
        environment = {
            "PATH": f"{self._bin}:/usr/bin:/bin",
            "POSTERN_BOOT": str(self.boot),
            "POSTERN_CONFIG": str(self.config),
            "POSTERN_NETWORKS": str(self.networks),
        }
        words = ["sh", TREE / "usr/lib/postern-image/card", what]
        subprocess.run(words, env=environment, timeout=30, check=True)


def test_network_settings_on_the_card_count_before_those_of_the_image(tmp_path: Path) -> None:
    card = Script(tmp_path)
    card("network")
    assert list(card.networks.iterdir()) == []
    (card.boot / "wired.network").write_text("[Match]\nType=ether\n")
    card("network")
    (own,) = card.networks.iterdir()
    (image,) = (TREE / "etc/systemd/network").iterdir()
    assert own.name < image.name


def test_the_card_is_looked_at_again_only_once_the_unit_has_a_configuration(tmp_path: Path) -> None:
    card = Script(tmp_path)
    (card.boot / "config.yaml").write_text(configuration())
    card("unit")
    assert card.calls.read_text() == "", "the first boot says what is missing"
    card.config.write_text('unit: {"site": "hq", "id": "door-7", "name": "door-7"}\n')
    (card.boot / "postern-invite").touch()
    card("unit")
    assert "configure" not in card.calls.read_text(), "an invitation is the first boot's"
    (card.boot / "postern-invite").unlink()
    card("unit")
    assert f"postern unit configure {card.boot}/config.yaml --config {card.config}" in card.calls.read_text()
    assert "hostname door-7" in card.calls.read_text()


def test_the_image_has_no_password_no_login_without_a_key_and_no_swap() -> None:
    sshd = (TREE / "etc/ssh/sshd_config.d/postern.conf").read_text()
    assert {"PasswordAuthentication no", "PermitRootLogin no", "AllowUsers installer"} <= set(sshd.splitlines())
    assert "ConditionPathExists=/boot/firmware/authorized_keys" in (UNITS / "ssh.service.d/card.conf").read_text()
    made = (ROOT / "tools/lib/image/customize").read_text()
    assert re.search(r"useradd .*--password '\*' installer", made)
    assert re.search(r"usermod --password '\*' root", made)
    assert re.search(r"mask getty@tty1\.service serial-getty@\.service .*swap\.target", made, re.DOTALL)
    finished = (ROOT / "tools/lib/image/image.sh").read_text()
    assert re.search(r"rm -rf .*ssh_host_\*", finished)
    assert ': >"$system/etc/machine-id"' in finished
    table = [line.split() for line in (TREE / "etc/fstab").read_text().splitlines() if not line.startswith("#")]
    options = {line[1]: line[3].split(",") for line in table}
    assert "ro" in options["/"]
    assert {"ro", "umask=0027", "gid=postern"} <= set(options["/boot/firmware"]), "the claim is root's and the unit's"
    assert all(line[2] != "swap" for line in table)


def test_whoever_installs_packages_has_the_root_writable_until_the_last_has_ended() -> None:
    writable = (UNITS / "postern-writable.service").read_text()
    assert "StopWhenUnneeded=yes" in writable
    text = (UNITS / "apt-daily-upgrade.service.d/writable.conf").read_text()
    assert {"Requires=postern-writable.service", "After=postern-writable.service"} <= set(text.splitlines())
    judged = (UNITS / "postern-after-upgrade.service.d/writable.conf").read_text()
    assert "Requires=" not in judged.replace("by Requires", ""), "it is looked at at each start, mostly for nothing"
    assert "ExecStart=/usr/local/sbin/postern-writable /usr/lib/postern/upgrade judge" in judged
    by_hand = (TREE / "usr/local/sbin/postern-writable").read_text()
    assert "--property=Requires=postern-writable.service" in by_hand
    kept = (TREE / "etc/apt/apt.conf.d/60postern-image").read_text()
    assert '"linux-"' in kept, "a kernel that is half written to the FAT starts no board"


def test_the_image_has_the_watchdog_that_a_board_can_and_logs_within_bounds() -> None:
    manager = _settings(TREE / "etc/systemd/system.conf.d/postern.conf")
    assert 0 < int(manager["Manager"]["RuntimeWatchdogSec"]) <= 15, "the most that a Raspberry Pi's has"
    journal = _settings(TREE / "etc/systemd/journald.conf.d/postern.conf")["Journal"]
    assert (journal["Storage"], journal["SystemMaxUse"]) == ("persistent", "64M")


def _settings(path: Path) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser()
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string(path.read_text())
    return parsed


@pytest.mark.skipif(not os.path.exists("/usr/bin/systemd-analyze"), reason="needs systemd")  # noqa: PTH110
def test_the_units_of_the_image_are_valid(tmp_path: Path) -> None:
    files = sorted(UNITS.glob("*.service"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True, timeout=60, check=False
    )
    wrong = [line for line in done.stderr.splitlines() if "postern" in line and "not executable" not in line]
    assert wrong == []


def test_the_card_says_what_belongs_on_it_and_nothing_of_it_is_a_secret() -> None:
    text = (IMAGE / "CARD.txt").read_text()
    for name in ("config.yaml", "postern-invite", "wired.network", "authorized_keys"):
        assert name in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_time_server_of_the_test_says_the_time_that_it_was_asked_for() -> None:
    request = struct.pack("!BBbb II4s QQQQ", 0x23, 0, 0, 0, 0, 0, b"", 0, 0, 0, 77)
    fields = struct.unpack("!BBbb II4s QQQQ", answer(request, 1_790_000_000.5))
    assert (fields[0] & 7, fields[1]) == (4, 2)
    assert fields[8] == 77
    assert fields[10] / 2**32 - EPOCH == pytest.approx(1_790_000_000.5)


def test_the_example_on_the_card_is_a_whole_configuration() -> None:
    example = yaml.safe_load((ROOT / "deploy/config.example.yaml").read_text())
    assert {"unit", "broker", "purpose", "notice", "camera"} <= set(example)
