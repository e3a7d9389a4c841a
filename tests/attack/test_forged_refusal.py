# SPDX-License-Identifier: Apache-2.0
"""A broker refuses a unit that joins in the site's name: the unit tells, and goes on asking until the site lets it in.

Only what the claim proves ends the asking, and only what the site cannot mend any more is said so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agent.errors import RefusedError, RetryError
from agent.mqtt.records import Incoming, Polled
from agent.protocol.invitation import read_invitation
from agent.protocol.joining import JoinReply, request_digest
from agent.protocol.record import decode, encode
from agent.site import joining
from agent.site.records import SiteFiles
from agent.unit import invited
from agent.unit.key_files import UnitFiles
from tests.simulators.fleets import fleet_in
from tools.lib.lifetime.days import Fleet

UNIT = "door-9"
Broker = Callable[[bytes], list[bytes]]


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return fleet_in(tmp_path / "fleet", 1)


class Card:
    """A unit that joins by an invitation; ``broker`` says what it hears for what it asks."""

    def __init__(self, fleet: Fleet, folder: Path, text: str) -> None:
        self.fleet, self.keys, self.invitation = fleet, folder, read_invitation(text)
        self.told: list[str] = []

    def site_says(self, request: bytes) -> bytes:
        return joining.ask_to_join(self.fleet.folder, UNIT, request, clock=self.fleet.clock)

    def join(self, broker: Broker) -> None:
        clock = self.fleet.clock

        class Wire:
            def __init__(self, *_: object, **__: object) -> None:
                self.heard: list[bytes] = []

            def open(self) -> None: ...

            def close(self) -> None: ...

            def subscribe(self, *_: str) -> None: ...

            def publish(self, _: str, payload: bytes, **__: object) -> None:
                self.heard += broker(payload)

            def poll(self, seconds: float) -> Polled:
                clock.advance(seconds)
                heard, self.heard = self.heard, []
                return Polled(messages=[Incoming("answer", payload, retained=False) for payload in heard])

        invited.join(
            self.invitation,
            self.keys,
            policy=self.keys / "policy.jws",
            clock=clock,
            patience_s=60,
            tell=self.told.append,
            connect=Wire,
        )


def refusal(request: bytes, reason: str = "used") -> bytes:
    return encode(
        JoinReply(version=1, state="refused", request=request_digest(request), reason=reason, message="go away")
    )


def test_a_forged_refusal_ends_no_joining(fleet: Fleet, tmp_path: Path) -> None:
    card = Card(fleet, tmp_path / "card", joining.invite(fleet.folder, UNIT, accepted=True, clock=fleet.clock))
    card.join(lambda request: [refusal(request), refusal(request, "expired"), card.site_says(request)])
    assert UnitFiles(card.keys).joined.exists()
    assert card.told == [f"{invited.UNPROVEN}: go away"], "told once"


def test_who_hears_nothing_else_is_told_and_may_ask_again(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Card(fleet, tmp_path / "card", joining.invite(fleet.folder, UNIT, accepted=True, clock=fleet.clock))
    with pytest.raises(RetryError, match="did not prove"):
        card.join(lambda request: [refusal(request)])
    card.join(lambda request: [card.site_says(request)])
    assert UnitFiles(card.keys).joined.exists()


def test_a_refusal_that_is_proven_ends_it_and_serves_no_other_request(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = joining.invite(fleet.folder, UNIT, accepted=True, clock=fleet.clock)
    first, copied = Card(fleet, tmp_path / "first", text), Card(fleet, tmp_path / "copied", text)
    first.join(lambda request: [first.site_says(request)])
    recorded: list[bytes] = []

    def record(request: bytes) -> list[bytes]:
        recorded.append(copied.site_says(request))
        return recorded

    with pytest.raises(RefusedError, match="used by another unit"):
        copied.join(record)
    fresh = Card(fleet, tmp_path / "fresh", joining.invite(fleet.folder, UNIT, replace=True, clock=fleet.clock))

    def replay(request: bytes) -> list[bytes]:
        other = msgspec.structs.replace(decode(recorded[0], JoinReply), request=request_digest(request))
        return [recorded[0], encode(other)]

    with pytest.raises(RetryError):
        fresh.join(replay)
    joining_files = SiteFiles(fleet.folder)
    assert not (joining_files.joining / f"{UNIT}.jws").exists()


def test_what_the_site_can_mend_is_no_refusal_for_good(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its service's mandate ended: what a broker recorded of that time would otherwise refuse for ever."""
    card = Card(fleet, tmp_path / "card", joining.invite(fleet.folder, UNIT, accepted=True, clock=fleet.clock))
    files = SiteFiles(fleet.folder)
    epochs = [(path, path.read_bytes()) for path in files.epochs.glob("access.json")]
    for path, _ in epochs:
        path.unlink()
    with pytest.raises(RetryError, match="delegate"):
        card.join(lambda request: [card.site_says(request)])
    for path, content in epochs:
        path.write_bytes(content)
        path.chmod(0o600)
    card.join(lambda request: [card.site_says(request)])
    assert UnitFiles(card.keys).joined.exists()
