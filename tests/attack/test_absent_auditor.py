# SPDX-License-Identifier: Apache-2.0
"""An auditor that was away: what it missed it asks the units for, by itself, and is told what nobody has any more.

Also where one unit filled the broker's queue meanwhile. The broker is Mosquitto with the configuration that is shipped,
its queue made short.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agent.keys import SigningKey
from agent.protocol.grant import make_grant
from agent.subscribe.files import StateFile
from agent.subscribe.replay import Replays
from agent.subscribe.subscriber import Subscriber
from agent.subscribe.verify import Loss, VerifiedEvent
from tests.simulators.broker import wait_until
from tests.simulators.replaying import AskedUnit
from tests.simulators.signing_unit import trust_list
from tests.simulators.unit_on_broker import SkippingClock
from tests.unit.test_uplink_subscribe import Site, take

pytestmark = pytest.mark.broker


class AskingSite(Site):
    """With a unit that answers, and an auditor that the site lets ask."""

    def __init__(self, folder: Path, **limits: Any) -> None:
        super().__init__(folder)
        self.unit.uplink.stop()
        self.unit = AskedUnit(folder, self.broker, self.key, name="door-2", **limits)
        self.clock = self.unit.clock
        self.say_trust(2)
        self.ask = SigningKey.generate()
        grant = make_grant("auditor", self.ask, self.key, site="hq", now=self.clock.now())
        self.replays = Replays(self.ask, grant, site="hq", clock=self.clock, random=secrets.token_bytes)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[AskingSite]:
    site = AskingSite(tmp_path)
    yield site
    site.unit.uplink.stop()
    site.broker.stop()


def hear(site: AskingSite, events: Subscriber, until: int, *, most: int = 3000) -> list[VerifiedEvent | Loss]:
    """What comes until everything up to number ``until`` has come or is known to be lost."""
    found: list[VerifiedEvent | Loss] = []
    numbers = {1}
    for _ in range(most):
        (one,) = take(events, 1)
        assert isinstance(one, VerifiedEvent | Loss), one
        found.append(one)
        numbers |= (
            {one.event.data.seq} if isinstance(one, VerifiedEvent) else set(range(one.gap.first, one.gap.last + 1))
        )
        if numbers >= set(range(1, until + 1)):
            return found
    raise AssertionError(sorted(set(range(1, until + 1)) - numbers))


def miss(site: AskingSite, count: int, pause_s: float = 0.0) -> None:
    """Have the unit say what nobody listens to."""
    for _ in range(count):
        site.clock.skipped_s += pause_s
        site.unit.say()
    wait_until(lambda: site.unit.outbox.depth() == 0)


def test_unit_that_does_not_know_the_time_is_asked_again_with_its_challenge(tmp_path: Path) -> None:
    """Its clock is not synchronised, so it believes no time in a question."""
    site = AskingSite(tmp_path, clock=SkippingClock("unsynced"))
    state = StateFile(site.folder / "seen.db")
    try:
        with site.subscriber(state=state, replays=site.replays) as events:
            site.unit.start()
            site.unit.say()
            take(events, 1)
        miss(site, 5)
        with site.subscriber(state=state, replays=site.replays) as events:
            site.unit.say()
            wait_until(lambda: site.unit.outbox.depth() == 0)
            site.clock.skipped_s += 3.1
            hear(site, events, 7)
            assert events.verifier.all_missing() == {}
    finally:
        site.unit.uplink.stop()
        site.broker.stop()


@pytest.mark.timeout(240)
def test_auditor_that_was_away_for_a_day_gets_every_event(site: AskingSite) -> None:
    state = StateFile(site.folder / "seen.db")
    with site.subscriber(state=state, replays=site.replays) as events:
        site.unit.start()
        site.unit.say()
        take(events, 1)
    miss(site, 480, 180)
    with site.subscriber(state=state, replays=site.replays) as events:
        site.unit.say()
        wait_until(lambda: site.unit.outbox.depth() == 0)
        site.clock.skipped_s += 3.1
        found = hear(site, events, 482)
        assert events.verifier.all_missing() == {}
    numbers = [one.event.data.seq for one in found if isinstance(one, VerifiedEvent)]
    assert sorted(numbers) == list(range(2, 483))
    late = [one for one in found if isinstance(one, VerifiedEvent) and one.late]
    assert len(late) == 480
    assert not any(one.fresh for one in late)


def test_withheld_tail_comes_without_a_further_event(site: AskingSite) -> None:
    with site.subscriber(replays=site.replays) as events:
        site.unit.start()
        site.unit.say()
        take(events, 1)
    miss(site, 5)
    subscriber = site.subscriber(replays=site.replays, state=None)
    subscriber.verifier.check("postern/hq/door-2/event/match", site.unit.outbox.told(1, 1).events[0], site.clock.now())
    with subscriber as events:
        site.clock.skipped_s += 61  # health is due
        events._tails["door-2"] = site.unit.outbox.head().seq
        site.clock.skipped_s += 0.1
        events._ask(events._connection)
        site.clock.skipped_s += 3.1
        found = take(events, 5)
    assert [one.event.data.seq for one in found if isinstance(one, VerifiedEvent)] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("limits", [{"keep_days": 0}, {"max_rows": 100}])
def test_what_the_unit_keeps_no_more_is_told_as_lost(tmp_path: Path, limits: dict[str, int]) -> None:
    site = AskingSite(tmp_path, **limits)
    try:
        state = StateFile(site.folder / "seen.db")
        with site.subscriber(state=state, replays=site.replays) as events:
            site.unit.start()
            site.unit.say()
            take(events, 1)
        miss(site, 130)
        with site.subscriber(state=state, replays=site.replays) as events:
            site.unit.say()
            wait_until(lambda: site.unit.outbox.depth() == 0)
            site.clock.skipped_s += 3.1
            found = hear(site, events, 132)
            assert events.verifier.all_missing() == {}
        lost = sum(one.count for one in found if isinstance(one, Loss))
        assert lost == (130 if "keep_days" in limits else 31)
    finally:
        site.unit.uplink.stop()
        site.broker.stop()


def test_what_expired_at_the_broker_keeps_nothing_back_that_comes_afterwards(tmp_path: Path) -> None:
    """The queue of a session that was away is full of it, and Mosquitto keeps it there."""
    site = AskingSite(tmp_path)
    units = [site.unit]
    units += [AskedUnit(tmp_path, site.broker, site.key, name=f"door-{number}", clock=site.clock) for number in (3, 4)]
    try:
        site.broker.stop()
        site.broker.write_config(max_queued_messages="50")
        site.broker.start()
        token = trust_list(*(one.unit for one in units), serial=3).sign(site.key)
        site.trust.write_bytes(token.encode())
        state = StateFile(site.folder / "seen.db")
        for unit in units:
            unit.uplink.stop()
            unit.settings = replace(unit.settings, live_window_s=1)
            unit.uplink = unit._make()
        with site.subscriber(state=state, replays=site.replays, durable=True) as events:
            for unit in units:
                unit.start()
                unit.say()
            take(events, 3)
        miss(site, 100)
        time.sleep(1.5)  # by the broker's clock
        site.clock.skipped_s += 120
        with site.subscriber(state=state, replays=site.replays, durable=True) as events:
            for _ in range(10):
                for unit in units:
                    unit.say()
            found = [one for one in take(events, 30) if isinstance(one, VerifiedEvent)]
        for unit in units:
            own = [one for one in found if one.unit == unit.unit.name]
            assert len(own) == 10
            assert [one.event.data.seq for one in own] == sorted(one.event.data.seq for one in own)
            assert all(one.fresh and not one.late for one in own)
    finally:
        for unit in units:
            unit.uplink.stop()
        site.broker.stop()


def test_first_words_of_a_unit_are_not_thrown_away_with_the_session_that_kept_them(tmp_path: Path) -> None:
    """Of a unit that was never heard nobody knows which numbers to ask for: nothing would even tell of a loss."""
    site = AskingSite(tmp_path)
    new = AskedUnit(tmp_path, site.broker, site.key, name="door-3", clock=site.clock)
    try:
        site.trust.write_bytes(trust_list(site.unit.unit, new.unit, serial=3).sign(site.key).encode())
        state = StateFile(site.folder / "seen.db")
        with site.subscriber(state=state, replays=site.replays, durable=True) as events:
            site.unit.start()
            site.unit.say()
            take(events, 1)
        for _ in range(3):
            new.say()
        site.clock.skipped_s += 120
        new.start()  # what waited there goes to the backlog, and never expires at the broker
        wait_until(lambda: new.outbox.depth() == 0)
        with site.subscriber(state=state, replays=site.replays, durable=True) as events:
            new.say()
            found = [one for one in take(events, 4) if isinstance(one, VerifiedEvent)]
        assert sorted(one.event.data.seq for one in found) == [1, 2, 3, 4]
    finally:
        site.unit.uplink.stop()
        new.uplink.stop()
        site.broker.stop()


def test_flooding_unit_pushes_nobody_elses_event_out_for_good(tmp_path: Path) -> None:
    """The broker's queue for an auditor that is away fills with one unit's events; another's are asked for."""
    site = AskingSite(tmp_path)
    quiet = AskedUnit(tmp_path, site.broker, site.key, name="door-3", clock=site.clock)
    try:
        site.broker.stop()
        site.broker.write_config(max_queued_messages="200")
        site.broker.start()
        token = trust_list(site.unit.unit, quiet.unit, serial=3).sign(site.key)
        site.trust.write_bytes(token.encode())
        state = StateFile(site.folder / "seen.db")
        with site.subscriber(state=state, replays=site.replays, durable=True) as events:
            site.unit.start()
            quiet.start()
            site.unit.say()
            quiet.say()
            take(events, 2)
        miss(site, 600)
        quiet.say(5)
        wait_until(lambda: quiet.outbox.depth() == 0)
        with site.subscriber(state=state, replays=site.replays, durable=True) as events:
            quiet.say()
            site.unit.say()
            wait_until(lambda: quiet.outbox.depth() == 0)
            numbers: dict[str, set[int]] = {"door-2": {1}, "door-3": {1}}
            while numbers != {"door-2": set(range(1, 603)), "door-3": set(range(1, 8))}:
                (one,) = take(events, 1)
                assert isinstance(one, VerifiedEvent), one
                numbers[one.unit].add(one.event.data.seq)
    finally:
        for unit in (site.unit, quiet):
            unit.uplink.stop()
        site.broker.stop()


