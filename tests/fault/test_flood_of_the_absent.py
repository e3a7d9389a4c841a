# SPDX-License-Identifier: Apache-2.0
"""A unit floods while the auditor is away: what the others said arrives, and what the flooder lost is told everywhere.

The broker's queue for a session that is away is one for all units, so the flood pushes the others' events out of it.
``POSTERN_FLOOD=12000`` is the long form, with Mosquitto's queue as it is deployed.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.simulators.bridge_street import RECORDS, Street
from tests.simulators.broker import PATIENCE_S, wait_until

FLOOD = int(os.environ.get("POSTERN_FLOOD", "800"))  # events that one unit signs while the bridge is away
DEPLOYED = 10_000  # messages that Mosquitto keeps for a session that is away (deploy/mosquitto/mosquitto.conf)
OTHERS, EACH = 19, 10  # events of each of the others meanwhile
KEPT = FLOOD // 8  # events that the flooder keeps: less than the broker drops
BURST = FLOOD // 20
EVENTS = ("match", "unit")


def numbers(records: list[dict[str, Any]], unit: str) -> list[int]:
    return [one["seq"] for one in records if one["kind"] in EVENTS and one["unit"] == unit]


def lost(records: list[dict[str, Any]], unit: str) -> set[int]:
    """The numbers that records of kind ``loss`` say nobody will ever see."""
    found = [one for one in records if one["kind"] == "loss" and one["unit"] == unit]
    return {number for one in found for number in range(one["first"], one["last"] + 1)}


@pytest.mark.broker
@pytest.mark.timeout(300 + FLOOD // 10)
def test_what_others_said_arrives_complete_and_the_flooders_loss_is_told_by_every_output(tmp_path: Path) -> None:
    others = [f"door-{number}" for number in range(1, OTHERS + 1)]
    changes = {} if FLOOD > DEPLOYED else {"max_queued_messages": str(FLOOD // 2)}
    limits = {**{name: {} for name in others}, "flood": {"max_rows": KEPT}}
    with Street(tmp_path, limits, **changes) as street:
        flood, units = street.units["flood"], list(street.units.values())
        street.start_bridge()  # from here on the broker keeps its session
        for unit in units:
            unit.start()
            unit.say()
        wait_until(lambda: len(street.webhook.events()) == len(units), 2 * PATIENCE_S)
        street.stop_bridge()

        for said in range(FLOOD // BURST):
            flood.say(BURST)
            wait_until(lambda: flood.outbox.depth() == 0, 4 * PATIENCE_S)
            if said % 2:
                for name in others:
                    street.units[name].say()
        wait_until(lambda: not any(unit.outbox.depth() for unit in units))

        street.start_bridge()
        for unit in units:
            unit.say()  # by which it is seen what is missing
        signed = {name: set(range(1, unit.outbox.head().seq + 1)) for name, unit in street.units.items()}
        assert len(signed["flood"]) == FLOOD + 2
        assert all(len(signed[name]) == EACH + 2 for name in others)

        def complete(output: str) -> bool:
            records = street.records(output)
            told = {name: set(numbers(records, name)) | lost(records, name) for name in signed}
            return told == signed

        for output in RECORDS:
            wait_until(lambda output=output: complete(output), 8 * PATIENCE_S + FLOOD / 50)
        gone = lost(street.records("sql"), "flood")
        wait_until(lambda: street.metric('postern_lost_events_total{unit="flood"}') == len(gone))
        told_home = lambda kind: [one for one in street.home.told("_bridge/event") if one["event_type"] == kind]  # noqa: E731
        wait_until(lambda: sum(one["count"] for one in told_home("loss")) == len(gone))
        assert {one["unit"] for one in told_home("gap")} > set(others) - {"flood"}

        repeated = Counter[str]()
        for output in RECORDS:
            records = street.records(output)
            keys = Counter(one["key"] for one in records)
            repeated[output] = sum(keys.values()) - len(keys)
            for name in others:
                assert sorted(numbers(records, name)) == sorted(signed[name]), "lost, or twice"
                assert not lost(records, name)
                live = numbers([one for one in records if not one.get("late")], name)
                assert live == sorted(live), "out of order"
            assert gone == lost(records, "flood")
            assert not gone & set(numbers(records, "flood")), "told as lost, and delivered"
        pushed_out = sum(one["late"] for one in street.records("sql") if one["unit"] in others)
        assert pushed_out > 0, "the flood pushed nothing of theirs out: it tried nothing"
        assert gone, "the flooder lost nothing: it tried nothing"
        assert not any(repeated.values())
        assert "Traceback" not in street.bridge_log()
        told = sum(map(len, signed.values()))
        print(
            f"{told} events of {len(units)} units, {FLOOD} of one: {told - len(gone)} delivered, {pushed_out} of the"
            f" others asked for again, {len(gone)} of the flooder lost and told by every output, 0 repeated"
        )
