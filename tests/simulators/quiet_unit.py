# SPDX-License-Identifier: Apache-2.0
"""A whole unit on a simulated clock, whose network, log and number of embeddings are written down.

``Premises`` makes site and unit with one enrolled person. As a program, ``python -m tests.simulators.quiet_unit CONFIG
SCENE FRAMES REPORT`` plays the scene again and again until so many frames were seen; the same bytes each time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
import yaml

from agent.camera.base import CameraInfo, Frame
from agent.camera.scene.camera import SceneCamera
from agent.camera.source import Source
from agent.clock import SimulatedClock
from agent.config.camera import CameraSettings
from agent.config.load import load_config
from agent.config.schema import Config
from agent.door.outputs import Outputs
from agent.gallery.consent import parse_consent
from agent.match.policy import parse_policy, sign_policy
from agent.mqtt.records import Ack, Polled
from agent.notices.notice import notice_id
from agent.site import units
from agent.unit.assemble import load_key
from agent.unit.housekeeping import TICK_S, Housekeeping
from agent.unit.models import load_models
from agent.unit.service import Service
from agent.unit.stores import open_gallery
from agent.unit.world import World
from agent.uplink.session import Uplink
from tests.simulators.gallery_life import captures, consent
from tests.simulators.signing_unit import START
from tests.simulators.site_office import SiteOffice

ROOT = Path(__file__).parents[2]
PURPOSE = "To show that a unit keeps silent about everybody who did not ask to be recognised."


class Premises:
    """A site and one unit; ``restore`` puts the unit's folder back to what it was."""

    def __init__(self, folder: Path) -> None:
        clock = SimulatedClock(START)
        office = SiteOffice(folder, clock=clock)
        office.enrol("door-1")
        self.site = office.site
        self.unit, self._copy, self.config = folder / "unit", folder / "copy", folder / "config.yaml"
        self.unit.mkdir()
        shutil.move(office.keys("door-1").folder, self.unit / "keys")
        policy = parse_policy((ROOT / "models" / "policy.json").read_bytes())
        (folder / "policy.jws").write_text(sign_policy(policy, units.load_site_key(office.site)))
        self.config.write_text(yaml.safe_dump(self._settings()))
        config = load_config(self.config)
        version, digest = notice_id(config)
        agreed = consent(clock.now(), purpose=PURPOSE, units=("door-1",), notice_version=version, notice_digest=digest)
        with open_gallery(config, load_key(config), clock) as gallery:
            rng = np.random.default_rng(1)
            gallery.enrol(captures(rng), consent=parse_consent(msgspec.json.encode(agreed)), model=policy.model)
        shutil.copytree(self.unit, self._copy)

    def restore(self) -> None:
        shutil.rmtree(self.unit)
        shutil.copytree(self._copy, self.unit)

    def _settings(self) -> dict[str, Any]:
        return {
            "profile": "demo",
            "purpose": PURPOSE,
            "unit": {"site": "hq", "id": "door-1", "name": "Quiet door"},
            "notice": {"version": "1", "operator": "Nobody, in a test", "alternative": "walk through"},
            "camera": {"source": "scene", "script": "scene.yaml"},
            "models": {"manifest": str(ROOT / "models" / "manifest.yaml")},
            "activation": {
                "kind": "zone",
                "name": "door",
                "polygon": [[0.3, 0.1], [0.7, 0.1], [0.7, 0.9], [0.3, 0.9]],
            },
            "match": {"policy": "policy.jws"},
            "gallery": {"path": "unit/gallery.db"},
            "audit": {"path": "unit/audit.log"},
            "outbox": {"path": "unit/outbox.db"},
            "keys": {"folder": "unit/keys"},
            "broker": {"host": "127.0.0.1", "home_assistant": True, "health_interval_s": 10},
        }


