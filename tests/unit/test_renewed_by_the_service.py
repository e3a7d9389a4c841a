# SPDX-License-Identifier: Apache-2.0
"""The assembled command side of a unit, an old site's: it is delegated, and its service renews what the unit holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from agent.errors import VerificationError
from agent.keys import SigningKey
from agent.protocol.command import RENEW
from agent.protocol.response import RESPONSE_TYPE, SignedResponse
from agent.site import units
from agent.site.authority import read_certificate, read_chain, validity
from agent.site.delegation import delegate
from agent.site.desk import Desk
from agent.site.records import SiteFiles
from agent.unit.certificate import renew_certificate
from tools.lib.fuzz.target import SITE, UNIT, Target
from tools.lib.lifetime.unit import FleetUnit

TOPIC = f"postern/{SITE}/{UNIT}"


class Served:
    """The unit, its site's desk, and what they said to each other."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.target = Target(folder, stack)
        self.files: SiteFiles = self.target.site
        delegate(self.files.folder, clock=self.target.clock)
        self.told: list[str] = []
        self.desk = Desk(
            self.files.folder, clock=self.target.clock, random=lambda count: bytes(count), tell=self.told.append
        )
        self.unit = self._started()
        stack.callback(lambda: self.unit.close())

    def _started(self) -> FleetUnit:
        return FleetUnit(self.target.unit.folder, SITE, UNIT, self.target.clock)

    def exchange(self, rounds: int = 4) -> list[str | None]:
        """One health message and all that follows; what came of each command."""
        self.target.clock.advance(1_000)
        letters = self.desk.take(f"{TOPIC}/health", self.unit.health())
        found: list[str | None] = []
        for _ in range(rounds):
            following = []
            for letter in letters:
                answer = self.target.deliver(RENEW, letter.payload)
                assert answer is not None
                key = SigningKey.load(self.target.unit.event_key).public
                found.append(
                    msgspec.json.decode(key.verify(answer.decode(), typ=RESPONSE_TYPE), type=SignedResponse).error
                )
                following += self.desk.take(f"{TOPIC}/response/{RENEW}", answer)
            letters = following
        self.unit.close()
        self.unit = self._started()  # what it says next is of what lies on its disk
        return found


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with ExitStack() as stack:
        yield Served(tmp_path, stack)


def test_a_unit_with_a_certificate_by_the_root_gets_one_by_the_service(served: Served) -> None:
    before = served.target.unit.tls_crt.read_text()
    assert served.exchange() == [None]
    chain = read_chain(served.target.unit.tls_crt.read_text())
    assert chain[1] == read_certificate(served.files.issuing_crt)
    assert served.unit.days() in (179, 180)
    assert served.exchange() == [], "nothing more falls due"
    (record,) = served.files.all_units()
    assert [one.issued for one in record.certificates] == [False, True]
    with pytest.raises(VerificationError) as refused:
        renew_certificate(served.target.unit.folder, UNIT, before, now=served.target.clock.now())
    assert refused.value.reason == "replayed"


def test_epoch_keys_come_with_each_new_week_and_the_seal_key_is_learnt_where_it_was_lost(served: Served) -> None:
    served.exchange()
    served.target.clock.advance(7 * 86_400)
    units.issue_epoch_keys(served.files.folder, UNIT, clock=served.target.clock)  # and lost: the site goes on by itself
    assert served.exchange() == [None]
    assert served.unit.weeks() == 3
    path = served.files.unit(UNIT)
    known = msgspec.json.decode(path.read_bytes())
    known["seal_jwk"] = SigningKey.generate().public_jwk()  # a restored folder
    known["taken"] = 0
    path.write_bytes(msgspec.json.encode(known))
    served.target.clock.advance(7 * 86_400)
    assert served.exchange() == ["not_for_us"]
    assert served.exchange() == [None, None], "the seal key is asked for, and the keys sealed to it"
    assert served.unit.weeks() == 3


def test_a_clock_that_is_not_known_to_be_right_is_answered_by_a_nonce(served: Served) -> None:
    served.target.clock.step_wall(0, "unsynced")
    assert served.exchange() == ["challenge", None]
    assert validity(read_chain(served.target.unit.tls_crt.read_text())[0])[1] > served.target.clock.now()


def test_a_list_of_revoked_brokers_is_sent_once(served: Served) -> None:
    from agent.site.programs import issue_broker, revoke_broker  # noqa: PLC0415

    served.exchange()
    issue_broker(served.files.folder, ["127.0.0.1"], clock=served.target.clock)
    revoke_broker(served.files.folder, clock=served.target.clock)
    assert served.exchange() == [None]
    assert served.target.unit.revoked_brokers.read_bytes() == served.files.brokers_crl.read_bytes()
    assert served.exchange() == []


def test_what_is_no_message_of_a_unit_is_told_and_sends_nothing(served: Served) -> None:
    health = served.unit.health()
    for topic, payload in (
        (f"{TOPIC}/health", health[:-2] + b"x}"),
        (f"{TOPIC}/health", health.replace(b'"queue_depth":0', b'"queue_depth":1')),
        (f"postern/{SITE}/door-9/health", health),
        (f"postern/annex/{UNIT}/health", health),
        (f"postern/{SITE}/../health", health),
        (f"{TOPIC}/response/{RENEW}", b"{}"),
        ("postern-join/hq/door-1/request", b"x"),
        ("", b""),
    ):
        assert served.desk.take(topic, payload) == []
    assert not (served.files.seen / f"{UNIT}.json").exists()
