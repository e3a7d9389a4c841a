# SPDX-License-Identifier: Apache-2.0
"""The installed package with its service, on a camera: what an installer does and what a subscriber then sees.

Runs as root inside of the emulated system, where nothing else is. The demo person is enrolled before the simulated
camera; then the service looks through the camera of its configuration, in the production profile.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from agent.clock import SystemClock
from agent.keys import load_public_key
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import BrokerSettings
from agent.subscribe.files import TrustFile
from agent.subscribe.show import HEADER, as_columns
from agent.subscribe.subscriber import Handed, Refusal, Subscriber
from agent.subscribe.verify import Loss
from tools.lib.arm64 import LIBCAMERA_PIPELINE
from tools.lib.demo.brokers import DemoBroker
from tools.lib.demo.site import PROGRAM, ROOT, SITE, DemoSite

PERSON: Final = "person-01"
CONFIG, STATE, KEYS = Path("/etc/postern/config.yaml"), Path("/var/lib/postern"), Path("/var/lib/postern/keys")
SCENE: Final = ROOT / "tools" / "scenes" / "enrol-one.yaml"
RTSP_SERVER: Final = ROOT / "tests" / "simulators" / "rtsp_server.py"
RTSP_PORT: Final = 8554
EVENT_LIMIT_S: Final = 240.0
AIM_S: Final = 3.0
TIMEOUT_S: Final = 30.0  # without a frame: an emulated camera takes its time

CAMERAS: Final[dict[str, dict[str, Any]]] = {
    "picamera2": {"source": "picamera2", "width": 1280, "height": 720, "timeout_s": TIMEOUT_S},
    "v4l2": {
        "source": "v4l2",
        "device": "/dev/video0",
        "width": 1280,
        "height": 720,
        "frames_per_second": 30,
        "format": "yuyv422",
        "timeout_s": TIMEOUT_S,
    },
    "gstreamer": {
        "source": "gstreamer",
        "pipeline": LIBCAMERA_PIPELINE,
        "timeout_s": TIMEOUT_S,
    },
    "rtsp": {"source": "rtsp", "url": f"rtsp://127.0.0.1:{RTSP_PORT}/live", "timeout_s": TIMEOUT_S},
}


class CheckError(Exception):
    """The installed unit did not do what it should."""


def command(*words: str | Path, check: bool = True) -> str:
    """Run a command; what it printed on both streams."""
    done = subprocess.run([*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if check and done.returncode:
        raise CheckError(f"{' '.join(map(str, words))} ended with status {done.returncode}:\n{done.stdout}")
    return done.stdout


def say(text: str) -> None:
    """Print ``text`` with the seconds since this system started."""
    print(f"[{time.clock_gettime(time.CLOCK_BOOTTIME):6.1f}] {text}", flush=True)


def show(title: str, text: str) -> None:
    say(title)
    print("\n".join(f"    {line}" for line in text.strip().splitlines()), flush=True)


class Installed:
    """A site with this unit, whose files lie where the package wants them."""

    def __init__(self, folder: Path) -> None:
        self._demo = DemoSite(folder)

    @contextmanager
    def site(self) -> Iterator[DemoBroker]:
        """Make site, broker, unit and one enrolment; everything is then moved to where the service looks."""
        demo = self._demo
        demo.create()
        with DemoBroker(demo.site, demo.folder / "broker") as broker:
            demo.add_unit(
                port=broker.port, protocol=broker.protocol, scene=ROOT / "tools" / "scenes" / "enrol-one.yaml"
            )
            broker.reload(demo.site)
            subject, _ = demo.enrol(PERSON, port=broker.port, protocol=broker.protocol)
            say(f"{PERSON} is enrolled before the simulated camera: subject {subject[:8]}…, no picture kept")
            shutil.copytree(demo.unit, STATE, dirs_exist_ok=True)
            command("chown", "-R", "postern:postern", STATE)
            yield broker

    def configure(self, camera: str, broker: DemoBroker) -> None:
        """Write the configuration of an installed unit with the camera called ``camera``."""
        content: dict[str, Any] = yaml.safe_load(self._demo.config.read_text())
        content["profile"] = "production"
        content["camera"] = CAMERAS[camera]
        del content["enrolment"]  # its button is one of a scene
        content["models"] = {"manifest": "/usr/share/postern/models/manifest.yaml"}
        for section in ("match", "gallery", "audit", "outbox", "keys"):
            content[section] = {key: str(STATE / Path(name).name) for key, name in content[section].items()}
        content["broker"]["port"] = broker.port
        CONFIG.write_text(yaml.safe_dump(content, sort_keys=False))
        CONFIG.chmod(0o644)

    @contextmanager
    def events(self, broker: DemoBroker) -> Iterator[list[Handed]]:
        """What a subscriber receives and verifies while the block runs."""
        demo = self._demo
        keys = demo.site.client(PROGRAM)
        settings = BrokerSettings(
            "127.0.0.1",
            Credentials.in_folder(keys),
            port=broker.port,
            protocol=broker.protocol,
        )
        trust = TrustFile(demo.site.trust, load_public_key(demo.site.site_jwk))
        received: list[Handed] = []
        with Subscriber(settings, site=SITE, trust=trust, clock=SystemClock()) as subscriber:
            thread = threading.Thread(target=lambda: received.extend(tell(subscriber)), daemon=True)
            thread.start()
            yield received
            subscriber.stop()
            thread.join(5)


def tell(subscriber: Subscriber) -> Iterator[Handed]:
    for outcome in subscriber:
        print(f"    {as_columns(outcome)}", flush=True)
        yield outcome


def wait_for(received: list[Handed], kind: str, condition: str | None = None, after: int = 0) -> int:
    """Wait for an event; how many had come then. Raises CheckError."""
    deadline = time.monotonic() + EVENT_LIMIT_S
    while time.monotonic() < deadline:
        for number, event in enumerate(received[after:], start=after):
            if isinstance(event, Refusal):
                raise CheckError(f"the subscriber refused an event: {event.reason}")
            if isinstance(event, Loss):
                raise CheckError(f"the unit lost {event.count} events")
            if event.kind == kind and condition in (None, getattr(event.event.data, "condition", None)):
                return number + 1
        time.sleep(0.2)
    raise CheckError(f"no event {condition or kind} within {EVENT_LIMIT_S:g} s:\n{journal()}")


def journal() -> str:
    return command("journalctl", "--no-pager", "-u", "postern.service", "-o", "short-monotonic", "-n", "40")


def properties() -> dict[str, str]:
    names = "ActiveState,SubState,Result,NRestarts,MemoryCurrent,TasksCurrent,MainPID"
    lines = command("systemctl", "show", "postern.service", "-p", names).splitlines()
    return dict(line.split("=", 1) for line in lines)


def aim(unit: Installed, broker: DemoBroker) -> None:
    """``postern aim`` as the service's user on every camera."""
    server = subprocess.Popen([sys.executable, str(RTSP_SERVER), str(RTSP_PORT)], stdout=subprocess.PIPE)
    try:
        if server.stdout is None or server.stdout.readline() != b"ready\n":
            raise CheckError("the RTSP camera did not start")
        for name in CAMERAS:
            unit.configure(name, broker)
            seen = command("runuser", "-u", "postern", "--", "postern", "aim", "--seconds", str(AIM_S))
            show(f"postern aim, {name}: {json.dumps(CAMERAS[name])}", seen)
    finally:
        server.terminate()
        server.wait()


