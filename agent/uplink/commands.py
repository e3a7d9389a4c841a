# SPDX-License-Identifier: Apache-2.0
"""Signed commands: verify everything, then act once.

A command is a compact JWS by the site's command key over a ``Command``. It names site, unit and verb, so it
cannot be sent elsewhere; its ``cmd_seq`` rises and is on disk before anything happens, so it cannot be sent
twice; it expires soon. While the clock is not known to be right, expiry means nothing, and the unit asks for
a fresh signature over a nonce of its own instead. The broker's ACL is only the outer fence.

Four bounds, each of its own, keep a flood from the processor and from those who command by right: on signatures
checked, on refusals of what is unsigned, on refusals of what is signed, and on commands that are done.

A program that the site gave a right to ask (``agent.protocol.grant``) sends its grant with the command. It has bounds
and numbers of its own, so that it keeps nobody from commanding; what it asks for changes nothing, so its numbers are
remembered in memory alone, and the disk is left in peace.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from agent.clock import Bucket, Clock
from agent.disk.files import write_atomic
from agent.errors import DamagedError, PosternError, RefusedError, RetryError, StorageError, VerificationError
from agent.keys import ALGORITHM, Header, PublicKey, read_header
from agent.parse.strict_json import MAX_SAFE_INTEGER, StrictJsonError, decode
from agent.protocol.command import MAX_COMMAND_BYTES, SIGNATURE_TYPE, VERBS, Command
from agent.protocol.grant import GRANTABLE, SEPARATOR, Grant, read_grant
from agent.protocol.response import command_digest
from agent.uplink.answers import Answers

MAX_VALIDITY_S = 300  # a captured command is worthless after five minutes even if it never arrived
MAX_SKEW_S = 30  # two clocks that are both "synced" agree better than this
NONCE_BYTES = 16
NONCE_LIFE_S = 60  # an operator's tool answers a challenge at once
MAX_NONCES = 4  # operators at once
RECENT = 32  # commands remembered as taken: what tells a repeated one from one that others overtook
COUNTER_BYTES = 1024  # of their numbers on disk
BURST, PER_SECOND = 20, 5  # commands done, and refusals of each sort: beyond it there is silence
# Signatures checked, each half a millisecond on a small board. What does not even claim the site's key needs no check.
CHECKS_BURST, CHECKS_PER_SECOND = 1000, 250
# Of programs that ask for what they missed: a day of events within two minutes, a seventh of a small board's core.
ASKED_BURST, ASKED_PER_SECOND = 100, 50
MAX_PROGRAMS = 16  # whose numbers are remembered; the least recent is forgotten, and may then ask once more
LAST_NUMBER = 253_402_300_799_999  # the last millisecond of the year 9999: what no clock passes
NUMBERS_AHEAD = 1000  # above the highest one taken, whatever the time: two operators at once
STOPPING = ("subject/revoke",)  # done also when the number cannot be stored: again, it does what was done
LASTING = ("enrol/begin", "verify")  # verbs that are reported on after their answer


Handler = Callable[[Command], Mapping[str, Any]]


class Outcome(msgspec.Struct, frozen=True):
    """For the audit log: what was asked and what came of it; ``cmd_seq`` is None when nothing vouched for it.

    ``program`` is who asked by a grant. ``taken`` says that a number of the site's key counts from now on: whoever
    recorded a command can have it refused for ever.
    """

    verb: str
    cmd_seq: int | None
    error: str | None
    program: str | None = None
    taken: bool = False


class _Taken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The counter's file."""

    cmd_seq: Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]
    recent: Annotated[tuple[int, ...], Meta(max_length=RECENT)] = ()
    generation: Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)] = 0


