# SPDX-License-Identifier: Apache-2.0
"""A power cut or a hand takes the outbox of a unit, or puts an older one in its place: no number is signed twice.

Two events with one number are a fork, and whoever sees one believes the unit no more.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agent.clock import SimulatedClock
from agent.config.load import load_config
from agent.outbox.draft import make_unit
from agent.outbox.numbers import BLOCK
from agent.protocol.topics import Topics
from agent.protocol.trust import TrustedUnits, TrustList, UnitKeyEntry
from agent.subscribe.chain import MAX_JUMP
from agent.subscribe.verify import VerifiedEvent, Verifier
from agent.unit.assemble import load_key
from agent.unit.service import Service
from tests.attack.test_restored_files import Unit
from tests.simulators.dark_unit import assembled
from tests.simulators.quiet_unit import Premises
from tests.simulators.signing_unit import START


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    return Unit(tmp_path)


@pytest.mark.parametrize("how", ["put back", "taken away"])
@pytest.mark.parametrize(
    ("said", "beside"),  # of what remembers how far the numbers went, one thing at least is left each time
    [
        (5, ()),
        (BLOCK + 5, ()),
        (5, ("generation.json",)),
        (5, ("audit.log",)),
        (BLOCK + 5, ("outbox.numbers.json",)),
        (5, ("outbox.numbers.json", "generation.json")),
    ],
)
def test_an_outbox_lost_after_a_power_cut_signs_no_number_twice(
    unit: Unit, said: int, beside: tuple[str, ...], how: str
) -> None:
    """What was signed since the last start is on no other file: the common number was kept before it."""
    cut = unit.folder.with_name("cut")
    with unit.open() as stores:
        for _ in range(said):
            stores.outbox.append(make_unit("camera_lost", now=unit.clock.now(), clock="synced"))
        shutil.copytree(unit.folder, cut)
        head = stores.outbox.head()
    shutil.rmtree(unit.folder)
    cut.rename(unit.folder)
    for name in ("outbox.db-wal", "outbox.db-shm"):
        (unit.folder / name).unlink(missing_ok=True)
    for name in ("outbox.db", *beside):
        if how == "put back":
            shutil.copy(unit.backup / name, unit.folder / name)
        else:
            (unit.folder / name).unlink()
    numbers = [head.seq]
    for _ in range(3):
        with unit.open() as stores:
            assert stores.generation.doubted(), "nobody is matched until the site has looked"
            numbers.append(stores.outbox.append(make_unit("started", now=unit.clock.now(), clock="synced")))
    assert numbers[1] > head.seq + 1, "the number in between belongs to no event of which a digest is known"
    assert numbers[1] - head.seq < MAX_JUMP, "no verifier takes it for too much"
    assert numbers[2:] == [numbers[1] + 1, numbers[1] + 2], "once: a restart while the site is asked leaves none out"


@pytest.mark.timeout(120)
def test_an_auditor_goes_on_with_a_unit_whose_outbox_a_power_cut_took(tmp_path: Path) -> None:
    """All was delivered before the power failed; before, the next start signed the same numbers once more: a fork."""
    premises, clock = Premises(tmp_path), SimulatedClock(START)
    config = load_config(premises.config)
    key = UnitKeyEntry(jwk=load_key(config).public_jwk(), status="active")
    listed = TrustList(version=1, site="hq", serial=1, issued_at="2026-11-22T00:00:00Z", units={"door-1": (key,)})
    auditor, topics = Verifier(TrustedUnits(listed)), Topics("hq", "door-1")

    def deliver(service: Service) -> list[VerifiedEvent]:
        rows = service._stores.outbox.pending(1000)
        return [auditor.check(topics.event(row.kind), row.payload, clock.now()) for row in rows]

    with assembled(config, clock) as service:
        service.run(lambda: True)
        for condition in ("camera_lost", "camera_back"):
            service._stores.outbox.append(make_unit(condition, now=clock.now(), clock="synced"))
        heard = deliver(service)
        shutil.copytree(premises.unit, tmp_path / "cut")
    shutil.rmtree(premises.unit)
    (tmp_path / "cut").rename(premises.unit)
    for file in premises.unit.glob("outbox.db*"):
        file.unlink()
    clock.advance(60)
    with assembled(config, clock) as service:
        service.run(lambda: True)
        assert service._stores.generation.doubted()
        again = deliver(service)
        (gap,) = auditor.missing("door-1")
        assert (gap.first, gap.last) == (heard[-1].event.data.seq + 1, again[0].event.data.seq - 1)
        told = service._stores.outbox.told(gap.first, gap.last)
        assert (told.events, told.gone) == ((), ((gap.first, gap.last),)), "and whoever asks is told that it is gone"
