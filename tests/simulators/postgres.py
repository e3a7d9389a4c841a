# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL of Debian's package on the loopback, with a database and an authority of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.simulators.pki import Authority
from tests.simulators.ports import free_port

FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
USER = "postern"
PASSWORD = "only for tests"


def programs() -> Path | None:
    """Folder of its programs; None where it is not installed, or cannot be run as somebody else than root."""
    found = next((folder for folder in FOLDERS if (folder / "initdb").exists()), None)
    return found if found and (os.geteuid() != 0 or shutil.which("runuser")) else None


class Postgres:
    """Start and stop; ``url`` is what the bridge is given, ``password`` the file with the rest, ``ca`` who vouches."""

    def __init__(self, folder: Path) -> None:
        found = programs()
        assert found is not None
        self._home = Path(tempfile.mkdtemp(prefix="postern-postgres-"))  # not below a test's: it must run as nobody
        self._bin, self._data, self.port = found, self._home / "data", free_port()
        self.url = f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/postgres"
        self.password = folder / "password"
        self.password.write_text(PASSWORD)
        self.password.chmod(0o600)
        readable = self._home / "password"
        readable.write_text(PASSWORD)
        files = Authority(self._home / "pki").issue("database", server=True)
        self.ca = files.ca
        if os.geteuid() == 0:
            for one in (self._home, readable, files.key):
                shutil.chown(one, "nobody")
        words = ["initdb", "-D", str(self._data), "-U", USER, f"--pwfile={readable}", "--auth=scram-sha-256", "-N"]
        self._run(*words)

    def start(self) -> None:
        pki = self._home / "pki" / "database"
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
            f" -c ssl=on -c ssl_cert_file={pki}.crt -c ssl_key_file={pki}.key"
        )
        self._run("pg_ctl", "-D", str(self._data), "-w", "-o", options, "-l", str(self._data / "log"), "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._home)

    def _run(self, program: str, *words: str) -> None:
        command = [str(self._bin / program), *words]
        if os.geteuid() == 0:
            command = ["runuser", "-u", "nobody", "--", *command]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")
        assert done.returncode == 0, done.stderr + done.stdout
