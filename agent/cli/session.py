# SPDX-License-Identifier: Apache-2.0
"""Arguments of the programs that talk to a site's broker."""

from __future__ import annotations

import argparse
from pathlib import Path

from agent.uplink.connection import BrokerSettings
from agent.uplink.credentials import Credentials


def add_broker(parser: argparse.ArgumentParser) -> None:
    """Let the command take broker, site and the program's own files."""
    parser.add_argument("--broker", required=True, metavar="HOST", help="by the name or address in its certificate")
    parser.add_argument("--port", type=int, default=8883)
    parser.add_argument("--protocol", choices=["5", "3.1.1"], default="5")
    parser.add_argument("--site", required=True)
    parser.add_argument(
        "--keys",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="the program's files as 'postern site add-program' made them",
    )


def broker_settings(arguments: argparse.Namespace) -> BrokerSettings:
    """Turn what ``add_broker`` took into settings."""
    keys = arguments.keys
    credentials = Credentials(keys / "ca.crt", keys / "tls.crt", keys / "tls.key")
    return BrokerSettings(arguments.broker, credentials, port=arguments.port, protocol=arguments.protocol)
