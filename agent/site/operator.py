# SPDX-License-Identifier: Apache-2.0
"""The other end of ``commands``: sign with the site's key, send, answer a challenge, return the unit's own answer.

What is not signed by the unit, as an answer to this very command, is no answer: it is waited on, and said at the end.
"""

from __future__ import annotations

import secrets
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from typing import Any

import msgspec

from agent.clock import Clock
from agent.errors import BrokerError, PosternError, VerificationError
from agent.keys import SigningKey
from agent.mqtt.connection import Connection
from agent.mqtt.credentials import load_identity, offer_certificate
from agent.mqtt.records import BrokerSettings
from agent.protocol.command import SIGNATURE_TYPE, Command
from agent.protocol.response import Asked, Response, SignedResponse, command_digest, read_response
from agent.protocol.topics import Topics, certificate_topic
from agent.protocol.trust import TrustedUnits

VALIDITY_S = 60  # a command that is not there in a minute is better sent again
ANSWER_TIMEOUT_S = 15.0  # a self-test runs every model once
POLL_S = 0.2
UNDER_WAY = ("capturing", "waiting")  # the ``state`` of an enrolment, or of a question, that goes on
UNDER_WAY_TIMEOUT_S = 150.0  # the unit ends an enrolment after two minutes and says so
OF_OTHERS = ("another", "replayed")  # answers to other commands, and those that came before: nothing strange
MOMENT_MS = 1000  # two clocks that agree are nearer to each other
MAX_SENT = 3  # of one command: once more with another number, and once more with a nonce


def sign_command(key: SigningKey, command: Command) -> bytes:
    """Encode and sign; the bytes go to ``request/<verb>``."""
    return key.sign(msgspec.json.encode(command), typ=SIGNATURE_TYPE).encode()


@dataclass(eq=False)
class Operator:
    """Sends commands to the units of one site, one at a time.

    ``key`` is the site's command key, ``trusted`` its list; the certificate in ``broker`` is the operator's.
    """

    broker: BrokerSettings
    _: KW_ONLY
    site: str
    key: SigningKey
    trusted: TrustedUnits
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
        Raises BrokerError when the broker cannot be reached or the unit does not answer in time, under its signature.
        """
        topics = Topics(self.site, unit)
        name = load_identity(self.broker.credentials, self.clock).common_name
        connection = Connection(self.broker, client_id=name, clock=self.clock, session_expiry_s=0)
        connection.open()
        try:
            connection.subscribe(topics.response(verb))
            own = certificate_topic(self.site, name)
            with suppress(BrokerError):  # what asks goes on without, until its certificate ends
                connection.subscribe(own, retained=True)
            command = self._command(unit, verb, dict(args or {}))
            exchange = _Exchange(connection, self.clock, self.trusted, command, {own: self._renew})
            for _ in range(MAX_SENT):
                exchange.send(topics, self.key)
                answer = exchange.answer(timeout_s)
                if (again := next_command(exchange.command, answer)) is None:
                    break
                exchange.command = again
            while on_progress is not None and is_under_way(answer):
                on_progress(answer)
                answer = exchange.answer(UNDER_WAY_TIMEOUT_S)
            return answer
        finally:
            connection.close()

    def _renew(self, content: bytes) -> None:
        """Take the certificate that the site renewed; what is none changes nothing."""
        with suppress(PosternError):
            offer_certificate(self.broker.credentials, content, self.clock)

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


def next_command(command: Command, answer: Response) -> Command | None:
    """The command as the unit would take it, where its refusal says so: with its nonce, or its next number.

    Numbers follow the time; one above it was taken from an operator whose clock was ahead, while the unit had no time.
    """
    if answer.error == "challenge" and answer.nonce is not None and command.nonce is None:
        return msgspec.structs.replace(command, nonce=answer.nonce)
    if answer.error in ("out_of_order", "replayed") and (answer.next_seq or 0) > command.cmd_seq:
        return msgspec.structs.replace(command, cmd_seq=answer.next_seq)
    return None


def number_after(last: int, now_ms: int) -> int:
    """Number of a command at ``now_ms`` to a unit that was sent ``last``: the time, or just above one of this moment.

    Nothing else of the past counts: with a number from a clock that was ahead, or that one unit named, each command
    would be refused. A unit that took a higher one says so.
    """
    return last + 1 if now_ms <= last < now_ms + MOMENT_MS else now_ms


class _Exchange:
    """One command on one connection, and the answers to it in the order in which they come."""

    def __init__(
        self,
        connection: Connection,
        clock: Clock,
        trusted: TrustedUnits,
        command: Command,
        others: Mapping[str, Callable[[bytes], None]],
    ) -> None:
        """``others`` take what comes at topics that are no answer's."""
        self.command, self._others = command, others
        self._connection, self._clock, self._trusted = connection, clock, trusted
        self._asked: Asked | None = None
        self._taken = 0  # number of the last answer
        self._received: deque[SignedResponse] = deque()
        self._passed_over: Counter[str] = Counter()  # reasons

    def send(self, topics: Topics, key: SigningKey) -> None:
        command = self.command
        payload = sign_command(key, command)
        self._asked = Asked(command.site, command.unit, command.verb, command.transaction, command_digest(payload))
        self._taken = 0
        self._received.clear()
        self._connection.publish(f"{topics.base}/request/{command.verb}", payload, expiry_s=VALIDITY_S)

    def answer(self, timeout_s: float) -> Response:
        end_ns = self._clock.monotonic_ns() + round(timeout_s * 1e9)
        while not self._received and self._clock.monotonic_ns() < end_ns:
            polled = self._connection.poll(POLL_S)
            if any(not ack.accepted for ack in polled.acks):
                raise BrokerError(
                    "the broker refuses the command: give this certificate the role of an operator "
                    "(postern site add-program NAME --role operator)"
                )
            for message in polled.messages:
                self._others.get(message.topic, self._take)(message.payload)
        if self._received:
            return self._received.popleft()
        raise BrokerError(self._why_none())

    def _take(self, payload: bytes) -> None:
        if self._asked is None:
            return
        try:
            answer = read_response(payload, self._asked, self._trusted, above=self._taken)
        except VerificationError as error:
            self._passed_over[error.reason] += 1
        else:
            self._taken = answer.number
            self._received.append(answer)

    def _why_none(self) -> str:
        unit = self.command.unit
        if self._passed_over["unsigned"]:
            return (
                f"unit {unit} does not answer under its signature, so nothing is known to be done: where 'postern "
                "version' is older there than here, upgrade the unit first; else somebody else answers in its name"
            )
        strange = {reason: count for reason, count in self._passed_over.items() if reason not in OF_OTHERS}
        if strange:
            return (
                f"unit {unit} does not answer; {sum(strange.values())} messages in its name were not its answer "
                f"({', '.join(sorted(strange))}): give the newest trust.jws with --trust, then look at the broker"
            )
        return f"unit {unit} does not answer: look at its availability and its site's command key"


def is_under_way(answer: Response) -> bool:
    """Whether more answers to the same command will follow."""
    return answer.status == "ok" and answer.data is not None and answer.data.get("state") in UNDER_WAY
