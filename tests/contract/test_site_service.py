# SPDX-License-Identifier: Apache-2.0
"""A site whose service renews and lets in, at Mosquitto as deployed: what an invitation opens, a revocation shuts."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path

import msgspec
import pytest

from agent.clock import Clock, ClockState, SystemClock
from agent.errors import BrokerError, PosternError, RefusedError, RetryError, VerificationError
from agent.keys import load_public_key
from agent.mqtt.connection import Connection
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import BrokerSettings
from agent.protocol.invitation import der, read_invitation
from agent.protocol.names import JOINING_ROOT, JOINING_SUFFIX
from agent.protocol.program import Role
from agent.protocol.topics import list_topic
from agent.protocol.trust import TrustedUnits
from agent.protocol.trust_file import TrustFile
from agent.site import joining, units
from agent.site.authority import read_certificate
from agent.site.fleet import list_units
from agent.site.operator import Operator
from agent.site.programs import issue_client
from agent.site.published import unfinished
from agent.subscribe.subscriber import Subscriber
from agent.unit.invited import claim_settings, join
from agent.unit.joining import new_unit_request
from agent.unit.key_files import UnitFiles
from tests.simulators.broker import wait_until
from tests.simulators.site_office import let_in
from tools.lib.demo.site import postern
from tools.lib.lifetime.joining import SITE, LiveSite
from tools.lib.lifetime.unit import FleetUnit

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

TAKE = Path(__file__).parents[2] / "deploy" / "mosquitto" / "postern-broker-take"
NAMES = ("door-1", "door-2", "door-3", "door-4")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[LiveSite]:
    live = LiveSite(tmp_path)
    with live.running():
        yield live


class Card:
    """An installer's card in a unit: ``join`` is what its first boot does."""

    def __init__(self, folder: Path, text: str) -> None:
        self.keys, self.invitation = folder / "keys", read_invitation(text)
        self.clock: Clock = SystemClock()
        self.told: list[str] = []

    def join(self, patience_s: float = 60) -> None:
        join(
            self.invitation,
            self.keys,
            policy=self.keys.parent / "policy.jws",
            clock=self.clock,
            patience_s=patience_s,
            tell=self.told.append,
        )


def states(site: LiveSite) -> dict[str, str]:
    return {unit.unit: unit.state for unit in list_units(site.folder)}


def open_as(site: LiveSite, unit: FleetUnit) -> Connection:
    settings = BrokerSettings("127.0.0.1", unit.credentials, port=site.broker.port)
    connection = Connection(settings, client_id=unit.name, clock=SystemClock(), session_expiry_s=0)
    connection.open()
    return connection


def retained_for(card: Card) -> list[bytes]:
    """What the broker keeps for whoever joins by this invitation."""
    name, waiting = card.invitation.unit + JOINING_SUFFIX, UnitFiles(card.keys).waiting
    settings = claim_settings(waiting, card.invitation)
    connection = Connection(settings, client_id=name, clock=card.clock, session_expiry_s=0)
    connection.open()
    try:
        connection.subscribe(f"{JOINING_ROOT}/{SITE}/{name}/answer", retained=True)
        return [message.payload for message in connection.poll(1.0).messages]
    finally:
        connection.close()


def says(connection: Connection, unit: FleetUnit) -> bool:
    """Whether the broker takes the unit's health."""
    connection.publish(f"postern/{SITE}/{unit.name}/health", unit.health())
    found: list[bool] = []
    wait_until(lambda: found.extend(ack.accepted for ack in connection.poll(0.05).acks) or found)
    return found[0]


def joined(site: LiveSite, folder: Path, name: str = "door-7") -> FleetUnit:
    card = Card(folder / name, joining.invite(site.folder, name, accepted=True))
    card.join()
    return FleetUnit(card.keys, SITE, name, SystemClock())


