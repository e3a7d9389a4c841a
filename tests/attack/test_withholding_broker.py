# SPDX-License-Identifier: Apache-2.0
"""A Mosquitto that takes everything of a unit and hands on what it likes: the subscriber counts what it kept back.

Its access list withholds: every publish is acknowledged, so the unit believes that its events arrived. ``health``,
which the unit signs, comes through; where the broker keeps that back as well, the silence is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.clock import SimulatedClock
from agent.subscribe.files import StateFile
from agent.subscribe.silence import REPORTS, SILENT_S, Silence
from agent.subscribe.subscriber import Subscriber
from agent.subscribe.verify import VerifiedEvent
from tests.attack.test_absent_auditor import AskingSite, hear
from tests.simulators.broker import wait_until
from tests.simulators.signing_unit import match_draft, unit_draft
from tests.unit.test_uplink_subscribe import take

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]

HEALTH_S = 60
WAYS, KINDS = ("event", "backlog"), ("match", "presence", "unit")


class WithholdingSite(AskingSite):
    """With a unit that says how it is, as in service, and a broker whose list can be made to withhold."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.unit.report_health()
        self._honest = self.broker.acl.read_text()

    def withhold(self, *kinds: str, health: bool = False) -> None:
        """Let the auditor read no event of these kinds from now on, nor ``health``; without any it is honest."""
        rules = [f"topic read postern/hq/+/{way}/{kind}\n" for way in WAYS for kind in KINDS if kind not in kinds]
        text = self._honest
        for way in WAYS:
            text = text.replace(f"topic read postern/hq/+/{way}/+\n", "".join(rules) if way == WAYS[0] else "", 1)
        if health:
            text = text.replace("topic read postern/hq/+/health\n", "", 1)
        self.broker.acl.write_text(text)
        self.broker.reload()

    def say(self, count: int, draft: Any = match_draft) -> None:
        """Have the unit say so many, until the broker took all of them."""
        self.unit.say(count, draft(self.clock))
        wait_until(lambda: self.unit.outbox.depth() == 0)

    def report(self, events: Subscriber) -> None:
        """Let the next ``health`` come."""
        heard: list[int] = []
        events._on_health = lambda _, report: heard.append(report.head.seq)
        self.clock.skipped_s += HEALTH_S + 1
        self.unit.mailbox.wake()
        for _ in events._turns():
            if heard:
                return

    def told(self) -> list[str]:
        return [notice for notice in self.notices if "withheld" in notice]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[WithholdingSite]:
    site = WithholdingSite(tmp_path)
    yield site
    site.unit.uplink.stop()
    site.broker.stop()


def test_events_that_the_broker_keeps_back_are_counted_and_asked_for(site: WithholdingSite) -> None:
    with site.subscriber(replays=site.replays) as events:
        site.unit.start()
        site.say(1)
        take(events, 1)
        site.withhold(*KINDS)
        site.say(7)
        site.report(events)
        assert site.told() == [
            "7 events of unit door-2 were withheld: it signed number 8, and what is not here does not wait there either"
        ]
        assert events.withheld() == {"door-2": 7}
        site.clock.skipped_s += 3.1
        found = hear(site, events, 8)  # past the broker's list: as the unit's signed answer
        site.report(events)
        assert events.withheld() == {}
    assert [one.event.data.seq for one in found if isinstance(one, VerifiedEvent)] == list(range(2, 9))


def test_what_it_keeps_back_of_one_kind_is_a_gap_that_stays_told(site: WithholdingSite) -> None:
    """Behind the next event that comes the withheld are no tail any more; nobody says that they have come."""
    with site.subscriber() as events:
        site.unit.start()
        site.say(1)
        take(events, 1)
        site.withhold("match")
        site.say(4)
        site.report(events)
        assert events.withheld() == {"door-2": 4}
        site.say(1, unit_draft)
        (late,) = take(events, 1)
        assert isinstance(late, VerifiedEvent)
        assert late.gap is not None
        assert late.gap.count == 4
        site.report(events)
        assert events.withheld() == {"door-2": 4}
        assert len(site.told()) == 1
        assert sum(gap.count for gap in events.verifier.missing("door-2")) == 4


