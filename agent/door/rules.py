# SPDX-License-Identifier: Apache-2.0
"""Which outputs a match opens: a list of rules, each of conditions that must all hold, and of outputs.

There are no expressions, no negation and no rule about somebody in particular. A rule says what must have happened
(``when``), where (``zone``), whether liveness must have passed, and how long the same person then waits
(``cooldown_s``). What a person may do once is written down before it is done (``Rights``): after a crash it is not
done, never twice. Where the record cannot be written, nothing opens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from agent.door.rights import Rights, TokenUse
from agent.errors import PosternError, StorageError
from agent.match.records import Match
from agent.protocol.subject import subject_digest

When = Literal["match", "verified", "token"]


class Rule(msgspec.Struct, frozen=True):
    """``zone`` None is anywhere; ``needs_liveness`` asks for liveness that was checked and passed.

    ``single_use``: each token opens it once.
    """

    name: str
    when: When
    zone: str | None
    needs_liveness: bool
    cooldown_s: int
    then: tuple[str, ...]
    single_use: bool = False


class Rules:
    """The rules of one unit, in the order of the file; ``on_problem`` gets what keeps a right from being written."""

    def __init__(self, rules: Sequence[Rule], rights: Rights, *, on_problem: Callable[[PosternError], None]) -> None:
        self._rules, self._rights, self._on_problem = tuple(rules), rights, on_problem

    def outputs(self, match: Match, *, verified: bool, token: TokenUse | None = None) -> tuple[str, ...]:
        """Names of the outputs that ``match`` opens, each once; its use of each rule is durable.

        ``token`` is what the match was made by, if it was.
        """
        names: list[str] = []
        owner = subject_digest(match.subject)
        for rule in self._rules:
            if not _holds(rule, match, verified=verified) or (rule.single_use and token is None):
                continue
            try:
                taken = self._rights.take(rule.name, owner, rule.cooldown_s, token if rule.single_use else None)
            except StorageError as error:
                self._on_problem(error)
                continue
            names += rule.then if taken else ()
        return tuple(dict.fromkeys(names))

    def used_up(self, token_id: bytes) -> bool:
        """Whether there is nothing left that a token could open: every rule is for one use, and was used by it."""
        try:
            return bool(self._rules) and all(
                rule.single_use and self._rights.is_spent(rule.name, token_id) for rule in self._rules
            )
        except StorageError as error:
            self._on_problem(error)
            return True


def _holds(rule: Rule, match: Match, *, verified: bool) -> bool:
    return (
        (rule.when == "match" or (verified if rule.when == "verified" else match.method == "token"))
        and rule.zone in (None, match.zone)
        and (not rule.needs_liveness or match.liveness == "passed")
    )
