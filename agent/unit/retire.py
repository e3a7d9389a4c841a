# SPDX-License-Identifier: Apache-2.0
"""Before a unit is renamed, moved to another site or taken away: clear what the broker retains of it.

Only the unit itself may write these topics, so nobody can do it for a unit of which the certificate was revoked.
"""

from __future__ import annotations

import time
from typing import Final

from agent.clock import Clock
from agent.config.schema import Config
from agent.disk.process_lock import ProcessLock
from agent.errors import BrokerError
from agent.mqtt.connection import Connection
from agent.mqtt.records import BrokerSettings
from agent.protocol.topics import Topics
from agent.unit.assemble import credentials_of

ANSWER_S: Final = 5.0  # for the broker to acknowledge; slow mobile links answer within 2 s


def retire(config: Config, clock: Clock) -> tuple[str, ...]:
    """Clear every retained message of this unit; the topics that were cleared.

    Raises InUseError while the service runs, KeyStoreError for the unit's files, and BrokerError when the broker cannot
    be reached, does not answer or refuses one that it would refuse to a running unit as well.
    """
    lock = ProcessLock(config.gallery.path, advice="stop the service first (systemctl stop postern)")
    try:
        return _clear(config, clock)
    finally:
        lock.release()


def _clear(config: Config, clock: Clock) -> tuple[str, ...]:
    topics, broker = Topics(config.unit.site, config.unit.id), config.broker
    settings = BrokerSettings(broker.host, credentials_of(config), port=broker.port, protocol=broker.protocol)
    connection = Connection(settings, client_id=config.unit.id, common_name=config.unit.id, clock=clock)
    connection.open()
    try:
        # Discovery first: Home Assistant takes the device away before it is told that it is not available.
        waiting = {
            connection.publish(topic, b"", retain=True): topic
            for topic in (topics.discovery, topics.info, topics.availability)
        }
        cleared, deadline = [], time.monotonic() + ANSWER_S
        while waiting and time.monotonic() < deadline:
            for ack in connection.poll(0.1).acks:
                topic = waiting.pop(ack.mid, None)
                if topic is not None and ack.accepted:
                    cleared.append(topic)
                elif topic not in (None, topics.discovery):  # a site without Home Assistant has no line for it
                    raise BrokerError(
                        f"the broker refuses {topic}: carry the site's acl there, unless this unit was revoked"
                    )
        if waiting:
            raise BrokerError(f"the broker {broker.host}:{broker.port} did not answer in time: try again")
        return tuple(cleared)
    finally:
        connection.close()
