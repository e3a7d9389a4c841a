# SPDX-License-Identifier: Apache-2.0
"""``postern subscribe``: the events of a site, each verified before it is shown. Needs neither camera nor models."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from agent.cli.session import add_broker, broker_settings
from agent.clock import SystemClock
from agent.keys import load_public_key
from agent.subscribe.files import StateFile, TrustFile
from agent.subscribe.show import Screen
from agent.subscribe.subscriber import Subscriber


def configure(parser: argparse.ArgumentParser) -> None:
    add_broker(parser)
    parser.add_argument("--trust", type=Path, metavar="FILE", help="the site's list of units (trust.jws of --keys)")
    parser.add_argument("--state", type=Path, metavar="FILE", help="remember what was seen, also over a restart")
    parser.add_argument("--durable", action="store_true", help="let the broker keep events while this is not running")
    parser.add_argument("--json", action="store_true", help="JSON lines also on a terminal")
    parser.add_argument("--count", type=int, metavar="N", help="stop after N messages, refused ones among them")


def run(arguments: argparse.Namespace) -> int:
    broker = broker_settings(arguments)
    site_key = load_public_key(arguments.keys / "site.jwk")
    subscriber = Subscriber(
        broker,
        site=arguments.site,
        trust=TrustFile(arguments.trust or arguments.keys / "trust.jws", site_key),
        clock=SystemClock(),
        state=StateFile(arguments.state) if arguments.state else None,
        durable=arguments.durable,
        on_notice=lambda text: print(text, file=sys.stderr, flush=True),
    )
    with subscriber:
        print(f"listening to site {arguments.site} at {broker.host}:{broker.port}", file=sys.stderr, flush=True)
        screen = Screen(sys.stdout, json_lines=arguments.json)
        for number, outcome in enumerate(subscriber, start=1):
            screen.show(outcome)
            if number == arguments.count:
                break
    return 0
