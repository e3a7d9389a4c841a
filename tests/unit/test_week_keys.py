# SPDX-License-Identifier: Apache-2.0
"""Each week's key reaches a bridge that may resolve, by itself: the site's desk, what it retains, and the bridge."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from agent.bridge.people import Resolving
from agent.bridge.records import Body
from agent.bridge.week_keys import KEPT_WEEKS, WeekKeys
from agent.clock import SimulatedClock
from agent.disk.files import write_atomic
from agent.errors import KeyStoreError, PosternError, RefusedError, VerificationError
from agent.keys import SigningKey
from agent.protocol.program import Role
from agent.protocol.pseudonym import epoch_before, epoch_of, pseudonym, spell
from agent.protocol.resolving_keys import MAX_RESOLVING_BYTES, RESOLVE_KEY, RESOLVING_TYPE, seal_resolving_keys
from agent.site import programs, units
from agent.site.delegation import delegate, take_root_away
from agent.site.desk import Desk
from agent.site.folder import changing
from agent.site.rotation import rotate_epoch_keys
from tests.simulators.signing_unit import START, SigningUnit, match_draft
from tests.simulators.site_office import SiteOffice

ANNA = bytes(range(16))
TOPIC = "postern-site/hq/epoch-keys/bridge"
WEEK_S = 7 * 86_400


@dataclass
class Premises:
    """A site whose service runs, and a bridge's folders; what the broker retains is passed on by hand."""

    folder: Path
    clock: SimulatedClock = field(default_factory=lambda: SimulatedClock(START))
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.office = SiteOffice(self.folder, clock=self.clock)
        delegate(self.office.site, clock=self.clock)
        self.issue("bridge", ("access",))
        self.keys = (self.office.site / "clients" / "bridge").rename(self.folder / "keys")
        self.weeks = self.folder / "weeks"
        self.weeks.mkdir(mode=0o700)
        write_atomic(self.folder / "people", f"{ANNA.hex()} anna Anna Bauer\n".encode())
        self.unit = SigningUnit(self.folder / "outbox.db", clock=self.clock)
        self.desk = Desk(self.office.site, clock=self.clock, random=bytes, tell=self.told.append)

    def issue(self, name: str, resolves: tuple[str, ...] | None, role: Role = "auditor") -> Path:
        return programs.issue_client(self.office.site, name, role, resolves=resolves, clock=self.clock)

    def retained(self) -> list[bytes]:
        """What the service says now that it did not say a moment ago."""
        self.clock.advance(61)
        self.desk.daily()
        return [letter.payload for letter in self.desk.board() if letter.topic == TOPIC]

    def receiver(self, program: str = "bridge") -> WeekKeys:
        """The bridge, as after a restart."""
        return WeekKeys(self.keys, self.weeks, site="hq", program=program, clock=self.clock)

    def says(self) -> Body:
        """What a unit says of Anna in this week, by the newest generation of its keys."""
        week = epoch_of(self.clock.now())
        with changing(self.office.site, clock=self.clock) as site:
            name = spell(pseudonym(site.epoch_key("access", week).secret(), ANNA))
        draft = match_draft(self.clock, name)
        row = self.unit.say(replace(draft, facts={**draft.facts, "epoch": week}))
        return Body(kind="match", unit="door-3", subject=name, event=msgspec.json.decode(row.payload))

    def who(self, body: Body) -> str | None:
        """Who it was, as an output that may know is told."""
        person = Resolving(self.folder / "people", self.weeks, None).person(body)
        return None if person is None else person.title

    def held(self) -> set[str]:
        """Weeks of the keys that came by themselves."""
        return {"-".join(file.stem.split("-")[-3:-1]) for file in self.weeks.glob("site-*.json")}


@pytest.fixture
def premises(tmp_path: Path) -> Premises:
    return Premises(tmp_path)


def test_keys_of_this_week_and_the_next_two_come_and_are_of_the_programs_own_audience(premises: Premises) -> None:
    (sealed,) = premises.retained()
    premises.receiver().take(sealed)
    assert premises.held() == {"2026-W47", "2026-W48", "2026-W49"}
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in premises.weeks.iterdir())
    assert {msgspec.json.decode(file.read_bytes())["audience"] for file in premises.weeks.iterdir()} == {"access"}
    assert b"access" not in sealed
    assert premises.retained() == [], "said once, until it is said again for whoever was not there"


def test_a_person_is_resolved_in_each_new_week_and_nobody_carried_anything(premises: Premises) -> None:
    receiver = premises.receiver()
    for _ in range(4):
        for sealed in premises.retained():
            receiver.take(sealed)
        assert premises.who(premises.says()) == "Anna Bauer"
        premises.clock.advance(WEEK_S)
    # It was away for so long that the keys it has have ended: nobody is named until the service is heard again.
    premises.clock.advance(3 * WEEK_S)
    body = premises.says()
    assert premises.who(body) is None
    receiver.take(*premises.retained())
    assert premises.who(body) == "Anna Bauer"