def test_what_one_units_flood_pushed_out_is_told_where_it_cannot_be_asked_for(tmp_path: Path) -> None:
    """An auditor of a release before has no right to ask: it names what is missing, of each unit."""
    site = AskingSite(tmp_path)
    quiet = AskedUnit(tmp_path, site.broker, site.key, name="door-3", clock=site.clock)
    try:
        site.broker.stop()
        site.broker.write_config(max_queued_messages="100")
        site.broker.start()
        site.trust.write_bytes(trust_list(site.unit.unit, quiet.unit, serial=3).sign(site.key).encode())
        state = StateFile(site.folder / "seen.db")
        with site.subscriber(state=state, durable=True) as events:
            site.unit.start()
            quiet.start()
            site.unit.say()
            quiet.say()
            take(events, 2)
        miss(site, 400)
        quiet.say(5)
        wait_until(lambda: quiet.outbox.depth() == 0)
        with site.subscriber(state=state, durable=True) as events:
            for unit in (quiet, site.unit):
                unit.say()
                wait_until(lambda unit=unit: unit.outbox.depth() == 0)  # type: ignore[misc]
            last: dict[str, int] = {}
            while last != {"door-2": 402, "door-3": 7}:
                (one,) = take(events, 1)
                assert isinstance(one, VerifiedEvent), one
                last[one.unit] = max(last.get(one.unit, 0), one.event.data.seq)
            missing = events.verifier.all_missing()
        assert set(missing) == {"door-2", "door-3"}
        assert sum(gap.last - gap.first + 1 for gap in missing["door-3"]) == 5
    finally:
        for unit in (site.unit, quiet):
            unit.uplink.stop()
        site.broker.stop()
