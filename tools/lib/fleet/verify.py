# SPDX-License-Identifier: Apache-2.0
"""The verifier alone: how many events a second one core takes, what it remembers, how long a restart takes."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rfc8785

from agent.clock import SystemClock
from agent.disk.files import write_atomic
from agent.errors import RefusedError
from agent.keys import SigningKey, UnitKey
from agent.outbox.draft import assemble
from agent.protocol.event import FIRST_PREV, SIGNATURE_TYPE, canonical, digest
from agent.protocol.names import round_down
from agent.protocol.topics import Topics
from agent.protocol.trust import TrustList, UnitKeyEntry
from agent.subscribe.files import StateFile, TrustFile
from agent.subscribe.subscriber import BATCH
from agent.subscribe.verify import Verifier
from tools.lib.fleet.match import random_match
from tools.lib.fleet.site import SITE
from tools.lib.rig.process import usage_of

MAX_UNITS, MIN_EVENTS = 4000, 1000
SIGNED = 2000  # events signed, and then verified: signing is not measured
WARM_UP = 0.1  # share of the events after which the memory is what it stays
MIN_RATE = 8000.0  # events a second, on a core that does nothing else
MAX_GROWTH_MIB = 4.0
MAX_RESTART_S = 1.0


@dataclass(frozen=True, slots=True)
class Measured:
    """``per_second`` by CPU time of the verifying thread; memory resident, after the warm-up and at the end."""

    units: int
    events: int
    per_second: float
    warm_mib: float
    end_mib: float
    restart_s: float

    @property
    def ok(self) -> bool:
        return (
            self.per_second >= MIN_RATE
            and self.end_mib - self.warm_mib <= MAX_GROWTH_MIB
            and self.restart_s <= MAX_RESTART_S
        )

    def as_json(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}

    def sentence(self) -> str:
        return (
            f"{self.events} events of {self.units} units: {self.per_second:.0f} a second on one core;"
            f" {self.warm_mib:.1f} MiB after a tenth, {self.end_mib:.1f} MiB at the end;"
            f" a restart from what is remembered takes {self.restart_s:.2f} s"
        )


class _Speaker:
    """A unit that signs matches; its chain is real."""

    def __init__(self, name: str) -> None:
        self.name, self.key = name, UnitKey.generate()
        self._seq, self._prev, self._boot = 0, FIRST_PREV, secrets.token_hex(8)
        self._topic = Topics(SITE, name).event("match")

    def say(self, now: datetime) -> tuple[str, bytes]:
        self._seq += 1
        draft, source = random_match(now, "synced"), f"/postern/{SITE}/{self.name}"
        event = assemble(draft, source=source, boot=self._boot, seq=self._seq, prev=self._prev)
        signed = canonical(event)
        self._prev = digest(signed)
        return self._topic, rfc8785.dumps({**event, "sig": self.key.sign_detached(signed, typ=SIGNATURE_TYPE)})


def measure(*, units: int, events: int) -> Measured:
    """Sign and verify; RefusedError for numbers that measure nothing."""
    if not 1 <= units <= MAX_UNITS or events < MIN_EVENTS:
        raise RefusedError(f"--units is from 1 to {MAX_UNITS}, --events at least {MIN_EVENTS}")
    speakers = [_Speaker(f"unit-{number:04d}") for number in range(1, units + 1)]
    with tempfile.TemporaryDirectory(prefix="postern-fleet-") as name:
        folder, site = Path(name), SigningKey.generate()
        entries: dict[str, tuple[UnitKeyEntry, ...]] = {
            one.name: (UnitKeyEntry(jwk=one.key.public_jwk(), status="active"),) for one in speakers
        }
        issued = round_down(datetime.now(UTC), 1)
        listed = TrustList(version=1, site=SITE, serial=1, issued_at=issued, units=entries)
        write_atomic(folder / "trust.jws", listed.sign(site).encode())
        write_atomic(folder / "site.jwk", json.dumps(site.public_jwk()).encode())
        trust = TrustFile(folder / "trust.jws", site.public).load(site=SITE)
        verifier, spent, warm = Verifier(trust), 0.0, 0.0
        for done, batch in _batches(speakers, events):
            began = time.thread_time()
            for at in range(0, len(batch), BATCH):
                verifier.check_all(batch[at : at + BATCH], datetime.now(UTC))
            spent += time.thread_time() - began
            if warm == 0.0 and done >= events * WARM_UP:
                warm = _resident_mib()
        end = _resident_mib()
        state = StateFile(folder / "seen.db")
        state.load()
        state.commit(chains=verifier.take_changed(), heads=(), events=(), handed=0)
        state.close()
        began = time.monotonic()
        again = StateFile(folder / "seen.db")
        Verifier(TrustFile(folder / "trust.jws", site.public).load(site=SITE), state=again.load().chains)
        restart_s = time.monotonic() - began
        again.close()
    return Measured(units, events, events / spent, warm, end, restart_s)


def _batches(speakers: list[_Speaker], events: int) -> Iterator[tuple[int, list[tuple[str, bytes]]]]:
    clock = SystemClock()
    for done in range(0, events, SIGNED):
        count = min(SIGNED, events - done)
        yield done + count, [speakers[(done + at) % len(speakers)].say(clock.now()) for at in range(count)]


def _resident_mib() -> float:
    return usage_of(os.getpid()).private_kib / 1024
