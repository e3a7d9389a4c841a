# SPDX-License-Identifier: Apache-2.0
"""Subjects on the command line: how everything about one is told or erased."""

from __future__ import annotations

import json
from dataclasses import asdict

import msgspec

from agent.gallery.records import Held
from agent.protocol.receipt import ErasureReceipt


def tell_receipt(receipt: ErasureReceipt) -> str:
    """Spell a receipt as one line of JSON, with the statement that was signed."""
    return json.dumps({**json.loads(receipt.payload()), "signature": receipt.signature})


def tell_held(held: Held) -> str:
    """Spell what is held about one subject as JSON."""
    members = {**asdict(held), "subject": held.subject.hex()}
    return json.dumps(msgspec.to_builtins(members), indent=2)
