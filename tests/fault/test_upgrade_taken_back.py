# SPDX-License-Identifier: Apache-2.0
"""A unit that is not well on a new package goes back to the one it had: with Debian's dpkg in a root of its own.

``systemctl`` and ``setpriv`` alone are played: they answer as the test says.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from agent.door import rights
from agent.gallery import database
from agent.outbox import storage
from tests.simulators.broker import wait_until

ROOT = Path(__file__).parents[2]
UPGRADE = ROOT / "deploy" / "updates" / "upgrade"
FORMATS = (ROOT / "deploy" / "debian" / "formats.txt").read_text()
FILES = 20  # of a package: so many renames to be killed between
KILLS = 25
SYSTEMCTL = """#!/bin/sh
case "$*" in
  *ActiveState*)
    if [ -s {root}/states ]; then head -n 1 {root}/states; sed -i 1d {root}/states
    elif [ ! -e {root}/broken ] || ! grep -q "$(cat {root}/usr/lib/postern/file-0)" {root}/broken; then echo active
    else echo activating; fi ;;
  *is-active*) [ ! -s {root}/states ] || exit 3
    [ ! -e {root}/broken ] || ! grep -q "$(cat {root}/usr/lib/postern/file-0)" {root}/broken ;;
  *NRestarts*) echo 0 ;;
  *restart*) echo "$*" >> {root}/told ;;
esac
"""
SETPRIV = """#!/bin/sh
[ ! -e {root}/refused ] || ! grep -q "$(cat {root}/usr/lib/postern/file-0)" {root}/refused
"""

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("dpkg-deb") is None or os.geteuid() != 0, reason="needs dpkg, and root for --root"),
]


class Machine:
    """A root with a package of version 0.1.0 in it, as apt installed it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "root"
        for name in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "etc/apt", "usr/lib/postern"):
            (self.root / name).mkdir(parents=True)
        (self.root / "var/lib/dpkg/status").touch()
        programs = folder / "bin"
        programs.mkdir()
        for name, text in (("systemctl", SYSTEMCTL), ("setpriv", SETPRIV)):
            (programs / name).write_text(text.format(root=self.root))
            (programs / name).chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{programs}:/usr/sbin:/sbin:{os.environ['PATH']}",
            "POSTERN_ROOT": str(self.root),
            "POSTERN_WAIT_S": "0",  # one look, and a step: the played systemd changes nothing meanwhile
            "POSTERN_STEADY_S": "0",
            "POSTERN_STEP_S": "1",
            "POSTERN_STOP_S": "3",
            "LC_ALL": "C",
        }
        self.install("0.1.0")
        assert not self.trial

    def package(self, version: str, formats: str = FORMATS) -> Path:
        tree = self.folder / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "usr/lib/postern").mkdir(parents=True)
        for number in range(FILES):
            (tree / f"usr/lib/postern/file-{number}").write_text(version)
        (tree / "usr/lib/postern/formats").write_text(formats)
        (tree / "DEBIAN/control").write_text(
            f"Package: postern\nVersion: {version}\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\n"
            "Description: stands for a release\n"
        )
        out = self.folder / f"postern_{version}.deb"
        words = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(out)]
        subprocess.run(words, check=True, capture_output=True)
        return out

    def run(self, *words: str | Path, **options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in words],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            input=options.get("input"),
        )

    def keep(self, package: Path) -> None:
        done = self.run(UPGRADE, "keep", input=f"{package}\n/nowhere/other.deb\n")
        assert done.returncode == 0, done.stderr

    def install(self, version: str, formats: str = FORMATS) -> None:
        """What apt does: it says which package comes, then has dpkg install it."""
        package = self.package(version, formats)
        self.keep(package)
        done = self.run("dpkg", f"--root={self.root}", "-i", package)
        assert done.returncode == 0, done.stderr

    def is_left(self) -> bool:
        """Whether nobody is at work with its packages any more: who was killed beside a shell may end after it."""
        for name in ("lock-frontend", "lock"):
            with (self.root / "var/lib/dpkg" / name).open("r+b") as lock:
                try:
                    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
        return True

    def judge(self) -> str:
        done = self.run(UPGRADE, "judge")
        assert done.returncode == 0, done.stderr
        return done.stderr

    def states(self, *named: str) -> None:
        """What systemd says of the unit, each once; after that what follows from its release."""
        (self.root / "states").write_text("".join(f"{name}\n" for name in named))

    def breaks(self, version: str, how: str = "broken") -> None:
        (self.root / how).write_text(f"{version}\n")

    @property
    def trial(self) -> bool:
        return (self.root / "var/lib/postern-upgrade/trial").exists()

    @property
    def version(self) -> str:
        """Of every file of the package, which dpkg says is whole."""
        status = self.run(
            "dpkg-query", f"--admindir={self.root}/var/lib/dpkg", "-W", "-f", "${Status} ${Version}", "postern"
        )
        assert status.stdout.startswith("install ok installed "), status.stdout
        versions = {(self.root / f"usr/lib/postern/file-{number}").read_text() for number in range(FILES)}
        assert versions == {status.stdout.split()[-1]}
        return versions.pop()

    @property
    def said(self) -> str:
        path = self.root / "var/lib/postern-upgrade/went-back"
        return path.read_text() if path.exists() else ""

    @property
    def pin(self) -> str:
        path = self.root / "etc/apt/preferences.d/postern-went-back"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_unit_that_is_well_stays_on_the_new_package(machine: Machine) -> None:
    machine.install("0.2.0")
    assert machine.trial
    machine.judge()
    assert (machine.version, machine.trial, machine.said, machine.pin) == ("0.2.0", False, "", "")
    machine.judge()
    assert (machine.root / "told").read_text().split() == ["try-restart", "postern.service"]


