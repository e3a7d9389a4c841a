# SPDX-License-Identifier: Apache-2.0
"""Making the health document: how the unit does, where its event chain ends, signed by the unit.

Nothing in it counts or times what was done for a person before the camera, unless the owner turns the reason
counters on for a time of fault finding: how long detection took would tell that faces were looked at.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import rfc8785

from agent.clock import Clock
from agent.protocol.health import SIGNATURE_TYPE, Head, Health
from agent.strict_json import MAX_SAFE_INTEGER

THERMAL_ZONE = Path("/sys/class/thermal/thermal_zone0/temp")  # millidegrees Celsius (Linux, sysfs-class-thermal)


class Signer(Protocol):
    """The unit's key."""

    def sign_detached(self, payload: bytes, *, typ: str) -> str: ...


class Chain(Protocol):
    """What health tells about the outbox."""

    def head(self) -> tuple[int, str]: ...
    def depth(self) -> int: ...


class HealthReporter:
    """Builds a signed document per call; the frame rate is the mean since the call before."""

    def __init__(
        self,
        *,
        source: str,
        boot: str,
        signer: Signer,
        clock: Clock,
        outbox: Chain,
        frames: Callable[[], int],
        recognition: Callable[[], Literal["running", "paused"]],
        temperature: Callable[[], int | None],
        disk_free: Callable[[], int],
        audit_head: Callable[[], str] | None = None,
        epochs: Callable[[], int] | None = None,
        reasons: Callable[[], Mapping[str, int]] | None = None,
    ) -> None:
        """``frames`` counts frames since the start. Leave ``reasons`` out unless the owner asked to count.

        Counting why nobody was recognised counts people who never agreed to anything.
        """
        self._source, self._boot = source, boot
        self._signer, self._clock, self._outbox = signer, clock, outbox
        self._frames, self._recognition = frames, recognition
        self._temperature, self._disk_free = temperature, disk_free
        self._audit_head, self._epochs, self._reasons = audit_head, epochs, reasons
        self._began_ns = self._last_ns = clock.monotonic_ns()
        self._last_frames = frames()

    def build(self) -> bytes:
        """One signed document, RFC 8785 bytes."""
        now_ns, frames = self._clock.monotonic_ns(), self._frames()
        elapsed_ns = max(now_ns - self._last_ns, 1)
        fps_milli = max(frames - self._last_frames, 0) * 1_000_000_000_000 // elapsed_ns
        self._last_ns, self._last_frames = now_ns, frames
        seq, digest = self._outbox.head()
        report = Health(
            type="io.postern.health.v1",
            source=self._source,
            boot=self._boot,
            uptime_s=(now_ns - self._began_ns) // 1_000_000_000,
            time=self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            clock=self._clock.state(),
            recognition=self._recognition(),
            fps_milli=min(fps_milli, MAX_SAFE_INTEGER),
            queue_depth=self._outbox.depth(),
            temperature_c=self._temperature(),
            disk_free_bytes=self._disk_free(),
            head=Head(seq, digest),
            audit=self._audit_head() if self._audit_head is not None else None,
            epochs=self._epochs() if self._epochs is not None else None,
            reasons=dict(self._reasons()) if self._reasons is not None else None,
        )
        members: dict[str, Any] = msgspec.to_builtins(report)
        signature = self._signer.sign_detached(rfc8785.dumps(members), typ=SIGNATURE_TYPE)
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
