# SPDX-License-Identifier: Apache-2.0
"""A throw-away site with one unit, made with the very commands that an installer types."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import yaml

from agent.site.records import SiteFiles
from tools.lib.enrolment_scene import enrolment_script

ROOT = Path(__file__).parents[3]
SITE, UNIT, PROGRAM, ZONE = "demo", "door-1", "auditor-1", "door"
PURPOSE = "To show on a desk how a door would recognise the people who asked it to, and nobody else."
NOTICE = {
    "version": "1",
    "operator": "Nobody: the demo of Postern, on this machine",
    "alternative": "walk through, there is no door",
}
TOO_SLOW = "this machine is too slow or too busy for the demo; end other programs, then try again"
COMMAND_TIMEOUT_S = 300.0  # an enrolment takes five seconds, on a machine that does much else a minute


class CommandError(Exception):
    """A command of the demo did not end well."""


def postern(*words: str | Path, stdin: str | None = None) -> str:
    """Run ``postern`` as a user would; its standard output."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "agent", *map(str, words)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CommandError(f"postern {words[0]} did not end within {COMMAND_TIMEOUT_S:g} s: {TOO_SLOW}") from None
    if done.returncode != 0:
        raise CommandError(f"postern {words[0]} ended with status {done.returncode}: {done.stderr.strip()[-600:]}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class DemoSite:
    """Folders of the demo: the site kit's and the unit's. Another ``name`` in the same folder is another unit.

    ``typed`` runs the commands by which it is made, each as a program of its own unless somebody has a quicker way.
    """

    folder: Path
    name: str = UNIT
    typed: Callable[..., str] = postern

    @property
    def site(self) -> SiteFiles:
        return SiteFiles(self.folder / "site")

    @property
    def unit(self) -> Path:
        return self.folder / ("unit" if self.name == UNIT else self.name)

    @property
    def config(self) -> Path:
        return self.unit / "config.yaml"

    def create(self) -> None:
        """Make the site, the broker's certificate and a program that listens."""
        where = ("-f", self.site.folder)
        self.typed("site", "create", *where, SITE)
        self.typed("site", "broker", *where, "127.0.0.1", "localhost")
        self.typed("site", "add-program", *where, PROGRAM)

    def add_unit(self, *, port: int, protocol: str, scene: Path) -> None:
        """Give the unit its keys and its policy: the private ones are made in its own folder and stay there."""
        where = ("-f", self.site.folder)
        self.unit.mkdir()
        self.write_config(self.config, port=port, protocol=protocol, scene=scene)
        token = self.typed("site", "token", *where, self.name)
        request, answer = self.unit / "request.jws", self.unit / "answer.jws"
        self.typed("unit", "request", "-c", self.config, "-o", request, stdin=token)
        self.typed("site", "add-unit", *where, request, "-o", answer)
        self.typed("unit", "install", "-c", self.config, answer)
        self.typed("site", "policy", *where, ROOT / "models" / "policy.json", "-o", self.unit / "policy.jws")

    def enrol(self, person: str, *, port: int, protocol: str) -> tuple[str, list[str]]:
        """Hold an enrolment session with a demo person before the simulated camera; subject id and advice given."""
        script = self.folder / f"enrol-{person}.yaml"
        script.write_text(yaml.safe_dump(msgspec.to_builtins(enrolment_script(person))))
        config = self.unit / f"enrol-{person}.yaml"
        self.write_config(config, port=port, protocol=protocol, scene=script)
        evidence, consent = self.folder / f"signed-{person}.txt", self.folder / f"consent-{person}.json"
        evidence.write_text(f"{person} agreed for the length of this demo\n")
        postern("consent", evidence, "--days", "1", "-o", consent, "-c", config)
        *advice, last = postern("enrol", consent, "-c", config).splitlines()
        return last.removeprefix("enrolled: "), advice

    def write_config(self, path: Path, *, port: int, protocol: str, scene: Path) -> None:
        """Write the unit's configuration; enrolment and service differ in the scene alone."""
        content = {
            "profile": "demo",
            "purpose": PURPOSE,
            "unit": {"site": SITE, "id": self.name, "name": "Demo door"},
            "notice": NOTICE,
            "camera": {"source": "scene", "script": str(scene)},
            "models": {"manifest": str(ROOT / "models" / "manifest.yaml")},
            "activation": {
                "kind": "zone",
                "name": ZONE,
                "polygon": [[0.25, 0.1], [0.75, 0.1], [0.75, 0.9], [0.25, 0.9]],
            },
            "enrolment": {"button": {"kind": "scene"}},
            "match": {"policy": "policy.jws"},
            "gallery": {"path": "gallery.db"},
            "audit": {"path": "audit.log"},
            "outbox": {"path": "outbox.db"},
            "keys": {"folder": "keys"},
            "broker": {"host": "127.0.0.1", "port": port, "protocol": protocol, "home_assistant": True},
        }
        path.write_text(yaml.safe_dump(content, sort_keys=False))