@pytest.mark.parametrize(("how", "word"), [("broken", "not up for"), ("refused", "does not pass the new check")])
def test_a_unit_that_is_not_well_goes_back_says_so_and_takes_the_next(machine: Machine, how: str, word: str) -> None:
    machine.breaks("0.2.0", how)
    machine.install("0.2.0")
    said = machine.judge()
    assert machine.version == "0.1.0"
    assert "release 0.2.0 was not well, so release 0.1.0 is back" in machine.said
    assert word in machine.said
    assert word in said
    assert "Pin: version 0.2.0\nPin-Priority: -1" in machine.pin, "that release alone is not installed again"
    machine.install("0.3.0")
    machine.judge()
    assert (machine.version, machine.said, machine.pin) == ("0.3.0", "", "")


def test_it_does_not_go_back_to_what_cannot_read_its_data(machine: Machine) -> None:
    machine.breaks("0.2.0")
    machine.install("0.2.0", FORMATS.replace("outbox 2", "outbox 3"))
    machine.judge()
    assert machine.version == "0.2.0"
    assert "release 0.1.0 cannot read what 0.2.0 wrote, so 0.2.0 stays" in machine.said
    (machine.root / "broken").unlink()
    machine.breaks("0.3.0", "refused")  # refused before it was started: nothing was written
    machine.install("0.3.0", FORMATS)
    machine.judge()
    assert machine.version == "0.2.0"


@pytest.mark.parametrize("state", ["inactive", "failed"])
def test_a_unit_that_was_stopped_is_not_started_to_be_judged(machine: Machine, state: str) -> None:
    machine.states(state, state)
    machine.breaks("0.2.0")
    machine.install("0.2.0")
    machine.judge()
    assert machine.version == "0.2.0"
    assert not (machine.root / "told").exists()


@pytest.mark.parametrize("states", [("activating",) * 2, ("deactivating", "deactivating", "activating", "activating")])
def test_a_unit_that_starts_again_by_itself_while_apt_begins_is_judged(
    machine: Machine, states: tuple[str, ...]
) -> None:
    machine.breaks("0.2.0")
    machine.states(*states)
    machine.install("0.2.0")
    machine.judge()
    assert (machine.version, machine.trial) == ("0.1.0", False)
    assert "release 0.2.0 was not well" in machine.said


