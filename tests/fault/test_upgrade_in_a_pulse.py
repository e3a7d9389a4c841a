# SPDX-License-Identifier: Apache-2.0
"""The package is upgraded while a line is on: it goes off with the unit that is replaced, and no right counts twice.

Debian's dpkg installs packages that hold this checkout's agent, with the package's own scripts; a real systemd ends
the unit and starts the new one; the board leaves on what nobody switches off. The pulse is longer than anybody waits.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fault.test_killed_by_systemd import ENDS, SERVICE
from tests.simulators.broker import wait_until
from tests.simulators.manager import Manager, usable
from tests.simulators.opening_unit import PEOPLE, RELEASES
from tools.lib.rig.board import Board, serve
from tools.lib.rig.pulse_kills import BOARD, write_config

pytestmark = [
    pytest.mark.skipif(not usable(), reason="needs root, systemd and control groups"),
    pytest.mark.skipif(shutil.which("deb-systemd-helper") is None, reason="needs dpkg and init-system-helpers"),
    pytest.mark.timeout(600),
]

ROOT = Path(__file__).parents[2]
OLD, NEW = "9.0.1", "9.0.2"
FIRST, SECOND = 1, 2  # people, and their lines
PATIENCE_S = 120.0  # of a machine that is busy
HARMLESS = ("systemd-sysusers", "systemd-tmpfiles", "install", "udevadm", "sysctl", "py3compile", "py3clean")
SYSTEMCTL = """#!/bin/sh
case "$*" in *postern-after-upgrade*) exit 0 ;; esac
for word in "$@"; do shift; [ "$word" = --system ] || set -- "$@" "$word"; done
exec {there} --user --no-pager "$@"
"""
# Scripts of packages have no shell in that root: they run here and are told of it (dpkg(1), DPKG_ROOT).
DPKG = '#!/bin/sh\nexec /usr/bin/dpkg --force-script-chrootless --force-unsafe-io "$@"\n'
OK = "#!/bin/sh\n"


class Installed:
    """A root with the package in it, whose unit a systemd runs."""

    def __init__(self, folder: Path, manager: Manager, stack: ExitStack) -> None:
        self._folder, self.root, self._manager = folder, folder / "root", manager
        self.board = Board(time.monotonic)
        stack.enter_context(serve(self.board, folder / BOARD))
        write_config(folder)
        (folder / PEOPLE).write_text(f"{FIRST}\n")
        for name in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "run/systemd/system", "etc/apt"):
            (self.root / name).mkdir(parents=True)
        (self.root / "var/lib/dpkg/status").touch()
        programs = folder / "bin"
        programs.mkdir()
        for name in (*HARMLESS, "setpriv"):
            (programs / name).write_text(OK)
        (programs / "dpkg").write_text(DPKG)
        (programs / "systemctl").write_text(SYSTEMCTL.format(there=" ".join(manager.inside())))
        for one in programs.iterdir():
            one.chmod(0o755)
        self._environment = {
            **os.environ,
            **manager.environment,
            "PATH": f"{programs}:/usr/sbin:/sbin:{os.environ['PATH']}",
            "POSTERN_ROOT": str(self.root),
            "POSTERN_WAIT_S": "30",  # of a busy machine, for a unit that is well
            "POSTERN_STEADY_S": "1",
            "POSTERN_STEP_S": "1",
        }
        self._write_service()

    def _write_service(self) -> None:
        lines = [found[0] for found in ENDS.finditer(SERVICE)]
        lines += [f"ExecStart={sys.executable} -P -m tests.simulators.opening_unit {self._folder}"]
        lines += [f"Environment=PYTHONPATH={self.root}/usr/lib/postern:{ROOT} PYTHONDONTWRITEBYTECODE=1"]
        lines += ["WorkingDirectory=/", "Restart=always", "RestartSec=1", "WatchdogSec=0"]
        text = "\n".join(["[Unit]", "DefaultDependencies=no", "StartLimitIntervalSec=0", "[Service]", *lines])
        (self._manager.units / "postern.service").write_text(text + "\n[Install]\nWantedBy=basic.target\n")
        self._manager.systemctl("daemon-reload")

    def package(self, version: str, *, starts: bool = True) -> Path:
        """A package of ``version``; of one that does not start the unit ends at once."""
        tree = self._folder / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        library, control = tree / "usr/lib/postern", tree / "DEBIAN"
        # With the byte code that is there, as py3compile makes it, or each start compiles anew what it imports.
        shutil.copytree(ROOT / "agent", library / "agent", ignore=shutil.ignore_patterns("*.pyc.*"))
        ends = "" if starts else "raise SystemExit(1)\n"
        (library / "agent/__init__.py").write_text(f'__version__ = "{version}"\n{ends}')
        shutil.copy(ROOT / "deploy/debian/formats.txt", library / "formats")
        control.mkdir()
        (control / "control").write_text(
            f"Package: postern\nVersion: {version}\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\n"
            "Description: a release\n"
        )
        for name in ("prerm", "postinst", "postrm"):
            script = (ROOT / "deploy/debian" / name).read_text()
            for place in ("/run/systemd", "/var/lib/postern-upgrade", "/etc/postern"):
                script = script.replace(place, f"{self.root}{place}")
            (control / name).write_text(script)
            (control / name).chmod(0o755)
        out = self._folder / f"postern_{version}.deb"
        self._run("dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, out)
        return out

    def waits(self, seconds: int) -> None:
        """For a unit to become well, before the package of before comes back."""
        self._environment["POSTERN_WAIT_S"] = str(seconds)

    def install(self, package: Path) -> None:
        self._run("dpkg", f"--root={self.root}", "-i", package)

    def upgrade(self, act: str, package: Path | None = None) -> None:
        """What apt's hook and the judge of the package do (``deploy/updates/upgrade``)."""
        self._run(ROOT / "deploy/updates/upgrade", act, said="" if package is None else f"{package}\n")

    def _run(self, *words: str | Path, said: str = "") -> None:
        done = subprocess.run(
            list(map(str, words)), env=self._environment, input=said, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def releases(self) -> list[str]:
        """Of the units that were started, one after the other."""
        path = self._folder / RELEASES
        return path.read_text().split() if path.exists() else []

    def comes(self, person: int) -> None:
        with (self._folder / PEOPLE).open("a") as people:
            people.write(f"{person}\n")

    def pulses(self, person: int) -> list[float | None]:
        """When each of somebody's pulses ended, None for one that is on."""
        return [one.off_s for one in self.board.pulses if one.line == person]

    def in_a_pulse(self) -> None:
        """The release of before runs, and somebody is let in."""
        self.install(self.package(OLD))
        self._manager.systemctl("start", "postern.service")
        wait_until(lambda: self.pulses(FIRST) == [None], PATIENCE_S)
        assert self.releases() == [OLD]


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installed]:
    with ExitStack() as stack:
        yield Installed(tmp_path, stack.enter_context(Manager(tmp_path)), stack)


