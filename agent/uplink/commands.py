# SPDX-License-Identifier: Apache-2.0
"""Signed commands: verify everything, then act once.

A command is a compact JWS by the site's command key over a ``Command``. It names site, unit and verb, so it
cannot be sent elsewhere; its ``cmd_seq`` rises and is on disk before anything happens, so it cannot be sent
twice; it expires soon. While the clock is not known to be right, expiry means nothing, and the unit asks for
a fresh signature over a nonce of its own instead. The broker's ACL is only the outer fence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from agent import strict_json
from agent.clock import Clock
from agent.errors import PosternError, RefusedError, RetryError, StorageError, VerificationError
from agent.files import write_atomic
from agent.keys import PublicKey
from agent.protocol.command import MAX_COMMAND_BYTES, SIGNATURE_TYPE, VERBS, Command, encode_response
from agent.strict_json import MAX_SAFE_INTEGER

MAX_VALIDITY_S = 300  # a captured command is worthless after five minutes even if it never arrived
MAX_SKEW_S = 30  # two clocks that are both "synced" agree better than this
NONCE_BYTES = 16
NONCE_LIFE_S = 60  # an operator's tool answers a challenge at once
MAX_NONCES = 4  # operators at once
RECENT = 32  # commands remembered as taken: what tells a repeated one from one that others overtook
COUNTER_BYTES = 1024  # of their numbers on disk
BURST, PER_SECOND = 20, 5  # commands looked at: a flood must not eat the processor; beyond it there is silence


Handler = Callable[[Command], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """For the audit log: what was asked and what came of it; ``cmd_seq`` is None when nothing vouched for it."""

    verb: str
    cmd_seq: int | None
    error: str | None


class _Taken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The counter's file."""

    cmd_seq: Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]
    recent: Annotated[tuple[int, ...], Meta(max_length=RECENT)] = ()


class CommandCounter:
    """The highest ``cmd_seq`` ever acted on, and the last few of them, on disk."""

    def __init__(self, path: Path) -> None:
        """Read the file; a missing one is a new unit. StorageError when it is damaged."""
        self._path = path
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            self._taken = _Taken(0)
            return
        except OSError as error:
            raise StorageError(f"cannot read {path} ({error.strerror}): make it readable to the service") from error
        try:
            self._taken = msgspec.convert(strict_json.loads(content, limit=COUNTER_BYTES), _Taken)
        except (ValueError, msgspec.ValidationError):
            raise StorageError(
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

    def advance(self, cmd_seq: int) -> None:
        """Make ``cmd_seq`` durable; StorageError when that fails, and then nothing changed."""
        before = self._taken.recent or (self.last,)  # nothing is known of what is below
        taken = _Taken(cmd_seq, (*before, cmd_seq)[-RECENT:])
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


class _Bucket:
    """A token bucket over the monotonic clock."""

    def __init__(self) -> None:
        self._tokens, self._last_ns = float(BURST), 0

    def take(self, now_ns: int) -> bool:
        self._tokens = min(BURST, self._tokens + max(now_ns - self._last_ns, 0) * PER_SECOND / 1e9)
        self._last_ns = now_ns
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass(kw_only=True, eq=False)
class Commands:
    """Verifies and dispatches; owns no behaviour of any verb. Takes commands by ``key``; none until ``bind``."""

    site: str
    unit: str
    key: PublicKey
    counter: CommandCounter
    clock: Clock
    random: Callable[[int], bytes]
    on_outcome: Callable[[Outcome], None]

    def __post_init__(self) -> None:
        self._handlers: Mapping[str, Handler] = {}
        self._nonces = _Nonces(self.random)
        self._bucket = _Bucket()

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
        """Answer one request; never raises. None when no answer is due (unknown verb, flood)."""
        if verb not in VERBS or not self._bucket.take(self.clock.monotonic_ns()):
            return None
        command: Command | None = None
        data: dict[str, Any] | None = None
        failure: tuple[str, str] | None = None
        try:
            command = self._authenticate(payload)
            data = self._act(command, verb)
        except PosternError as error:
            failure = (_code(error), str(error))
        except Exception as error:  # noqa: BLE001  # a fault in one verb must not end the session with the broker
            failure = ("fault", f"the unit failed ({type(error).__name__}): look at its log")
        self.on_outcome(Outcome(verb, command.cmd_seq if command else None, failure[0] if failure else None))
        nonce = self._nonces.issue(self.clock.monotonic_ns()) if failure and failure[0] == "challenge" else None
        return encode_response(command.transaction if command else None, data, failure, nonce)

    def _act(self, command: Command, verb: str) -> dict[str, Any]:
        """Check, make the number durable, then do it: a crash in between loses the command, never doubles it."""
        self._check(command, verb)
        handler = self._handlers.get(verb)
        if handler is None:
            raise VerificationError("not_available", "this unit does not offer this verb")
        self.counter.advance(command.cmd_seq)
        return dict(handler(command))

    def _authenticate(self, payload: bytes) -> Command:
        """Signature first: nothing of the content is read before it."""
        if len(payload) > MAX_COMMAND_BYTES:
            raise VerificationError("too_large", f"a command has at most {MAX_COMMAND_BYTES} bytes")
        try:
            token = payload.decode("ascii")
        except UnicodeDecodeError:
            raise VerificationError("malformed", "a command is a compact JWS in ASCII") from None
        content = self.key.verify(token, typ=SIGNATURE_TYPE)
        try:
            return msgspec.convert(strict_json.loads(content, limit=MAX_COMMAND_BYTES), Command)
        except (ValueError, msgspec.ValidationError):
            raise VerificationError("malformed", "the signed content is not a command") from None

    def _check(self, command: Command, verb: str) -> None:
        """Refuse what is for somebody else, was there before, or is too old."""
        if command.site != self.site:
            raise VerificationError("wrong_site", "the command is for another site")
        if command.unit != self.unit:
            raise VerificationError("wrong_unit", "the command is for another unit")
        if command.verb != verb:
            raise VerificationError("wrong_verb", "the command was signed for another verb")
        if self.counter.overtaken(command.cmd_seq):
            raise VerificationError("out_of_order", "commands with higher numbers were taken before: sign it again")
        if command.cmd_seq <= self.counter.last:
            raise VerificationError("replayed", f"cmd_seq must be above {self.counter.last}")
        if command.nonce is not None:
            if not self._nonces.use(command.nonce, self.clock.monotonic_ns()):
                raise VerificationError("bad_nonce", "the nonce is not one of this unit's, or was used, or is too old")
        elif self.clock.state() == "unsynced":
            raise VerificationError("challenge", "the unit's clock is not synchronised: sign again with this nonce")
        else:
            self._check_age(command)

    def _check_age(self, command: Command) -> None:
        now = int(self.clock.now().timestamp())
        if not 0 <= command.expires_at - command.issued_at <= MAX_VALIDITY_S:
            raise VerificationError("too_long_valid", f"a command is valid for at most {MAX_VALIDITY_S} seconds")
        if now > command.expires_at:
            raise VerificationError("expired", "the command is expired: sign it again")
        if now < command.issued_at - MAX_SKEW_S:
            raise VerificationError("not_yet_valid", "the command is from the future: compare the clocks")


def _code(error: PosternError) -> str:
    if isinstance(error, RefusedError):
        return error.reason
    return "try_later" if isinstance(error, RetryError) else "fault"
