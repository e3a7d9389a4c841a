# SPDX-License-Identifier: Apache-2.0
"""What only the site can say about a unit: that its clock is right, and that files that were put back may count."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from agent.audit.ageing import Ageing
from agent.audit.log import AuditLog
from agent.clock import Clock
from agent.errors import RefusedError
from agent.protocol.command import Command
from agent.protocol.health import Ask
from agent.unit.generation import MAX_REASON, Generation


def tell_ageing(ageing: Ageing) -> str:
    """What the settled time waits for, and what to do."""
    days = ageing.lead().days
    return (
        f"the clock went {days} days ahead of what this unit knows: nothing is destroyed for its age until it has stood"
        " for 30 days of running; if the time is right, say so (postern ask UNIT unit/confirm what=time, or here"
        " postern unit confirm time)"
    )


class Confirming:
    """The verb ``unit/confirm``, and the same by hand."""

    def __init__(self, ageing: Ageing, generation: Generation, audit: AuditLog, clock: Clock) -> None:
        self._ageing, self._generation, self._audit, self._clock = ageing, generation, audit, clock

    def asks(self) -> tuple[Ask, ...]:
        """What the site has to say; empty while all is well."""
        return (*(("time",) if self._ageing.asks() else ()), *(("files",) if self._generation.doubted() else ()))

    def command(self, command: Command) -> Mapping[str, Any]:
        """Do what ``args`` say: ``what`` is ``time``, or ``files`` with a ``reason``.

        The time is what the operator's clock said when they signed: it was compared with this unit's, or is fresh by
        its nonce. Raises RefusedError (``bad_args``, ``not_asked``) and StorageError.
        """
        match command.args:
            case {"what": "time", **rest} if not rest:
                signed = datetime.fromtimestamp(command.issued_at, UTC)
                self.time(min(signed, self._clock.now().astimezone(UTC)) if self._clock.state() == "synced" else signed)
                return {"confirmed": "time"}
            case {"what": "files", "reason": str(reason), **rest} if not rest:
                self.files(reason)
                return {"confirmed": "files"}
        raise RefusedError("say what=time, or what=files with a reason in words", reason="bad_args")

    def time(self, at: datetime) -> None:
        """Take ``at`` for the time: what is past its time by it is destroyed from now on."""
        self._ageing.confirm(at)
        self._audit.append("confirmed", {"what": "time"})

    def files(self, reason: str) -> None:
        """Go on with files that were put back; RefusedError when none were, or without a reason."""
        if not self._generation.doubted():
            raise RefusedError("no file of this unit was put back: there is nothing to confirm", reason="not_asked")
        if not 1 <= len(reason.strip()) <= MAX_REASON:
            raise RefusedError(f"give a reason of 1 to {MAX_REASON} characters", reason="bad_args")
        self._generation.accept(reason.strip())