class CommandCounter:
    """The highest ``cmd_seq`` ever acted on, and the last few of them, on disk; in memory alone without a ``path``."""

    def __init__(self, path: Path | None) -> None:
        """Read the file; a missing one is a new unit. StorageError when it is damaged."""
        self._path = path
        self._lock = threading.Lock()  # commands and what numbers the unit's files run on two threads
        if path is None:
            self._taken = _Taken(0)
            return
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            self._taken = _Taken(0)
            return
        except OSError as error:
            raise StorageError(f"cannot read {path} ({error.strerror}): make it readable to the service") from error
        try:
            self._taken = decode(content, _Taken, COUNTER_BYTES)
        except StrictJsonError:
            raise DamagedError(
                f"{path} is damaged: restore it, or write a cmd_seq above all that were ever used"
            ) from None

    @property
    def last(self) -> int:
        """The highest number acted on; 0 before the first."""
        return self._taken.cmd_seq

    def overtaken(self, cmd_seq: int) -> bool:
        """Whether ``cmd_seq`` was never acted on though later ones were, as far as the unit remembers."""
        recent = self._taken.recent
        return bool(recent) and recent[0] < cmd_seq < self.last and cmd_seq not in recent

    def remembers(self, cmd_seq: int) -> bool:
        """Whether ``cmd_seq`` is known to have been acted on."""
        return cmd_seq == self.last or cmd_seq in self._taken.recent

    def advance(self, cmd_seq: int, *, whatever_the_disk_says: bool = False) -> None:
        """Make ``cmd_seq`` durable; StorageError when that fails, and then nothing changed.

        With ``whatever_the_disk_says`` it then counts until the next start, and no error is raised.
        """
        with self._lock:
            before = self._taken.recent or (self.last,)  # nothing is known of what is below
            taken = _Taken(cmd_seq, (*before, cmd_seq)[-RECENT:], self._taken.generation)
            try:
                if self._path is not None:
                    write_atomic(self._path, msgspec.json.encode(taken))
            except StorageError:
                if not whatever_the_disk_says:
                    raise
            self._taken = taken

    def generation(self) -> int:
        """Number in common with the unit's other files; 0 before its first."""
        return self._taken.generation

    def stamp(self, number: int) -> None:
        """Carry ``number`` from now on, durably. Raises StorageError."""
        with self._lock:
            taken = msgspec.structs.replace(self._taken, generation=number)
            if self._path is not None:
                write_atomic(self._path, msgspec.json.encode(taken))
            self._taken = taken