def serve(unit: Installed, broker: DemoBroker) -> None:
    """Start the service on the CSI camera, see a match, kill it, see it come back, stop it."""
    unit.configure("picamera2", broker)
    show("postern doctor", command("runuser", "-u", "postern", "--", "postern", "doctor", check=False))
    with unit.events(broker) as received:
        say(f"systemctl start postern; events as the subscriber verified them:\n    {HEADER}")
        began = time.monotonic()
        command("systemctl", "start", "postern.service")
        say(f"active after {time.monotonic() - began:.1f} s")
        count = wait_for(received, "match")
        say(f"match of the enrolled person after {time.monotonic() - began:.1f} s: {json.dumps(properties())}")
        command("systemctl", "kill", "--signal=KILL", "postern.service")
        say("killed with SIGKILL")
        count = wait_for(received, "unit", "started", after=count)
        say(f"started again by systemd: {json.dumps(properties())}")
        began = time.monotonic()
        command("systemctl", "stop", "postern.service")
        say(f"systemctl stop took {time.monotonic() - began:.1f} s: {json.dumps(properties())}")
        wait_for(received, "unit", "stopping", after=count)
    state = properties()
    if (state["ActiveState"], state["Result"]) != ("inactive", "success"):
        raise CheckError(f"the service did not stop cleanly: {state}")
    show("its journal", journal())
    show("sandbox", command("systemd-analyze", "security", "--no-pager", "postern.service").splitlines()[-1])


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory(prefix="postern-installed-") as folder:
        unit = Installed(Path(folder))
        try:
            with unit.site() as broker:
                aim(unit, broker)
                serve(unit, broker)
        except CheckError as error:
            print(f"tools.lib.arm64.installed: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
