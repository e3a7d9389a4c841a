# SPDX-License-Identifier: Apache-2.0
"""Clear what a revoked unit left at the broker: it would be shown as online for ever."""

from __future__ import annotations

from agent.clock import Clock
from agent.errors import BrokerError, RefusedError
from agent.mqtt.connection import Connection
from agent.mqtt.credentials import load_identity
from agent.mqtt.records import BrokerSettings
from agent.protocol.topics import Topics
from agent.protocol.trust import TrustedUnits

OFFLINE = b"offline"
ANSWER_TIMEOUT_S = 15.0
POLL_S = 0.2


def retire(broker: BrokerSettings, unit: str, *, trusted: TrustedUnits, clock: Clock) -> None:
    """Say that a revoked unit is offline, and take its ``info`` and discovery away; may be repeated.

    Raises RefusedError for a unit that is not revoked, and BrokerError when the broker does not take it.
    """
    if unit not in trusted.units() or unit in trusted.units_in_service():
        raise RefusedError(
            "only a unit that was revoked is retired: 'postern site revoke' it first, give its trust.jws"
        )
    topics = Topics(trusted.site, unit)
    name = load_identity(broker.credentials, clock).common_name
    connection = Connection(broker, client_id=name, clock=clock, session_expiry_s=0)
    connection.open()
    try:
        waiting = {
            connection.publish(topics.availability, OFFLINE, retain=True),
            connection.publish(topics.info, b"", retain=True),
            connection.publish(topics.discovery, b"", retain=True),
        }
        end_ns = clock.monotonic_ns() + round(ANSWER_TIMEOUT_S * 1e9)
        while waiting and clock.monotonic_ns() < end_ns:
            for ack in connection.poll(POLL_S).acks:
                if not ack.accepted:
                    raise BrokerError(
                        "the broker does not let this program retire the unit: carry acl to it, reload it"
                    )
                waiting.discard(ack.mid)
        if waiting:
            raise BrokerError("the broker does not answer: try again")
    finally:
        connection.close()
