# SPDX-License-Identifier: Apache-2.0
"""The installer's machine: a site that was made by the commands of the manual, its service, and its broker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from tools.lib.demo.site import ROOT, postern
from tools.lib.image.machine import HOST
from tools.lib.lifetime.joining import SITE, LiveSite

AUDITOR: Final = "auditor-1"
OPERATOR: Final = "operator-1"
PERSON: Final = "person-01"
ANSWER_S: Final = "60"  # an emulated unit takes its time


class InstallerSite(LiveSite):
    """``LiveSite``, by the commands, for units to which this machine is ``HOST``."""

    def make(self) -> None:
        self.command("create", SITE, "--policy", ROOT / "models" / "policy.json")
        self.command("broker", HOST, "127.0.0.1")

    def command(self, act: str, *words: str | Path) -> str:
        """Run ``postern site ACT``."""
        return postern("site", act, "-f", self.folder, *words)

    def invite(self, unit: str) -> bytes:
        """The one command for each unit."""
        file = self.folder.parent / f"{unit}.invite"
        self.command("invite", unit, "--accept", "-o", file)
        return file.read_bytes()

    def ask(self, unit: str, verb: str, *words: str) -> str:
        """Run ``postern ask`` as the operator."""
        keys = self.files.client(OPERATOR)
        where = ("--site-key", self.folder / "site.key", "--broker", "127.0.0.1", "--port", str(self.broker.port))
        return postern("ask", unit, verb, *words, *where, "--site", SITE, "--keys", keys, "--timeout", ANSWER_S)

    def enrol(self, unit: str, config: Path) -> str:
        """Enrol the demo person, who stands before the camera, by the unit's configuration; the subject."""
        evidence, consent = config.parent / "signed.txt", config.parent / "consent.json"
        evidence.write_text(f"{PERSON} agreed for the length of this test\n")
        postern("consent", evidence, "--days", "1", "-o", consent, "-c", config)
        begun = json.loads(self.ask(unit, "enrol/begin", f"consent=@{consent}"))
        committed = json.loads(self.ask(unit, "enrol/commit", f"enrolment={begun['enrolment']}"))
        return str(committed["subject"])
