# SPDX-License-Identifier: Apache-2.0
"""The site's operator of a scenario: signed commands to the unit over the broker, and the answers to questions."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from agent.clock import Clock
from agent.keys import SigningKey, load_public_key
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import BrokerSettings
from agent.protocol.response import Response
from agent.protocol.trust import TrustedUnits
from agent.site.operator import Operator
from tools.lib.demo.site import SITE, UNIT, DemoSite

OPERATOR = "operator-1"
ANSWER_S = 40.0


class Asking:
    """Commands of one scenario; ``port`` is the broker's."""

    def __init__(self, site: DemoSite, port: int, clock: Clock) -> None:
        self._site, self._port, self._clock = site, port, clock
        self._asking: list[threading.Thread] = []

    def ask(self, verb: str, args: Mapping[str, Any]) -> Response:
        keys = self._site.site.client(OPERATOR)
        broker = BrokerSettings("127.0.0.1", Credentials.in_folder(keys), port=self._port)
        files = self._site.site
        trusted = TrustedUnits.from_signed(files.trust.read_bytes(), load_public_key(files.site_jwk))
        operator = Operator(broker, site=SITE, key=SigningKey.load(files.site_key), trusted=trusted, clock=self._clock)
        return operator.ask(UNIT, verb, args, timeout_s=ANSWER_S, on_progress=lambda _: None)

    def verify(self, subject: str, window_s: int, answers: list[str]) -> None:
        """Ask whether somebody is there; the word is added to ``answers`` while the scenario goes on."""

        def ask() -> None:
            answer = self.ask("verify", {"subject": subject, "window_s": window_s})
            answers.append(str((answer.data or {}).get("answer")))

        self._asking.append(threading.Thread(target=ask))
        self._asking[-1].start()

    def join(self) -> None:
        for thread in self._asking:
            thread.join()
