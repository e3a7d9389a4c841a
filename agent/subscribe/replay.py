# SPDX-License-Identifier: Apache-2.0
"""What a subscriber asks of units: what it missed. The gap that a chain shows is closed by this, and by itself.

One question to a unit at a time, for its oldest gap; the answer is signed, to this question, and says for a run of
numbers which events there were and which are kept no more. The events in it are verified as all others are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import rfc8785

from agent.clock import Bounds, Clock, full_jitter
from agent.disk.files import read_token
from agent.errors import VerificationError, printable
from agent.keys import SigningKey
from agent.parse.strict_json import convert
from agent.protocol.command import SIGNATURE_TYPE, Command, Range
from agent.protocol.event import EVENT_TYPES
from agent.protocol.grant import MAX_GRANT_BYTES, SEPARATOR
from agent.protocol.names import Sequence
from agent.protocol.response import Asked, SignedResponse, command_digest, read_response
from agent.protocol.topics import Topics
from agent.protocol.trust import TrustedUnits
from agent.subscribe.chain import Gap

VERB = "outbox/replay"
SETTLE_S = 3.0  # a gap waits so long before it is asked for: what merely overtook on the way is there by then
PACE_S = 0.025  # between two questions to one unit: below the pace at which a unit falls silent
ANSWER_S = 15.0  # a unit that does not answer by then is away, or does not know the question
AGAIN_S = Bounds(5.0, 10.0, 600.0)  # pauses after a question that was not answered, or refused
VALIDITY_S = 60  # of a question
MAX_EVENTS = 64  # in an answer: what fits into one


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Data of an answer: what became of the numbers from ``first`` to ``through``."""

    first: Sequence
    through: int
    events: tuple[dict[str, Any], ...]
    gone: tuple[tuple[Sequence, Sequence], ...]


class Found(msgspec.Struct, frozen=True):
    """What an answer gave: events as topic and payload, to be verified; ranges that the unit keeps no more."""

    unit: str
    events: tuple[tuple[str, bytes], ...]
    gone: tuple[Gap, ...]


class _Unit(msgspec.Struct):
    """Where the questions to one unit stand; times are monotonic nanoseconds."""

    due_ns: int
    failures: int = 0
    asked: Asked | None = None
    range: Range | None = None
    number: int = 0
    challenged: bool = False  # by the question before: one that is asked twice for the time says nothing new
    nonce: str | None = None  # of a unit that does not know the time: the question is signed again with it


