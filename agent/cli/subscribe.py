# SPDX-License-Identifier: Apache-2.0
"""``postern subscribe``: the events of a site, each verified before it is shown. Needs neither camera nor models."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from agent.clock import SystemClock
from agent.keys import load_public_key
from agent.subscribe.files import StateFile, TrustFile
from agent.subscribe.show import Screen
from agent.subscribe.subscriber import Subscriber
from agent.uplink.connection import BrokerSettings
from agent.uplink.credentials import Credentials


def configure(parser: argparse.ArgumentParser) -> None:
    """Take broker, site and the program's files."""
    parser.add_argument("host", help="the broker, by the name or address in its certificate")
    parser.add_argument("--port", type=int, default=8883)
    parser.add_argument("--protocol", choices=["5", "3.1.1"], default="5")
    parser.add_argument("--site", required=True)
    parser.add_argument(
        "--keys",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="ca.crt, tls.crt, tls.key, site.jwk and trust.jws, as the site kit makes them for a program",
    )
    parser.add_argument("--trust", type=Path, metavar="FILE", help="the site's list of units (trust.jws in FOLDER)")
    parser.add_argument("--state", type=Path, metavar="FILE", help="remember what was seen, also over a restart")
    parser.add_argument("--durable", action="store_true", help="let the broker keep events while this is not running")
    parser.add_argument("--json", action="store_true", help="JSON lines also on a terminal")
    parser.add_argument("--count", type=int, metavar="N", help="stop after N messages, refused ones among them")


def run(arguments: argparse.Namespace) -> int:
    """Show outcomes until stopped."""
    keys = arguments.keys
    credentials = Credentials(keys / "ca.crt", keys / "tls.crt", keys / "tls.key")
    subscriber = Subscriber(
        BrokerSettings(arguments.host, credentials, port=arguments.port, protocol=arguments.protocol),
        site=arguments.site,
        trust=TrustFile(arguments.trust or keys / "trust.jws", load_public_key(keys / "site.jwk")),
        clock=SystemClock(),
        state=StateFile(arguments.state) if arguments.state else None,
        durable=arguments.durable,
        on_notice=lambda text: print(text, file=sys.stderr, flush=True),
    )
    with subscriber:
        print(f"listening to site {arguments.site} at {arguments.host}:{arguments.port}", file=sys.stderr, flush=True)
        screen = Screen(sys.stdout, json_lines=arguments.json)
        for number, outcome in enumerate(subscriber, start=1):
            screen.show(outcome)
            if number == arguments.count:
                break
    return 0
