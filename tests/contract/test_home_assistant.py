# SPDX-License-Identifier: Apache-2.0
"""Home Assistant itself, from PyPI, hears a unit and the bridge: ``tools/home-assistant`` runs this.

A site of the site kit, Mosquitto with TLS and the site's access list, a unit that watches drawn people, the bridge,
the automation that is shipped, and a core of Home Assistant. Minutes long, so in no run of CI. The tests share one
house: each leaves unit and bridge stopped, and counts from where the one before ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.simulators.broker import wait_until
from tests.simulators.home_assistant import ROOM, SETTLE_S
from tests.simulators.home_assistant_house import PEOPLE, PRESENCE_S, UNIT_S, House
from tools.lib.demo.site import postern

pytestmark = [
    pytest.mark.broker,
    pytest.mark.timeout(600),
    pytest.mark.skipif(ROOM is None, reason="takes minutes: tools/home-assistant makes what it needs and runs it"),
]

MATCH, PRESENCE = "event.front_door_match", "event.front_door_presence"
ANNA, BEN = "event.anna_seen", "event.ben_seen"
TOLD = "event.postern_demo_missing_or_refused"
DISCOVERY = "homeassistant/device/postern-demo/door-1/config"
LATE_S = 14  # beyond what counts as of this moment


def stands(who: str, at: float, until: float, x: int = 320) -> dict[str, Any]:
    """Somebody comes to the door and stays a while."""
    path = [{"at": 0, "x": x, "y": 150, "face": 123}]
    return {"who": who, "picture": 2, "appears": at, "leaves": until, "path": path}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house")) as made:
        yield made
        print(f"\nHome Assistant {made.home.version}")


@pytest.fixture
def counts(house: House) -> Iterator[House]:
    """The house, from a moment at which nothing was heard."""
    house.home.heard.clear()
    yield house
    house.unit.stop()
    house.stop_bridge()


def settle() -> None:
    time.sleep(SETTLE_S)


def test_each_match_moves_the_automation_once_and_shows_who_it_was(counts: House) -> None:
    house, home = counts, counts.home
    house.start_bridge()
    home.wait(lambda: home.state(BEN), "the bridge's people")
    house.see(stands("person-01", 2, 6), stands("person-02", 8, 12))
    house.start_unit()
    home.wait(lambda: home.fired() >= 2, "two firings")
    home.wait(lambda: [to for _, to in home.changes(BEN)][-1:] not in ([], ["unknown"]), "Ben is seen")
    settle()
    assert (home.fired(), home.lit()) == (2, 2)
    attributes = home.state(MATCH)["attributes"]  # type: ignore[index]
    assert (attributes["zone"], attributes["late"], attributes["liveness"]) == ("door", False, "not_checked")
    for event in (ANNA, BEN):
        assert len([to for _, to in home.changes(event) if to != "unknown"]) == 1
    assert home.state(ANNA)["attributes"]["door"] == "door-1"  # type: ignore[index]
    assert home.state("sensor.anna_last_door")["state"] == "door-1"  # type: ignore[index]
    assert home.state("sensor.anna_last_seen")["attributes"]["device_class"] == "timestamp"  # type: ignore[index]
    here = "binary_sensor.ben_presence"
    assert home.state(here)["state"] == "on"  # type: ignore[index]
    time.sleep(PRESENCE_S)
    assert home.state(here)["state"] == "off"  # type: ignore[index]
    assert not [topic for topic in house.retained() if "people" in topic]


def test_two_people_at_once_are_two_firings(counts: House) -> None:
    house, home = counts, counts.home
    house.see(stands("person-01", 2, 8, 220), stands("person-02", 2, 8, 420))
    house.start_unit()
    home.wait(lambda: home.fired() >= 2, "two firings")
    settle()
    assert (home.fired(), home.lit()) == (2, 2)


def test_match_that_the_unit_has_to_say_twice_fires_once(counts: House) -> None:
    """The acknowledgement is lost and the connection with it: the unit says the same event again, on the live topic."""
    house, home = counts, counts.home
    house.see(stands("person-01", 3, 7))
    house.start_unit()
    wait_until(lambda: home.state(MATCH)["state"] != "unavailable")  # type: ignore[index]
    house.link.deaf = True
    home.wait(lambda: home.fired() == 1, "the match")
    house.link.heal()
    wait_until(lambda: sum("connected to the broker" in line for line in list(house.unit.log)) == 2, UNIT_S)
    settle()
    assert (home.fired(), home.lit()) == (1, 1)


def test_match_that_comes_late_fires_nothing(counts: House) -> None:
    house, home = counts, counts.home
    house.configure(outbox__live_window_s=60)
    house.see(stands("person-01", 3, 7))
    house.start_unit()
    house.link.silent = True
    before = home.state(MATCH)
    time.sleep(7 + LATE_S)
    house.link.heal()
    home.wait(lambda: home.changes(MATCH) and home.state(MATCH)["state"] not in ("unavailable", before["state"]), "it")  # type: ignore[index]
    settle()
    assert home.state(MATCH)["attributes"]["late"] is True  # type: ignore[index]
    assert (home.fired(), home.lit()) == (0, 0)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_unit_that_starts_again_fires_nothing(counts: House, end: str) -> None:
    house, home = counts, counts.home
    house.see()
    for _ in range(2):
        house.start_unit()
        home.wait(lambda: home.state(MATCH)["state"] != "unavailable", "the unit")  # type: ignore[index]
        getattr(house.unit, end)()
        home.wait(lambda: home.state(MATCH)["state"] == "unavailable", "its end")  # type: ignore[index]
    settle()
    assert (home.fired(), home.lit()) == (0, 0)


def test_bridge_and_home_assistant_that_start_again_fire_nothing_and_hear_the_next_match(counts: House) -> None:
    house, home = counts, counts.home
    house.see(stands("person-01", 60, 64))
    house.start_unit()
    house.start_bridge()
    home.stop()
    house.stop_bridge()
    home.start()
    house.start_bridge()
    home.wait(lambda: home.state(ANNA) and home.state(ANNA)["state"] != "unavailable", "the bridge's people")  # type: ignore[index]
    home.wait(lambda: home.state(MATCH)["state"] != "unavailable", "the unit")  # type: ignore[index]
    assert (home.fired(), home.lit()) == (0, 0)
    home.wait(lambda: home.fired(), "the match")
    settle()
    assert (home.fired(), home.lit()) == (1, 1)


def test_withdrawn_person_is_a_device_no_more(counts: House) -> None:
    house, home = counts, counts.home
    house.start_bridge()
    home.wait(lambda: home.state(BEN) is not None, "the bridge's people")
    house.know("person-01")
    home.wait(lambda: home.state(BEN) is None, "Ben is gone")
    assert not [name for name in home.states() if "ben_" in name]
    assert home.state(ANNA) is not None
    assert home.ask("{{ device_id('Ben Okoye') }}") == "None"
    home.stop()  # it writes what it knows
    kept = {file: file.read_bytes().lower() for file in home.folder.rglob("*") if file.is_file()}
    home.start()
    assert not [file.name for file, text in kept.items() if b"okoye" in text]
    assert any(b"bauer" in text for text in kept.values()), "the search finds nobody at all"


def test_person_who_is_withdrawn_while_home_assistant_is_away_is_gone_when_it_is_back(counts: House) -> None:
    house, home = counts, counts.home
    house.know(*PEOPLE)
    house.start_bridge()
    home.wait(lambda: home.state(BEN) is not None, "the bridge's people")
    home.stop()
    house.know("person-01")
    wait_until(lambda: "start it" in house.bridge_log(), UNIT_S)  # the bridge says that somebody has to be removed
    home.start()
    home.wait(lambda: home.state(ANNA) and home.state(ANNA)["state"] != "unavailable", "who is still known")  # type: ignore[index]
    home.wait(lambda: home.state(BEN) is None, "Ben is gone")


def test_automation_for_somebody_who_is_not_known_yet_fires_at_the_first_match_of_their_new_device(
    counts: House,
) -> None:
    house, home = counts, counts.home
    house.know("person-01")
    house.start_bridge()
    home.wait(lambda: home.state(ANNA) and home.state(ANNA)["state"] != "unavailable", "who is known")  # type: ignore[index]
    home.wait(lambda: home.state(BEN) is None, "who is not")
    home.automate(
        id="ben",
        alias="Ben is here",
        triggers=[{"trigger": "state", "entity_id": BEN, "not_to": ["unavailable", "unknown"]}],
        actions=[{"action": "light.turn_on", "target": {"entity_id": "light.hall"}}],
    )
    house.know(*PEOPLE)
    home.wait(lambda: home.state(BEN) is not None, "the new device")
    house.see(stands("person-01", 2, 6), stands("person-02", 10, 14))
    house.start_unit()
    home.wait(lambda: home.fired("Ben is here") >= 1, "Ben's automation")
    settle()
    assert home.fired("Ben is here") == 1
    assert home.ask("{{ device_id('Ben Okoye') }}") != "None"


def test_what_is_refused_shows_with_its_reason_and_makes_nobody_seen(counts: House) -> None:
    house, home = counts, counts.home
    house.start_bridge()
    home.wait(lambda: home.state(TOLD) and home.state(TOLD)["state"] != "unavailable", "the bridge's own device")  # type: ignore[index]
    house.say_as_the_unit("event/match", b'{"data":{"event_type":"match"},"sig":"x"}')
    home.wait(lambda: home.state(TOLD)["attributes"].get("event_type") == "refusal", "the refusal")  # type: ignore[index]
    attributes = home.state(TOLD)["attributes"]  # type: ignore[index]
    assert (attributes["unit"], attributes["reason"]) == ("door-1", "wrong_type")
    settle()
    assert not [to for who in (ANNA, BEN) for _, to in home.changes(who) if to not in (None, "unknown", "unavailable")]
    assert (home.fired(), home.lit()) == (0, 0)
    assert not [topic for topic in house.retained() if "people" in topic]


def test_presence_comes_and_goes_with_its_switch_and_a_unit_may_take_another_name(counts: House) -> None:
    house, home = counts, counts.home
    house.configure(events__presence=True, events__presence_hold_s=5)
    house.see(stands("person-01", 2, 6))
    house.start_unit()
    home.wait(lambda: home.state(PRESENCE), "presence")
    home.wait(lambda: home.state(PRESENCE)["attributes"].get("event_type") == "left", "somebody came and went")  # type: ignore[index]
    house.unit.stop()
    house.configure(events__presence=False, unit__name="Garden gate")
    house.see()
    house.start_unit()
    home.wait(lambda: home.state(PRESENCE) is None, "presence is gone")
    home.wait(lambda: home.ask("{{ device_id('Garden gate') }}") != "None", "the new name")
    assert home.ask("{{ device_id('Front door') }}") == "None"
    assert home.state(MATCH) is not None  # what automations are written for keeps its name
    house.configure(unit__name="Front door")


def test_discovery_that_is_switched_off_takes_the_unit_away_and_on_again_brings_it(counts: House) -> None:
    house, home = counts, counts.home
    house.see()
    house.start_unit()
    home.wait(lambda: home.state(MATCH)["state"] != "unavailable", "the unit")  # type: ignore[index]
    house.unit.stop()
    house.configure(broker__home_assistant=False)
    house.start_unit()
    home.wait(lambda: not [name for name in home.states() if "front_door" in name], "the unit is gone")
    assert DISCOVERY not in house.retained()
    house.unit.stop()
    house.configure(broker__home_assistant=True)
    house.start_unit()
    home.wait(lambda: home.state(MATCH), "the unit is back")
    settle()
    assert home.fired() == 0


def test_unit_that_is_retired_or_renamed_leaves_nothing(counts: House) -> None:
    house, home = counts, counts.home
    house.see()
    house.start_unit()
    home.wait(lambda: home.state(MATCH), "the unit")
    house.unit.stop()
    postern("unit", "retire", "-c", house.site.config)
    home.wait(lambda: not [name for name in home.states() if "front_door" in name], "the unit is gone")
    assert home.ask("{{ device_id('Front door') }}") == "None"
    assert not [topic for topic in house.retained() if "door-1" in topic]
