# SPDX-License-Identifier: Apache-2.0
"""A unit somewhere else, seen over MQTT alone: its camera plays the scenario's scene or video, a person starts it.

The rig can neither enrol nor configure nor break anything there: it plays scenarios that need none of it, and says who
has to be enrolled. With the site's folder it resolves pseudonyms; without, every enrolled person counts as the expected
one. Judged is what the unit signs from its start after the prompt to its end, and nothing that was kept from before.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import rfc8785
from rich.console import Console

from agent.errors import KeyStoreError
from agent.keys import load_public_key
from agent.mqtt.records import BrokerSettings
from agent.protocol.event import MatchData, PresenceData, UnitData
from agent.protocol.names import TOPIC_ROOT
from agent.protocol.pseudonym import Resolver
from agent.site import units
from agent.site.records import SiteFiles
from agent.subscribe.files import TrustFile
from agent.subscribe.subscriber import Refusal
from agent.subscribe.verify import VerifiedEvent
from tools.lib.rig.listener import Listener, Received
from tools.lib.rig.outcome import Arrival, Run
from tools.lib.rig.scenario import DEFAULT_START, Scenario

SLACK_S = 5.0  # of a network, and of a camera that opens after the unit said that it starts
START_TIMEOUT_S = 300.0  # for the person who starts it
STOP_TIMEOUT_S = 15.0  # from the end of the scene to the unit's last word
LINGER_S = 1.0  # for what comes twice or after the last word
LOOK_S = 0.2


def why_not(scenario: Scenario) -> str | None:
    """Why a rig cannot play this at a unit somewhere else; None when it can."""
    if scenario.faults:
        return "needs faults, and a rig can break nothing at a unit somewhere else"
    if changes := scenario.changes():
        return f"needs {', '.join(sorted(changes))} set, and a rig can configure no unit somewhere else"
    if scenario.start != DEFAULT_START or scenario.clock != "synced":
        return "needs the clock set, and a rig can set none of a unit somewhere else"
    if any(one.expires_at is not None for one in scenario.enrolled):
        return "needs a consent that ends, and a rig can enrol nobody at a unit somewhere else"
    return None


class Remote:
    """One unit of one site behind a broker."""

    def __init__(
        self,
        broker: BrokerSettings,
        *,
        site: str,
        unit: str,
        trust: Path,
        subjects: dict[str, str] | None = None,
        files: SiteFiles | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        """``subjects`` maps demo people to the subject ids (hex) under which they were enrolled there."""
        self._broker, self._site, self._unit, self._files = broker, site, unit, files
        self._trust = TrustFile(trust / "trust.jws", load_public_key(trust / "site.jwk"))
        self._people = {bytes.fromhex(subject): who for who, subject in (subjects or {}).items()}
        self._start_timeout_s = start_timeout_s

    def play(self, scenario: Scenario) -> Run | str:
        """Wait for the unit's start, listen until the scenario's end; a sentence when that cannot work."""
        if (reason := why_not(scenario)) is not None:
            return reason
        slack_s = SLACK_S if scenario.slack_s is None else scenario.slack_s
        run = Run("remote", slack_s=slack_s)
        began = time.monotonic()
        with Listener(self._broker, site=self._site, trust=self._trust, durable=False) as listener:
            mark = len(listener.received())
            people = ", ".join(one.who for one in scenario.enrolled) or "nobody"
            Console(stderr=True).print(f"start {self._unit} now; enrolled must be: {people}", highlight=False)
            started = self._wait(listener, mark, "started", self._start_timeout_s)
            if started is None:
                heard = ", ".join(sorted({unit for one in listener.received() if (unit := _unit_of(one))})) or "none"
                run.silent = (
                    f"{self._unit} said nothing of a start within {self._start_timeout_s:g} s; units heard: {heard}"
                )
                return run
            first = listener.received().index(started)
            self._wait(listener, first, "stopping", scenario.seconds + slack_s + STOP_TIMEOUT_S)
            time.sleep(LINGER_S)
            self._collect(run, listener.received()[first:], scenario)
        run.seconds = time.monotonic() - began
        return run

    def _wait(self, listener: Listener, mark: int, condition: str, timeout_s: float) -> Received | None:
        """The unit's first live word of it after ``mark``: what an earlier run had left to send is backlog."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            for one in listener.received()[mark:]:
                if self._says(one, condition):
                    return one
            time.sleep(LOOK_S)
        return None

    def _says(self, one: Received, condition: str) -> bool:
        event = one.outcome
        if not isinstance(event, VerifiedEvent) or event.unit != self._unit or event.backlog:
            return False
        return isinstance(event.event.data, UnitData) and event.event.data.condition == condition

    def _collect(self, run: Run, received: list[Received], scenario: Scenario) -> None:
        """From the start, which is the first of ``received``, to the next start or the end."""
        start, first = received[0], None
        for one in received:
            if _unit_of(one) != self._unit:
                continue
            if isinstance(one.outcome, Refusal):
                run.refused[one.outcome.reason] += 1
                continue
            seq = one.outcome.event.data.seq
            first = seq if first is None else first
            if seq >= first:  # lower numbers are an earlier run's, sent late
                size = len(rfc8785.dumps(msgspec.to_builtins(one.outcome.event)))
                at_s = one.at_s - start.at_s
                run.arrivals.append(Arrival(one.outcome, at_s, self._who(one.outcome, scenario), size))

    def _who(self, event: VerifiedEvent, scenario: Scenario) -> str:
        data = event.event.data
        if not isinstance(data, MatchData | PresenceData):
            return ""
        if self._files is None or not self._people:
            return scenario.enrolled[0].who if len(scenario.enrolled) == 1 else "somebody enrolled"
        try:
            key = units.epoch_key(self._files.folder, data.audience, data.epoch)
            subject = Resolver(key, self._people).resolve(data.subject, audience=data.audience, epoch=data.epoch)
        except KeyStoreError:
            return "somebody unknown"
        return self._people.get(subject or b"", "somebody unknown")


def _unit_of(one: Received) -> str | None:
    """Whose message it is: by its signature, or by its topic where it was refused."""
    if isinstance(one.outcome, VerifiedEvent):
        return one.outcome.unit
    root, _, unit, *_ = [*one.outcome.topic.split("/"), "", "", ""]
    return unit if root == TOPIC_ROOT else None