class RepeatedScene:
    """A camera that plays a scene again and again."""

    def __init__(self, script: Path, *, lores_size: tuple[int, int], clock: SimulatedClock) -> None:
        self._scene = SceneCamera(script, lores_size=lores_size, clock=clock)

    def __enter__(self) -> Self:
        self._scene.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scene.__exit__(kind, error, trace)

    def info(self) -> CameraInfo:
        return self._scene.info()

    def frames(self) -> Iterator[Frame]:
        while True:
            yield from self._scene.frames()


class WrittenDown:
    """A link to a broker that takes everything; ``messages`` has topic, length and digest of each."""

    receive_maximum: int | None = None

    def __init__(self) -> None:
        self.messages: list[tuple[str, int, str]] = []
        self._answers: list[Ack] = []

    def open(self) -> None:
        return None

    def subscribe(self, *filters: str) -> None:
        self.messages.append((" ".join(filters), 0, "subscribe"))

    def publish(self, topic: str, payload: bytes, **options: Any) -> int:
        digest = hashlib.sha256(payload + repr(sorted(options.items())).encode()).hexdigest()
        self.messages.append((topic, len(payload), digest))
        self._answers.append(Ack(len(self.messages), 0))
        return len(self.messages)

    def fits(self, topic: str, payload: bytes) -> bool:
        return True

    def poll(self, timeout_s: float, wake: socket.socket | None = None) -> Polled:
        answers, self._answers = self._answers, []
        return Polled(acks=answers)

    def close(self) -> None:
        self.messages.append(("", 0, "close"))

    def abandon(self) -> None:
        self.messages.append(("", 0, "abandon"))


class Lines(logging.Handler):
    """Log lines without their times."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")


def play(config: Config, scene: Path, frames: int) -> dict[str, Any]:
    """Run the unit for ``frames`` frames; what it sent, said and embedded."""
    clock, link, lines = SimulatedClock(START), WrittenDown(), Lines()
    logging.getLogger("postern").addHandler(lines)
    turns: list[Callable[[], None]] = []
    seen, ticked_ns, held = 0, clock.monotonic_ns(), [0]

    @contextmanager
    def between_frames(uplink: Uplink, housekeeping: Housekeeping, outputs: Outputs) -> Iterator[None]:
        turns.extend((uplink.turn, housekeeping.tick))
        yield
        uplink.stop()

    def keep_going() -> bool:
        nonlocal seen, ticked_ns
        seen += 1
        held.append(len(service._decider._probes))
        turns[0]()
        if clock.monotonic_ns() - ticked_ns >= TICK_S * 1e9:
            ticked_ns = clock.monotonic_ns()
            turns[1]()
        return seen < frames

    def open_source(settings: CameraSettings, *, lores_size: tuple[int, int], **_: object) -> Source:
        return Source(RepeatedScene(scene, lores_size=lores_size, clock=clock))

    world = World(
        clock=clock,
        random=random.Random(7).randbytes,
        open_source=open_source,
        connect=lambda *_, **__: link,
        background=between_frames,
        disk_free=lambda _: 1 << 33,
        temperature=lambda: 40,
    )
    # As in service: a demo tells what it embedded when it ends.
    in_production = msgspec.structs.replace(config, profile="production")
    with ExitStack() as stack:
        service = Service(in_production, world, stack)
        service.run(keep_going)
        embeddings = service.times.summaries()
    embedded = embeddings["embed"].count if "embed" in embeddings else 0
    return {
        "frames": seen,
        "embeddings": embedded,
        "probes_held": [max(held), len(service._decider._probes)],  # at most at once, and after the end
        "network": link.messages,
        "log": lines.lines,
    }


def faces_in(config: Config, scene: Path, *, every: int) -> int:
    """How many faces the detector finds in every so manieth frame of a scene."""
    detector = load_models(config).detector
    with SceneCamera(scene, lores_size=detector.input_size, clock=SimulatedClock(START)) as camera:
        found = 0
        for number, frame in enumerate(camera.frames()):
            with frame:
                found += len(detector.detect(frame)) if number % every == 0 else 0
        return found


if __name__ == "__main__":
    file, script, count, report = sys.argv[1:]
    Path(report).write_text(json.dumps(play(load_config(Path(file)), Path(script), int(count))))
