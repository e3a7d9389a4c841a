# SPDX-License-Identifier: Apache-2.0
"""A list of units that is longer than a message: cut, put together, and believed by its signature alone."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agent.clock import SimulatedClock
from agent.keys import MAX_TOKEN_BYTES, SigningKey, UnitKey
from agent.mqtt.bound import MAX_INCOMING_BYTES
from agent.mqtt.connection import PACKET_OVERHEAD_BYTES
from agent.protocol.list_parts import MAX_GATHERED, MAX_PART_BYTES, MAX_PARTS, PART_BYTES, Gathering, in_parts
from agent.protocol.trust import TrustedUnits, TrustList, UnitKeyEntry
from agent.site.creation import create_site
from agent.site.delegation import delegate
from agent.site.desk import SAY_AGAIN_S, Desk

SITE = SigningKey.generate()
KEYS = [UnitKey.generate().public_jwk() for _ in range(500)]


def listed(units: int, serial: int = 1) -> bytes:
    """A signed list of so many units, as the site writes it."""
    entries = {f"door-{n:04d}": (UnitKeyEntry(jwk=KEYS[n % 500], status="active"),) for n in range(units)}
    return (
        TrustList(version=1, site="hq", serial=serial, issued_at="2026-11-27T00:00:00Z", units=entries)
        .sign(SITE)
        .encode()
    )


def taken(gathering: Gathering, parts: list[bytes]) -> list[bytes]:
    return [token for part in parts if (token := gathering.take(part)) is not None]


def test_a_list_of_five_hundred_units_arrives_whole_in_whatever_order_its_parts_come() -> None:
    token = listed(500)
    parts = in_parts(token)
    assert 3 < len(parts) < 10
    for order in (parts, parts[::-1], [*parts[2:], *parts[:2], *parts]):
        assert taken(Gathering(), order) == [token], "once, however often it is said"
    assert len(TrustedUnits.from_signed(token, SITE.public).units()) == 500


def test_every_part_fits_where_any_message_of_a_unit_does() -> None:
    """Broker and subscriber take packets of 32 KiB; the longest list that is signed at all has few enough parts."""
    parts = in_parts(listed(500))
    assert parts
    for part in parts:
        assert len(part) <= MAX_PART_BYTES
        assert len(part) + len("postern-site//trust/99") + 64 + PACKET_OVERHEAD_BYTES <= MAX_INCOMING_BYTES
    assert len(in_parts(b"a" * MAX_TOKEN_BYTES)) == MAX_PARTS < 100
    assert in_parts(listed(60)) == [], "what fits goes as one message, for subscribers of before"
    assert len(listed(60)) <= PART_BYTES


def test_parts_of_an_older_list_are_never_mixed_with_the_newest() -> None:
    older, newest = in_parts(listed(500, serial=1)), in_parts(listed(500, serial=2))
    mixed = [part for pair in zip(older[:-1], newest[:-1], strict=True) for part in pair]
    assert taken(Gathering(), [*mixed, newest[-1]]) == [listed(500, serial=2)]
    token = taken(Gathering(), [older[0], *newest, older[1]])
    assert len(token) == 1
    assert TrustedUnits.from_signed(token[0], SITE.public).serial == 2


def test_whoever_floods_with_parts_fills_no_memory() -> None:
    gathering, part = Gathering(), msgspec.json.decode(in_parts(listed(500))[0])
    for number in range(200):
        named = f"sha256:{number:064x}"
        assert gathering.take(msgspec.json.encode({**part, "digest": named})) is None
    assert len(gathering._lists) == MAX_GATHERED


@pytest.mark.parametrize(
    "change",
    [
        {"part": 0},
        {"parts": MAX_PARTS + 1},
        {"text": ""},
        {"text": "a" * (PART_BYTES + 1)},
        {"digest": "sha256:1"},
        {"x": 1},
    ],
)
def test_what_is_no_part_is_refused(change: dict[str, object]) -> None:
    part = msgspec.json.decode(in_parts(listed(500))[0])
    with pytest.raises(ValueError, match=r".+"):
        Gathering().take(msgspec.json.encode({**part, **change}))


def test_an_altered_part_spoils_its_list_and_nothing_else() -> None:
    parts = in_parts(listed(500))
    liar = msgspec.json.encode({**msgspec.json.decode(parts[1]), "text": "A" * 50})
    gathering = Gathering()
    with pytest.raises(ValueError, match="do not belong together"):
        taken(gathering, [parts[0], liar, *parts[2:]])
    assert taken(gathering, parts) == [listed(500)]


def test_the_service_says_the_list_again_to_whoever_listens_where_it_was_not_retained(tmp_path: Path) -> None:
    """A cluster keeps what is retained at the one node where it was said, or nowhere."""
    clock = SimulatedClock()
    create_site(tmp_path / "site", "hq", clock=clock)
    delegate(tmp_path / "site", clock=clock)
    desk = Desk(tmp_path / "site", clock=clock, random=bytes, tell=pytest.fail)
    first = desk.board()
    assert [letter.topic for letter in first] == ["postern-site/hq/trust"]
    assert desk.board() == []
    clock.advance(SAY_AGAIN_S + 1)
    assert desk.board() == first
    assert desk.board() == []
