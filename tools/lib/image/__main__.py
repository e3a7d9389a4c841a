# SPDX-License-Identifier: Apache-2.0
"""``tools/image boot``: an installer writes cards, two units start from them, join, and announce whom they know.

The site, its service and a Mosquitto with the deployed configuration run on this machine; the units are emulated, with
a scene for a camera. The first joins, enrols a demo person, announces the match, and is looked at inside before and
after a restart. The power of the second is cut again and again during its first start.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from agent.protocol.event import MatchData, UnitData
from agent.subscribe.verify import VerifiedEvent
from tools.lib.demo.site import CommandError, postern
from tools.lib.enrolment_scene import enrolment_script
from tools.lib.image.card import Card
from tools.lib.image.checks import DATA_KIB, IDENTITY, CheckError, Shell, look, new_key, try_keys
from tools.lib.image.chip import Chip
from tools.lib.image.door import LINES, pressed_again_and_again, try_lines
from tools.lib.image.machine import HOST, Machine
from tools.lib.image.site import AUDITOR, OPERATOR, PERSON, InstallerSite
from tools.lib.image.time_server import TimeServer
from tools.lib.image.upgrades import try_upgrades
from tools.lib.lifetime.joining import SITE
from tools.lib.rig.listener import Listener

PARTS: Final = ("lines", "keys", "upgrades", "watchdog", "cuts")
CUTS: Final = 5
START_S: Final = 1200.0  # for the first start of an emulated unit, beside whatever else this machine does
MATCH_S: Final = 300.0
LOOK_S: Final = 0.5
BITES_S: Final = 120.0  # the watchdog has 15
# QEMU's watchdog is off once it has bitten, which it may have while this machine was busy (tools/lib/image/machine.py).
ARM: Final = "; ".join(
    "sudo busctl set-property org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager"
    f" RuntimeWatchdogUSec t {microseconds}"
    for microseconds in (0, 15_000_000)
)
# The first program stands still, and feeds nothing.
FREEZE: Final = "sudo sh -c '(sleep 3; echo 1 >/sys/fs/cgroup/init.scope/cgroup.freeze) >/dev/null 2>&1 &'"
STAYS_S: Final = 40.0
AWAY_S: Final = 6.0
RATE: Final = 1.0  # frames a second: what an emulated processor keeps up with; a track outlives no longer gap
NETWORK: Final = f"[Match]\nType=ether\n\n[Network]\nDHCP=yes\nNTP={HOST}\n"


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools/image boot", description=__doc__.split("\n")[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="a folder that is made anew")
    parser.add_argument("--cuts", type=int, default=CUTS, help=f"of the power of the second unit ({CUTS})")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the cuts")
    parser.add_argument("--without", choices=PARTS, nargs="+", default=[], help="leave a part out")
    arguments = parser.parse_args(words)
    shutil.rmtree(arguments.work, ignore_errors=True)
    arguments.work.mkdir(parents=True)
    site = InstallerSite(arguments.work)
    site.command("add-program", AUDITOR)
    site.command("add-program", OPERATOR, "--role", "operator")
    try:
        with (
            TimeServer(),
            site.running(),
            Listener.of_program(site.files, AUDITOR, name=SITE, port=site.broker.port) as listener,
        ):
            run = Run(arguments.image, arguments.work, site, listener, frozenset(PARTS) - frozenset(arguments.without))
            took_s = run.first_unit("door-1")
            if "cuts" not in arguments.without:
                run.cut_unit("door-2", took_s, arguments.cuts, random.Random(arguments.seed))
    except (CheckError, CommandError) as error:
        print(f"tools/image: {error}", file=sys.stderr)
        return 1
    left = f", without: {', '.join(arguments.without)}" if arguments.without else ""
    print(f"all of it as the manual says{left}")
    return 0


class Run:
    """Two units of one site."""

    def __init__(self, image: Path, work: Path, site: InstallerSite, listener: Listener, parts: frozenset[str]) -> None:
        self._image, self._work, self._site, self._listener = image, work, site, listener
        self._parts = parts
        self._key = new_key(work)
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._began:6.0f} s] {text}", flush=True)

    def first_unit(self, unit: str) -> float:
        """Start, join, enrol, match, look inside; once more after a restart. How long the first start took."""
        card, config = self._card(unit)
        with Machine(card, self._work / f"{unit}.console") as machine:
            began = time.monotonic()
            self._wait_for(machine, unit, started, START_S)
            took_s = time.monotonic() - began
            self.say(f"{unit}: joined and started, {took_s:.0f} s after it got power")
            with Chip(machine.monitor) as chip, pressed_again_and_again(chip):
                subject = self._site.enrol(unit, config)
            self.say(f"{unit}: {PERSON} is enrolled by command and by pressing the button: subject {subject[:8]}…")
            self._wait_for(machine, unit, matched, MATCH_S)
            self.say(f"{unit}: announces a match, verified by a subscriber")
            shell = Shell(self._key, machine.ssh_port)
            shell.wait(MATCH_S)
            for line in look(shell):
                print(f"    {line}", flush=True)
            before, size = shell(IDENTITY), int(shell(DATA_KIB))
            self.say(f"{unit}: {' '.join(before.split())}; data partition {size // 1024} MiB")
            if "lines" in self._parts:
                with Chip(machine.monitor) as chip:
                    try_lines(chip, shell, lambda text: self.say(f"{unit}: {text}"))
            if "keys" in self._parts:
                self.say(f"{unit}: key button on uinput: {'; '.join(try_keys(shell))}")
            if "watchdog" in self._parts:
                self._hang(machine, unit, shell)
                self._again(machine, unit, shell)
            if "upgrades" in self._parts:
                try_upgrades(shell, self._work, lambda text: self.say(f"{unit}: {text}"))
            shell("sudo systemctl --no-block reboot")
            if not machine.wait_for_end(MATCH_S):
                raise CheckError(f"{unit} does not restart")
            self._again(machine, unit, shell)
            if shell(IDENTITY) != before or int(shell(DATA_KIB)) != size:
                raise CheckError(f"{unit} is another after a restart")
            self.say(f"{unit}: the same after a restart")
        return took_s

    def _hang(self, machine: Machine, unit: str, shell: Shell) -> None:
        shell(ARM)
        shell(FREEZE)
        began = time.monotonic()
        with Chip(machine.monitor) as chip:
            if not chip.watchdog_resets(BITES_S):
                raise CheckError(f"the first program of {unit} stands still, and the watchdog does not reset the board")
        self.say(f"{unit}: first program frozen: the watchdog resets the board {time.monotonic() - began:.0f} s later")
        machine.wait_for_end(MATCH_S)

    def _again(self, machine: Machine, unit: str, shell: Shell) -> None:
        """Power after a restart: a match again, and the inside as it should be."""
        seen, began = len(self._listener.received()), time.monotonic()
        machine.start()
        self._wait_for(machine, unit, matched, START_S, after=seen)
        self.say(f"{unit}: announces a match again, {time.monotonic() - began:.0f} s after the restart")
        shell.wait(MATCH_S)
        look(shell)
        self.say(f"{unit}: inside, all is as it should be after the restart")

    def cut_unit(self, unit: str, took_s: float, cuts: int, chance: random.Random) -> None:
        """Cut the power at moments of the first start; then it joins all the same."""
        card, _ = self._card(unit)
        console = self._work / f"{unit}.console"
        for number in range(cuts):
            after_s = chance.uniform(0.1, 1.0) * took_s
            with Machine(card, console) as machine:
                time.sleep(after_s)
                said = [line for line in machine.shown().splitlines() if line.strip()] or ["nothing yet"]
            self.say(
                f"{unit}: power cut {number + 1} after {after_s:.0f} s; last on the console: {said[-1].strip()[-90:]}"
            )
        seen = len(self._listener.received())
        with Machine(card, console) as machine:
            self._wait_for(machine, unit, started, START_S, after=seen)
            shell = Shell(self._key, machine.ssh_port)
            shell.wait(MATCH_S)
            look(shell)
        self.say(f"{unit}: joined and started after {cuts} power cuts, and is as it should be")
        if refused := self._listener.refusals():
            raise CheckError(f"the subscriber refused {dict(refused)}")

    def _card(self, unit: str) -> tuple[Card, Path]:
        """Write a card; what the installer's editor would show as the unit's whole configuration."""
        card = Card.write(self._image, self._work / f"{unit}.card")
        common = configuration().encode()
        card.put("scene.yaml", yaml.safe_dump(scene()).encode())
        card.put("config.yaml", common)
        card.put("wired.network", NETWORK.encode())
        card.put("authorized_keys", self._key.with_suffix(".pub").read_bytes())
        card.put("postern-invite", self._site.invite(unit))
        (self._work / "config.yaml").write_bytes(common)
        whole = self._work / f"{unit}.yaml"
        invitation = self._work / f"{unit}.invite"
        postern("unit", "configure", self._work / "config.yaml", "--invitation", invitation, "-c", whole)
        return card, whole

    def _wait_for(
        self, machine: Machine, unit: str, wanted: Callable[[VerifiedEvent], bool], limit_s: float, after: int = 0
    ) -> None:
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            outcomes = [one.outcome for one in self._listener.received()[after:]]
            if any(isinstance(one, VerifiedEvent) and one.unit == unit and wanted(one) for one in outcomes):
                return
            if not machine.running:
                raise CheckError(f"the emulator of {unit} ended; see {machine.console}")
            time.sleep(LOOK_S)
        last = "\n".join(machine.shown().splitlines()[-15:])
        raise CheckError(
            f"{unit} did not say it within {limit_s:.0f} s; its console, {machine.console}, ends with\n{last}"
        )


def started(event: VerifiedEvent) -> bool:
    return isinstance(event.event.data, UnitData) and event.event.data.condition == "started"


def matched(event: VerifiedEvent) -> bool:
    return isinstance(event.event.data, MatchData)


def scene() -> dict[str, Any]:
    """The demo person stands before the camera, leaves, and comes again."""
    script: dict[str, Any] = msgspec.to_builtins(enrolment_script(PERSON, frames_per_second=RATE, duration=STAYS_S))
    script["duration"] = STAYS_S + AWAY_S
    script["people"][0]["leaves"] = STAYS_S
    return script


def configuration() -> str:
    """``config.yaml`` for every card of the site: an installer's, but for the camera, which is a scene."""
    content = {
        "profile": "demo",
        "purpose": "To show that a card is all that a unit needs.",
        "notice": {
            "version": "1",
            "operator": "Nobody: a test of Postern, on this machine",
            "alternative": "walk through, there is no door",
        },
        "camera": {"source": "scene", "script": "/boot/firmware/scene.yaml", "loop": True},
        "activation": {
            "kind": "zone",
            "name": "door",
            "polygon": [[0.25, 0.1], [0.75, 0.1], [0.75, 0.9], [0.25, 0.9]],
        },
        **LINES,
    }
    return yaml.safe_dump(content, sort_keys=False)


if __name__ == "__main__":
    sys.exit(main())