def test_a_new_generation_comes_at_once_and_what_the_former_said_is_resolved_too(premises: Premises) -> None:
    receiver = premises.receiver()
    receiver.take(*premises.retained())
    before = premises.says()
    rotate_epoch_keys(premises.office.site, clock=premises.clock)
    after = premises.says()
    assert before.subject != after.subject
    assert (premises.who(before), premises.who(after)) == ("Anna Bauer", None)
    receiver.take(*premises.retained())
    assert (premises.who(before), premises.who(after)) == ("Anna Bauer", "Anna Bauer")


def test_a_bridge_that_comes_later_is_told_again(premises: Premises) -> None:
    (first,) = premises.retained()
    premises.desk.show_again()
    assert premises.retained() == [first]
    premises.clock.advance(301)
    assert premises.retained() == [first]


def test_weeks_long_past_are_destroyed_and_what_a_person_laid_down_is_kept(premises: Premises) -> None:
    receiver = premises.receiver()
    (sealed,) = premises.retained()
    receiver.take(sealed)
    by_hand = units.epoch_key(premises.office.site, "access", "2026-W47", clock=premises.clock)
    write_atomic(premises.weeks / "access-2026-W47.json", msgspec.json.encode(by_hand))
    assert premises.who(premises.says()) == "Anna Bauer", "the same key twice is one key"
    for _ in range(KEPT_WEEKS + 2):
        premises.clock.advance(WEEK_S)
        receiver.take(*premises.retained())
    present = epoch_of(premises.clock.now())
    assert premises.held() == {epoch_before(present, weeks) for weeks in range(-2, KEPT_WEEKS + 1)}
    assert epoch_before(present, KEPT_WEEKS) > "2026-W47"
    assert [file.name for file in premises.weeks.glob("*2026-W47*")] == ["access-2026-W47.json"]


def test_the_service_needs_no_root(premises: Premises, tmp_path: Path) -> None:
    take_root_away(premises.office.site, tmp_path / "stick", clock=premises.clock)
    (tmp_path / "stick").rename(tmp_path / "safe")
    premises.receiver().take(*premises.retained())
    assert len(premises.held()) == 3


@pytest.mark.parametrize("weeks", [-20, 20])
def test_a_site_whose_clock_is_wrong_for_an_hour_costs_no_key_and_brings_none_of_later_weeks(
    premises: Premises, weeks: int
) -> None:
    receiver = premises.receiver()
    receiver.take(*premises.retained())
    before = premises.held()
    right = premises.clock.now()
    premises.clock.step_wall(weeks * WEEK_S)
    wrong: list[bytes] = []
    with suppress(RefusedError):  # of weeks before its mandate the service has no keys
        wrong = premises.retained()
    premises.clock.step_wall(-weeks * WEEK_S)
    assert premises.clock.now() - right < timedelta(hours=1)
    for sealed in (*wrong, *premises.retained()):
        receiver.take(sealed)
    assert before <= premises.held()
    assert max(premises.held()) == max(before)
    assert premises.who(premises.says()) == "Anna Bauer"


# -- what a broker, a thief or a mistake may bring --------------------------------------------------


def test_what_a_broker_kept_from_before_is_not_taken_again(premises: Premises) -> None:
    receiver = premises.receiver()
    (old,) = premises.retained()
    receiver.take(old)
    premises.clock.advance(WEEK_S)
    receiver.take(*premises.retained())
    held = {file.name for file in premises.weeks.iterdir()}
    (premises.weeks / min(held)).unlink()
    premises.receiver().take(old)  # also after a restart
    assert {file.name for file in premises.weeks.iterdir()} == held - {min(held)}


def refused(premises: Premises, sealed: bytes, reason: str, program: str = "bridge") -> None:
    with pytest.raises(VerificationError) as refusal:
        premises.receiver(program).take(sealed)
    assert refusal.value.reason == reason
    assert not list(premises.weeks.iterdir())


def sealed_by(premises: Premises, signer: SigningKey, **changes: str) -> bytes:
    with changing(premises.office.site, clock=premises.clock) as site:
        record, key = site.client("bridge"), site.epoch_key("access", "2026-W47")
    assert record.resolve_jwk is not None
    told = {"site": "hq", "program": "bridge"} | changes
    return seal_resolving_keys(
        [key], jwk=record.resolve_jwk, now=premises.clock.now(), number=2**40, signer=signer, **told
    )


def test_keys_that_the_site_did_not_sign_are_refused(premises: Premises) -> None:
    refused(premises, sealed_by(premises, SigningKey.generate()), "wrong_key")


def test_keys_for_another_program_or_site_are_refused(premises: Premises) -> None:
    key = units.load_site_key(premises.office.site)
    refused(premises, sealed_by(premises, key, program="other"), "wrong_program")
    refused(premises, sealed_by(premises, key, site="annex"), "wrong_program")
    premises.issue("second", ("access",))
    premises.clock.advance(61)
    premises.desk.daily()
    (others,) = [one.payload for one in premises.desk.board() if one.topic == TOPIC.replace("bridge", "second")]
    refused(premises, others, "not_for_us")


