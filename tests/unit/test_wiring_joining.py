# SPDX-License-Identifier: Apache-2.0
"""How a unit asks to join: as whom, where, how often and for how long; what it says meanwhile and leaves behind."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509

from agent.clock import SimulatedClock
from agent.disk.files import PUBLIC_MODE, SECRET_MODE
from agent.errors import BrokerError, RefusedError, RetryError, VerificationError
from agent.keys import UnitKey, encode_base64url
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import Ack, BrokerSettings, Incoming, Polled
from agent.protocol.invitation import Invitation, read_invitation
from agent.protocol.joining import JoinReply, prove, request_digest, token_key
from agent.protocol.pseudonym import epoch_of
from agent.protocol.record import encode
from agent.site import joining
from agent.unit import invited
from agent.unit.joining import PendingRequest, read_pending
from agent.unit.key_files import UnitFiles
from tests.simulators.fleets import fleet_in
from tools.lib.lifetime.days import SITE, Fleet

UNIT = "door-9"
PATIENCE_S = 35.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return fleet_in(tmp_path_factory.mktemp("joining") / "fleet", 1)


@functools.cache
def cards(fleet: Fleet, unit: str) -> str:
    """An invitation that every test of this file may use: they ask with it, and one is let in."""
    return joining.invite(fleet.folder, unit, accepted=True, clock=fleet.clock)


class Asking:
    """A unit that asks, and all that its broker sees; ``hears`` makes what comes for each request."""

    def __init__(self, fleet: Fleet, folder: Path, hears: Callable[[Asking], Polled], text: str | None = None) -> None:
        text = text or cards(fleet, UNIT)
        self.fleet, self.keys, self.clock = fleet, folder / "keys", fleet.clock
        self.invitation: Invitation = read_invitation(text)
        self.files = UnitFiles(self.keys)
        self.policy = folder / "policy.jws"
        self.hears, self.began_ns = hears, self.clock.monotonic_ns()
        self.told: list[str] = []
        self.done: list[tuple[Any, ...]] = []
        self.requests: list[bytes] = []
        self.settings: BrokerSettings | None = None
        self.options: dict[str, Any] = {}
        self.files_at_open: dict[str, tuple[int, bytes]] = {}

    def now_s(self) -> float:
        return (self.clock.monotonic_ns() - self.began_ns) / 1e9

    def connect(self, settings: BrokerSettings, **options: Any) -> Asking:
        self.settings, self.options = settings, options
        return self

    def open(self) -> None:
        self.done.append(("open",))
        folder = self.files.waiting.folder
        held = {path.name: path for path in folder.iterdir() if path.name in {"tls.crt", "ca.crt", "join.key"}}
        self.files_at_open = {name: (path.stat().st_mode & 0o777, path.read_bytes()) for name, path in held.items()}

    def close(self) -> None:
        self.done.append(("close",))

    def subscribe(self, *topics: str) -> None:
        self.done.append(("subscribe", *topics))

    def publish(self, topic: str, payload: bytes, **options: Any) -> None:
        self.done.append(("publish", self.now_s(), topic, options))
        self.requests.append(payload)

    def poll(self, seconds: float) -> Polled:
        assert seconds == 0.5
        self.clock.advance(seconds)
        return self.hears(self)

    def join(self) -> None:
        invited.join(
            self.invitation,
            self.keys,
            policy=self.policy,
            clock=self.clock,
            patience_s=PATIENCE_S,
            tell=self.told.append,
            connect=self.connect,  # type: ignore[arg-type]  # a link that keeps what it was asked
        )

    def says(self, state: str, *, proven: bool = False, **members: Any) -> Polled:
        """What the site answers to the newest request."""
        reply = JoinReply(version=1, state=state, request=request_digest(self.requests[-1]), **members)
        if proven:
            reply = msgspec.structs.replace(reply, proof=prove(token_key(self.invitation.token()), reply))
        return Polled(messages=[Incoming("answer", encode(reply), retained=False)])


def nothing(_: Asking) -> Polled:
    """The broker takes what is asked, and nobody answers."""
    return Polled(acks=[Ack(1, 0)])


def test_a_unit_asks_by_its_claim_every_ten_seconds_and_leaves_no_claim_behind(fleet: Fleet, tmp_path: Path) -> None:
    asking = Asking(fleet, tmp_path, nothing)
    with pytest.raises(RetryError) as over:
        asking.join()
    assert str(over.value) == ("the site's service does not answer: is 'postern site serve' running? It is asked again")
    place, waiting = f"postern-join/{SITE}/{UNIT}.join", asking.files.waiting
    publish = [("publish", at, f"{place}/request", {"expiry_s": 10}) for at in (0, 10, 20, 30)]
    assert asking.done == [("open",), ("subscribe", f"{place}/answer"), *publish, ("close",)]
    assert asking.now_s() == PATIENCE_S
    assert set(asking.requests) == {waiting.request.read_bytes()}, "the same one"
    assert asking.options == {"client_id": f"{UNIT}.join", "clock": asking.clock, "session_expiry_s": 0}
    credentials = Credentials(waiting.ca_crt, waiting.tls_crt, waiting.folder / "join.key")
    assert asking.settings == BrokerSettings(asking.invitation.host, credentials, port=asking.invitation.port)
    modes = {name: mode for name, (mode, _) in asking.files_at_open.items()}
    assert modes == {"tls.crt": PUBLIC_MODE, "ca.crt": PUBLIC_MODE, "join.key": SECRET_MODE}
    chain = x509.load_pem_x509_certificates(asking.files_at_open["tls.crt"][1])
    assert chain == [asking.invitation.certificate(which) for which in ("crt", "via")]
    assert x509.load_pem_x509_certificate(asking.files_at_open["ca.crt"][1]) == asking.invitation.certificate("ca")
    for spent in (waiting.tls_crt, waiting.ca_crt, waiting.folder / "join.key"):
        assert not spent.exists()
    assert not asking.files.joined.exists()
    assert asking.told == []


def test_a_unit_that_was_cut_off_asks_with_the_same_request_and_with_a_new_card_by_new_keys(
    fleet: Fleet, tmp_path: Path
) -> None:
    asking = Asking(fleet, tmp_path, nothing)
    for _ in range(2):
        with pytest.raises(RetryError):
            asking.join()
    assert len(set(asking.requests)) == 1
    asking.files.waiting.pending.write_bytes(b"")
    with pytest.raises(RetryError):
        asking.join()
    assert len(set(asking.requests)) == 1, "what is left of a removal at a power cut names no other invitation"
    again = Asking(fleet, tmp_path, nothing)
    asking.files.waiting.pending.unlink()
    again.files.waiting.request.unlink()
    with pytest.raises(RetryError):
        again.join()
    first = again.requests[-1]
    anew = joining.invite(fleet.folder, "door-8", accepted=True, clock=fleet.clock)
    third = Asking(fleet, tmp_path, nothing, anew)
    with pytest.raises(RetryError):
        third.join()
    assert third.requests[-1] != first
    key = encode_base64url(token_key(third.invitation.token()))
    assert read_pending(third.files.waiting.pending) == PendingRequest(SITE, "door-8", key)
    assert third.files.waiting.request.stat().st_mode & 0o777 == SECRET_MODE


def test_a_broker_without_the_sites_list_of_rights_is_named(fleet: Fleet, tmp_path: Path) -> None:
    asking = Asking(fleet, tmp_path, lambda _: Polled(acks=[Ack(1, 0), Ack(2, 0x87)]))
    with pytest.raises(BrokerError) as refusal:
        asking.join()
    assert str(refusal.value) == ("the broker does not let this unit ask: carry the site's newest acl to it, reload it")
    assert asking.done[-1] == ("close",)
    assert not asking.files.waiting.tls_crt.exists()


def test_what_the_site_has_to_say_is_told_each_time_that_it_changes(fleet: Fleet, tmp_path: Path) -> None:
    words = iter(["accept it", "accept it", "its key is away", "accept it"])

    def hears(asking: Asking) -> Polled:
        word = next(words, None)
        if word is None:
            return Polled(messages=[Incoming("answer", b"{}", retained=False)])
        return asking.says("waiting", message=f"\x1b[2J{word}", reason="waiting")

    asking = Asking(fleet, tmp_path, hears)
    with pytest.raises(RetryError) as over:
        asking.join()
    assert [one[-len("accept it") :] for one in asking.told] == ["accept it", "y is away", "accept it"]
    assert str(over.value) == asking.told[-1]
    assert "\x1b" not in asking.told[0]


@pytest.mark.parametrize("proven", [True, False])
def test_a_refusal_ends_the_asking_where_it_is_proven(fleet: Fleet, tmp_path: Path, proven: bool) -> None:
    asking = Asking(
        fleet, tmp_path, lambda one: one.says("refused", proven=proven, reason="used", message="make a new one")
    )
    if proven:
        with pytest.raises(RefusedError) as refusal:
            asking.join()
        assert str(refusal.value) == "the site refuses this unit: make a new one"
        assert refusal.value.reason == "used"
        assert asking.now_s() == 0.5
        assert asking.told == []
    else:
        with pytest.raises(RetryError):
            asking.join()
        said = "a refusal that the site did not prove, so this unit asks on: make a new one"
        assert asking.told == [said]
        assert asking.now_s() == PATIENCE_S


def test_nothing_is_taken_for_the_sites_yes_but_a_proof_of_the_claim(fleet: Fleet, tmp_path: Path) -> None:
    asking = Asking(fleet, tmp_path, lambda one: one.says("joined", answer="a.b.c"))
    with pytest.raises(RetryError):
        asking.join()
    assert asking.told == []


def test_a_unit_that_joined_has_the_policy_and_a_mark_and_asks_no_more(fleet: Fleet, tmp_path: Path) -> None:
    def hears(asking: Asking) -> Polled:
        reply = joining.ask_to_join(fleet.folder, UNIT, asking.requests[-1], clock=fleet.clock)
        return Polled(messages=[Incoming("answer", reply, retained=False)])

    asking = Asking(fleet, tmp_path, hears)
    asking.join()
    assert asking.now_s() == 0.5
    mark = msgspec.json.decode(asking.files.joined.read_bytes())
    assert mark == {"version": 1, "invitation": invited._digest(asking.invitation)}
    if asking.policy.exists():
        assert asking.policy.stat().st_mode & 0o777 == PUBLIC_MODE
    assert not asking.files.waiting.folder.exists()
    left = asking.files.waiting.folder
    left.mkdir()
    (left / "seal.key").write_bytes(b"half")
    asking.done.clear()
    asking.join()
    assert asking.done == [], "nobody is asked"
    assert not left.exists()


def test_a_policy_that_is_not_by_the_sites_key_is_not_put_in_force_and_the_unit_has_not_joined(
    fleet: Fleet, tmp_path: Path
) -> None:
    """Whoever holds the token can prove an answer: the policy has a signature of its own."""
    policies = [UnitKey.generate().sign(b"{}", typ="postern-policy+jws"), None]

    def hears(asking: Asking) -> Polled:
        answer = joining.ask_to_join(fleet.folder, "door-12", asking.requests[-1], clock=fleet.clock)
        given = msgspec.structs.replace(msgspec.json.decode(answer, type=JoinReply), policy=policies[0], proof=None)
        given = msgspec.structs.replace(given, proof=prove(token_key(asking.invitation.token()), given))
        return Polled(messages=[Incoming("answer", encode(given), retained=False)])

    asking = Asking(fleet, tmp_path, hears, joining.invite(fleet.folder, "door-12", accepted=True, clock=fleet.clock))
    with pytest.raises(VerificationError):
        asking.join()
    assert not asking.policy.exists()
    assert not asking.files.joined.exists()
    policies.reverse()
    asking.join()
    assert not asking.policy.exists(), "a site without a policy sends none"
    assert asking.files.joined.exists()


def test_a_unit_whose_clock_was_never_right_keeps_the_key_of_a_week_that_it_takes_for_past(
    fleet: Fleet, tmp_path: Path
) -> None:
    def hears(asking: Asking) -> Polled:
        reply = joining.ask_to_join(fleet.folder, "door-11", asking.requests[-1], clock=fleet.clock)
        return Polled(messages=[Incoming("answer", reply, retained=False)])

    text = joining.invite(fleet.folder, "door-11", hours=24 * 20, accepted=True, clock=fleet.clock)
    asking = Asking(fleet, tmp_path, hears, text)
    asking.clock = SimulatedClock(fleet.clock.now() + timedelta(days=8), "unsynced")
    asking.join()
    assert epoch_of(fleet.clock.now()).encode() in asking.files.epoch_keys.read_bytes()


@pytest.mark.parametrize("late_s", [0, 1])
@pytest.mark.parametrize("state", ["synced", "unsynced"])
def test_an_invitation_is_over_after_its_last_second(fleet: Fleet, tmp_path: Path, late_s: int, state: Any) -> None:
    asking = Asking(fleet, tmp_path, nothing)
    ends = int(fleet.clock.now().timestamp()) + 120 - late_s
    invitation = msgspec.structs.replace(asking.invitation, ends=ends)
    clock = type(fleet.clock)(datetime.fromtimestamp(ends + late_s, UTC))
    if state != "synced":
        clock.step_wall(0, state)
    asked: list[bytes] = []

    def ask(request: bytes) -> JoinReply:
        asked.append(request)
        raise RetryError("asked")

    with pytest.raises((RefusedError, RetryError)) as refusal:
        invited.go_on(invitation, asking.keys, policy=asking.policy, clock=clock, ask=ask)
    ended = datetime.fromtimestamp(ends, UTC)
    statement = f"the invitation of {UNIT} ended on {ended:%Y-%m-%d %H:%M} UTC"
    anew = f"make a new one at the site (postern site invite {UNIT})"
    if not late_s:
        assert str(refusal.value) == "asked"
    elif state == "synced":
        assert isinstance(refusal.value, RefusedError)
        assert refusal.value.reason == "expired"
        assert str(refusal.value) == f"{statement} and has expired: {anew}"
    else:
        assert str(refusal.value) == (
            f"{statement} and the clock says {clock.now():%Y-%m-%d %H:%M}, but was never synchronised: wait for the"
            f" time server or set it; if that is right, {anew}"
        )
    assert bool(asked) is not bool(late_s)


def test_another_units_card_is_refused_with_both_ways_on(fleet: Fleet, tmp_path: Path) -> None:
    asking = Asking(fleet, tmp_path, nothing)
    (other,) = fleet.units.values()
    with pytest.raises(RefusedError) as refusal:
        invited.check_place(other.files, asking.invitation)
    assert str(refusal.value) == (
        f"the invitation is for {UNIT} of site {SITE}, and this unit is {other.name} already: bring its own ('postern"
        " site invite --replace'), or, where it is to be another unit, retire and purge it first (deploy/README.md,"
        " 'Replace a unit')"
    )
    assert refusal.value.reason == "other_unit"
