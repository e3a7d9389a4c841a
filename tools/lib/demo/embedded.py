# SPDX-License-Identifier: Apache-2.0
"""The embedded broker of the demo, for machines without Mosquitto: mutual TLS, MQTT 3.1.1, no access list.

``python -m tools.lib.demo.embedded FOLDER PORT`` takes ``ca.crt``, ``broker.crt`` and ``broker.key`` from the
folder and listens on loopback until it is told to end. It shows events and their verification. It cannot show
what needs MQTT 5 (reason codes, expiry, will delay), and anybody with a certificate of the site may use every topic.
"""

from __future__ import annotations

import asyncio
import signal
import ssl
import sys
from pathlib import Path

from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig


class CertifiedBroker(Broker):
    """Refuses clients without a certificate of the site; amqtt itself only asks for one."""

    @staticmethod
    def _create_ssl_context(listener: ListenerConfig) -> ssl.SSLContext:
        context: ssl.SSLContext = Broker._create_ssl_context(listener)  # noqa: SLF001 - its one place for the context
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


def config(folder: Path, port: int) -> BrokerConfig:
    """One TLS listener on loopback; identity is the certificate's business, so MQTT itself asks for no name."""
    return BrokerConfig.from_dict(
        {
            "listeners": {
                "default": {
                    "type": "tcp",
                    "bind": f"127.0.0.1:{port}",
                    "ssl": True,
                    "cafile": str(folder / "ca.crt"),
                    "certfile": str(folder / "broker.crt"),
                    "keyfile": str(folder / "broker.key"),
                }
            },
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )


async def serve(folder: Path, port: int) -> None:
    """Run until SIGTERM or SIGINT."""
    broker = CertifiedBroker(config(folder, port))
    await broker.start()
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    await end.wait()
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