@pytest.mark.parametrize("content", [b"x", b"{}", b"a.b.c.d.e", b"\xff" * 40, b"." * MAX_RESOLVING_BYTES * 2])
def test_bytes_that_are_no_keys_change_nothing(premises: Premises, content: bytes) -> None:
    with pytest.raises(VerificationError):
        premises.receiver().take(content)
    assert not list(premises.weeks.iterdir())


def test_what_the_site_signed_for_something_else_is_no_issue(premises: Premises) -> None:
    from agent.protocol.encrypted import encrypt  # noqa: PLC0415

    with changing(premises.office.site, clock=premises.clock) as site:
        jwk = site.client("bridge").resolve_jwk
    assert jwk is not None
    key = units.load_site_key(premises.office.site)
    refused(premises, encrypt(key.sign(b"{}", typ="postern-trust+jws"), jwk).encode(), "wrong_type")
    refused(premises, encrypt(key.sign(b"{}", typ=RESOLVING_TYPE), jwk).encode(), "malformed")


def test_a_stolen_mandate_is_not_believed_once_the_next_one_was_seen(premises: Premises) -> None:
    (stolen,) = premises.retained()
    delegate(premises.office.site, replace=True, clock=premises.clock)
    premises.clock.advance(WEEK_S)
    receiver = premises.receiver()
    receiver.take(*premises.retained())
    with pytest.raises(VerificationError) as refusal:
        receiver.take(stolen)
    assert refusal.value.reason == "superseded"


# -- who may ----------------------------------------------------------------------------------------


def test_who_may_not_resolve_gets_no_key_and_who_is_shut_out_no_more(premises: Premises) -> None:
    assert not (premises.issue("log", None) / RESOLVE_KEY).exists()
    assert (premises.issue("other", ("access",)) / RESOLVE_KEY).exists()
    assert len(premises.retained()) == 1
    programs.revoke_client(premises.office.site, "bridge", clock=premises.clock)
    premises.clock.advance(WEEK_S)
    assert premises.retained() == []
    assert not premises.office.files.sent_keys("bridge").exists()
    premises.issue("bridge", None)
    assert premises.retained() == [], "who was shut out is let in again without its former right"


def test_renewing_a_program_keeps_what_it_may(premises: Premises) -> None:
    (before,) = premises.retained()
    folder = premises.issue("bridge", None)
    (after,) = premises.retained()
    with pytest.raises(VerificationError) as refusal:
        premises.receiver().take(after)
    assert refusal.value.reason == "not_for_us", "its key is a new one"
    write_atomic(premises.keys / RESOLVE_KEY, (folder / RESOLVE_KEY).read_bytes())
    premises.receiver().take(after)
    assert len(premises.held()) == 3
    assert before != after


@pytest.mark.parametrize(
    ("resolves", "role", "words"),
    [(("canteen",), "auditor", "no unit of this site speaks for canteen"), (("access",), "operator", "role auditor")],
)
def test_a_right_that_cannot_be_is_one_sentence(
    premises: Premises, resolves: tuple[str, ...], role: Role, words: str
) -> None:
    with pytest.raises(RefusedError, match=words):
        premises.issue("new", resolves, role)


def test_one_audience_that_the_service_was_not_given_keeps_no_other_program_from_its_keys(premises: Premises) -> None:
    delegate(premises.office.site, audiences=("canteen",), clock=premises.clock)
    premises.office.enrol("door-3", audiences=("canteen",))
    premises.issue("a-canteen", ("canteen",))
    premises.office.files.service_epochs("canteen").unlink()  # as after a year without a visit of the root
    premises.clock.advance(61)
    with pytest.raises(PosternError, match="canteen"):
        premises.desk.daily()
    assert [one.topic for one in premises.desk.board() if "epoch-keys" in one.topic] == [TOPIC]


def test_bridge_without_its_key_says_so(premises: Premises) -> None:
    (sealed,) = premises.retained()
    (premises.keys / RESOLVE_KEY).unlink()
    assert not WeekKeys.there(premises.keys)
    with pytest.raises(KeyStoreError, match=RESOLVE_KEY):
        premises.receiver().take(sealed)


def test_a_folder_of_keys_that_cannot_be_looked_into_is_not_an_empty_one(tmp_path: Path) -> None:
    """Before, a bridge went on and nobody was named."""
    folder = tmp_path / "epoch-keys"
    folder.mkdir()
    resolving = Resolving(None, folder, None)
    folder.rmdir()
    folder.touch()
    assert not resolving.refresh()
    assert "cannot read" in str(resolving.refusal)
    with pytest.raises(KeyStoreError, match="cannot read"):
        Resolving(None, folder, None)
