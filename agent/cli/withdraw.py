# SPDX-License-Identifier: Apache-2.0
"""``postern withdraw SUBJECT``: erase a person at every unit of the site, and gather the units' signed receipts.

May be repeated: a unit that has erased already gives its receipt again, so whoever was away is asked once more.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from agent.cli.session import add_operator, make_operator
from agent.cli.subjects import tell_receipt
from agent.errors import BrokerError, RefusedError, RetryError, VerificationError
from agent.gallery.erase import ErasureReceipt, subject_digest, verify_receipt
from agent.keys import load_public_key, read_header
from agent.match.records import SubjectId
from agent.outbox.trust import TrustedUnits
from agent.subscribe.files import TrustFile
from agent.uplink.commands import Response
from agent.verbs import parse_subject

NOT_HELD = ("refused", "unknown_subject")  # codes of a unit that has never held the subject

Ask = Callable[[str, str, Mapping[str, Any]], Response]  # unit, verb, arguments; raises BrokerError


@dataclass(frozen=True, slots=True)
class Answer:
    """What one unit said: a receipt, or in words why there is none; ``again`` when it has to be asked once more."""

    unit: str
    receipt: ErasureReceipt | None
    message: str = ""
    again: bool = False


def configure(parser: argparse.ArgumentParser) -> None:
    """Take subject, broker and keys."""
    parser.add_argument("subject", type=parse_subject, metavar="SUBJECT", help="32 hexadecimal digits")
    parser.add_argument("--unit", action="append", metavar="UNIT", help="ask this unit alone; may be repeated")
    parser.add_argument("--trust", type=Path, metavar="FILE", help="the site's list of units (trust.jws of --keys)")
    add_operator(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print each receipt as a line of JSON; status 75 while a unit has still to be asked."""
    trust_file = TrustFile(
        arguments.trust or arguments.keys / "trust.jws", load_public_key(arguments.keys / "site.jwk")
    )
    trusted = trust_file.load()
    operator = make_operator(arguments)

    def ask(unit: str, verb: str, values: Mapping[str, Any]) -> Response:
        return operator.ask(unit, verb, values, timeout_s=arguments.timeout)

    waiting, receipts = [], 0
    for answer in withdraw(arguments.subject, arguments.unit or trusted.units(), trusted=trusted, ask=ask):
        if answer.receipt is not None:
            receipts += 1
            print(tell_receipt(answer.receipt), flush=True)
        else:
            print(json.dumps({"unit": answer.unit, "receipt": None, "message": answer.message}), file=sys.stderr)
        if answer.again:
            waiting.append(answer.unit)
    if waiting:
        raise RetryError(f"ask again, the person is not known to be erased at: {', '.join(waiting)}")
    if not receipts:
        raise RefusedError("no unit holds or held this subject: check the id")
    return 0


def withdraw(
    subject: SubjectId, units: list[str] | tuple[str, ...], *, trusted: TrustedUnits, ask: Ask
) -> Iterator[Answer]:
    """Ask each unit in turn; a receipt is handed on only if that unit's own key signed it for this subject."""
    for unit in units:
        try:
            response = ask(unit, "subject/revoke", {"subject": subject.hex()})
            if response.status == "ok":
                yield Answer(unit, check_receipt(response.data, unit, subject, trusted))
            else:
                message = response.message or response.error or ""
                yield Answer(unit, None, message, again=response.error not in NOT_HELD)
        except (BrokerError, VerificationError) as error:
            yield Answer(unit, None, str(error), again=True)


def check_receipt(data: object, unit: str, subject: SubjectId, trusted: TrustedUnits) -> ErasureReceipt:
    """Receipt in a unit's answer; VerificationError unless the unit's trusted key signed it for this subject."""
    try:
        receipt = msgspec.convert(data, dict[str, ErasureReceipt])["receipt"]
    except (msgspec.ValidationError, KeyError):
        raise VerificationError("malformed", "the unit's answer holds no receipt") from None
    if (receipt.site, receipt.unit, receipt.subject) != (trusted.site, unit, subject_digest(subject)):
        raise VerificationError("wrong_subject", "the receipt is for another subject or unit")
    key = trusted.find(read_header(receipt.signature).kid)
    if key is None or key.revoked or key.unit != unit:
        raise VerificationError("unknown_key", "the receipt was signed by a key that the site does not trust")
    verify_receipt(receipt, key.key)
    return receipt
