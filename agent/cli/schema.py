# SPDX-License-Identifier: Apache-2.0
"""``postern schema``: for editors, generators, and programs that read events without this package."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from agent import __version__
from agent.cli.words import say
from agent.config.load import json_schema
from agent.parse.strict_json import dumps
from agent.protocol.asyncapi import asyncapi
from agent.protocol.schema import event_schema, trust_schema

SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    "asyncapi": partial(asyncapi, __version__),
    "config": json_schema,
    "event": event_schema,
    "trust": trust_schema,
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", choices=SCHEMAS, help="asyncapi: all topics; trust: the payload of the site's list of units"
    )


def run(arguments: argparse.Namespace) -> int:
    say(dumps(SCHEMAS[arguments.what](), indent=2))
    return 0
