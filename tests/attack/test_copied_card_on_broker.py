# SPDX-License-Identifier: Apache-2.0
"""A card that was copied whole, at a real broker: key, certificate, outbox and their common number are all in order.

The copy itself cannot be told from a unit that was switched off; whoever hears both ends up with the key in quarantine:
a subscriber that keeps nothing, an auditor that asks for what it missed, a bridge with its outputs.
"""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest

from agent.bridge.service import Bridge
from agent.bridge.settings import load_settings
from agent.clock import SimulatedClock
from agent.config.load import load_config
from agent.outbox.numbers import numbers_path
from agent.subscribe.files import StateFile, TrustFile
from agent.subscribe.replay import Replays
from agent.subscribe.subscriber import Refusal, Subscriber
from agent.subscribe.verify import VerifiedEvent
from tests.fault.test_bridge_killed import Premises
from tests.simulators import quiet_unit
from tests.simulators.broker import wait_until
from tests.simulators.dark_unit import assembled, references
from tests.simulators.replaying import AskedUnit
from tests.simulators.signing_unit import START

pytestmark = [pytest.mark.broker, pytest.mark.timeout(240)]

UNIT = "door-1"


class Listening:
    """A subscriber on a thread of its own, and what it handed over."""

    def __init__(self, subscriber: Subscriber) -> None:
        self.subscriber = subscriber
        self.outcomes: list[object] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self.subscriber.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.subscriber.stop()
        self._thread.join(30)
        self.subscriber.__exit__(None, None, None)

    def _run(self) -> None:
        for outcome in self.subscriber:
            self.outcomes.append(outcome)

    def taken(self) -> list[int]:
        return [one.event.data.seq for one in self.outcomes if isinstance(one, VerifiedEvent)]

    def refused(self) -> list[str]:
        return [one.reason for one in self.outcomes if isinstance(one, Refusal)]


class Street:
    """A unit and whoever listens to it; ``copy`` makes the second card."""

    def __init__(self, folder: Path) -> None:
        self.premises = premises = Premises(folder)
        self.unit = premises.units[0]
        self.folder, self.told = folder, list[str]()
        self._stack = ExitStack()
        self.unit.report_health()
        keys = premises.folder / "keys"
        acl = premises.broker.acl
        rules = acl.read_text().partition("user auditor\n")[2].partition("\n\n")[0]
        acl.write_text(acl.read_text() + "".join(f"\nuser {name}\n{rules}\n" for name in ("plain", "asking")))
        premises.broker.reload()

        def subscriber(name: str, **options: object) -> Subscriber:
            trust = TrustFile(folder / f"{name}.jws", premises.key.public)
            shutil.copy(keys / "trust.jws", folder / f"{name}.jws")
            return Subscriber(
                premises.broker.settings(premises.broker.authority.issue(name)),
                site="hq",
                trust=trust,
                clock=self.unit.clock,
                on_notice=self.told.append,
                **options,  # type: ignore[arg-type]
            )

        replays = Replays.from_folder(keys, site="hq", clock=self.unit.clock, random=secrets.token_bytes)
        self.plain = self._stack.enter_context(Listening(subscriber("plain")))
        state = StateFile(folder / "seen.db")
        self.auditor = self._stack.enter_context(
            Listening(subscriber("asking", state=state, durable=True, replays=replays))
        )
        self.bridge = Bridge(
            load_settings(premises.folder / "bridge.yaml"),
            clock=self.unit.clock,
            random=secrets.token_bytes,
            on_notice=self.told.append,
        )
        self._thread = threading.Thread(target=self.bridge.run)
        self._thread.start()
        wait_until(lambda: any(text.startswith("listening") for text in self.told))

    def close(self) -> None:
        self.bridge.stop()
        self._thread.join(30)
        self._stack.close()
        self.unit.uplink.stop()
        self.premises.close()

    def copy(self) -> AskedUnit:
        """Another device with all that the card has, by the same name."""
        self.unit.outbox.close()
        folder = self.folder / "copy"
        folder.mkdir()
        for file in (self.unit.unit.path, numbers_path(self.unit.unit.path)):
            shutil.copy(file, folder)
        self.unit.outbox = self.unit.unit.open()
        self.again(start=False)
        copy = AskedUnit(folder, self.premises.broker, self.premises.key, UNIT, clock=self.unit.clock)
        copy.uplink.stop()
        copy.unit.outbox.close()
        copy.unit.key = self.unit.unit.key
        copy.outbox = copy.unit.open()
        copy.uplink = copy._make()
        copy.report_health()
        return copy

    def again(self, *, start: bool = True) -> None:
        """Another run of the first device."""
        self.unit.uplink.stop()
        self.unit.uplink = self.unit._make()
        self.unit.report_health()
        if start:
            self.unit.start()

    def quarantined(self) -> dict[str, bool]:
        facts = self.bridge.status.facts
        return {
            "plain": UNIT in self.plain.subscriber.verifier.quarantined(),
            "auditor": UNIT in self.auditor.subscriber.verifier.quarantined(),
            "bridge": UNIT in facts.quarantined,
        }


