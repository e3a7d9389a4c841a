# SPDX-License-Identifier: Apache-2.0
"""Commands by another login, and by root: one sentence, or the service's own user; never a traceback."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.test_cli_site import Installer


@pytest.fixture
def installer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Installer:
    made = Installer(tmp_path, capsys)
    made("site", "create", "hq")
    return made


SERVICE, LOGIN = 12_345, 12_346  # users that this machine does not know


def as_user(user: int, step: Callable[[], None]) -> None:
    """Run ``step`` in a child that begins as ``user``: giving up root is for good."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            step()
            status = 0
        except BaseException:  # noqa: BLE001 - the child must not go on with pytest's work
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def reachable(folder: Path) -> None:
    """Let everybody pass through the folders of pytest's own user, and load beforehand what its Python may not show."""
    for parent in (folder, *folder.parents):
        if parent.is_relative_to(tempfile.gettempdir()) and parent.stat().st_uid == os.geteuid():
            parent.chmod(parent.stat().st_mode | 0o055)
    for name in ("unit", "gallery", "doctor", "audit", "run", "consent"):
        importlib.import_module(f"agent.cli.{name}")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give a folder away")
def test_an_ordinary_login_is_told_whose_the_units_files_are(installer: Installer) -> None:
    installer.enrol_unit()
    unit = installer.config.parent
    reachable(unit)
    inside = unit / "private"  # as /var/lib/postern: nobody else may even look into it
    inside.mkdir()
    shutil.move(unit / "keys", inside / "keys")
    installer.config.write_text(installer.config.read_text().replace("folder: keys", "folder: private/keys"))
    installer.config.chmod(0o644)
    for path in (inside, inside / "keys"):
        os.chown(path, SERVICE, SERVICE)
        path.chmod(0o700)

    def ask() -> None:
        for words in (["unit", "show"], ["gallery", "list"], ["doctor"], ["audit", "verify"], ["run"]):
            installer(*words, status=2)
            assert f"run this as that user (sudo -u '#{SERVICE}' postern …)" in installer.err

    as_user(LOGIN, ask)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give a folder away")
def test_root_becomes_the_services_user_by_itself(installer: Installer) -> None:
    installer.enrol_unit()
    unit = installer.config.parent
    reachable(unit)
    for path in (unit, *unit.rglob("*")):
        os.chown(path, SERVICE, SERVICE)

    def work() -> None:
        installer("unit", "show")
        assert (os.getuid(), os.geteuid(), os.getgid(), os.getgroups()) == (SERVICE, SERVICE, SERVICE, [])
        assert {path.stat().st_uid for path in unit.rglob("*")} == {SERVICE}
        with pytest.raises(PermissionError):
            os.setuid(0)

    as_user(0, work)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a folder that others may not enter")
def test_a_place_that_cannot_be_written_is_one_sentence(installer: Installer) -> None:
    installer.enrol_unit()
    unit, closed = installer.config.parent, installer.config.parent.parent / "closed"
    closed.mkdir(mode=0o700)
    reachable(unit)
    for path in (unit, *unit.rglob("*")):
        os.chown(path, SERVICE, SERVICE)
    evidence = unit / "form.pdf"
    evidence.write_bytes(b"signed")
    evidence.chmod(0o644)

    def write() -> None:
        installer("unit", "request", "-o", closed / "request.jws", status=2)
        assert "cannot write" in installer.err
        installer("consent", evidence, "-o", closed / "consent.json", status=2)
        assert "cannot write" in installer.err

    as_user(SERVICE, write)