@pytest.mark.parametrize("how", ["by hand", "judged", "judged, and taken back"])
def test_an_upgrade_in_a_pulse_leaves_no_line_on_and_gives_nobody_another_pulse(installed: Installed, how: str) -> None:
    installed.in_a_pulse()
    package = installed.package(NEW, starts=how != "judged, and taken back")
    if how != "by hand":
        if how == "judged, and taken back":
            installed.waits(4)  # that one never is
        # The packages that the site's machine keeps to go back to, as apt's hook has them.
        installed.upgrade("keep", installed.package(OLD))
        installed.upgrade("keep", package)
    assert installed.pulses(FIRST) == [None], "the pulse was over before the package came"
    installed.install(package)
    if how != "by hand":
        assert installed.pulses(FIRST) == [None], "what was unpacked ended nothing: the judge restarts"
        installed.upgrade("judge")
    wait_until(lambda: installed.pulses(FIRST) != [None], PATIENCE_S)
    last = OLD if how == "judged, and taken back" else NEW
    wait_until(lambda: len(installed.releases()) > 1 and installed.releases()[-1] == last, PATIENCE_S)
    installed.comes(SECOND)
    wait_until(lambda: installed.pulses(SECOND) == [None], PATIENCE_S)
    (off_s,) = installed.pulses(FIRST)
    assert off_s is not None, "the line of somebody who was let in by the release before"
