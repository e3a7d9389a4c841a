# SPDX-License-Identifier: Apache-2.0
"""A program that may ask for what it missed can do that alone, and disturbs nobody who commands."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.clock import SimulatedClock
from agent.keys import SigningKey
from agent.parse.strict_json import decode
from agent.protocol.command import SIGNATURE_TYPE, Command
from agent.protocol.grant import GRANT_DAYS, GRANT_TYPE, Grant, make_grant
from agent.protocol.response import SignedResponse
from agent.uplink.answers import Answers
from agent.uplink.commands import ASKED_BURST, CommandCounter, Commands, Outcome
from tests.simulators.signing_unit import START, SigningUnit

SITE_KEY, ASK = SigningKey.generate(), SigningKey.generate()


class Asked:
    """A unit that offers two verbs, and a program with a grant."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, SimulatedClock(START)
        self.done: list[str] = []
        self.outcomes: list[Outcome] = []
        self.unit = SigningUnit(folder / "outbox.db", clock=self.clock)
        self.commands = Commands(
            site="hq",
            unit="door-3",
            key=SITE_KEY.public,
            counter=CommandCounter(folder / "commands.json"),
            answers=Answers("hq", "door-3", self.unit.key),
            clock=self.clock,
            random=secrets.token_bytes,
            on_outcome=self.outcomes.append,
        )
        self.commands.bind(dict.fromkeys(("outbox/replay", "recognition/pause"), self._do))
        self.grant = make_grant("auditor", ASK, SITE_KEY, site="hq", now=START)
        self.seq = 0

    def _do(self, command: Command) -> Mapping[str, Any]:
        self.done.append(command.verb)
        return {}

    def ask(
        self, verb: str = "outbox/replay", *, grant: str | None = None, key: SigningKey = ASK, **changes: Any
    ) -> str | None:
        """The error that the unit answers with, ``ok`` or None for silence."""
        self.seq += 1
        now = int(self.clock.now().timestamp())
        facts = {"site": "hq", "unit": "door-3", "cmd_seq": self.seq, "issued_at": now, "expires_at": now + 60}
        command = Command(**{**facts, "verb": verb, "transaction": "t", "args": {}, **changes})
        token = key.sign(msgspec.json.encode(command), typ=SIGNATURE_TYPE)
        given = self.grant if grant is None else grant
        return self.send(f"{given}~{token}" if given else token, verb)

    def send(self, payload: str, verb: str = "outbox/replay") -> str | None:
        answer = self.commands.handle(verb, payload.encode())
        if answer is None:
            return None
        content = decode(self.unit.key.public.verify(answer.decode(), typ="postern-response+jws"), SignedResponse, 9999)
        return content.error or "ok"


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path)


def grant_of(signer: SigningKey, key: SigningKey = ASK, **changes: Any) -> str:
    facts = {"version": 1, "site": "hq", "program": "auditor", "verbs": ("outbox/replay", "recognition/pause")}
    facts |= {"jwk": key.public_jwk(), "expires_at": int(START.timestamp()) + 3600}
    return signer.sign(msgspec.json.encode(Grant(**{**facts, **changes})), typ=GRANT_TYPE)


def test_granted_question_is_answered_and_the_disk_is_left_alone(asked: Asked) -> None:
    assert asked.ask() == "ok"
    assert not (asked.folder / "commands.json").exists()
    assert [outcome.program for outcome in asked.outcomes] == ["auditor"]


@pytest.mark.parametrize("verb", ["recognition/pause"])
def test_program_that_may_ask_cannot_command_even_where_its_grant_says_so(asked: Asked, verb: str) -> None:
    assert asked.ask(verb) == "not_granted"
    assert asked.ask(verb, grant=grant_of(SITE_KEY)) == "not_granted"
    assert asked.done == []


def test_nobody_grants_a_right_but_the_site(asked: Asked) -> None:
    thief = SigningKey.generate()
    assert asked.ask(grant=grant_of(thief, thief), key=thief) == "wrong_key"
    assert asked.ask(grant=grant_of(SITE_KEY), key=thief) == "wrong_key"
    assert asked.ask(grant=grant_of(SITE_KEY, site="annex")) == "wrong_site"
    assert asked.ask(grant="") == "wrong_key"
    assert asked.send("~") == "malformed"
    assert asked.send("~".join([asked.grant] * 3)) == "malformed"
    assert asked.done == []


def test_command_of_the_site_is_no_grant(asked: Asked) -> None:
    command = Command(
        site="hq", unit="door-3", verb="outbox/replay", cmd_seq=1, issued_at=0, expires_at=60, transaction="t"
    )
    token = SITE_KEY.sign(msgspec.json.encode(command), typ=SIGNATURE_TYPE)
    assert asked.ask(grant=token) == "wrong_type"


def test_question_that_was_recorded_is_not_answered_again(asked: Asked) -> None:
    assert asked.ask(cmd_seq=7) == "ok"
    assert asked.ask(cmd_seq=7) == "replayed"
    asked.clock.advance(400)
    assert asked.ask(cmd_seq=9, issued_at=int(START.timestamp()), expires_at=int(START.timestamp()) + 60) == "expired"


def test_grant_ends(asked: Asked) -> None:
    asked.clock.advance(timedelta(days=GRANT_DAYS).total_seconds() + 1)
    assert asked.ask() == "grant_expired"


def test_flood_of_questions_keeps_nobody_from_commanding(asked: Asked) -> None:
    answers = [asked.ask() for _ in range(3 * ASKED_BURST)]
    assert answers[0] == "ok"
    assert answers[-1] is None
    assert asked.ask("recognition/pause", grant="", key=SITE_KEY, cmd_seq=1) == "ok"


def test_numbers_of_a_program_are_its_own(asked: Asked) -> None:
    assert asked.ask(cmd_seq=int(asked.clock.now().timestamp() * 1000)) == "ok"
    assert asked.ask("recognition/pause", grant="", key=SITE_KEY, cmd_seq=1) == "ok"
    other = SigningKey.generate()
    assert asked.ask(grant=grant_of(SITE_KEY, other, program="guard"), key=other, cmd_seq=1) == "ok"
