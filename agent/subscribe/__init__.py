# SPDX-License-Identifier: Apache-2.0
"""A subscriber that believes nothing unverified; it needs no camera, no model and no numpy.

from pathlib import Path
from agent.clock import SystemClock
from agent.keys import load_public_key
from agent.subscribe.files import StateFile, TrustFile
from agent.subscribe.subscriber import Refusal, Subscriber
from agent.mqtt.records import BrokerSettings
from agent.mqtt.credentials import Credentials

keys = Path("auditor")  # ca.crt, tls.crt, tls.key and site.jwk from the site kit
broker = BrokerSettings("broker.example", Credentials.in_folder(keys))
trust = TrustFile(keys / "trust.jws", load_public_key(keys / "site.jwk"))
with Subscriber(broker, site="hq", trust=trust, clock=SystemClock(), state=StateFile(keys / "seen.json")) as events:
    for outcome in events:
        if isinstance(outcome, Refusal):
            print("refused:", outcome.reason, outcome.topic)
        elif outcome.fresh and outcome.kind == "match":
            print("open the door for", outcome.event.data.subject)
"""
