# SPDX-License-Identifier: Apache-2.0
"""What a unit says to commands, each answer signed, and further reports on a command that is under way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from agent.keys import SigningKey
from agent.protocol.response import SignedResponse, sign_response

FIRST = 1  # number of the answer itself; those of reports follow
MAX_UNDER_WAY = 4  # commands that may still be reported on; one enrolment is open at a time
Failure = tuple[str, str]  # code and sentence


class _UnderWay(msgspec.Struct):
    verb: str
    command: str
    number: int = FIRST


class Answers:
    """Signs by the unit's key. All methods may be called from any thread."""

    def __init__(self, site: str, unit: str, key: SigningKey) -> None:
        """``key`` is the one of the unit in the site's list."""
        self._site, self._unit, self._key = site, unit, key
        self._lock = threading.Lock()
        self._under_way: dict[str, _UnderWay] = {}  # by transaction, oldest first

    def answer(
        self,
        verb: str,
        command: str,
        transaction: str | None,
        data: dict[str, Any] | None,
        failure: Failure | None,
        *,
        nonce: str | None = None,
        next_seq: int | None = None,
        number: int = FIRST,
    ) -> bytes:
        """Answer the command with the digest ``command``: ``data``, or why there is none as (code, sentence)."""
        error, message = failure or (None, None)
        return sign_response(
            SignedResponse(
                status="ok" if failure is None else "error",
                transaction=transaction,
                error=error,
                message=message,
                nonce=nonce,
                next_seq=next_seq,
                data=data if failure is None else None,
                site=self._site,
                unit=self._unit,
                verb=verb,
                command=command,
                number=number,
            ),
            self._key,
        )

    @contextmanager
    def under_way(self, verb: str, command: str, transaction: str) -> Iterator[None]:
        """Let the command be reported on from now on; after an error everything is as before."""
        with self._lock:
            before = self._under_way.pop(transaction, None)
            self._under_way[transaction] = _UnderWay(verb, command)
        try:
            yield
        except BaseException:
            with self._lock:
                del self._under_way[transaction]
                if before is not None:
                    self._under_way[transaction] = before
            raise
        with self._lock:
            while len(self._under_way) > MAX_UNDER_WAY:
                del self._under_way[next(iter(self._under_way))]

    def report(
        self, transaction: str, data: dict[str, Any] | None, failure: Failure | None
    ) -> tuple[str, bytes] | None:
        """Verb and payload of one more answer to the command of ``transaction``; None when there is no such command."""
        with self._lock:
            if (held := self._under_way.get(transaction)) is None:
                return None
            held.number += 1
            number = held.number
        return held.verb, self.answer(held.verb, held.command, transaction, data, failure, number=number)
