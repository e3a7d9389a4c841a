# SPDX-License-Identifier: Apache-2.0
"""What goes into a connection and comes out of it; to know these, nobody has to read the MQTT library."""

from __future__ import annotations

from typing import Literal

import msgspec

from agent.mqtt.credentials import Credentials

KEEPALIVE_S = 30  # a dead link is noticed within one and a half of this; below 60 s of common NAT timeouts
CONNECT_TIMEOUT_S = 5.0  # per step (TCP, TLS, CONNACK): slow mobile links answer within 2 s
WILL_DELAY_S = 15  # a reconnect within this time does not flap ``availability`` (MQTT 5, 3.1.3.2.2)


class BrokerSettings(msgspec.Struct, frozen=True):
    """Where the broker is and how to prove who we are."""

    host: str
    credentials: Credentials
    port: int = 8883
    protocol: Literal["5", "3.1.1"] = "5"
    keepalive_s: int = KEEPALIVE_S
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    will_delay_s: int = WILL_DELAY_S


class Will(msgspec.Struct, frozen=True):
    """What the broker says when this client falls silent; retained, QoS 1."""

    topic: str
    payload: bytes


class Ack(msgspec.Struct, frozen=True):
    mid: int
    reason: int

    @property
    def accepted(self) -> bool:
        return self.reason < 0x80  # MQTT 5, 2.4


class Incoming(msgspec.Struct, frozen=True):
    topic: str
    payload: bytes
    retained: bool
    mid: int = 0  # what ``acknowledge`` answers; 0 at QoS 0


class Polled(msgspec.Struct):
    acks: list[Ack] = msgspec.field(default_factory=list)
    messages: list[Incoming] = msgspec.field(default_factory=list)
    # Filters that ``subscribe`` did not wait for, and what to do.
    refused: dict[str, str] = msgspec.field(default_factory=dict)
