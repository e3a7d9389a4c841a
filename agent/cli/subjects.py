# SPDX-License-Identifier: Apache-2.0
"""Subjects on the command line: how everything about one is told or erased."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict

import msgspec

from agent.audit.log import AuditLog
from agent.clock import Clock
from agent.config.schema import Config
from agent.gallery.records import Held
from agent.protocol.receipt import ErasureReceipt
from agent.subject import SubjectId
from agent.unit.assemble import load_key, open_gallery, open_outbox
from agent.unit.forget import note, settle


def erase(
    config: Config, clock: Clock, random: Callable[[int], bytes], subjects: Iterable[SubjectId] | None
) -> list[ErasureReceipt]:
    """Destroy the references of ``subjects`` (None: of all), their unsent events and what the audit log says of them.

    The receipts are signed; the log keeps that something was erased, not who.
    """
    key = load_key(config)
    with (
        closing(AuditLog(config.audit.path, clock=clock, random=random)) as audit,
        open_gallery(config, key, clock) as gallery,
        open_outbox(config, key, clock) as outbox,
    ):
        receipts = gallery.erase_all() if subjects is None else [gallery.erase(subject) for subject in subjects]
        settle(gallery, outbox, audit)
        for erased in gallery.take_erased():
            note(audit, erased.receipt)
        return list(receipts)


def tell_receipt(receipt: ErasureReceipt) -> str:
    """Spell a receipt as one line of JSON, with the statement that was signed."""
    return json.dumps({**json.loads(receipt.payload()), "signature": receipt.signature})


def tell_held(held: Held) -> str:
    """Spell what is held about one subject as JSON."""
    members = {**asdict(held), "subject": held.subject.hex()}
    return json.dumps(msgspec.to_builtins(members), indent=2)
