# SPDX-License-Identifier: Apache-2.0
"""A unit without a camera: real key, real outbox, real events; and the list by which a site trusts it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from agent.clock import SimulatedClock
from agent.errors import VerificationError
from agent.keys import UnitKey
from agent.outbox.draft import Draft, make_unit
from agent.outbox.queue import Outbox, Row
from agent.protocol.event import SIGNATURE_TYPE, canonical
from agent.protocol.names import round_down
from agent.protocol.trust import TrustedUnits, TrustList, UnitKeyEntry
from agent.subscribe import verify
from agent.subscribe.chain import QUARANTINING
from agent.subscribe.verify import Verifier

# Why an event may be refused, as the verifier's description numbers it.
REASONS = frozenset(re.findall(r"``([a-z_]+)``", (verify.__doc__ or "").partition("What acceptance means")[0]))
START = datetime(2026, 11, 22, 9, 41, 3, tzinfo=UTC)
DIGEST = "sha256:" + "5a" * 32


def match_draft(clock: SimulatedClock, subject: str = "p1_" + "9c41" * 8) -> Draft:
    facts = {
        "subject": subject,
        "audience": "access",
        "epoch": "2026-W47",
        "zone": "door",
        "method": "face",
        "liveness": "not_checked",
        "policy": DIGEST,
        "model": DIGEST,
    }
    return Draft("match", round_down(clock.now(), 1), clock.state(), facts)


def presence_draft(clock: SimulatedClock) -> Draft:
    facts = {
        "state": "arrived",
        "subject": "p1_" + "ab" * 16,
        "audience": "access",
        "epoch": "2026-W47",
        "zone": "door",
    }
    return Draft("presence", round_down(clock.now(), 1), clock.state(), facts)


def unit_draft(clock: SimulatedClock) -> Draft:
    return make_unit("camera_back", now=clock.now(), clock=clock.state())


class SigningUnit:
    """One unit of site ``hq`` with its outbox at ``path``."""

    def __init__(self, path: Path, name: str = "door-3", clock: SimulatedClock | None = None, **limits: int) -> None:
        self.name = name
        self.path = path
        self.clock = clock or SimulatedClock(START)
        self.key = UnitKey.generate()
        self.source = f"/postern/hq/{name}"
        self._limits = limits
        self.outbox = self.open()

    def __del__(self) -> None:
        if hasattr(self, "outbox"):
            self.outbox.close()

    def open(self) -> Outbox:
        """Open the outbox, as a start of the agent does."""
        self.outbox = Outbox(self.path, signer=self.key, source=self.source, clock=self.clock, **self._limits)
        return self.outbox

    def restart(self) -> Outbox:
        self.outbox.close()
        return self.open()

    def say(self, draft: Draft | None = None) -> Row:
        """Append an event and return its row."""
        seq = self.outbox.append(draft or match_draft(self.clock))
        return self.outbox.pending(1, after=seq - 1)[0]

    def topic(self, row: Row, leaf: str = "event") -> str:
        return f"postern/hq/{self.name}/{leaf}/{row.kind}"

    def sign(self, members: Mapping[str, Any], *, typ: str = SIGNATURE_TYPE, key: UnitKey | None = None) -> bytes:
        """An event with these members and an honest signature over them."""
        unsigned = {name: value for name, value in members.items() if name != "sig"}
        signature = (key or self.key).sign_detached(canonical(unsigned), typ=typ)
        return rfc8785.dumps({**unsigned, "sig": signature})


def trust_list(*units: SigningUnit, serial: int = 1, **changes: Any) -> TrustList:
    entries = {unit.name: (UnitKeyEntry(jwk=unit.key.public_jwk(), status="active", **changes),) for unit in units}
    return TrustList(version=1, site="hq", serial=serial, issued_at="2026-11-22T00:00:00Z", units=entries)


def verifier_of(*units: SigningUnit, **options: Any) -> Verifier:
    return Verifier(TrustedUnits(trust_list(*units)), **options)


def refused(verifier: Verifier, topic: str, payload: bytes, **options: Any) -> str:
    """The reason why a message is refused; and the verifier's memory must be as before, but for a quarantine."""
    before = verifier.export()
    with pytest.raises(VerificationError) as refusal:
        verifier.check(topic, payload, options.pop("now", START), **options)
    if refusal.value.reason not in QUARANTINING:
        assert verifier.export() == before
    assert refusal.value.reason in REASONS, "a reason that is promised"
    return refusal.value.reason
