# SPDX-License-Identifier: Apache-2.0
"""The other end of ``commands``: sign with the site's key, send, answer a challenge, return the response."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import msgspec

from agent import strict_json
from agent.clock import Clock
from agent.errors import BrokerError
from agent.keys import SigningKey
from agent.mqtt.connection import BrokerSettings, Connection
from agent.mqtt.credentials import load_identity
from agent.protocol.command import MAX_RESPONSE_BYTES, SIGNATURE_TYPE, Command, Response
from agent.protocol.topics import Topics

VALIDITY_S = 60  # a command that is not there in a minute is better sent again
ANSWER_TIMEOUT_S = 15.0  # a self-test runs every model once
POLL_S = 0.2
UNDER_WAY = "capturing"  # the ``state`` of an enrolment that goes on
UNDER_WAY_TIMEOUT_S = 150.0  # the unit ends an enrolment after two minutes and says so


def sign_command(key: SigningKey, command: Command) -> bytes:
    """Encode and sign; the bytes go to ``request/<verb>``."""
    return key.sign(msgspec.json.encode(command), typ=SIGNATURE_TYPE).encode()


@dataclass(eq=False)
class Operator:
    """Sends commands to the units of one site, one at a time.

    ``key`` is the site's command key; the certificate in ``broker`` is the operator's.
    """

    broker: BrokerSettings
    _: KW_ONLY
    site: str
    key: SigningKey
    clock: Clock
    random: Callable[[int], bytes] = secrets.token_bytes

    def ask(
        self,
        unit: str,
        verb: str,
        args: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
        on_progress: Callable[[Response], None] | None = None,
    ) -> Response:
        """Send one command and wait for its answer, which may be a refusal.

        With ``on_progress`` an answer that says that something is under way is handed over, and the next one is waited
        for, for ``UNDER_WAY_TIMEOUT_S`` each.
        Raises BrokerError when the broker cannot be reached or the unit does not answer in time.
        """
        topics = Topics(self.site, unit)
        name = load_identity(self.broker.credentials, self.clock).common_name
        connection = Connection(self.broker, client_id=name, clock=self.clock, session_expiry_s=0)
        connection.open()
        try:
            connection.subscribe(topics.response(verb))
            exchange = _Exchange(connection, self.clock, self._command(unit, verb, dict(args or {})))
            exchange.send(topics, self.key)
            answer = exchange.answer(timeout_s)
            if answer.error == "challenge" and answer.nonce is not None:
                exchange.command = msgspec.structs.replace(exchange.command, nonce=answer.nonce)
                exchange.send(topics, self.key)
                answer = exchange.answer(timeout_s)
            while on_progress is not None and is_under_way(answer):
                on_progress(answer)
                answer = exchange.answer(UNDER_WAY_TIMEOUT_S)
            return answer
        finally:
            connection.close()

    def _command(self, unit: str, verb: str, args: dict[str, Any]) -> Command:
        now = self.clock.now().timestamp()
        return Command(
            site=self.site,
            unit=unit,
            verb=verb,
            cmd_seq=int(now * 1000),  # rises with the time, so several operators need not agree on a counter
            issued_at=int(now),
            expires_at=int(now) + VALIDITY_S,
            transaction=self.random(8).hex(),
            args=args,
        )


class _Exchange:
    """One command on one connection, and the answers to it in the order in which they come."""

    def __init__(self, connection: Connection, clock: Clock, command: Command) -> None:
        self.command = command
        self._connection, self._clock = connection, clock
        self._received: deque[Response] = deque()

    def send(self, topics: Topics, key: SigningKey) -> None:
        self._connection.publish(
            f"{topics.base}/request/{self.command.verb}", sign_command(key, self.command), expiry_s=VALIDITY_S
        )

    def answer(self, timeout_s: float) -> Response:
        end_ns = self._clock.monotonic_ns() + round(timeout_s * 1e9)
        while not self._received and self._clock.monotonic_ns() < end_ns:
            polled = self._connection.poll(POLL_S)
            if any(not ack.accepted for ack in polled.acks):
                raise BrokerError(
                    "the broker refuses the command: give this certificate the role of an operator "
                    "(postern site add-program NAME --role operator)"
                )
            answers = (read_response(message.payload) for message in polled.messages)
            self._received.extend(
                answer
                for answer in answers
                if answer is not None and answer.transaction in (self.command.transaction, None)
            )
        if self._received:
            return self._received.popleft()
        raise BrokerError(
            f"unit {self.command.unit} does not answer: look at its availability and its site's command key"
        )


def is_under_way(answer: Response) -> bool:
    """Whether more answers to the same command will follow."""
    return answer.status == "ok" and answer.data is not None and answer.data.get("state") == UNDER_WAY


def read_response(payload: bytes) -> Response | None:
    """Decode what came on a response topic; None for anything that is no response."""
    try:
        return msgspec.convert(strict_json.loads(payload, limit=MAX_RESPONSE_BYTES), Response)
    except ValueError:  # msgspec.ValidationError is one
        return None
