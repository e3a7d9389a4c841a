# SPDX-License-Identifier: Apache-2.0
"""The assembled unit in the dark: a camera without a frame, a broker that takes everything, a simulated clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import msgspec
import numpy as np

from agent.camera.base import CameraInfo, Frame, RgbPicture
from agent.camera.source import Source
from agent.clock import SimulatedClock
from agent.config.schema import Config
from agent.door.outputs import Outputs
from agent.parse.strict_json import decode
from agent.unit.housekeeping import Housekeeping
from agent.unit.service import Service
from agent.unit.world import World
from agent.uplink.session import Uplink
from tests.simulators.quiet_unit import WrittenDown


class Dark:
    """A camera that ends at once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def info(self) -> CameraInfo:
        return CameraInfo("scene", 320, 240, 25.0, live=False)

    def frames(self) -> Iterator[Frame]:
        return iter(())


class OneFrame(Dark):
    """A camera that sees one grey frame and ends."""

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock = clock

    def frames(self) -> Iterator[Frame]:
        grey = np.full((240, 320, 3), 128, np.uint8)
        yield Frame(0, self._clock.monotonic_ns(), grey, RgbPicture(grey))


def one_frame(clock: SimulatedClock) -> Source:
    return Source(OneFrame(clock))


@contextmanager
def no_threads(uplink: Uplink, housekeeping: Housekeeping, outputs: Outputs) -> Iterator[None]:
    try:
        yield
    finally:
        uplink.stop()


def dark_world(clock: SimulatedClock) -> World:
    return World(
        clock=clock,
        open_source=lambda *_, **__: Source(Dark()),
        connect=lambda *_, **__: WrittenDown(),
        background=no_threads,
        disk_free=lambda _: 1 << 33,
        temperature=lambda: 40,
    )


@contextmanager
def assembled(config: Config, clock: SimulatedClock) -> Iterator[Service]:
    """The service with all that it opens; it runs when ``run`` is called, for no frame."""
    with ExitStack() as stack:
        service = Service(msgspec.structs.replace(config, profile="production"), dark_world(clock), stack)
        try:
            yield service
        finally:
            service._uplink.stop()


def conditions(service: Service) -> list[str]:
    """What the unit said about itself, of the events that wait."""
    events: list[dict[str, Any]] = [decode(row.payload, dict, 4096) for row in service._stores.outbox.pending(1000)]
    return [event["data"]["condition"] for event in events if event["data"]["event_type"] == "unit"]


def references(service: Service) -> int:
    """How many people the pipeline compares with now."""
    return len(service._references().subjects)
