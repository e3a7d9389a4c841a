# SPDX-License-Identifier: Apache-2.0
"""What an administrator stopped stays stopped: the package's scripts with Debian's own helpers in a root of their own.

``systemctl`` alone is played: it answers as the files below that root and the test say, and notes what it was told.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = "postern.service"
HARMLESS = ("systemd-sysusers", "systemd-tmpfiles", "install", "py3compile", "py3clean", "udevadm", "sysctl", "rm")
SYSTEMCTL = """#!/bin/sh
link={root}/etc/systemd/system
for word in "$@"; do
  case $word in
    is-enabled)
      if [ -L $link/{unit} ]; then echo masked; exit 1; fi
      if [ -L $link/multi-user.target.wants/{unit} ]; then echo enabled; exit 0; fi
      echo disabled; exit 1 ;;
    is-active) [ -e {root}/running ]; exit ;;
  esac
done
echo "$*" >> {root}/told
"""

pytestmark = pytest.mark.skipif(
    shutil.which("deb-systemd-helper") is None, reason="needs init-system-helpers, as every Debian has them"
)


class Machine:
    """A root with the package's unit file; the maintainer's scripts act on it alone."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        programs = folder / "bin"
        for made in (programs, self.root / "run/systemd/system", self.root / "etc/systemd/system"):
            made.mkdir(parents=True)
        (self.root / "usr/lib/systemd/system").mkdir(parents=True)
        (self.root / "lib").symlink_to("usr/lib")
        (self.root / "var/lib/systemd").mkdir(parents=True)
        shutil.copy(ROOT / "deploy" / UNIT, self.root / "usr/lib/systemd/system" / UNIT)
        for name in HARMLESS:
            self._program(programs / name, "#!/bin/sh\n")
        self._program(programs / "systemctl", SYSTEMCTL.format(root=self.root, unit=UNIT))
        self.environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "DPKG_ROOT": str(self.root),
            "DPKG_MAINTSCRIPT_PACKAGE": "postern",
        }
        self.link = self.root / "etc/systemd/system/multi-user.target.wants" / UNIT
        self.mask = self.root / "etc/systemd/system" / UNIT

    def _program(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def run(self, script: str, *arguments: str) -> list[str]:
        """What systemctl was told to do, beside reading its files again."""
        told = self.root / "told"
        told.unlink(missing_ok=True)
        text = (ROOT / "deploy" / "debian" / script).read_text().replace("/run/systemd", f"{self.root}/run/systemd")
        done = subprocess.run(
            ["sh", "-s", *arguments], input=text, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        lines = told.read_text().splitlines() if told.exists() else []
        return [line for line in lines if "daemon-reload" not in line]

    def install(self) -> list[str]:
        return self.run("postinst", "configure", "")

    def upgrade(self) -> list[str]:
        self.run("prerm", "upgrade", "0.2.0")
        self.run("postrm", "upgrade", "0.2.0")
        return self.run("postinst", "configure", "0.1.0")

    def running(self, runs: bool) -> None:
        (self.root / "running").touch() if runs else (self.root / "running").unlink(missing_ok=True)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def started(told: list[str]) -> bool:
    """Whether anything was told that starts a unit that does not run."""
    return any({"start", "restart", "enable", "unmask"} & set(line.split()) for line in told)


def test_a_new_installation_is_enabled_and_starts(machine: Machine) -> None:
    assert started(machine.install())
    assert machine.link.is_symlink()


def test_an_upgrade_restarts_what_runs(machine: Machine) -> None:
    machine.install()
    machine.running(True)
    assert [line.split()[-2:] for line in machine.upgrade()] == [["try-restart", UNIT]]
    assert machine.link.is_symlink()


def test_what_was_stopped_stays_stopped(machine: Machine) -> None:
    machine.install()
    machine.running(False)
    assert not started(machine.upgrade()), "try-restart leaves alone what does not run (systemctl(1))"


def test_what_was_disabled_stays_disabled(machine: Machine) -> None:
    machine.install()
    machine.link.unlink()
    for _ in range(2):
        assert not started(machine.upgrade())
        assert not machine.link.is_symlink()


def test_what_was_disabled_under_a_version_without_the_helper_stays_disabled(machine: Machine) -> None:
    assert not started(machine.upgrade())
    assert not machine.link.is_symlink()


def test_what_was_enabled_under_such_a_version_stays_enabled(machine: Machine) -> None:
    machine.link.parent.mkdir()
    machine.link.symlink_to(f"/usr/lib/systemd/system/{UNIT}")
    assert not started(machine.upgrade())
    assert machine.link.is_symlink()


def test_what_was_masked_stays_masked(machine: Machine) -> None:
    machine.install()
    machine.mask.symlink_to("/dev/null")
    assert not started(machine.upgrade())
    assert machine.mask.readlink() == Path("/dev/null")


def test_removed_and_installed_again_it_is_as_it_was(machine: Machine) -> None:
    machine.install()
    machine.link.unlink()
    assert machine.run("prerm", "remove") == [f"stop {UNIT}"]
    machine.run("postrm", "remove")
    machine.run("postinst", "configure", "0.1.0")
    assert not machine.link.is_symlink()
    assert not machine.mask.is_symlink(), "the package's own mask is gone"
