# SPDX-License-Identifier: Apache-2.0
"""The health document on the wire: where a unit's event chain and audit log end, signed by the unit.

The heads in it bound how long a cut tail of the event chain or of the audit log can go unnoticed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import rfc8785
from msgspec import Meta

from agent.clock import ClockState
from agent.errors import VerificationError
from agent.keys import PublicKey
from agent.parse import strict_json
from agent.parse.strict_json import MAX_SAFE_INTEGER
from agent.protocol.names import Boot, Digest, Signature, Source, Time

SIGNATURE_TYPE = "postern-health+jws"
MAX_HEALTH_BYTES = 8192  # a document has about 900 bytes

# ``time``: the clock went so far ahead that nothing is destroyed for its age; ``files``: some were put back, and nobody
# is matched.
Ask = Literal["time", "files"]
Asked = Annotated[str, Meta(pattern=r"^(time|files)$(?!\n)")]
Count = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]
AuditHead = Annotated[str, Meta(pattern=r"^[0-9]{1,16}:sha256:[0-9a-f]{64}$(?!\n)")]  # as the audit log spells its head


class ConfigurationState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the settings of one serial fared that the site sent: ``why`` names line and place where they did not do."""

    serial: Count
    digest: Digest
    state: Literal["trying", "applied", "refused", "rolled_back"]
    why: Annotated[str, Meta(max_length=400)] | None = None


class EventHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The end of the event chain: number and digest of the last signed event."""

    seq: Count
    digest: Digest


class Health(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One report. ``boot`` with ``uptime_s`` orders reports; ``time`` is only a label."""

    type: Literal["io.postern.health.v1"]
    source: Source
    boot: Boot
    uptime_s: Count
    time: Time
    clock: ClockState
    recognition: Literal["running", "paused"]
    fps_milli: Count  # frames per 1000 seconds: no floats on the wire
    queue_depth: Count
    temperature_c: Annotated[int, Meta(ge=-100, le=200)] | None
    disk_free_bytes: Count
    head: EventHead
    audit: AuditHead | None = None  # head of the audit log's hash chain, as ``postern audit verify --head`` takes it
    epochs: Count | None = None  # this one and coming ones that a key is held for; without one nobody is announced
    certificate_days: Count | None = None  # until the unit's certificate or its authority ends; then it falls silent
    asks: Annotated[tuple[Asked, ...], Meta(max_length=2)] = ()  # what the site has to say with ``unit/confirm``
    # Once the site set anything from afar. A reader of a release before this member takes such a document for none.
    configuration: ConfigurationState | None = None
    sig: Signature | None = None


def read_health(payload: bytes) -> tuple[dict[str, Any], Health]:
    """Read a document without believing it; VerificationError ``malformed``."""
    try:
        members = strict_json.loads(payload, limit=MAX_HEALTH_BYTES)
        return members, strict_json.convert(members, Health)
    except ValueError:
        raise VerificationError("malformed", "this is not a health document") from None


def verify_health(payload: bytes, key: PublicKey, *, source: str) -> Health:
    """Check a health document of the unit ``source``.

    Raises VerificationError: ``malformed``, ``unsigned``, ``wrong_source`` or what ``PublicKey`` says.
    """
    members, report = read_health(payload)
    if report.sig is None:
        raise VerificationError("unsigned", "the health document has no signature")
    if report.source != source:
        raise VerificationError("wrong_source", "the health document speaks for another unit")
    unsigned = {name: value for name, value in members.items() if name != "sig"}
    key.verify_detached(report.sig, rfc8785.dumps(unsigned), typ=SIGNATURE_TYPE)
    return report
