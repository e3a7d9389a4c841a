# SPDX-License-Identifier: Apache-2.0
"""A nursery of durable subscribers: forks one for each line on standard input, which listens until it is killed.

Arguments: the port of the broker on loopback, a folder with ca.crt, tls.crt, tls.key, site.jwk, trust.jws. What a
subscriber hands over is appended to ``handed.jsonl`` there, what it tells to ``told``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from agent.clock import SystemClock
from agent.keys import load_public_key
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import BrokerSettings
from agent.subscribe.files import StateFile, TrustFile
from agent.subscribe.show import Screen
from agent.subscribe.subscriber import Subscriber
from tests.simulators.nursery import fork_on_each_line


def listen(port: int, folder: Path) -> None:
    """Hand over until the end."""
    credentials = Credentials.in_folder(folder)
    with (folder / "told").open("a") as told, (folder / "handed.jsonl").open("a") as handed:
        handed.write("\n")  # ends what a subscriber before was killed over
        subscriber = Subscriber(
            BrokerSettings("127.0.0.1", credentials, port=port),
            site="hq",
            trust=TrustFile(folder / "trust.jws", load_public_key(folder / "site.jwk")),
            clock=SystemClock(),
            state=StateFile(folder / "seen.db"),
            durable=True,
            on_notice=lambda text: print(text, file=told, flush=True),
        )
        screen = Screen(handed, json_lines=True)
        with subscriber:
            print("listening", file=told, flush=True)
            for outcome in subscriber:
                screen.show(outcome)


def main() -> None:
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    fork_on_each_line(lambda: listen(port, folder), folder / "failed")


if __name__ == "__main__":
    main()