def test_an_invited_unit_waits_until_the_site_accepts_it_and_is_then_seen(site: LiveSite, tmp_path: Path) -> None:
    card = Card(tmp_path / "card", joining.invite(site.folder, "door-7"))
    assert states(site) == {"door-7": "invited"}
    with pytest.raises(PosternError, match="postern site accept door-7"):
        card.join(patience_s=12)
    assert states(site) == {"door-7": "waiting"}
    assert retained_for(card) == [], "who comes later takes no answer for one to them"
    joining.accept(site.folder, "door-7")
    card.join()
    card.join()  # a first boot that is repeated changes nothing
    assert states(site) == {"door-7": "unheard"}
    unit = FleetUnit(card.keys, SITE, "door-7", SystemClock())
    connection = open_as(site, unit)
    wait_until(lambda: says(connection, unit))
    wait_until(lambda: states(site) == {"door-7": "online"})
    trusted = TrustedUnits.from_signed(site.files.trust.read_bytes(), load_public_key(site.files.site_jwk))
    assert trusted.units_in_service() == ("door-7",)
    assert trusted.mandate == 1
    connection.close()
    unit.close()


def test_a_claim_is_good_once_for_one_unit_and_refused_with_its_reason_on_both_sides(
    site: LiveSite, tmp_path: Path
) -> None:
    text = joining.invite(site.folder, "door-7", accepted=True)
    Card(tmp_path / "first", text).join()
    copied = Card(tmp_path / "copied", text)
    with pytest.raises(RefusedError, match="used by another unit"):
        copied.join()
    renewed = joining.invite(site.folder, "door-8", accepted=True)
    old = Card(tmp_path / "old", renewed)
    joining.invite(site.folder, "door-8", accepted=True)
    with pytest.raises(PosternError, match="newer invitation"):
        old.join(patience_s=5)
    reasons = {line.split('"reason":"')[1].split('"')[0] for line in _log(site, "joining_refused")}
    assert reasons == {"used", "bad_claim"}


def _log(site: LiveSite, step: str) -> list[str]:
    return [line for line in site.files.audit.read_text().splitlines() if f'"step":"{step}"' in line]


def test_a_claim_of_another_site_does_not_get_as_far_as_a_request(site: LiveSite, tmp_path: Path) -> None:
    other = LiveSite(tmp_path / "other")
    theirs = read_invitation(joining.invite(other.folder, "door-7"))
    card = Card(tmp_path / "card", joining.invite(site.folder, "door-7"))
    card.invitation = msgspec.structs.replace(theirs, port=site.broker.port)
    with pytest.raises(BrokerError, match=r"certificate of 127\.0\.0\.1:[0-9]+ is not accepted .* the invitation"):
        card.join()
    card.invitation = msgspec.structs.replace(theirs, port=site.broker.port, ca=_ca(site))  # somebody mixed both
    with pytest.raises(PosternError, match=r"authority|may not accept"):
        card.join()


def _ca(site: LiveSite) -> str:
    return der(read_certificate(site.files.ca_crt))


class Behind(SystemClock):
    """A clock that is some hours behind."""

    def __init__(self, hours: float) -> None:
        super().__init__()
        self._hours = hours

    def now(self) -> datetime:
        return super().now() - timedelta(hours=self._hours)

    def state(self) -> ClockState:
        return "synced"


def test_an_expired_claim_is_refused_by_the_unit_and_its_certificate_by_the_broker(
    site: LiveSite, tmp_path: Path
) -> None:
    text = joining.invite(site.folder, "door-7", hours=1, clock=Behind(3))
    card = Card(tmp_path / "card", text)
    card.clock = Behind(0)
    with pytest.raises(RefusedError, match="expired: make a new one"):
        card.join()
    card.clock = Behind(3)  # as a board without a battery
    with pytest.raises(BrokerError, match=r"expired|may not accept"):
        card.join()
    (listed,) = list_units(site.folder)
    assert listed.advice == ("the invitation has expired: postern site invite door-7",)


