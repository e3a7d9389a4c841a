# SPDX-License-Identifier: Apache-2.0
"""A RabbitMQ cluster on the loopback, set up with the files of the site kit and the script of ``deploy/rabbitmq``.

``POSTERN_RABBITMQ`` names a folder into which Debian 13's rabbitmq-server and what it needs were unpacked, or ``/``
where it is installed: the nodes run there, by ``chroot``, as root. ``deploy/rabbitmq/README.md`` has the commands.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from agent.errors import RefusedError
from agent.site.rabbitmq import PLACE
from agent.site.records import SiteFiles

DEPLOY = Path(__file__).parents[3] / "deploy" / "rabbitmq"
START_S = 180.0  # Erlang, all plugins and the quorum's first election, on a machine that is busy
CTL_S = 120.0
NAMES_S = 10.0  # until the server of names has heard that its nodes are gone
STEP_S = 5.0  # to reach a node; a client tries the next one then
LOOPBACK = "127.0.0.1"
NODES = 3


def rabbitmq_root() -> Path | None:
    """Where RabbitMQ was unpacked; None where this machine has none."""
    named = os.environ.get("POSTERN_RABBITMQ")
    return Path(named) if named else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@dataclass
class Node:
    """One node; its files are in a folder of its own."""

    name: str
    folder: Path  # as this process sees it
    root: Path
    names_port: int  # of the cluster's own epmd
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def pids(self) -> list[int]:
        """Its processes: a shell, the Erlang machine, whose CPU is the node's, and what that started."""
        group = None if self.process is None else self.process.pid
        return [pid for pid in _processes() if group is not None and _group_of(pid) == group]

    def environment(self) -> dict[str, str]:
        inside = f"/{self.folder.relative_to(self.root)}"
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": f"/{self.folder.parent.relative_to(self.root)}",
            "ERL_EPMD_PORT": str(self.names_port),
            "RABBITMQ_NODENAME": f"{self.name}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": f"{inside}/db",
            "RABBITMQ_LOG_BASE": f"{inside}/log",
            "RABBITMQ_CONFIG_FILE": f"{inside}/postern/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{inside}/postern/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{inside}/postern/enabled_plugins",
            "RABBITMQ_CONF_ENV_FILE": "/nonexistent",
        }

    def set_up(self, files: SiteFiles) -> None:
        """Lay the site's files down as its README says, with this node's folder and port."""
        postern = self.folder / "postern"
        for name in ("db", "log", "postern"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        inside = f"/{postern.relative_to(self.root)}"
        for path in files.broker.iterdir():
            shutil.copy(path, postern / path.name)
        for name in ("rabbitmq.conf", "advanced.config"):
            text = (postern / name).read_text().replace(PLACE, inside)
            text = text.replace("listeners.ssl.1 = 8883", f"listeners.ssl.1 = {LOOPBACK}:{self.port}")
            (postern / name).write_text(text)

    def start(self) -> None:
        with (self.folder / "log" / "console").open("ab") as log:
            self.process = subprocess.Popen(
                ["chroot", self.root, "/usr/lib/rabbitmq/bin/rabbitmq-server"],
                env=self.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _wait(lambda: self.answers() or self._has_ended())
        if not self.answers():
            said = " ".join((self.folder / "log" / "console").read_text(errors="replace").split())
            raise RefusedError(f"RabbitMQ does not start; it said: …{said[-500:]}")

    def _has_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.3)
            return probe.connect_ex((LOOPBACK, self.port)) == 0

    def kill(self) -> None:
        """As a power cut of this one machine."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def end_names(self) -> None:
        """End the server of names, which the first node starts for all of them, and leaves running.

        It stays as long as it knows of a node, and of one that was killed it hears a moment later.
        """
        _wait(lambda: not self._names("-names") or self._names("-kill"), NAMES_S)

    def _names(self, word: str) -> bool:
        """Whether the server of names is there and does it."""
        try:
            _done(["chroot", str(self.root), "/usr/bin/epmd", word], self.environment())
        except RefusedError:
            return False
        return True

    def ctl(self, *words: str) -> str:
        """Run ``rabbitmqctl`` at this node."""
        command = ["chroot", str(self.root), "/usr/lib/rabbitmq/bin/rabbitmqctl", "-q", *words]
        return _done(command, self.environment())

    def take(self, files: SiteFiles) -> None:
        """Do what ``postern-broker.path`` has done after each act of the site."""
        inside = f"chroot {self.root} /usr/lib/rabbitmq/bin/rabbitmqctl"
        script = self.folder / "take"
        # The script runs here and rabbitmqctl in there: the one path that both see differently is handed over as such.
        script.write_text(
            f'#!/bin/sh\nfor word; do shift; set -- "$@" "${{word#{self.root}}}"; done\nexec {inside} "$@"\n'
        )
        script.chmod(0o700)
        environment = {**os.environ, **self.environment(), "POSTERN_RABBITMQCTL": str(script)}
        environment["PATH"] = os.environ["PATH"]
        command = [str(DEPLOY / "postern-broker-take"), str(files.broker), str(self.folder / "postern")]
        _done(command, environment)


class Cluster:
    """Three nodes, joined, and one port by which clients find one of them; stops with the ``with`` block."""

    def __init__(self, root: Path | None, files: SiteFiles) -> None:
        """RefusedError where there is none, or the folder is another thing."""
        if root is None or not (root / "usr/lib/rabbitmq/bin/rabbitmq-server").exists():
            raise RefusedError(
                "no RabbitMQ here: unpack it as deploy/rabbitmq/README.md says, and name the folder in POSTERN_RABBITMQ"
            )
        if os.geteuid() != 0:
            raise RefusedError("RabbitMQ's nodes run by chroot: run this as root")
        self._files = files
        self._folder = Path(tempfile.mkdtemp(prefix="postern-rabbitmq-", dir=root / "tmp"))
        names = [f"{self._folder.name[-8:].replace('_', 'x')}-{number}" for number in range(1, NODES + 1)]
        names_port = free_port()  # not the one of a RabbitMQ that is installed here
        self.nodes = [Node(name, self._folder / name, root, names_port) for name in names]
        cookie = self._folder / ".erlang.cookie"
        cookie.write_text(os.urandom(16).hex())
        cookie.chmod(0o400)
        self._entrance: Entrance | None = None
        self._turn = 0

    @property
    def port(self) -> int:
        """Where clients come in."""
        return 0 if self._entrance is None else self._entrance.port

    def pids(self) -> list[int]:
        """Of the nodes that run."""
        return [pid for node in self.nodes for pid in node.pids()]

    def crash(self) -> None:
        """End the next node as a power cut does, and start it again."""
        node = self.nodes[self._turn % NODES]
        self._turn += 1
        node.kill()
        node.start()

    def __enter__(self) -> Self:
        try:
            self._form()
        except BaseException:
            self.__exit__()
            raise
        self._entrance = Entrance(self.nodes)
        return self

    def _form(self) -> None:
        first = self.nodes[0]
        for node in self.nodes:
            node.set_up(self._files)
            node.start()
            if node is not first:
                node.ctl("stop_app")
                node.ctl("join_cluster", f"{first.name}@localhost")
                node.ctl("start_app")
        for node in self.nodes:
            node.take(self._files)

    def __exit__(self, *_: object) -> None:
        if self._entrance is not None:
            self._entrance.close()
        for node in self.nodes:
            node.kill()
        self.nodes[0].end_names()
        shutil.rmtree(self._folder, ignore_errors=True)


class Entrance:
    """What a name with three addresses is to a client: it reaches the next node that answers."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes
        self._turn = 0
        self._server = socket.create_server((LOOPBACK, 0), backlog=256)
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        for _ in self._nodes:
            self._turn += 1
            node = self._nodes[self._turn % len(self._nodes)]
            with suppress(OSError):
                server = socket.create_connection((LOOPBACK, node.port), timeout=STEP_S)
                server.settimeout(None)
                back = threading.Thread(target=_pass_on, args=(server, client), daemon=True)
                back.start()
                _pass_on(client, server)
                return
        client.close()


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _group_of(pid: int) -> int | None:
    with suppress(ProcessLookupError):
        return os.getpgid(pid)
    return None


def _wait(condition: Callable[[], object], patience_s: float = START_S) -> None:
    end = time.monotonic() + patience_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)


def _done(command: list[str], environment: dict[str, str]) -> str:
    """What a program says; RefusedError with that when it fails."""
    try:
        told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=CTL_S, check=False)
    except subprocess.TimeoutExpired:
        raise RefusedError(f"{Path(command[-1]).name}: no answer in {CTL_S:.0f} s: the machine does too much") from None
    if told.returncode != 0:
        raise RefusedError(f"{Path(command[-1]).name}: {' '.join((told.stdout + told.stderr).split())[-500:]}")
    return told.stdout


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
