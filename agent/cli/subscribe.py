# SPDX-License-Identifier: Apache-2.0
"""``postern subscribe``: the events of a site, each verified before it is shown. Needs neither camera nor models."""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path

from agent.cli.session import add_broker, broker_settings
from agent.cli.words import say, tell, tell_notice
from agent.clock import SystemClock
from agent.errors import RefusedError
from agent.keys import load_public_key
from agent.parse.strict_json import dumps
from agent.protocol.names import check_name
from agent.protocol.program import check_role
from agent.subscribe.chain import Chains
from agent.subscribe.files import StateFile, TrustFile
from agent.subscribe.heads import Heads
from agent.subscribe.replay import Replays
from agent.subscribe.sequence import Checkpoints
from agent.subscribe.show import Screen, in_words, what_is_missing
from agent.subscribe.subscriber import Subscriber
from agent.subscribe.verify import CLOCK_SKEW_S, FRESH_WINDOW_S, VerifiedEvent


def configure(parser: argparse.ArgumentParser) -> None:
    add_broker(parser, required=False)
    parser.add_argument("--trust", type=Path, metavar="FILE", help="the site's list of units (trust.jws of --keys)")
    parser.add_argument("--state", type=Path, metavar="FILE", help="remember what was seen, also over a restart")
    parser.add_argument("--durable", action="store_true", help="let the broker keep events while this is not running")
    parser.add_argument("--fresh-window", type=int, default=FRESH_WINDOW_S, metavar="S", help="age of a fresh event")
    parser.add_argument("--skew", type=int, default=CLOCK_SKEW_S, metavar="S", help="how far clocks may be apart")
    parser.add_argument("--missing", action="store_true", help="say what never came, as --state remembers it, and end")
    parser.add_argument(
        "--release", metavar="UNIT", help="let a quarantined unit speak again, after you looked at it, and end"
    )
    parser.add_argument(
        "--sequence", type=_units, metavar="UNIT,UNIT,…", help="also tell who came past these units in this order"
    )
    parser.add_argument(
        "--within", type=int, default=3600, metavar="S", help="from the first to the last of --sequence (3600)"
    )
    parser.add_argument("--json", action="store_true", help="JSON lines also on a terminal")
    parser.add_argument("--count", type=int, metavar="N", help="stop after N messages, refused ones among them")


def run(arguments: argparse.Namespace) -> int:
    """Show outcomes until stopped; or what is missing; or let a unit speak again."""
    state = StateFile(arguments.state) if arguments.state else None
    if arguments.missing or arguments.release is not None:
        if state is None:
            raise RefusedError("give the subscriber's memory with --state")
        return _missing(state, arguments) if arguments.missing else _release(state, arguments)
    if None in (arguments.broker, arguments.site, arguments.keys):
        raise RefusedError("say where to listen: --broker, --site and --keys")
    check_role(arguments.keys, "auditor", site=arguments.site)
    checkpoints = Checkpoints(arguments.sequence, arguments.within) if arguments.sequence else None
    broker = broker_settings(arguments)
    site_key = load_public_key(arguments.keys / "site.jwk")
    clock = SystemClock()
    replays = Replays.from_folder(arguments.keys, site=arguments.site, clock=clock, random=secrets.token_bytes)
    subscriber = Subscriber(
        broker,
        site=arguments.site,
        trust=TrustFile(arguments.trust or arguments.keys / "trust.jws", site_key),
        clock=clock,
        state=state,
        durable=arguments.durable,
        replays=replays,
        fresh_window_s=arguments.fresh_window,
        skew_s=arguments.skew,
        on_notice=tell_notice,
    )
    try:
        with subscriber:
            tell(f"listening to site {arguments.site} at {broker.host}:{broker.port}")
            screen = Screen(sys.stdout, json_lines=arguments.json)
            for number, outcome in enumerate(subscriber, start=1):
                screen.show(outcome)
                if checkpoints is not None and isinstance(outcome, VerifiedEvent):
                    screen.tell(checkpoints.take(outcome))
                if number == arguments.count:
                    break
    finally:
        verifier = subscriber.verifier
        for fact in what_is_missing(verifier.all_missing(), subscriber.withheld(), verifier.quarantined()):
            tell(in_words(fact))
    return 0


def _units(text: str) -> tuple[str, ...]:
    """Type of an argument that names units in an order."""
    return tuple(text.split(","))


def _missing(state: StateFile, arguments: argparse.Namespace) -> int:
    kept = state.look()
    chains, heads = Chains(kept.chains), Heads(kept.heads)
    quarantined = {source.rpartition("/")[2]: reason for (source, _), reason in chains.quarantined().items()}
    for fact in what_is_missing(chains.all_missing(), heads.withheld(), quarantined):
        say(dumps(fact) if arguments.json or not sys.stdout.isatty() else in_words(fact))
    return 0


def _release(state: StateFile, arguments: argparse.Namespace) -> int:
    unit = check_name("unit", arguments.release)
    if not state.release(unit):
        raise RefusedError(f"no key of unit {unit} is quarantined here: look with --missing")
    tell(f"unit {unit} may speak again; its chain starts anew, so that what came before may be taken once more")
    return 0