class Replays:
    """See the module. It sends nothing by itself: ``questions`` and ``take`` give and get bytes. One thread."""

    def __init__(self, key: SigningKey, grant: str, *, site: str, clock: Clock, random: Callable[[int], bytes]) -> None:
        """``key`` asks, and ``grant`` is the site's word that it may."""
        self._key, self._grant, self._site = key, grant, site
        self._clock, self._random = clock, random
        self._units: dict[str, _Unit] = {}

    @classmethod
    def from_folder(cls, folder: Path, *, site: str, clock: Clock, random: Callable[[int], bytes]) -> Replays | None:
        """Read ``ask.key`` and ``grant.jws`` of the program's files; None where the site gave none. KeyStoreError."""
        if not (folder / "grant.jws").exists():
            return None
        grant = read_token(folder / "grant.jws", MAX_GRANT_BYTES)
        return cls(SigningKey.load(folder / "ask.key"), grant, site=site, clock=clock, random=random)

    def questions(self, gaps: dict[str, Gap]) -> list[tuple[str, bytes]]:
        """Topic and payload of each question that is due; ``gaps`` is the oldest gap of each unit that has one."""
        now_ns = self._clock.monotonic_ns()
        for name in [name for name in self._units if name not in gaps]:
            del self._units[name]
        found = []
        for name, gap in gaps.items():
            unit = self._units.setdefault(name, _Unit(now_ns + round(SETTLE_S * 1e9)))
            if now_ns < unit.due_ns:
                continue
            if unit.asked is not None:  # and no answer came
                self._pause(unit, now_ns)
                continue
            found.append(self._question(name, unit, gap, now_ns))
        return found

    def wait_s(self, most_s: float) -> float:
        """Seconds until a question may be due, ``most_s`` at most."""
        due_ns = min((unit.due_ns for unit in self._units.values()), default=None)
        if due_ns is None:
            return most_s
        return min(max((due_ns - self._clock.monotonic_ns()) / 1e9, PACE_S), most_s)

    def take(self, topic: str, payload: bytes, trusted: TrustedUnits) -> Found | None:
        """What a message answers to a question; None for the answer to another one.

        Raises VerificationError when the unit refuses, or what it says is no answer: nothing is asked for a while then.
        """
        name = topic.split("/")[2] if topic.count("/") > 2 else ""
        unit = self._units.get(name)
        if unit is None or unit.asked is None or unit.range is None:
            return None
        now_ns = self._clock.monotonic_ns()
        try:
            answer = read_response(payload, unit.asked, trusted)
        except VerificationError as error:
            if error.reason in ("another", "replayed"):
                return None
            raise
        asked, unit.asked = unit.range, None
        if answer.status == "error":
            self._refused(name, unit, answer, now_ns)
            return None
        told = _read(answer, asked)
        unit.due_ns = now_ns + round(PACE_S * 1e9)
        topics = Topics(self._site, name)
        kinds = {kind: topics.backlog(kind) for kind in EVENT_TYPES}
        events = []
        for event in told.events:
            data = event.get("data")
            leaf = kinds.get(str(data.get("event_type")) if isinstance(data, dict) else "", topics.backlog("unit"))
            events.append((leaf, rfc8785.dumps(event)))
        return Found(name, tuple(events), tuple(Gap(*pair) for pair in told.gone))

    def judge(self, name: str, *, closed: bool) -> None:
        """Hear whether an answer closed anything; a unit whose answers close nothing is asked less often."""
        unit = self._units.get(name)
        if unit is not None and closed:
            unit.failures = 0
        elif unit is not None:
            self._pause(unit, self._clock.monotonic_ns())

    def _question(self, name: str, unit: _Unit, gap: Gap, now_ns: int) -> tuple[str, bytes]:
        now = self._clock.now().timestamp()
        unit.number = max(int(now * 1000), unit.number)
        unit.range = Range(gap.first, gap.last)
        command = Command(
            site=self._site,
            unit=name,
            verb=VERB,
            cmd_seq=unit.number,
            issued_at=int(now),
            expires_at=int(now) + VALIDITY_S,
            transaction=self._random(8).hex(),
            args=msgspec.to_builtins(unit.range),
            nonce=unit.nonce,
        )
        signed = self._key.sign(msgspec.json.encode(command), typ=SIGNATURE_TYPE)
        payload = f"{self._grant}{SEPARATOR}{signed}".encode()
        unit.asked = Asked(self._site, name, VERB, command.transaction, command_digest(payload))
        unit.due_ns, unit.challenged, unit.nonce = now_ns + round(ANSWER_S * 1e9), unit.nonce is not None, None
        return f"{Topics(self._site, name).base}/request/{VERB}", payload

    def _refused(self, name: str, unit: _Unit, answer: SignedResponse, now_ns: int) -> None:
        if answer.next_seq is not None and answer.next_seq > unit.number:
            unit.number = answer.next_seq
            unit.due_ns = now_ns + round(PACE_S * 1e9)
            return
        if answer.error == "challenge" and answer.nonce is not None and not unit.challenged:
            unit.nonce, unit.due_ns = answer.nonce, now_ns + round(PACE_S * 1e9)
            return
        self._pause(unit, now_ns)
        raise VerificationError(
            printable(answer.error or ""),
            f"unit {name} does not say again what is missing ({printable(answer.message or '')})",
        )

    def _pause(self, unit: _Unit, now_ns: int) -> None:
        unit.asked = None
        unit.failures += 1
        unit.due_ns = now_ns + round(full_jitter(unit.failures, AGAIN_S, self._random) * 1e9)


def _read(answer: SignedResponse, asked: Range) -> Told:
    """The data, within what was asked; VerificationError ``malformed``."""
    try:
        told = convert(answer.data, Told)
    except msgspec.ValidationError:
        raise VerificationError("malformed", "a unit's answer about missing events is not one") from None
    inside = all(asked.first <= first <= last <= asked.last for first, last in told.gone)
    if told.first != asked.first or not inside or len(told.events) > MAX_EVENTS:
        raise VerificationError("malformed", "a unit answers about other events than it was asked for")
    return told


def oldest(missing: dict[str, tuple[Gap, ...]], tails: Iterable[tuple[str, Gap]]) -> dict[str, Gap]:
    """The gap of each unit to ask for first: the oldest, else the tail that its health speaks of."""
    return {**dict(tails), **{unit: min(gaps) for unit, gaps in missing.items()}}
