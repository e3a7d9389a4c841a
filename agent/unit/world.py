# SPDX-License-Identifier: Apache-2.0
"""What a running unit takes from the world around it, in one place: time, chance, camera, wires, broker.

The defaults are the real ones. A rig passes in others, and nothing inside the unit can tell the difference.
"""

from __future__ import annotations

import logging
import platform
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from agent.camera.source import Source, open_source
from agent.camera.supervise import CameraNotice
from agent.clock import Clock, SystemClock
from agent.config.camera import CameraSettings
from agent.door.challenge import Prompt
from agent.door.kept import KeptLines
from agent.door.lines import Lines
from agent.door.osdp import OsdpPanels, Panels
from agent.door.outputs import Outputs, Ticking
from agent.errors import printable
from agent.mqtt.link import Connect, connection
from agent.unit.housekeeping import Housekeeping
from agent.unit.memory import bounded_data, release_startup_code
from agent.uplink.health import read_disk_free, read_temperature
from agent.uplink.session import Uplink

log = logging.getLogger("postern")

WENT_BACK = Path("/var/lib/postern-upgrade/went-back")
MAX_WENT_BACK = 127  # characters; a text of ``info`` has no more
FIRST_PICTURE_S = 1.0  # that a start may keep the processor to itself: cameras that work show a picture by then
UPLINK_STOP_S = 1.5  # of the two seconds for a clean stop; the rest is for the frame in hand and the files


class OpenSource(Protocol):
    """Makes the camera of the settings; it is opened by entering it."""

    def __call__(
        self,
        settings: CameraSettings,
        *,
        lores_size: tuple[int, int],
        clock: Clock,
        on_notice: Callable[[CameraNotice], None],
    ) -> Source: ...


@contextmanager
def in_threads(uplink: Uplink, housekeeping: Housekeeping, outputs: Outputs) -> Iterator[None]:
    """Run all beside the pipeline, each on its own thread; at the end what is queued is sent.

    Pulses have none where there are no output lines.
    """
    release_startup_code()
    ticking = Ticking(outputs.tick) if outputs.names else None
    uplink.start(FIRST_PICTURE_S)
    housekeeping.start()
    if ticking is not None:
        ticking.start()
    try:
        yield
    finally:
        if ticking is not None:
            ticking.stop()
        if not uplink.stop(UPLINK_STOP_S):
            log.warning("the broker did not take everything in time; what is left is sent after the next start")


@contextmanager
def in_bounded_threads(uplink: Uplink, housekeeping: Housekeeping, outputs: Outputs) -> Iterator[None]:
    """As ``in_threads``, for a process that is nothing but this unit: what others send takes a bounded memory."""
    with in_threads(uplink, housekeeping, outputs), bounded_data():
        yield


def shown_nowhere(prompt: Prompt | None) -> None:
    """Where a door has no display."""


def read_went_back() -> str | None:
    """Why the last upgrade was taken back, as ``deploy/updates/upgrade`` wrote it; None where it was not."""
    try:
        return printable(WENT_BACK.read_text("utf-8", errors="replace").strip(), MAX_WENT_BACK) or None
    except OSError:
        return None


class World(msgspec.Struct, frozen=True):
    """``disk_free`` gives bytes below a folder, ``temperature`` degrees Celsius or None.

    ``prompt`` gets what the person at the door is to do for the liveness check, and None when there is nothing.
    """

    clock: Clock = msgspec.field(default_factory=SystemClock)
    random: Callable[[int], bytes] = secrets.token_bytes
    open_source: OpenSource = open_source
    connect: Connect = connection
    background: Callable[[Uplink, Housekeeping, Outputs], AbstractContextManager[None]] = in_threads
    lines: Lines = msgspec.field(default_factory=KeptLines)
    panels: Panels = msgspec.field(default_factory=OsdpPanels)
    disk_free: Callable[[Path], int] = read_disk_free
    temperature: Callable[[], int | None] = read_temperature
    prompt: Callable[[Prompt | None], None] = shown_nowhere
    went_back: Callable[[], str | None] = read_went_back


def board() -> str:
    """The board's name as its firmware tells it (device tree), else the processor architecture."""
    try:
        return Path("/proc/device-tree/model").read_bytes().rstrip(b"\0").decode(errors="replace")[:128]
    except OSError:
        return platform.machine()
