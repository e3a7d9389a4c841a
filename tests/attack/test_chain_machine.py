# SPDX-License-Identifier: Apache-2.0
"""A unit, a copy of its card, a broker that reorders, and restarts, in any order: what a subscriber may ever accept."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from agent.errors import VerificationError
from agent.subscribe.chain import QUARANTINING, Chain, Chains, Entry

SOURCE, KID = "/postern/hq/door-3", "k" * 43
FIRST = "sha256:" + "0" * 64


def digest_of(boot: str, seq: int) -> str:
    return f"sha256:{int(boot, 16):032x}{seq:032x}"


class Subscriber(RuleBasedStateMachine):
    """Each rule is something that happens to the unit, the copy, the broker or the subscriber."""

    sent = Bundle("sent")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000
        self.unit: list[Entry] = []
        self.copy: list[Entry] | None = None
        self.boot = "a" * 16
        self.copy_boot = "c" * 16
        self.chains = Chains()
        self.accepted: dict[int, str] = {}
        self.quarantined = False
        self.jumped = False

    def sign(self, life: list[Entry], boot: str, seq: int) -> Entry:
        prev = life[-1].digest if life else FIRST
        entry = Entry(seq, prev, digest_of(boot, seq), boot, self.now, self.now, fresh=False)
        life.append(entry)
        return entry

    @rule(target=sent)
    def the_unit_speaks(self) -> Any:
        return self.sign(self.unit, self.boot, self.unit[-1].seq + 1 if self.unit else 1)

    @rule(target=sent, jump=st.integers(1, 60_000))
    def a_copy_of_the_card_speaks(self, jump: int) -> Any:
        if self.copy is None:
            self.copy = list(self.unit)
        return self.sign(self.copy, self.copy_boot, (self.copy[-1].seq if self.copy else 0) + jump)

    @rule(seconds=st.integers(1, 3600))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def the_agent_starts_again(self) -> None:
        self.boot = f"{int(self.boot, 16) + 1:016x}"

    @rule(entry=sent, live=st.booleans())
    def the_broker_delivers(self, entry: Entry, live: bool) -> None:
        fresh = live and entry.signed is not None and 0 <= self.now - entry.signed <= 71
        fresh = fresh and entry.boot in (self.boot, self.copy_boot)  # what is left of an earlier run comes as backlog
        chain = self.chains.find(SOURCE, KID)
        if chain.quarantined:
            assert self.quarantined, "a quarantine out of nothing"
            return
        refusal = None
        try:
            chain.accept(entry._replace(now=self.now, fresh=fresh))
        except VerificationError as error:
            refusal = error.reason
        if refusal in QUARANTINING:
            assert self.copy is not None, f"{refusal} of a unit that was never copied"
            chain.quarantined = refusal  # type: ignore[assignment]
            self.chains.keep(SOURCE, KID, chain)
            self.quarantined = True
        if refusal is not None:
            return
        assert entry.seq not in self.accepted, "a number was accepted twice"
        self.accepted[entry.seq] = entry.digest
        self.chains.keep(SOURCE, KID, chain)

    @rule()
    def the_subscriber_starts_again(self) -> None:
        self.chains = Chains(self.chains.export())

    @invariant()
    def a_quarantine_stays(self) -> None:
        assert bool(self.chains.quarantined()) == self.quarantined

    @invariant()
    def what_was_changed_is_what_is_written(self) -> None:
        for record in self.chains.take_changed():
            assert Chain(record).record(SOURCE, KID) == record


TestSubscriber = Subscriber.TestCase
