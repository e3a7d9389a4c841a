# SPDX-License-Identifier: Apache-2.0
"""A process with some of the units: they speak at a rate, until a line comes on standard input; then they flush.

``python -m tools.lib.fleet.worker FOLDER HOST PORT RATE UNIT...``; each number that is signed is written to
``signed`` in the unit's folder with the monotonic time. To standard output goes ``speaking`` once they do, and when all
is delivered, or nothing more gets through, an object with the CPU seconds of the process and each unit's head. Until a
second line comes the units answer whoever missed something.
"""

from __future__ import annotations

import json
import random
import resource
import secrets
import sys
import threading
import time
from pathlib import Path

from agent.clock import Bounds, SystemClock
from agent.keys import UnitKey, load_public_key
from agent.mqtt.records import BrokerSettings
from agent.outbox.epoch_keys import EpochKeys
from agent.outbox.queue import Outbox
from agent.site.folder import DEFAULT_AUDIENCES
from agent.unit.key_files import UnitFiles
from agent.unit.verbs import replay
from agent.uplink.answers import Answers
from agent.uplink.commands import CommandCounter, Commands
from agent.uplink.health import HealthReporter, read_disk_free
from agent.uplink.mailbox import Mailbox
from agent.uplink.session import Uplink, UplinkNotice, UplinkSettings
from tools.lib.fleet.match import random_match
from tools.lib.fleet.site import SITE, FleetSite

HEALTH_S = 5  # where the chain ends, so that a tail that is withheld is noticed
RECONNECT_S = Bounds(0.2, 0.5, 5.0)  # units wait longer; a measurement of minutes would see nothing but their pauses
FLUSH_S = 60.0  # without an event that the broker takes: an uplink's longest pause here, some times over
MAX_FLUSH_S = 300.0


class FleetUnit:
    """One unit without a camera: ``say`` signs a match of a random pseudonym."""

    def __init__(self, fleet: FleetSite, name: str, host: str, port: int) -> None:
        self.name = name
        self._clock, folder = SystemClock(), fleet.unit(name)
        signer = UnitKey.load(UnitFiles(folder).event_key)
        self.outbox = Outbox(folder / "outbox.db", signer=signer, source=f"/postern/{SITE}/{name}", clock=self._clock)
        self._signed = (folder / "signed").open("a", buffering=1)
        self._mailbox = Mailbox()
        held = EpochKeys.load(UnitFiles(folder).epoch_keys)
        commands = Commands(
            site=SITE,
            unit=name,
            key=load_public_key(UnitFiles(folder).site_jwk),
            counter=CommandCounter(folder / "commands.json"),
            answers=Answers(SITE, name, signer),
            clock=self._clock,
            random=secrets.token_bytes,
            on_outcome=lambda _: None,
        )
        commands.bind({"outbox/replay": lambda command: replay(self.outbox, command)})
        broker = BrokerSettings(host, fleet.credentials(name), port=port)
        health = HealthReporter(
            source=f"/postern/{SITE}/{name}",
            boot=self.outbox.boot,
            signer=signer,
            clock=self._clock,
            outbox=self.outbox,
            frames=lambda: 0,
            recognition=lambda: "running",
            temperature=lambda: None,
            disk_free=lambda: read_disk_free(folder),
            epochs=lambda: held.left(DEFAULT_AUDIENCES[0], self._clock.now()),
        )
        self.uplink = Uplink(
            UplinkSettings(broker, site=SITE, unit=name, reconnect_s=RECONNECT_S, health_interval_s=HEALTH_S),
            outbox=self.outbox,
            mailbox=self._mailbox,
            clock=self._clock,
            random=secrets.token_bytes,
            info=lambda: b"{}",
            health=health.build,
            on_request=commands.handle,
            on_notice=self._note,
        )
        self.uplink.start()

    def say(self) -> None:
        began = time.monotonic()
        seq = self.outbox.append(random_match(self._clock.now(), self._clock.state()))
        self._signed.write(f"{seq} {began}\n")
        self._mailbox.wake()

    def stop(self) -> None:
        self.uplink.stop()
        self.outbox.close()

    def _note(self, notice: UplinkNotice) -> None:
        if notice.kind in ("fault", "storage", "credentials"):
            print(f"fleet: {notice.message}", file=sys.stderr)


def speak(units: list[FleetUnit], rate: float, stop: threading.Event) -> None:
    """Say ``rate`` events a second, each by one of the units; what cannot be kept up with is not made up for."""
    due = time.monotonic()
    while not stop.wait(max(0.0, due - time.monotonic())):
        random.choice(units).say()
        due = max(due + 1 / rate, time.monotonic() - 1.0)


def flush(units: list[FleetUnit]) -> None:
    """Wait until the broker took everything, as long as it takes anything."""
    last, quiet = time.monotonic() + MAX_FLUSH_S, time.monotonic() + FLUSH_S
    before = sum(unit.outbox.depth() for unit in units)
    while before and time.monotonic() < min(last, quiet):
        time.sleep(0.05)
        if (now := sum(unit.outbox.depth() for unit in units)) < before:
            before, quiet = now, time.monotonic() + FLUSH_S


def main() -> None:
    folder, host, port, rate, *names = sys.argv[1:]
    units = [FleetUnit(FleetSite(Path(folder)), name, host, int(port)) for name in names]
    stop = threading.Event()
    speaker = threading.Thread(target=speak, args=(units, float(rate), stop))
    speaker.start()
    print("speaking", flush=True)
    sys.stdin.readline()
    stop.set()
    speaker.join()
    flush(units)
    used = resource.getrusage(resource.RUSAGE_SELF)
    heads = {unit.name: (head.seq, head.digest) for unit in units for head in [unit.outbox.head()]}
    print(json.dumps({"cpu_s": used.ru_utime + used.ru_stime, "heads": heads}), flush=True)
    sys.stdin.readline()
    for unit in units:
        unit.stop()


if __name__ == "__main__":
    main()
