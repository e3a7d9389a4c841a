# SPDX-License-Identifier: Apache-2.0
"""The whole unit as a process, made with the commands of an installer, against a real broker."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agent.clock import SystemClock
from agent.keys import load_public_key
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import BrokerSettings
from agent.site.authority import Authority, pem
from agent.site.records import SiteFiles
from agent.subscribe.files import TrustFile
from agent.subscribe.subscriber import Refusal, Subscriber
from agent.subscribe.verify import VerifiedEvent
from tests.simulators.typed import typed
from tools.lib.demo.brokers import DemoBroker
from tools.lib.demo.site import PROGRAM, SITE, UNIT, DemoSite
from tools.lib.rig.listener import Listener

ENROLLED = "person-01"
CLEAN_STOP_S = 2.0
KILLS = int(os.environ.get("POSTERN_KILLS", "6"))  # the long form has 100

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180 + 8 * KILLS)]
OUTAGE_S = float(os.environ.get("POSTERN_OUTAGE_S", "12"))  # the long form has 60
LIVE_S = 5  # the shortest window after which an event is late
STANDING = [{"at": 0, "x": 320, "y": 150, "face": 123}]


def scene(who: str | None, seconds: float) -> dict[str, object]:
    people = [] if who is None else [{"who": who, "picture": 2, "path": STANDING, "pose": [{"at": 0, "yaw": 0}]}]
    return {
        "size": [640, 360],
        "frames_per_second": 10,
        "duration": seconds,
        "seed": 1,
        "background": {"kind": "room", "variant": 11},
        "people": people,
    }


@dataclass
class Installed:
    """A unit with one enrolled person, ready to run."""

    site: DemoSite
    broker: DemoBroker

    def show(self, who: str | None, seconds: float) -> None:
        script = self.site.folder / "scene.yaml"
        script.write_text(yaml.safe_dump(scene(who, seconds)))
        self.site.write_config(self.site.config, port=self.broker.port, protocol=self.broker.protocol, scene=script)

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "agent", "run", "-c", str(self.site.config)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def subscriber(self) -> Subscriber:
        keys = self.site.site.client(PROGRAM)
        credentials = Credentials.in_folder(keys)
        broker = BrokerSettings("127.0.0.1", credentials, port=self.broker.port, protocol=self.broker.protocol)
        trust = TrustFile(self.site.site.trust, load_public_key(self.site.site.site_jwk))
        return Subscriber(broker, site=SITE, trust=trust, clock=SystemClock(), durable=True)

    def head(self) -> int:
        path = self.site.unit / "outbox.db"
        if not path.exists():
            return 0
        with closing(sqlite3.connect(path)) as db:
            return int(db.execute("SELECT seq FROM head").fetchone()[0])


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """One site for the whole module: making one takes seconds."""
    if shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("mosquitto is not installed")
    site = DemoSite(tmp_path_factory.mktemp("service"), typed=typed)
    site.create()
    with DemoBroker(site.site, site.folder / "broker") as broker:
        script = site.folder / "scene.yaml"
        script.write_text(yaml.safe_dump(scene(None, 1)))
        site.add_unit(port=broker.port, protocol=broker.protocol, scene=script)
        broker.reload(site.site)
        site.enrol(ENROLLED, port=broker.port, protocol=broker.protocol)
        yield Installed(site, broker)


def receive(subscriber: Subscriber, head: int, patience_s: float = 30) -> list[VerifiedEvent | Refusal]:
    """What arrives up to event number ``head``."""
    received: list[VerifiedEvent | Refusal] = []
    timer = threading.Timer(patience_s, subscriber.stop)
    timer.start()
    for outcome in subscriber:
        received.append(outcome)
        if isinstance(outcome, VerifiedEvent) and outcome.event.data.seq >= head:
            subscriber.stop()
    timer.cancel()
    return received


def test_sigterm_ends_soon_and_loses_nothing(template: Installed) -> None:
    template.show(ENROLLED, 60)
    with template.subscriber() as subscriber:
        unit = template.start()
        received = []
        for outcome in subscriber:
            received.append(outcome)
            if isinstance(outcome, VerifiedEvent) and outcome.kind == "match":
                break
        began = time.monotonic()
        unit.send_signal(signal.SIGTERM)
        unit.communicate(timeout=30)
        assert unit.returncode == 0
        assert time.monotonic() - began < CLEAN_STOP_S + 3, (
            "a clean stop takes two seconds; three more for a busy machine"
        )
        received += receive(subscriber, template.head())
    assert not [one for one in received if isinstance(one, Refusal)]
    assert [one.event.data.seq for one in received if isinstance(one, VerifiedEvent)][-1] == template.head()
    assert getattr(received[-1].event.data, "condition", None) == "stopping"  # type: ignore[union-attr]


def test_kill_9_at_any_moment_loses_no_signed_event_and_reuses_no_number(template: Installed) -> None:
    template.show(ENROLLED, 60)
    dice = random.Random(4)
    first = template.head() + 1
    port = template.broker.port
    # It has to listen all the time: live events that nobody takes expire at the broker after a minute.
    with Listener.of_program(template.site.site, PROGRAM, name=SITE, port=port) as listener:
        for _ in range(KILLS):
            unit = template.start()
            time.sleep(dice.uniform(0.3, 3.5))
            unit.kill()
            unit.communicate()
        template.show(None, 0.5)
        unit = template.start()
        unit.communicate(timeout=60)
        assert listener.wait_for(UNIT, template.head(), 30)
    assert set(listener.refusals()) <= {"duplicate"}
    received = [one.event.data.seq for one in listener.events(UNIT)]
    assert received == list(range(first, template.head() + 1))


def test_broker_outage_delays_events_but_loses_and_doubles_none(template: Installed) -> None:
    template.show(ENROLLED, 6)
    first = template.head() + 1
    template.broker.stop()
    unit = template.start()
    log = unit.communicate(timeout=60)[1]
    assert unit.returncode == 0, log
    assert template.head() > first, log
    template.broker.start()
    template.show(None, 1)
    with template.subscriber() as subscriber:
        unit = template.start()
        unit.communicate(timeout=60)
        received = receive(subscriber, template.head())
    events = [one for one in received if isinstance(one, VerifiedEvent)]
    assert len(events) == len(received)
    assert [one.event.data.seq for one in events] == list(range(first, template.head() + 1))
    assert any(one.kind == "match" and one.backlog for one in events), "late events come on the backlog"


def test_a_broker_that_goes_away_in_mid_scene_gets_everything_once_in_order_and_the_late_on_the_backlog(
    template: Installed,
) -> None:
    """The person comes after the broker went, and the unit goes on."""
    comes_at_s = 8.0
    template.show(ENROLLED, 600)
    script, settings = template.site.folder / "scene.yaml", template.site.config
    view, config = yaml.safe_load(script.read_text()), yaml.safe_load(settings.read_text())
    view["people"][0]["appears"] = comes_at_s
    config["outbox"]["live_window_s"] = LIVE_S
    script.write_text(yaml.safe_dump(view))
    settings.write_text(yaml.safe_dump(config))
    first, received = template.head() + 1, []
    with template.subscriber() as subscriber, ExitStack() as stack:
        unit = template.start()
        stack.callback(unit.kill)
        arriving = iter(subscriber)
        received.append(next(arriving))
        template.broker.stop()
        time.sleep(comes_at_s + OUTAGE_S)  # the outbox is the unit's alone, so nobody can look what is in it
        template.broker.start()
        received.append(next(arriving))
        unit.send_signal(signal.SIGTERM)
        unit.communicate(timeout=30)
        received += receive(subscriber, template.head())
    events = [one for one in received if isinstance(one, VerifiedEvent)]
    assert len(events) == len(received), received
    assert [one.event.data.seq for one in events] == list(range(first, template.head() + 1))
    assert [one.kind for one in events] == ["unit", "match", "unit"]
    assert events[1].backlog
    assert len({one.event.data.boot for one in events}) == 1


def test_reload_takes_a_right_configuration_and_a_wrong_one_changes_nothing(template: Installed) -> None:
    template.show(None, 60)
    right = template.site.config.read_text()

    def is_condition(outcome: VerifiedEvent | Refusal, condition: str) -> bool:
        return isinstance(outcome, VerifiedEvent) and getattr(outcome.event.data, "condition", None) == condition

    with template.subscriber() as subscriber:
        unit = template.start()
        outcomes = iter(subscriber)
        next(one for one in outcomes if is_condition(one, "started"))
        template.site.config.write_text(right + "sauce: 1\n")
        unit.send_signal(signal.SIGHUP)
        assert unit.stderr is not None
        assert any("the old one stays" in line and "sauce" in line for line in unit.stderr)
        template.site.config.write_text(right)
        unit.send_signal(signal.SIGHUP)
        said = next(outcomes), next(outcomes)
        assert is_condition(said[0], "stopping")
        assert is_condition(said[1], "started")
        assert said[0].event.data.boot != said[1].event.data.boot  # type: ignore[union-attr]
        unit.send_signal(signal.SIGTERM)
        unit.communicate(timeout=30)
        assert unit.returncode == 0
        assert is_condition(next(outcomes), "stopping")


# Files whose numbers rise with each start, as the audit log does, and with the time: a digit more is a byte more.
COUNTING = {"time.json", "generation.json", "commands.json", "outbox.numbers.json"}


def trace(installed: Installed, who: str | None) -> tuple[list[str], list[str], dict[str, int]]:
    """Kinds of events, log lines without numbers, and sizes of files that a scene leaves."""
    installed.show(who, 5)
    config = yaml.safe_load(installed.site.config.read_text())
    with installed.subscriber() as subscriber:
        unit = installed.start()
        log = unit.communicate(timeout=60)[1]
        received = receive(subscriber, installed.head())
    assert config["profile"] == "demo"
    kinds = [one.kind if isinstance(one, VerifiedEvent) else one.reason for one in received]
    words = ["".join(c for c in line if not c.isdigit()) for line in log.splitlines() if " stage " not in line]
    sizes = {
        str(path.relative_to(installed.site.unit)): path.stat().st_size
        for path in sorted(installed.site.unit.rglob("*"))
        if path.is_file() and path.name not in {"audit.log", "config.yaml", *COUNTING}
    }
    return kinds, words, sizes


def test_stranger_leaves_no_event_no_log_line_and_no_byte(template: Installed, tmp_path: Path) -> None:
    """From the same files both times: what was delivered is kept, so that each run adds to the outbox by itself."""
    unit, before = template.site.unit, tmp_path / "before"
    shutil.copytree(unit, before)
    with_stranger = trace(template, "person-03")
    shutil.rmtree(unit)
    shutil.copytree(before, unit)
    assert with_stranger == trace(template, None)


Harm = Callable[[Path, dict[str, Any]], None]


def flip_a_bit(unit: Path, _: dict[str, Any]) -> None:
    path = unit.parent / "models" / "embedder.tflite"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def certify(unit: Path, issued: timedelta, ends: timedelta | None = None) -> None:
    """Give the unit a certificate for its key that was issued so long ago, or will be; it may have ended by now."""
    site = SiteFiles(unit.parent / "site")
    key = load_pem_private_key((unit / "keys" / "tls.key").read_bytes(), None)
    assert isinstance(key, EllipticCurvePrivateKey)
    authority = Authority.load(site.ca_key, site.ca_crt, None)
    now = SystemClock().now()
    until = None if ends is None else now + ends
    certificate = authority.issue_client(UNIT, key.public_key(), now + issued, until=until)
    (unit / "keys" / "tls.crt").write_bytes(pem(certificate))


def use_video(unit: Path, config: dict[str, Any], content: bytes | None) -> None:
    clip = unit / "clip.mp4"
    if content is not None:
        clip.write_bytes(content)
    config["camera"] = {"source": "file", "path": str(clip)}
    del config["enrolment"]  # its button is one of a scene


# Where the clock was never set, the unit waits for it and tries again.
UNPROVEN = 78 if SystemClock().state() == "synced" else 75
HARMS: dict[str, tuple[Harm, int, str]] = {
    "model missing": (lambda u, _: (u.parent / "models" / "embedder.tflite").unlink(), 2, "embedder.tflite"),
    "model altered": (flip_a_bit, 2, "altered"),
    "policy altered": (lambda u, _: (u / "policy.jws").write_text("e30.e30.AAAA") and None, 2, "policy"),
    "signing key missing": (lambda u, _: (u / "keys" / "unit.key").unlink(), 78, "unit.key"),
    "wrong TLS key": (
        lambda u, _: shutil.copy(u / "keys" / "unit.key", u / "keys" / "tls.key") and None,
        78,
        "tls.key",
    ),
    "secret open to others": (lambda u, _: (u / "keys" / "epoch-keys.json").chmod(0o644), 78, "epoch-keys.json"),
    "certificate expired": (
        lambda u, _: certify(u, -timedelta(hours=12), -timedelta(hours=6)),
        UNPROVEN,
        "tls.crt expired on",
    ),
    "clock before the certificate": (lambda u, _: certify(u, timedelta(days=30)), UNPROVEN, "tls.crt is valid from"),
    "scene missing": (lambda u, c: c["camera"].update(script=str(u / "none.yaml")), 2, "none.yaml"),
    "video missing": (lambda u, c: use_video(u, c, None), 2, "clip.mp4"),
    "video corrupt": (lambda u, c: use_video(u, c, b"\0" * 5000), 2, "clip.mp4"),
    "key unknown": (lambda _, c: c["camera"].update(sauce="scene"), 2, "sauce"),
    "disk full": (lambda *_: None, 70, "free space"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_bad_input_gets_one_clear_error(template: Installed, tmp_path: Path, harm: str) -> None:
    unit = tmp_path / "unit"
    shutil.copytree(template.site.unit, unit)
    shutil.copytree(template.site.site.folder, tmp_path / "site")
    shutil.copytree(Path(__file__).parents[2] / "models", tmp_path / "models")
    config = yaml.safe_load(template.site.config.read_text())
    config["models"]["manifest"] = str(tmp_path / "models" / "manifest.yaml")
    do, status, words = HARMS[harm]
    do(unit, config)
    (unit / "config.yaml").write_text(yaml.safe_dump(config))
    limit = ["prlimit", "--fsize=0"] if harm == "disk full" else []
    done = subprocess.run(
        [*limit, sys.executable, "-m", "agent", "run", "-c", str(unit / "config.yaml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("postern: ")]
    assert done.returncode == status, done.stderr
    assert words in " ".join(errors), done.stderr
    assert "Traceback" not in done.stderr