@pytest.fixture
def street(tmp_path: Path) -> Iterator[Street]:
    street = Street(tmp_path)
    yield street
    street.close()


def say(unit: AskedUnit, count: int) -> None:
    unit.say(count)
    wait_until(lambda: unit.outbox.depth() == 0)


def test_whoever_hears_a_unit_and_its_copy_quarantines_the_key(street: Street) -> None:
    unit, told = street.unit, street.told
    unit.start()
    say(unit, 3)
    unit.uplink.stop()
    copy = street.copy()
    try:
        unit.start()
        say(unit, 2)
        wait_until(lambda: street.plain.taken() == street.auditor.taken() == [1, 2, 3, 4, 5])
        wait_until(lambda: len(street.premises.archived()) == 5)
        unit.uplink.stop()
        copy.start()
        say(copy, 2)  # as the copy counts on, these are numbers 4 and 5 as well
        wait_until(lambda: all(street.quarantined().values()))
        say(copy, 3)
        copy.uplink.stop()
        street.again()
        say(unit, 1)
        wait_until(lambda: len(street.plain.refused()) >= 6 and len(street.auditor.refused()) >= 6)
        assert street.plain.taken() == street.auditor.taken() == [1, 2, 3, 4, 5], "nothing of the copy, nor after it"
        assert len(street.premises.archived()) == 5
        assert sum("QUARANTINE of" in text for text in told) >= 3, "each tells a person"
    finally:
        copy.uplink.stop()
        copy.outbox.close()


def test_the_health_of_a_copy_that_says_nothing_quarantines_as_well(street: Street) -> None:
    """It was started, and the broker keeps its events back: the head in its health is another history's."""
    unit = street.unit
    unit.start()
    say(unit, 3)
    unit.uplink.stop()
    copy = street.copy()
    try:
        unit.start()
        say(unit, 2)
        wait_until(lambda: len(street.premises.archived()) == 5)
        wait_until(lambda: street.plain.taken() == street.auditor.taken() == [1, 2, 3, 4, 5])
        unit.uplink.stop()
        copy.unit.say()  # its number 4, which nobody hears
        copy.outbox.acked(copy.outbox.head().seq)
        copy.start()
        wait_until(lambda: all(street.quarantined().values()))
    finally:
        copy.uplink.stop()
        copy.outbox.close()


def test_a_copied_unit_itself_notices_nothing_for_all_its_files_agree(tmp_path: Path) -> None:
    """Why it takes a subscriber: the number that they have in common was copied, too."""
    premises, clock = quiet_unit.Premises(tmp_path), SimulatedClock(START)
    config = load_config(premises.config)
    with assembled(config, clock) as service:
        assert references(service) == 1
    shutil.copytree(premises.unit, tmp_path / "second")
    with assembled(config, clock) as service:
        assert not service._stores.generation.doubted()
    shutil.rmtree(premises.unit)
    shutil.copytree(tmp_path / "second", premises.unit)
    with assembled(config, clock) as service:
        assert not service._stores.generation.doubted()
        assert references(service) == 1
