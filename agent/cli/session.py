# SPDX-License-Identifier: Apache-2.0
"""Arguments of the programs that talk to a site's broker."""

from __future__ import annotations

import argparse
from pathlib import Path

from agent.cli.options import add_passphrase, read_passphrase, seconds
from agent.clock import SystemClock
from agent.errors import RefusedError
from agent.keys import SigningKey
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import BrokerSettings
from agent.protocol.program import check_role
from agent.protocol.trust import TrustedUnits
from agent.site.operator import ANSWER_TIMEOUT_S, Operator
from agent.site.withdraw import read_list

MAX_PORT = 65_535  # 16 bits in TCP (RFC 9293 sec. 3.1)


def add_broker(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Let the command take broker, site and the program's own files."""
    parser.add_argument(
        "--broker", type=host, required=required, metavar="HOST", help="by the name or address in its certificate"
    )
    parser.add_argument("--port", type=port, default=8883)
    parser.add_argument("--protocol", choices=["5", "3.1.1"], default="5")
    parser.add_argument("--site", required=required)
    parser.add_argument(
        "--keys",
        type=Path,
        required=required,
        metavar="FOLDER",
        help="the program's files as 'postern site add-program' made them",
    )


def host(text: str) -> str:
    """Type of an argument that is a name or address: a port behind it is told from the last part of an IPv6 address."""
    name, _, number = text.rpartition(":")
    if name and number.isdecimal() and ":" not in name:
        raise argparse.ArgumentTypeError(f"the port has an argument of its own: {name} --port {number}")
    return text


def port(text: str) -> int:
    """Type of an argument that is a TCP port."""
    if not (text.isdecimal() and 1 <= int(text) <= MAX_PORT):
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to {MAX_PORT}")
    return int(text)


def broker_settings(arguments: argparse.Namespace) -> BrokerSettings:
    """Turn what ``add_broker`` took into settings."""
    keys = arguments.keys
    credentials = Credentials.in_folder(keys)
    return BrokerSettings(arguments.broker, credentials, port=arguments.port, protocol=arguments.protocol)


def add_operator(parser: argparse.ArgumentParser) -> None:
    """Let the command take what a sender of signed commands needs: broker, site, and the site's key."""
    parser.add_argument("--site-key", type=Path, required=True, metavar="FILE", help="site.key of the site's folder")
    add_passphrase(parser)
    parser.add_argument(
        "--trust",
        type=Path,
        metavar="FILE",
        help="the site's list of units (trust.jws beside --site-key, where there is none that of --keys): whose answers"
        " are believed",
    )
    parser.add_argument(
        "--timeout", type=seconds, default=ANSWER_TIMEOUT_S, metavar="SECONDS", help="to wait for a unit's answer"
    )
    add_broker(parser)


def read_trusted(arguments: argparse.Namespace) -> tuple[Path, TrustedUnits]:
    """Read the list of units that ``add_operator`` took, and say which it is; raises RefusedError and KeyStoreError."""
    check_role(arguments.keys, "operator", site=arguments.site)
    path, trusted = read_list(arguments.trust, arguments.site_key.parent, arguments.keys)
    if trusted.site != arguments.site:
        raise RefusedError(f"{path} is the list of site {trusted.site}: give that of {arguments.site} with --trust")
    return path, trusted


def make_operator(arguments: argparse.Namespace, trusted: TrustedUnits) -> Operator:
    """Turn what ``add_operator`` took into one that believes ``trusted``; raises KeyStoreError."""
    key = SigningKey.load(arguments.site_key, read_passphrase(arguments))
    return Operator(broker_settings(arguments), site=arguments.site, key=key, trusted=trusted, clock=SystemClock())