def test_a_unit_that_hangs_while_it_ends_holds_up_no_upgrade_for_ever(machine: Machine) -> None:
    machine.states(*["deactivating"] * 20)
    machine.install("0.2.0")
    assert len((machine.root / "states").read_text().split()) >= 20 - 6
    (machine.root / "states").unlink()
    machine.judge()
    assert (machine.version, machine.trial) == ("0.2.0", False)


def test_a_unit_that_is_stopped_while_it_is_judged_keeps_its_package(machine: Machine) -> None:
    machine.breaks("0.2.0")
    machine.install("0.2.0")
    machine.states("inactive")
    machine.judge()
    assert (machine.version, machine.trial, machine.said) == ("0.2.0", False, "")


def test_a_kill_beside_the_last_restart_leaves_no_unit_on_what_was_taken_back(machine: Machine) -> None:
    """The package restarts nothing while it is judged: whoever judges it has to, and to be begun again until it did."""
    machine.breaks("0.2.0")
    machine.install("0.2.0")
    systemctl = machine.folder / "bin" / "systemctl"
    answers = systemctl.read_text()
    systemctl.write_text(
        '#!/bin/sh\ncase "$*" in restart*) kill -9 $PPID ;; *is-active*) exit 3 ;; *Act*) echo failed ;; esac\n'
    )
    assert machine.run(UPGRADE, "judge").returncode == -signal.SIGKILL
    systemctl.write_text(answers)
    machine.judge()
    assert (machine.version, machine.trial) == ("0.1.0", False)
    assert "release 0.2.0 was not well" in machine.said
    assert (machine.root / "told").read_text().splitlines()[-1] == "restart postern.service"


def test_a_package_by_hand_after_one_that_apt_gave_up_is_run(machine: Machine) -> None:
    machine.keep(machine.package("0.2.0"))  # and then apt found no room
    done = machine.run("dpkg", f"--root={machine.root}", "-i", machine.package("0.3.0"))
    assert done.returncode == 0, done.stderr
    machine.judge()
    assert (machine.version, machine.trial) == ("0.3.0", False)
    assert (machine.root / "told").read_text().split() == ["try-restart", "postern.service"]


def test_the_same_package_once_more_after_one_that_apt_gave_up_is_run_by_itself(machine: Machine) -> None:
    machine.keep(machine.package("0.2.0"))
    machine.install("0.1.0")
    assert not machine.trial, "its package then restarts the unit"


def test_two_packages_are_kept_and_no_other_package_is(machine: Machine) -> None:
    for version in ("0.2.0", "0.3.0"):
        machine.install(version)
        machine.judge()
    kept = {path.name for path in (machine.root / "var/lib/postern-upgrade/packages").iterdir()}
    assert kept == {"postern_0.2.0.deb", "postern_0.3.0.deb"}


def test_a_kill_at_any_point_leaves_the_package_of_before_or_of_after(tmp_path: Path) -> None:
    """Of the upgrade and of the way back; what follows at the next start ends it."""
    rng, found = random.Random(7), set()
    for number in range(KILLS):
        machine = Machine(tmp_path / str(number))
        broken = number % 2 == 0
        if broken:
            machine.breaks("0.2.0")
        package = machine.package("0.2.0")
        machine.keep(package)
        script = f"dpkg --root={machine.root} -i {package} && {UPGRADE} judge"
        process = subprocess.Popen(
            ["sh", "-c", script],
            env=machine.environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(rng.uniform(0, 3 if broken else 0.6))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(machine.is_left)
        machine.judge()
        assert machine.version == ("0.1.0" if broken else machine.version)
        assert not machine.trial
        found.add(machine.version)
        shutil.rmtree(tmp_path / str(number))
    assert found == {"0.1.0", "0.2.0"}


def test_the_package_names_the_formats_that_its_stores_have() -> None:
    """Two releases with the same ones read each other's files."""
    stores = {"outbox": storage, "gallery": database, "rights": rights}
    assert dict(line.split() for line in FORMATS.splitlines()) == {
        name: str(module.SCHEMA_VERSION) for name, module in stores.items()
    }


def test_no_word_is_answered_with_how_it_is_used(machine: Machine) -> None:
    done = machine.run(UPGRADE)
    assert (done.returncode, done.stderr) == (2, "postern: usage: upgrade keep|judge\n")
