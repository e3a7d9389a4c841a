# SPDX-License-Identifier: Apache-2.0
"""Erase a person at every unit of the site, and gather the units' signed receipts.

Which units there are says the site's list. The one beside the site's key is the newest that there is; a program
has it as it was when it was carried there, perhaps before the last unit came. Revoked units cannot be asked: the
broker shuts them out. They are named, because what they hold has to be erased at the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from agent.disk.files import read_brought
from agent.errors import PosternError, RefusedError, VerificationError, printable
from agent.keys import MAX_TOKEN_BYTES, load_public_key, read_header
from agent.parse.strict_json import convert
from agent.protocol.receipt import ErasureReceipt, verify_receipt
from agent.protocol.response import Response
from agent.protocol.subject import SubjectId, subject_digest
from agent.protocol.trust import TrustedUnits

NOT_HELD = ("refused", "unknown_subject")  # codes of a unit that has never held the subject
Ask = Callable[[str, str, Mapping[str, Any]], Response]  # unit, verb, arguments


class Answer(msgspec.Struct, frozen=True):
    """What one unit said: a receipt, or in words why there is none; ``again`` when it has to be asked once more."""

    unit: str
    receipt: ErasureReceipt | None
    message: str = ""
    again: bool = False


def read_list(given: Path | None, site: Path, program: Path) -> tuple[Path, TrustedUnits]:
    """Read the list of units: the one given, or that of the site's folder, or that of the program's."""
    path = given or _first(site / "trust.jws", program / "trust.jws")
    return path, TrustedUnits.from_signed(
        read_brought(path, MAX_TOKEN_BYTES), load_public_key(_first(site / "site.jwk", program / "site.jwk"))
    )


def _first(preferred: Path, otherwise: Path) -> Path:
    return preferred if preferred.exists() else otherwise


def whom_to_ask(
    trusted: TrustedUnits, wanted: Sequence[str] | None, path: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split the units, or those ``wanted``, into units to ask and revoked ones. RefusedError when none is to ask."""
    units = tuple(wanted or trusted.units())
    if unknown := [unit for unit in units if unit not in trusted.units()]:
        raise RefusedError(f"{path} names no unit {', '.join(unknown)}: give the newest trust.jws with --trust")
    asked = tuple(unit for unit in units if unit in trusted.units_in_service())
    if not asked:
        raise RefusedError(f"{path} names no unit that may be asked: give the newest trust.jws with --trust")
    return asked, tuple(unit for unit in units if unit not in asked)


def withdraw(subject: SubjectId, units: Sequence[str], *, trusted: TrustedUnits, ask: Ask) -> Iterator[Answer]:
    """Ask each unit in turn; a receipt is handed on only if that unit's own key signed it for this subject.

    Whatever goes wrong with one unit is that unit's, to be asked again; the next one is asked all the same.
    """
    for unit in units:
        try:
            response = ask(unit, "subject/revoke", {"subject": subject.hex()})
            if response.status == "ok":
                answer = Answer(unit, check_receipt(response.data, unit, subject, trusted))
            else:
                message = printable(response.message or response.error or "")
                answer = Answer(unit, None, message, again=response.error not in NOT_HELD)
        except PosternError as error:
            answer = Answer(unit, None, str(error), again=True)
        except Exception as error:  # noqa: BLE001  # a person waits for the units after this one
            answer = Answer(unit, None, f"the exchange failed ({type(error).__name__}): report this", again=True)
        yield answer


def check_receipt(data: object, unit: str, subject: SubjectId, trusted: TrustedUnits) -> ErasureReceipt:
    """Receipt in a unit's answer; VerificationError unless the unit's trusted key signed it for this subject."""
    try:
        receipt = convert(data, dict[str, ErasureReceipt])["receipt"]
    except (msgspec.ValidationError, KeyError):
        raise VerificationError("malformed", "the unit's answer holds no receipt") from None
    if (receipt.site, receipt.unit, receipt.subject) != (trusted.site, unit, subject_digest(subject)):
        raise VerificationError("wrong_subject", "the receipt is for another subject or unit")
    key = trusted.find(read_header(receipt.signature).kid)
    if key is None or key.revoked or key.unit != unit:
        raise VerificationError("unknown_key", "the receipt was signed by a key that the site does not trust")
    verify_receipt(receipt, key.key)
    return receipt