def test_an_invitation_lets_nobody_listen_or_speak_for_anybody(site: LiveSite, tmp_path: Path) -> None:
    """A stolen card tells nothing but its claim."""
    invitation = read_invitation(joining.invite(site.folder, "door-7"))
    files = UnitFiles(tmp_path / "thief")
    connection = Connection(claim_settings(files, invitation), client_id="thief", clock=SystemClock())
    connection.open()
    mine, others = f"postern/{SITE}/door-7", f"postern-join/{SITE}/door-8.join"
    connection.subscribe("#", retained=True)  # Mosquitto takes any filter, and hands over what the rules let through
    for topic in (f"{mine}/health", f"{mine}/event/match", f"{others}/request", f"{others}/answer"):
        connection.publish(topic, b"x")
    found: list[bool] = []
    wait_until(lambda: found.extend(ack.accepted for ack in connection.poll(0.05).acks) or len(found) == 4)
    assert not any(found)
    unit = joined(site, tmp_path, "door-8")  # asks, is answered, and speaks
    speaking = open_as(site, unit)
    wait_until(lambda: says(speaking, unit))
    assert connection.poll(1.0).messages == []
    for each in (speaking, connection):
        each.close()
    unit.close()


def test_a_revoked_unit_is_refused_within_seconds_by_one_command(site: LiveSite, tmp_path: Path) -> None:
    """By the script of deploy/mosquitto, which the broker's path unit runs; the session that stands says no more."""
    unit = joined(site, tmp_path)
    connection = open_as(site, unit)
    wait_until(lambda: says(connection, unit))
    site.stop_following()
    postern("site", "revoke", "-f", site.folder, "door-7")
    take(site)
    wait_until(lambda: not says(connection, unit))
    connection.close()
    with pytest.raises(BrokerError, match=r"revoked|may not accept"):
        open_as(site, unit)
    take(site)  # may be repeated
    unit.close()


def take(site: LiveSite) -> None:
    reload = f"kill -HUP {site.broker.pid}"
    environment = {**os.environ, "POSTERN_BROKER_RELOAD": reload}
    subprocess.run([TAKE, site.files.broker, site.broker.folder], check=True, env=environment, capture_output=True)


def hears(settings: BrokerSettings, topic: str) -> bool:
    """Whether the broker has the rules of a program that was added a moment ago, and the service has said something."""
    connection = Connection(settings, client_id="guard", clock=SystemClock(), session_expiry_s=0)
    try:
        connection.open()
        connection.subscribe(topic, retained=True)
        return any(connection.poll(0.2).messages for _ in range(5))
    except BrokerError:
        return False
    finally:
        connection.close()


def test_a_subscriber_hears_of_a_new_unit_and_of_a_revocation_by_the_service(site: LiveSite, tmp_path: Path) -> None:
    """Nobody carries the list of units; what is not newer, or not the site's, changes nothing."""
    guard = issue_client(site.folder, "guard", "auditor")
    settings = as_program(site, guard)
    trust = TrustFile(guard / "trust.jws", load_public_key(guard / "site.jwk"))
    wait_until(lambda: hears(settings, list_topic(SITE)))
    before = (guard / "trust.jws").read_bytes()
    subscriber = Subscriber(settings, site=SITE, trust=trust, clock=SystemClock())
    with subscriber:
        thread = threading.Thread(target=lambda: list(subscriber), daemon=True)
        thread.start()
        unit = joined(site, tmp_path)
        wait_until(lambda: "door-7" in subscriber.verifier.trust.units_in_service())
        postern("site", "revoke", "-f", site.folder, "door-7")
        wait_until(lambda: "door-7" not in subscriber.verifier.trust.units_in_service())
        subscriber.stop()
        thread.join(10)
    unit.close()
    newest = (guard / "trust.jws").read_bytes()
    assert newest == site.files.trust.read_bytes()
    again = TrustFile(guard / "trust.jws", load_public_key(guard / "site.jwk"))
    assert again.load().units() == ("door-7",)
    for token in (before, newest):
        assert not again.offer(token)
    with pytest.raises(VerificationError):
        again.offer(newest[:-4] + b"AAAA")
    assert (guard / "trust.jws").read_bytes() == newest


def test_a_list_of_five_hundred_units_reaches_a_subscriber_by_itself(site: LiveSite) -> None:
    """It is five times as long as a message may be at the broker as deployed."""
    guard = issue_client(site.folder, "guard", "auditor")
    settings = as_program(site, guard)
    trust = TrustFile(guard / "trust.jws", load_public_key(guard / "site.jwk"))
    wait_until(lambda: hears(settings, list_topic(SITE)))
    let_in(site.folder, 500)
    told: list[str] = []
    with Subscriber(settings, site=SITE, trust=trust, clock=SystemClock(), on_notice=told.append) as subscriber:
        thread = threading.Thread(target=lambda: list(subscriber), daemon=True)
        thread.start()
        try:
            wait_until(lambda: len(subscriber.verifier.trust.units_in_service()) == 500)
        except AssertionError:
            pytest.fail(f"not heard of; told: {told}")
        subscriber.stop()
        thread.join(10)
    assert (guard / "trust.jws").read_bytes() == site.files.trust.read_bytes()


