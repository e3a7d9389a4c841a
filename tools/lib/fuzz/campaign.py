# SPDX-License-Identifier: Apache-2.0
"""A run of many payloads and its verdict.

What must hold at each payload: nothing is raised, no verb fails (``fault``), and the unit's state is as before
unless the payload carries the site's signature over a command for this unit and verb, checked here again without
the agent's code. One block of payloads in four has none that is honestly signed: around it, every byte on the
unit's disk must be the same.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from agent.keys import decode_base64url
from agent.protocol.command import SIGNATURE_TYPE
from tools.lib.fuzz.payloads import Payloads
from tools.lib.fuzz.target import SITE, UNIT, Target

BLOCK = 500  # payloads between two looks at every byte on disk
FILES_IN = 4  # one block in so many is of unsigned payloads alone
WARM_UP = 0.05  # of the payloads, before memory is measured: caches and compiled patterns fill once
SLOWEST = 1000  # times kept, of evenly spread payloads
MAX_GROWTH_BYTES = 10 * 1024 * 1024


@dataclass
class Report:
    """What happened. ``violations`` are sentences; a run without any has passed."""

    count: int
    seed: int
    kinds: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    growth_bytes: int = 0
    peak_growth_bytes: int = 0
    seconds: float = 0.0
    times_us: list[int] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report as text."""
        times = sorted(self.times_us)
        kinds = ", ".join(f"{name} {number}" for name, number in sorted(self.kinds.items()))
        outcomes = ", ".join(f"{name} {number}" for name, number in self.outcomes.most_common())
        done = ", ".join(f"{name} {number}" for name, number in sorted(self.done.items()))
        memory = f"{self.growth_bytes / 1e6:+.1f} MB at the end, {self.peak_growth_bytes / 1e6:+.1f} MB at the most"
        return [
            f"{self.count} payloads of seed {self.seed} in {self.seconds:.0f} s: {kinds}",
            f"outcomes: {outcomes}",
            f"obeyed, all with a valid signature: {done or 'none'}",
            f"time of one: median {times[len(times) // 2]} us, 99th percentile {times[len(times) * 99 // 100]} us",
            f"memory since the first {WARM_UP:.0%}: {memory}",
            *(f"VIOLATION: {text}" for text in self.violations[:20]),
            "passed" if not self.violations else f"failed: {len(self.violations)} violations",
        ]


def campaign(
    folder: Path, count: int, seed: int, *, progress: Callable[[int, Report], None] = lambda *_: None
) -> Report:
    """Send ``count`` payloads to a new unit below ``folder``; ``progress`` is called after each block."""
    report, rng = Report(count, seed), Random(seed)
    began = time.monotonic()
    with ExitStack() as stack:
        target = Target(folder, stack)
        payloads = Payloads(target, rng)
        judge = _Judge(target, report)
        base = 0
        for first in range(0, count, BLOCK):
            unsigned = first // BLOCK % FILES_IN == 1
            before = target.files()
            for number in range(first, min(first + BLOCK, count)):
                kind, verb, payload = payloads.next(signed=not unsigned)
                report.kinds[kind] += 1
                judge.deliver(number, verb, payload)
            if unsigned and target.files() != before:
                report.violations.append(f"a byte on the unit's disk changed within the payloads from {first} on")
            if not base and first >= count * WARM_UP:
                base = resident_bytes()
            report.growth_bytes = resident_bytes() - base if base else 0
            report.peak_growth_bytes = max(report.peak_growth_bytes, report.growth_bytes)
            progress(first + BLOCK, report)
        report.outcomes, report.done = target.outcomes, target.done
    report.seconds = time.monotonic() - began
    if max(report.growth_bytes, report.peak_growth_bytes) >= MAX_GROWTH_BYTES:
        report.violations.append(f"memory grew by {report.peak_growth_bytes / 1e6:.1f} MB")
    return report


class _Judge:
    """Watches the unit's state around each payload."""

    def __init__(self, target: Target, report: Report) -> None:
        self._target, self._report = target, report
        self._spread = max(report.count // SLOWEST, 1)
        self._state = target.state()

    def deliver(self, number: int, verb: str, payload: bytes) -> None:
        target, report = self._target, self._report
        faults = target.outcomes["fault"]
        if target.enrolment.capturing:
            target.enrolment.expire()  # time alone may end an enrolment
            self._state = target.state()
        began_ns = time.perf_counter_ns()
        try:
            target.deliver(verb, payload)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what this run looks for
            report.violations.append(f"payload {number} ({verb}) raised {error!r}: {payload[:300]!r}")
        if number % self._spread == 0:
            report.times_us.append((time.perf_counter_ns() - began_ns) // 1000)
        if target.outcomes["fault"] > faults:
            report.violations.append(f"payload {number} ({verb}) made its verb fail: {payload[:2000]!r}")
        if target.state() != self._state:
            if not self._is_honest(verb, payload):
                report.violations.append(f"payload {number} ({verb}) changed the state unsigned: {payload[:2000]!r}")
            if not target.gallery.subjects():
                target.subject = target.enrol()  # somebody to erase the next time
            self._state = target.state()

    def _is_honest(self, verb: str, payload: bytes) -> bool:
        """Whether the site's key signed a command for this unit and verb; by cryptography and json alone."""
        try:
            header, content, signature = payload.decode("ascii").split(".")
            raw = decode_base64url(signature)
            numbers = (int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
            point = self._target.site_key.public.jwk()
            x, y = (int.from_bytes(decode_base64url(point[name]), "big") for name in ("x", "y"))
            key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
            key.verify(encode_dss_signature(*numbers), f"{header}.{content}".encode(), ec.ECDSA(hashes.SHA256()))
            members = json.loads(decode_base64url(header))
            command = json.loads(decode_base64url(content))
        except (ValueError, InvalidSignature):
            return False
        named = (command["site"], command["unit"], command["verb"])
        return members["typ"] == SIGNATURE_TYPE and members["alg"] == "ES256" and named == (SITE, UNIT, verb)


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
