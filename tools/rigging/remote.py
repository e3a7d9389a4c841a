# SPDX-License-Identifier: Apache-2.0
"""A unit somewhere else, seen over MQTT alone: its camera plays the scenario's scene or video, a person starts it.

The rig can neither enrol nor break anything there, so it plays scenarios without faults, and says who has to be
enrolled. With the site's folder it resolves pseudonyms; without, every enrolled person counts as the expected one.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import rfc8785
from rich.console import Console

from agent.errors import KeyStoreError
from agent.keys import load_public_key
from agent.outbox.event import MatchData, PresenceData, UnitData
from agent.outbox.pseudonym import Resolver
from agent.outbox.verify import VerifiedEvent
from agent.site import kit
from agent.site.records import SiteFiles
from agent.subscribe.files import TrustFile
from agent.uplink.connection import BrokerSettings
from tools.rigging.listener import Listener, Received
from tools.rigging.outcome import Arrival, Run
from tools.rigging.scenario import Scenario

SLACK_S = 15.0  # of a network and a start that a person makes
START_TIMEOUT_S = 300.0  # for the person who starts it
LOOK_S = 0.2


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
    ) -> None:
        """``subjects`` maps demo people to the subject ids (hex) under which they were enrolled there."""
        self._broker, self._site, self._unit, self._files = broker, site, unit, files
        self._trust = TrustFile(trust / "trust.jws", load_public_key(trust / "site.jwk"))
        self._people = {bytes.fromhex(subject): who for who, subject in (subjects or {}).items()}

    def play(self, scenario: Scenario) -> Run | str:
        """Wait for the unit's start, listen until the scenario's end; a sentence when that cannot work."""
        if scenario.faults:
            return "needs faults, and a rig can break nothing at a unit somewhere else"
        run = Run("remote", slack_s=SLACK_S)
        began = time.monotonic()
        with Listener(self._broker, site=self._site, trust=self._trust) as listener:
            people = ", ".join(one.who for one in scenario.enrolled) or "nobody"
            Console(stderr=True).print(f"start {self._unit} now; enrolled must be: {people}", highlight=False)
            started = self._wait(listener, "started", START_TIMEOUT_S)
            if started is None:
                return f"{self._unit} said nothing of a start within {START_TIMEOUT_S:g} s"
            self._wait(listener, "stopping", scenario.seconds + SLACK_S)
            for one in listener.received():
                if isinstance(one.outcome, VerifiedEvent) and one.outcome.unit == self._unit:
                    size = len(rfc8785.dumps(msgspec.to_builtins(one.outcome.event)))
                    at_s = max(one.at_s - started.at_s, 0.0)
                    run.arrivals.append(Arrival(one.outcome, at_s, self._who(one.outcome, scenario), size))
            run.refused = listener.refusals()
        run.seconds = time.monotonic() - began
        return run

    def _wait(self, listener: Listener, condition: str, timeout_s: float) -> Received | None:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            for one in listener.received():
                data = one.outcome.event.data if isinstance(one.outcome, VerifiedEvent) else None
                if isinstance(data, UnitData) and data.condition == condition:
                    return one
            time.sleep(LOOK_S)
        return None

    def _who(self, event: VerifiedEvent, scenario: Scenario) -> str:
        data = event.event.data
        if not isinstance(data, MatchData | PresenceData):
            return ""
        if self._files is None or not self._people:
            return scenario.enrolled[0].who if len(scenario.enrolled) == 1 else "somebody enrolled"
        try:
            key = kit.epoch_key(self._files.folder, data.audience, data.epoch)
            subject = Resolver(key, self._people).resolve(data.subject, audience=data.audience, epoch=data.epoch)
        except KeyStoreError:
            return "somebody unknown"
        return self._people.get(subject or b"", "somebody unknown")
