# SPDX-License-Identifier: Apache-2.0
"""``postern ask``: one signed command to one unit, and its answer. For whoever holds the site's key."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from agent.cli.session import add_broker, broker_settings
from agent.clock import SystemClock
from agent.errors import RefusedError
from agent.files import read_secret
from agent.keys import SigningKey
from agent.uplink.commands import VERBS
from agent.uplink.request import ANSWER_TIMEOUT_S, Operator


def configure(parser: argparse.ArgumentParser) -> None:
    """Take unit, verb and what the verb needs."""
    parser.add_argument("unit")
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help=", ".join(VERBS))
    parser.add_argument("values", nargs="*", type=_value, metavar="NAME=VALUE", help="for instance subject=0123…")
    parser.add_argument("--site-key", type=Path, required=True, metavar="FILE", help="site.key of the site's folder")
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help="file (mode 0600) with its passphrase")
    parser.add_argument("--timeout", type=float, default=ANSWER_TIMEOUT_S, metavar="SECONDS")
    add_broker(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the answer as JSON; a refusal by the unit is told with its code, status 2."""
    passphrase = read_secret(arguments.passphrase_file).strip() if arguments.passphrase_file else None
    operator = Operator(
        broker_settings(arguments),
        site=arguments.site,
        key=SigningKey.load(arguments.site_key, passphrase),
        clock=SystemClock(),
    )
    answer = operator.ask(arguments.unit, arguments.verb, dict(arguments.values), timeout_s=arguments.timeout)
    if answer.status == "ok":
        print(json.dumps(answer.data or {}, indent=2))
        return 0
    print(f"postern: the unit refuses ({answer.error}): {answer.message}", file=sys.stderr)
    return RefusedError.exit_status


def _value(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise argparse.ArgumentTypeError("write NAME=VALUE")
    return name, value