def test_a_broker_that_never_hands_on_a_single_event_is_told_as_well(site: WithholdingSite) -> None:
    """Of a unit that was never heard nothing is known but its health: what it sends from then on is counted."""
    site.withhold(*KINDS)
    site.unit.start()
    site.say(3)
    with site.subscriber(state=StateFile(site.folder / "seen.db")) as events:
        site.report(events)
        assert events.withheld() == {}, "what it sent before anybody listened is no matter of the broker's"
        site.say(5)
        site.report(events)
        assert events.withheld() == {"door-2": 5}
        assert len(site.told()) == 1
        site.withhold()
        site.say(1)
        (first,) = take(events, 1)
        assert isinstance(first, VerifiedEvent)
        assert first.gap is not None
        assert first.gap.count == 5
        site.report(events)
        assert events.withheld() == {"door-2": 5}, "a gap now, and nobody says that they have come"


def test_a_first_event_that_is_withheld_is_told_of_a_unit_of_the_very_first_list(site: WithholdingSite) -> None:
    """It never spoke before, and its first report is kept back, too: whoever listened then has to have an event."""
    site.withhold(*KINDS, health=True)
    with site.subscriber() as events:
        site.clock.skipped_s += 60  # the list is there, and the unit is not yet mounted
        site.unit.report_health()
        site.unit.start()
        site.say(1, unit_draft)
        site.withhold(*KINDS)
        site.report(events)
        assert events.withheld() == {"door-2": 1}
        site.withhold()
        site.say(1)
        (first,) = take(events, 1)
        assert isinstance(first, VerifiedEvent)
        assert first.gap is not None
        assert (first.gap.first, first.gap.last) == (1, 1)


def test_a_broker_that_keeps_back_what_the_unit_says_of_itself_as_well_is_told_by_the_silence(
    site: WithholdingSite,
) -> None:
    with site.subscriber() as events:
        site.unit.start()
        site.report(events)
        site.report(events)
        site.withhold(*KINDS, health=True)
        site.say(3)
        turns = events._turns()
        for _ in range(12):
            site.clock.skipped_s += HEALTH_S
            site.unit.mailbox.wake()
            next(turns)
        (told,) = [notice for notice in site.notices if "says nothing of itself" in notice]
        assert told.startswith("unit door-2")
        assert told.endswith("it is off, or the broker keeps back what it says")
        site.withhold()
        site.report(events)
        assert "unit door-2 is heard again" in site.notices


def test_a_unit_that_never_said_anything_since_this_runs_is_told_as_silent_as_well() -> None:
    """Else a broker that keeps back everything of it would only have to outlast a restart of the auditor."""
    clock = SimulatedClock()
    silence = Silence(clock)

    def after(seconds: float) -> list[str]:
        clock.advance(seconds)
        return silence.look(("door-1",))

    assert after(61) == after(4 * 3600) == []
    (told,) = after(3600 + 1)
    assert told.startswith("unit door-1 says nothing of itself for 300 minutes")
    assert after(24 * 3600) == []
    assert silence.heard("door-1") == ["unit door-1 is heard again"]


def test_silence_is_of_the_unit_and_not_of_a_lost_connection_or_a_rare_report() -> None:
    clock = SimulatedClock()
    silence = Silence(clock)

    def after(seconds: float) -> list[str]:
        clock.advance(seconds)
        return silence.look(("door-1", "door-2"))

    assert silence.heard("door-1") == silence.heard("door-2") == []
    assert after(SILENT_S + 1) == [], "nobody knows yet how often it reports"
    silence.heard("door-1")  # every ten minutes
    assert after(REPORTS * SILENT_S - 60) == []
    silence.connected()
    assert after(REPORTS * SILENT_S - 60) == [], "nobody listened before"
    assert len(after(120)) == 1
    assert [told.partition(" for ")[0] for told in after(3600 * 24)] == ["unit door-2 says nothing of itself"]
    assert after(3600 * 24) == [], "told once"
    assert silence.heard("door-1") == ["unit door-1 is heard again"]
    clock.advance(61)
    assert silence.look(()) == []
    assert silence.heard("door-2") == [], "who was revoked is forgotten"