@pytest.fixture
def old_site(tmp_path: Path) -> Iterator[LiveSite]:
    live = LiveSite(tmp_path, made_by=Behind(90 * 24))
    with live.running():
        yield live


def test_a_subscriber_and_an_operator_take_their_next_certificate_from_the_broker(
    old_site: LiveSite, tmp_path: Path
) -> None:
    """Made three months ago, so that the service renews it at its start."""
    site, clock = old_site, Behind(90 * 24)
    site.stop_service()
    keys = {name: issue_client(site.folder, name, role, clock=clock) for name, role in PROGRAMS}
    before = {name: (folder / "tls.crt").read_bytes() for name, folder in keys.items()}
    unit = joined_by_hand(site, tmp_path)
    site.start_service()
    guard = keys["guard"]
    trust = TrustFile(guard / "trust.jws", load_public_key(guard / "site.jwk"))
    wait_until(lambda: all(site.files.sent_certificate(name).exists() for name in keys))
    with Subscriber(as_program(site, guard), site=SITE, trust=trust, clock=SystemClock()) as subscriber:
        thread = threading.Thread(target=lambda: list(subscriber), daemon=True)
        thread.start()
        wait_until(lambda: (guard / "tls.crt").read_bytes() != before["guard"])
        subscriber.stop()
        thread.join(10)
    operator = Operator(
        as_program(site, keys["office"]),
        site=SITE,
        key=units.load_site_key(site.folder),
        trusted=TrustedUnits.from_signed(site.files.trust.read_bytes(), load_public_key(site.files.site_jwk)),
        clock=SystemClock(),
    )
    with pytest.raises(BrokerError, match="does not answer"):
        operator.ask(unit, "health", timeout_s=3)
    for name, folder in keys.items():
        assert (folder / "tls.crt").read_bytes() == site.files.sent_certificate(name).read_bytes() != before[name]
        Connection(as_program(site, folder), client_id=name, clock=SystemClock()).open()


PROGRAMS: tuple[tuple[str, Role], ...] = (("guard", "auditor"), ("office", "operator"))


def as_program(site: LiveSite, keys: Path) -> BrokerSettings:
    credentials = Credentials.in_folder(keys)
    return BrokerSettings("127.0.0.1", credentials, port=site.broker.port)


def joined_by_hand(site: LiveSite, folder: Path) -> str:
    request = new_unit_request(folder / "unit", SITE, "door-5", units.new_token(site.folder, "door-5"))
    units.add_unit(site.folder, request)
    return "door-5"


def test_what_a_killed_service_left_undone_is_done_by_the_next(site: LiveSite, tmp_path: Path) -> None:
    """Killed again and again while units join: each of them joins, once."""
    cards = [Card(tmp_path / name, joining.invite(site.folder, name, accepted=True)) for name in NAMES]
    done: list[str] = []
    refused: list[str] = []

    def go_on(card: Card) -> None:
        while not refused:
            try:
                card.join(patience_s=5)
            except (BrokerError, RetryError):
                continue
            except PosternError as error:
                refused.append(str(error))
            done.append(card.invitation.unit)
            return

    threads = [threading.Thread(target=go_on, args=(card,), daemon=True) for card in cards]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 120
    for number in count():
        if len(done) == len(cards) or time.monotonic() > end:
            break
        time.sleep(2 + number % 4)  # a start takes a second of this, more on a busy machine
        site.stop_service(signal.SIGKILL)
        site.start_service()
    assert not refused
    assert sorted(done) == sorted(NAMES)
    for thread in threads:
        thread.join()
    assert [unit.keys[-1].status for unit in site.files.all_units()] == ["active"] * len(NAMES)
    assert not unfinished(site.files).files
    assert len(_log(site, "unit_added")) == len(NAMES)
