# SPDX-License-Identifier: Apache-2.0
"""A broker of the fleet's own, of the kind that its site was made for, with the files that the site kit wrote."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from agent.errors import RefusedError
from agent.site.records import SiteFiles
from tools.lib.demo.brokers import DemoBroker
from tools.lib.fleet.rabbitmq import Cluster, rabbitmq_root


class OwnBroker(Protocol):
    """It runs on the loopback of this machine."""

    @property
    def port(self) -> int: ...

    def pids(self) -> Sequence[int]:
        """Of all its processes."""

    def crash(self) -> None:
        """End it, or one of its nodes, as a power cut does, and start it again."""


class _Mosquitto(DemoBroker):
    def pids(self) -> Sequence[int]:
        return [] if self.pid is None else [self.pid]


@contextmanager
def own_broker(files: SiteFiles) -> Iterator[OwnBroker]:
    """Start it and end it; RefusedError where this machine has none of that kind."""
    if files.broker_kind == "rabbitmq":
        with Cluster(rabbitmq_root(), files) as cluster:
            yield cluster
        return
    with tempfile.TemporaryDirectory(prefix="postern-fleet-") as folder:
        broker = _Mosquitto(files, Path(folder) / "broker")
        if broker.protocol != "5":
            raise RefusedError("a fleet needs MQTT 5: apt-get install mosquitto")
        with broker:
            yield broker
