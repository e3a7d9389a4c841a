# SPDX-License-Identifier: Apache-2.0
"""kill -9 at random moments: nothing signed is lost, no number is used twice, the chain holds.

POSTERN_KILLS=1000 runs the long form.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.keys import UnitKey
from agent.outbox.queue import Outbox
from agent.protocol.trust import TrustedUnits, TrustList, UnitKeyEntry
from agent.subscribe.verify import Verifier
from tests.simulators.outbox_worker import SOURCE

KILLS = int(os.environ.get("POSTERN_KILLS", "15"))
ROOT = Path(__file__).parents[2]


class Nursery:
    """Starts workers and kills them."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.simulators.outbox_worker", str(folder)]
        self._dice = random.Random(KILLS)
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)

    def run_and_kill(self, *, opening: bool) -> list[str]:
        """Kill a worker at a random moment, while it opens the file or of its work; what it had said before."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.flush()
        said: list[str] = []
        worker, patience = 0, 0 if opening else self._dice.randint(1, 40)  # lines
        while (line := self._process.stdout.readline().decode().rstrip("\n")) != "D":
            assert line, "the nursery ended"
            word, _, rest = line.partition(" ")
            if word == "C":
                worker = int(rest)
            else:
                said.append(line)
            if worker and len(said) >= patience:
                time.sleep(self._dice.random() * 0.004)
                os.kill(worker, signal.SIGKILL)
                patience = sys.maxsize
        return said

    def close(self) -> None:
        self._process.communicate(timeout=20)


@pytest.mark.timeout(60 + 2 * KILLS)
def test_killed_at_any_moment_nothing_signed_is_lost_and_no_number_comes_back(tmp_path: Path) -> None:
    key = UnitKey.generate()
    key.save(tmp_path / "unit.key")
    entry = UnitKeyEntry(jwk=key.public_jwk(), status="active")
    trusted = TrustList(version=1, site="hq", serial=1, issued_at="2026-11-22T00:00:00Z", units={"door-3": (entry,)})
    verifier = Verifier(TrustedUnits(trusted))
    promised: set[int] = set()
    published: dict[int, bytes] = {}
    last = 0

    def receive(payload: bytes) -> None:
        """What a subscriber does with at-least-once delivery."""
        nonlocal last
        seq = json.loads(payload)["data"]["seq"]
        if seq in published:
            assert published[seq] == payload, f"number {seq} was used twice"
            return
        verified = verifier.check(topic(payload), payload, datetime.now(UTC), backlog=True)
        assert verified.gap is None, f"a gap before {seq}"
        published[seq] = payload

    nursery = Nursery(tmp_path)
    for number in range(KILLS):
        for line in nursery.run_and_kill(opening=number % 2 == 1):  # by turns: chance alone may leave no work at all
            word, _, rest = line.partition(" ")
            if word == "A":
                assert int(rest) > last, f"number {rest} was given twice"
                last = int(rest)
                promised.add(last)
            else:
                receive(rest.encode())

    nursery.close()
    with Outbox(tmp_path / "outbox.db", signer=key, source=SOURCE, clock=SystemClock()) as outbox:
        head = outbox.head().seq
        for row in outbox.pending(1000):
            receive(row.payload)
    assert len(promised) > KILLS, "the workers hardly worked: kill them later"
    assert promised <= set(published)
    assert sorted(published) == list(range(1, head + 1))
    assert verifier.missing("door-3") == ()


def topic(payload: bytes) -> str:
    return f"postern/hq/door-3/backlog/{json.loads(payload)['data']['event_type']}"