class _Nonces:
    """Challenges that wait for their answer: few, short-lived, good for one use."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._open: dict[str, int] = {}  # nonce -> monotonic ns of its end

    def issue(self, now_ns: int) -> str:
        while len(self._open) >= MAX_NONCES:
            del self._open[next(iter(self._open))]
        nonce = self._random(NONCE_BYTES).hex()
        self._open[nonce] = now_ns + NONCE_LIFE_S * 1_000_000_000
        return nonce

    def use(self, nonce: str, now_ns: int) -> bool:
        return self._open.pop(nonce, -1) > now_ns


class _Bounds:
    """The four bounds of one sort of sender, and its challenges."""

    def __init__(self, checks: Bucket, done: Bucket, random: Callable[[int], bytes]) -> None:
        self.checks, self.done = checks, done
        self.nonces = _Nonces(random)
        self.unsigned, self.refused = Bucket(BURST, PER_SECOND), Bucket(BURST, PER_SECOND)


class _FloodError(Exception):
    """One of the bounds is reached: no answer is due."""


class _NumberError(VerificationError):
    """The number is refused; ``next_seq`` is one that would not be, where this one is not known to have been taken."""

    def __init__(self, reason: str, message: str, next_seq: int | None = None) -> None:
        super().__init__(reason, message)
        self.next_seq = next_seq


@dataclass(kw_only=True, eq=False)
class Commands:
    """Verifies and dispatches; owns no behaviour of any verb. Takes commands by ``key``; none until ``bind``."""

    site: str
    unit: str
    key: PublicKey
    counter: CommandCounter
    answers: Answers
    clock: Clock
    random: Callable[[int], bytes]
    on_outcome: Callable[[Outcome], None]
    on_mandate: Callable[[int], None] = lambda _: None  # raises for the number of a mandate that was replaced
    doubted: Callable[[], bool] = lambda: False  # whether counter or clock may have been put back: a nonce is needed

    def __post_init__(self) -> None:
        self._handlers: Mapping[str, Handler] = {}
        self._commanded = _Bounds(Bucket(CHECKS_BURST, CHECKS_PER_SECOND), Bucket(BURST, PER_SECOND), self.random)
        asked = Bucket(ASKED_BURST, 2 * ASKED_PER_SECOND), Bucket(ASKED_BURST, ASKED_PER_SECOND)
        self._asked = _Bounds(*asked, self.random)
        self._numbers: dict[str, CommandCounter] = {}  # of programs, by the id of their key

    def bind(self, handlers: Mapping[str, Handler]) -> None:
        """Offer verbs; a handler turns the command into the answer's ``data``, or raises PosternError."""
        unknown = set(handlers) - set(VERBS)
        if unknown:
            raise ValueError(f"handlers for unknown verbs: {sorted(unknown)}")
        self._handlers = handlers

    def obey(self, key: PublicKey) -> None:
        """Take commands by ``key`` from now on, and by no other; for the handler of a change of key."""
        self.key = key

    def handle(self, verb: str, payload: bytes) -> bytes | None:
        """Answer one request, signed; never raises. None when no answer is due (unknown verb, flood)."""
        if verb not in VERBS:
            return None
        try:
            return self._handle(verb, payload, self.clock.monotonic_ns())
        except _FloodError:
            return None

    def _handle(self, verb: str, payload: bytes, now_ns: int) -> bytes:
        command: Command | None = None
        data: dict[str, Any] | None = None
        failure: tuple[str, str] | None = None
        next_seq: int | None = None
        grant: Grant | None = None
        before = self.counter.last
        bounds = self._asked if SEPARATOR.encode() in payload else self._commanded
        bound: Bucket | None = bounds.unsigned  # what an answer is still to be taken from
        try:
            command, grant, counter = self._authenticate(payload, bounds.checks, now_ns)
            bound = bounds.refused
            if grant is not None:
                self._check_grant(grant, verb)
            handler = self._check(command, verb, counter, bounds.nonces)
            bound = None
            _take(bounds.done, now_ns)
            data = self._act(command, handler, command_digest(payload), counter)
        except _FloodError:
            raise
        except PosternError as error:
            failure = (_code(error), str(error))
            next_seq = error.next_seq if isinstance(error, _NumberError) else None
        except Exception as error:  # noqa: BLE001  # a fault in one verb must not end the session with the broker
            failure = ("fault", f"the unit failed ({type(error).__name__}): look at its log")
        challenged = failure is not None and failure[0] == "challenge"  # nobody but the site's key gets as far
        if bound is not None:
            _take(bounds.done if challenged else bound, now_ns)
        seq, program = command.cmd_seq if command else None, grant.program if grant else None
        taken = self.counter.last > before
        self.on_outcome(Outcome(verb, seq, failure[0] if failure else None, program, taken=taken))
        nonce = bounds.nonces.issue(now_ns) if challenged else None
        transaction = command.transaction if command else None
        digest = command_digest(payload)
        return self.answers.answer(verb, digest, transaction, data, failure, nonce=nonce, next_seq=next_seq)

    def _act(self, command: Command, handler: Handler, digest: str, counter: CommandCounter) -> dict[str, Any]:
        """Make the number durable, then do it: a crash in between loses the command, never doubles it.

        A full disk keeps nobody matched: who withdrew is forgotten in memory first, and on disk once that is possible.
        """
        counter.advance(command.cmd_seq, whatever_the_disk_says=command.verb in STOPPING)
        if command.verb not in LASTING:
            return dict(handler(command))
        with self.answers.under_way(command.verb, digest, command.transaction):
            return dict(handler(command))

    def _authenticate(
        self, payload: bytes, checks: Bucket, now_ns: int
    ) -> tuple[Command, Grant | None, CommandCounter]:
        """Signature first: nothing of the content is read before it. The command, who sent it, and their numbers."""
        if len(payload) > MAX_COMMAND_BYTES:
            raise VerificationError("too_large", f"a command has at most {MAX_COMMAND_BYTES} bytes")
        try:
            token = payload.decode("ascii")
        except UnicodeDecodeError:
            raise VerificationError("malformed", "a command is a compact JWS in ASCII") from None
        given, separator, asked = token.partition(SEPARATOR)
        grant, key, counter = None, self.key, self.counter
        if separator:
            token = asked
            _take(checks, now_ns)
            grant, key = read_grant(given, self.key, site=self.site)
            counter = self._numbers_of(key.kid)
        elif read_header(token) == Header(ALGORITHM, self.key.kid, SIGNATURE_TYPE):
            _take(checks, now_ns)
        content = key.verify(token, typ=SIGNATURE_TYPE)
        try:
            return decode(content, Command, MAX_COMMAND_BYTES), grant, counter
        except StrictJsonError:
            raise VerificationError("malformed", "the signed content is not a command") from None

    def _numbers_of(self, kid: str) -> CommandCounter:
        counter = self._numbers.pop(kid, None) or CommandCounter(None)
        self._numbers[kid] = counter
        while len(self._numbers) > MAX_PROGRAMS:
            del self._numbers[next(iter(self._numbers))]
        return counter

    def _check_grant(self, grant: Grant, verb: str) -> None:
        if verb not in grant.verbs or verb not in GRANTABLE:
            raise VerificationError("not_granted", "this program was not given the right to ask for this")
        if self.clock.state() == "synced" and self.clock.now().timestamp() > grant.expires_at:
            raise VerificationError("grant_expired", "the grant has ended: issue the program's files again")
        if grant.number:
            self.on_mandate(grant.number)

    def _check(self, command: Command, verb: str, counter: CommandCounter, nonces: _Nonces) -> Handler:
        """Refuse what is for somebody else, was there before, is too old or not offered; who does it otherwise."""
        if command.site != self.site:
            raise VerificationError("wrong_site", "the command is for another site")
        if command.unit != self.unit:
            raise VerificationError("wrong_unit", "the command is for another unit")
        if command.verb != verb:
            raise VerificationError("wrong_verb", "the command was signed for another verb")
        self._check_number(command.cmd_seq, counter)
        if command.nonce is not None:
            if not nonces.use(command.nonce, self.clock.monotonic_ns()):
                raise VerificationError("bad_nonce", "the nonce is not one of this unit's, or was used, or is too old")
        elif self.clock.state() == "unsynced":
            raise VerificationError("challenge", "the unit's clock is not synchronised: sign again with this nonce")
        elif self.doubted():
            raise VerificationError("challenge", "the unit's files or clock were put back: sign again with this nonce")
        else:
            self._check_age(command)
        handler = self._handlers.get(verb)
        if handler is None:
            raise VerificationError("not_available", "this unit does not offer this verb")
        return handler

    def _check_number(self, cmd_seq: int, counter: CommandCounter) -> None:
        """Numbers rise, and run ahead of the time no further than two clocks differ: one operator locks nobody out.

        Where they did (the unit did not know the time), the refusal names the next, and that one is taken.
        """
        last = counter.last
        next_seq = None if counter.remembers(cmd_seq) or last >= LAST_NUMBER else last + 1
        if counter.overtaken(cmd_seq):
            raise _NumberError(
                "out_of_order",
                f"commands with higher numbers were taken before: sign it again with {last + 1}",
                next_seq,
            )
        if cmd_seq <= last:
            raise _NumberError("replayed", f"cmd_seq must be above {last}", next_seq)
        highest = LAST_NUMBER
        if self.clock.state() == "synced":
            now_ms = int(self.clock.now().timestamp() * 1000)
            highest = min(highest, max(now_ms + MAX_SKEW_S * 1000, last + NUMBERS_AHEAD))
        if cmd_seq > highest:
            raise _NumberError(
                "number_ahead", f"cmd_seq must be from {last + 1} to {highest}: compare the clocks", next_seq
            )

    def _check_age(self, command: Command) -> None:
        now = int(self.clock.now().timestamp())
        if not 0 <= command.expires_at - command.issued_at <= MAX_VALIDITY_S:
            raise VerificationError("too_long_valid", f"a command is valid for at most {MAX_VALIDITY_S} seconds")
        if now > command.expires_at:
            raise VerificationError("expired", "the command is expired: sign it again")
        if now < command.issued_at - MAX_SKEW_S:
            raise VerificationError("not_yet_valid", "the command is from the future: compare the clocks")


def _take(bucket: Bucket, now_ns: int) -> None:
    if not bucket.take(now_ns):
        raise _FloodError


def _code(error: PosternError) -> str:
    if isinstance(error, RefusedError):
        return error.reason
    return "try_later" if isinstance(error, RetryError) else "fault"
