# SPDX-License-Identifier: Apache-2.0
"""Making the health document: how the unit does, where its event chain ends, signed by the unit.

Nothing in it counts or times what was done for a person before the camera: how long detection took would tell that
faces were looked at.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import rfc8785

from agent.clock import Clock
from agent.keys import SigningKey
from agent.outbox.queue import Outbox
from agent.parse.strict_json import MAX_SAFE_INTEGER
from agent.protocol.health import SIGNATURE_TYPE, Ask, ConfigurationState, EventHead, Health

THERMAL_ZONE = Path("/sys/class/thermal/thermal_zone0/temp")  # millidegrees Celsius (Linux, sysfs-class-thermal)


@dataclass(kw_only=True, eq=False)
class HealthReporter:
    """Builds a signed document per call; the frame rate is the mean since the call before.

    ``frames`` counts frames since the start.
    """

    source: str
    boot: str
    signer: SigningKey
    clock: Clock
    outbox: Outbox
    frames: Callable[[], int]
    recognition: Callable[[], Literal["running", "paused"]]
    temperature: Callable[[], int | None]
    disk_free: Callable[[], int]
    audit_head: Callable[[], str] | None = None
    epochs: Callable[[], int] | None = None
    asks: Callable[[], tuple[Ask, ...]] = tuple
    certificate_days: Callable[[], int | None] = lambda: None
    configuration: Callable[[], ConfigurationState | None] = lambda: None

    def __post_init__(self) -> None:
        self._began_ns = self._last_ns = self.clock.monotonic_ns()
        self._last_frames = self.frames()

    def build(self) -> bytes:
        """One signed document, RFC 8785 bytes."""
        now_ns, frames = self.clock.monotonic_ns(), self.frames()
        elapsed_ns = max(now_ns - self._last_ns, 1)
        fps_milli = max(frames - self._last_frames, 0) * 1_000_000_000_000 // elapsed_ns
        self._last_ns, self._last_frames = now_ns, frames
        seq, digest = self.outbox.head()
        report = Health(
            type="io.postern.health.v1",
            source=self.source,
            boot=self.boot,
            uptime_s=(now_ns - self._began_ns) // 1_000_000_000,
            time=self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            clock=self.clock.state(),
            recognition=self.recognition(),
            fps_milli=min(fps_milli, MAX_SAFE_INTEGER),
            queue_depth=self.outbox.depth(),
            temperature_c=self.temperature(),
            disk_free_bytes=self.disk_free(),
            head=EventHead(seq, digest),
            audit=self.audit_head() if self.audit_head is not None else None,
            epochs=self.epochs() if self.epochs is not None else None,
            asks=self.asks(),
            certificate_days=self.certificate_days(),
            configuration=self.configuration(),
        )
        members: dict[str, Any] = msgspec.to_builtins(report)
        signature = self.signer.sign_detached(rfc8785.dumps(members), typ=SIGNATURE_TYPE)
        return rfc8785.dumps({**members, "sig": signature})


def read_temperature(path: Path = THERMAL_ZONE) -> int | None:
    """Whole degrees Celsius of the processor, None where the board does not tell."""
    try:
        return round(int(path.read_text("ascii")) / 1000)
    except (OSError, ValueError):
        return None


def read_disk_free(folder: Path) -> int:
    """Bytes free where the unit keeps its data; 0 when even that cannot be read, so that it is noticed."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0
