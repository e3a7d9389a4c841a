# SPDX-License-Identifier: Apache-2.0
"""Releases that come after this working tree, in a repository of ``tools/release``, served to an emulated unit.

One is well; the other passes ``postern check-config`` and does not start. Both are built as every release is.
"""

from __future__ import annotations

import base64
import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final, Self

from tools.lib.demo.site import ROOT
from tools.lib.image.machine import HOST

VERSION: Final = "agent/__init__.py"
STARTS: Final = "agent/cli/run.py"  # what 'postern run' imports, and 'postern check-config' does not
PACKED: Final = ("agent", "deploy", "models", "tools/lib", "README.md", "LICENSE")  # what a package is built from
NO_START: Final = '\nraise RuntimeError("a release that does not start")\n'


class Releases:
    """The repository below ``work``, signed by a key that is made there; served within its ``with`` block."""

    def __init__(self, work: Path) -> None:
        self._work, self.folder = work, work / "apt"
        home = work / "gnupg"
        home.mkdir(mode=0o700)
        self._environment = {**os.environ, "GNUPGHOME": str(home), "SOURCE_DATE_EPOCH": "1767225600"}
        make = ("--quick-gen-key", "releases@example.org", "ed25519", "sign", "never")
        self._gpg("--passphrase", "", "--pinentry-mode", "loopback", *make)
        listed = self._gpg("--list-keys", "--with-colons").splitlines()
        self._key = next(line.split(":")[9] for line in listed if line.startswith("fpr"))
        self._gpg("--output", str(work / "ring.gpg"), "--export", self._key)
        self.ring = base64.b64encode((work / "ring.gpg").read_bytes()).decode()

    def __enter__(self) -> Self:
        handler = functools.partial(_Quiet, directory=str(self.folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def source(self) -> str:
        """The file of deploy/updates for apt's list of sources, with this address."""
        text = (ROOT / "deploy/updates/postern.sources").read_text()
        return text.replace("https://packages.example.org/postern", f"http://{HOST}:{self._server.server_port}")

    def add(self, version: str, *, starts: bool) -> None:
        """Build release ``version``, add it, and promote it to the suite ``stable``."""
        tree, out = self._work / f"tree-{version}", self._work / f"release-{version}"
        listed = subprocess.run(
            ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", *PACKED],
            cwd=ROOT,
            check=True,
            capture_output=True,
        ).stdout.decode()
        for name in filter(None, listed.split("\0")):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
        file = tree / VERSION
        lines = [
            f'__version__ = "{version}"' if one.startswith("__version__") else one
            for one in file.read_text().splitlines()
        ]
        file.write_text("\n".join(lines) + "\n")
        if not starts:
            file = tree / STARTS
            file.write_text(file.read_text() + NO_START)
        self._run(tree / "deploy/debian/build", "arm64", out)
        shutil.rmtree(tree)
        release = (sys.executable, "-m", "tools.lib.release", out, "--repository", self.folder, "--key", self._key)
        self._run(*release)
        self._run(*release, "--promote", version)

    def _run(self, *words: str | Path) -> str:
        done = subprocess.run([*map(str, words)], cwd=ROOT, env=self._environment, check=True, capture_output=True)
        return done.stdout.decode()

    def _gpg(self, *words: str) -> str:
        return self._run("gpg", "--batch", "--yes", *words)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature is http.server's
        """Say nothing of each file."""
