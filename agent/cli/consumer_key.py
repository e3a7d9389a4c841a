# SPDX-License-Identifier: Apache-2.0
"""``postern consumer-key``: the consumer's key pair for sealed subjects. The private half stays with the consumer."""

from __future__ import annotations

import argparse
from pathlib import Path

from agent.cli.options import add_passphrase, check_output, read_passphrase, write_output
from agent.disk.files import destroy
from agent.errors import RefusedError
from agent.parse.strict_json import dumps


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", type=Path, metavar="KEY", help="new file for the private key, mode 0600")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="public key (JWK) for the units' events.consumer_key"
    )
    add_passphrase(parser, "a passphrase for it")


def run(arguments: argparse.Namespace) -> int:
    """Make the pair; an existing key is never overwritten."""
    from agent.protocol.sealed import consumer_jwk, generate_consumer_key, save_consumer_key  # noqa: PLC0415 - an extra

    if arguments.key.exists():
        raise RefusedError(f"{arguments.key} exists: what was sealed to it would be lost, choose another name")
    check_output(arguments.output)
    passphrase = read_passphrase(arguments)
    key = generate_consumer_key()
    save_consumer_key(key, arguments.key, passphrase)
    try:
        write_output(arguments.output, dumps(consumer_jwk(key)).encode())
    except BaseException:  # who repeats this shall not be told that the key exists, of which nothing is known
        destroy(arguments.key)
        raise
    return 0
