# SPDX-License-Identifier: Apache-2.0
"""Subjects on the command line: how everything about one is told or erased."""

from __future__ import annotations

import msgspec
from msgspec.structs import asdict

from agent.disk.files import MAX_SECRET_BYTES
from agent.gallery.records import Held
from agent.parse.strict_json import dumps, loads
from agent.protocol.receipt import ErasureReceipt


def tell_receipt(receipt: ErasureReceipt) -> str:
    """Spell a receipt as one line of JSON, with the statement that was signed."""
    return dumps({**loads(receipt.payload(), limit=MAX_SECRET_BYTES), "signature": receipt.signature})


def tell_held(held: Held) -> str:
    """Spell what is held about one subject as JSON."""
    members = {**asdict(held), "subject": held.subject.hex()}
    return dumps(msgspec.to_builtins(members), indent=2)
