# SPDX-License-Identifier: Apache-2.0
"""systemd itself as the service manager of one test: its own processes, mounts and control groups, gone with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

GROUPS = Path("/sys/fs/cgroup")
SYSTEMD = Path("/lib/systemd/systemd")
PATIENCE_S = 60.0  # of a busy machine
# systemd asks for /run/systemd/system, and as the first process it would be the machine's; its groups are below ours.
START = """
for group in "$@"; do echo $$ > "$group/cgroup.procs" || exit 1; done
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system || exit 1
"$SYSTEMD" --user --unit=basic.target --log-target=console & wait
"""
TARGETS = ("basic.target", "default.target", "exit.target", "shutdown.target")


def hierarchies() -> list[Path]:
    """Where control groups are mounted: one place, or one for each controller."""
    return [GROUPS] if (GROUPS / "cgroup.procs").exists() else [one.parent for one in GROUPS.glob("*/cgroup.procs")]


def usable() -> bool:
    """Whether this machine lets a test start one: root, systemd, namespaces, control groups that can be written."""
    programs = all(shutil.which(name) is not None for name in ("unshare", "nsenter", "systemctl"))
    if os.getuid() != 0 or not programs or not SYSTEMD.exists() or not hierarchies():
        return False
    tried = subprocess.run(["unshare", "--mount", "--pid", "--fork", "--mount-proc", "true"], capture_output=True)
    return tried.returncode == 0 and all(os.access(one, os.W_OK) for one in hierarchies())


class Manager:
    """A systemd that runs the unit files of ``folder / "units"``; ``systemctl`` speaks with it alone."""

    def __init__(self, folder: Path) -> None:
        self._run = folder / "run"
        self.units = folder / "units"
        for made in (self._run, self.units):
            made.mkdir()
        for name in TARGETS:
            (self.units / name).write_text("[Unit]\nDescription=of a test\nDefaultDependencies=no\n")
        self._log = folder / "systemd.log"
        self._name = f"postern-{uuid.uuid4().hex[:12]}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        joined = [one / self._name for one in hierarchies() if one.name in (GROUPS.name, "systemd", "unified")]
        for group in joined:
            group.mkdir()
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", START, "-"]
        environment = {
            "PATH": os.environ["PATH"],
            "SYSTEMD": str(SYSTEMD),
            "XDG_RUNTIME_DIR": str(self._run),
            "SYSTEMD_UNIT_PATH": str(self.units),
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([*command, *map(str, joined)], env=environment, stdout=log, stderr=log)
        end = time.monotonic() + PATIENCE_S
        while self.systemctl("is-active", "basic.target") != "active":
            if self._process.poll() is not None or time.monotonic() > end:
                said = self._log.read_text()
                self.__exit__(None, None, None)
                raise AssertionError(f"systemd did not start: {said}")
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()  # and with it, by --kill-child, the first process of the namespace and so all others
            self._process.wait()
        end = time.monotonic() + PATIENCE_S
        for group in (one / self._name for one in hierarchies()):
            while group.exists() and time.monotonic() < end:
                for one in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
                    _remove(one)
                _remove(group)

    @property
    def environment(self) -> dict[str, str]:
        """What ``inside`` needs beside a path to programs."""
        return {"XDG_RUNTIME_DIR": str(self._run)}

    def inside(self) -> list[str]:
        """What starts ``systemctl`` where this systemd answers: it answers nobody whose process it cannot see."""
        if self._process is None:
            raise AssertionError("systemd was not started")
        first = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return ["nsenter", "--target", first[0], "--mount", "--pid", "/usr/bin/systemctl"] if first else []

    def systemctl(self, *words: str) -> str:
        """What ``systemctl --user`` says."""
        if not (inside := self.inside()):
            return "not started"
        environment = {"PATH": os.environ["PATH"], **self.environment}
        command = [*inside, "--user", "--no-pager", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        return (done.stdout or done.stderr).strip()


def _remove(group: Path) -> None:
    try:
        group.rmdir()
    except OSError:  # its processes are ending
        time.sleep(0.01)
