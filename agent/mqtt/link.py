# SPDX-License-Identifier: Apache-2.0
"""What the uplink needs of a connection, so that a rig can pass in one that fails on command."""

from __future__ import annotations

import socket
from typing import Protocol

from agent.clock import Clock
from agent.mqtt.records import BrokerSettings, Polled, Will


class Link(Protocol):
    receive_maximum: int | None

    def open(self) -> None: ...
    def subscribe(self, *filters: str) -> None: ...
    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        expiry_s: int | None = None,
        content_type: str | None = None,
    ) -> int: ...
    def fits(self, topic: str, payload: bytes) -> bool: ...
    def poll(self, timeout_s: float, wake: socket.socket | None = None) -> Polled: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...


class Connect(Protocol):
    """Makes a link that is not open yet; ``Connection`` is one."""

    def __call__(
        self,
        settings: BrokerSettings,
        *,
        client_id: str,
        common_name: str | None,
        clock: Clock,
        will: Will | None,
        resumes: bool,
    ) -> Link: ...


def connection(
    settings: BrokerSettings, *, client_id: str, common_name: str | None, clock: Clock, will: Will | None, resumes: bool
) -> Link:
    """A ``Connection``; the MQTT library is read by the thread that connects, not by a start that waits for it."""
    from agent.mqtt.connection import Connection  # noqa: PLC0415

    return Connection(settings, client_id=client_id, common_name=common_name, clock=clock, will=will, resumes=resumes)
