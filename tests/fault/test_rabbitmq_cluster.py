# SPDX-License-Identifier: Apache-2.0
"""Three brokers instead of one: RabbitMQ's cluster with the rules of the site kit, and a node that dies.

Not part of each run: ``POSTERN_RABBITMQ`` names the folder with RabbitMQ (``tools/lib/fleet/rabbitmq.py``), and
``POSTERN_RABBITMQ_UNITS`` how many units speak (12). ``deploy/rabbitmq/README.md`` has what was found, with its date.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.errors import BrokerError
from agent.keys import load_public_key
from agent.mqtt.connection import Connection
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import BrokerSettings, Incoming, Will
from agent.mqtt.refusals import ConnectionLostError
from agent.protocol.invitation import read_invitation
from agent.protocol.trust_file import TrustFile
from agent.site.delegation import delegate
from agent.site.joining import invite
from agent.site.programs import issue_broker, issue_client, revoke_client
from agent.subscribe.subscriber import Subscriber
from agent.unit.invited import join
from tests.simulators.broker import wait_until
from tools.lib.fleet.rabbitmq import LOOPBACK, Cluster, Node, rabbitmq_root
from tools.lib.fleet.run import Plan, run
from tools.lib.fleet.site import PROGRAM, SITE, FleetSite

ROOT = rabbitmq_root()
pytestmark = [
    pytest.mark.broker,
    pytest.mark.timeout(900),
    pytest.mark.skipif(ROOT is None, reason="POSTERN_RABBITMQ names no folder with RabbitMQ"),
]
UNITS = int(os.environ.get("POSTERN_RABBITMQ_UNITS", "12"))
RATE, SECONDS = UNITS * 0.4, 45.0  # events a second of all units together
DIES_AT_S, BACK_AT_S = 12.0, 27.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> FleetSite:
    made = FleetSite(tmp_path_factory.mktemp("fleet"))
    made.join(UNITS, LOOPBACK, kind="rabbitmq")
    return made


@pytest.fixture(scope="module")
def cluster(fleet: FleetSite) -> Iterator[Cluster]:
    with Cluster(ROOT, fleet.files) as running:
        yield running


def credentials(folder: Path) -> Credentials:
    return Credentials.in_folder(folder)


def opened(node: Node, folder: Path, name: str, *filters: str, will: Will | None = None, **more: int) -> Connection:
    settings = BrokerSettings(LOOPBACK, credentials(folder), port=node.port, will_delay_s=2)
    connection = Connection(settings, client_id=name, clock=SystemClock(), will=will, **more)
    connection.open()
    for topic in filters:
        connection.subscribe(topic)
    return connection


def taken(connection: Connection, topic: str, payload: bytes = b"x") -> bool:
    """Whether the broker takes a message; RabbitMQ hangs up on what it does not."""
    connection.publish(topic, payload)
    end = time.monotonic() + 10
    try:
        while time.monotonic() < end:
            for ack in connection.poll(0.1).acks:
                return ack.accepted
    except ConnectionLostError:
        return False
    raise AssertionError("no answer")


def heard(connection: Connection, topic: str) -> Incoming:
    """The next message of a topic; what waited in the session of a test before is passed over."""
    found: list[Incoming] = []
    wait_until(lambda: found.extend(one for one in connection.poll(0.05).messages if one.topic == topic) or found)
    return found[0]


def test_a_unit_speaks_on_its_own_topics_at_one_node_and_is_heard_at_another(
    cluster: Cluster, fleet: FleetSite
) -> None:
    one, other, third = cluster.nodes
    base = f"postern/{SITE}/unit-0001"
    auditor = opened(other, fleet.files.client(PROGRAM), PROGRAM, f"postern/{SITE}/+/event/+")
    unit = opened(one, fleet.unit("unit-0001"), "unit-0001", f"{base}/request/#")
    assert taken(unit, f"{base}/event/match")
    assert heard(auditor, f"{base}/event/match").payload == b"x"
    for foreign in (
        f"postern/{SITE}/unit-0002/event/match",
        f"{base}.x/event/match",
        f"{base}/event/match/x",
        "$SYS/x",
    ):
        assert not taken(opened(one, fleet.unit("unit-0001"), "unit-0001"), foreign), foreign
    for foreign in (
        "#",
        f"postern/{SITE}/+/event/+",
        f"postern/{SITE}/+/request/#",
        f"postern/{SITE}/unit-0002/request/#",
    ):
        with pytest.raises(BrokerError, match="refuses the subscription"):
            opened(third, fleet.unit("unit-0001"), "unit-0001", foreign)
    for foreign in ("#", f"postern/{SITE}/#", f"postern/{SITE}/+/request/#", f"postern/{SITE}/+/event/#"):
        with pytest.raises(BrokerError, match="refuses the subscription"):
            opened(third, fleet.files.client(PROGRAM), PROGRAM, foreign)


def test_nobody_puts_another_out_or_takes_its_session(cluster: Cluster, fleet: FleetSite) -> None:
    """The client id is the certificate's name, as with Mosquitto."""
    one, other, _ = cluster.nodes
    base = f"postern/{SITE}/unit-0003"
    victim = opened(one, fleet.unit("unit-0003"), "unit-0003", f"{base}/request/#")
    for session in (0, 60):
        with pytest.raises(BrokerError, match="client id"):
            opened(other, fleet.unit("unit-0002"), "unit-0003", session_expiry_s=session)
    assert taken(victim, f"{base}/event/match")


def test_a_will_is_said_late_and_only_where_the_unit_stays_away(cluster: Cluster, fleet: FleetSite) -> None:
    one, other, _ = cluster.nodes
    topic = f"postern/{SITE}/unit-0004/availability"
    listener = opened(other, fleet.files.client(PROGRAM), PROGRAM, f"postern/{SITE}/+/availability")
    unit = opened(one, fleet.unit("unit-0004"), "unit-0004", will=Will(topic, b"offline"))
    began = time.monotonic()
    unit.abandon()
    assert heard(listener, topic).payload == b"offline"
    assert time.monotonic() - began >= 1.5, "a reconnect within this time flaps nothing"
    listener.close()


def test_whom_the_site_revokes_is_put_out_and_stays_out(cluster: Cluster, fleet: FleetSite) -> None:
    one = cluster.nodes[0]
    issue_client(fleet.files.folder, "guard", "auditor")
    one.take(fleet.files)
    guard = fleet.files.client("guard")
    session = opened(one, guard, "guard", f"postern/{SITE}/+/event/+")
    old = fleet.files.folder / "old"
    old.mkdir()
    for path in guard.iterdir():
        (old / path.name).write_bytes(path.read_bytes())
    (old / "tls.key").chmod(0o600)
    revoke_client(fleet.files.folder, "guard")
    one.take(fleet.files)
    assert not taken(session, f"postern/{SITE}/unit-0001/request/outbox/replay"), "the session that stood is ended"
    for node in cluster.nodes:
        node.take(fleet.files)
        with pytest.raises(BrokerError, match=r"refuses|revoked|not accept"):
            opened(node, old, "guard")
    issue_client(fleet.files.folder, "guard", "auditor")
    for node in cluster.nodes:
        node.take(fleet.files)
        with pytest.raises(
            BrokerError, match=r"revoked|not accept|certificate"
        ):  # the name is known again, this is not it
            opened(node, old, "guard")
        opened(node, guard, "guard").close()


def test_a_unit_joins_by_an_invitation_and_the_list_reaches_a_subscriber_at_another_node(
    cluster: Cluster, fleet: FleetSite, tmp_path: Path
) -> None:
    one, other, _ = cluster.nodes
    site = fleet.files.folder
    issue_broker(site, [LOOPBACK], port=one.port)  # where the service and the unit find it
    delegate(site)
    text = invite(site, "door-77", accepted=True)
    one.take(fleet.files)
    assert "guest" not in one.ctl("list_users", "--no-table-headers").split(), "nobody logs in by a password"
    keys = fleet.files.client(PROGRAM)
    trust = TrustFile(keys / "trust.jws", load_public_key(keys / "site.jwk"))
    settings = BrokerSettings(LOOPBACK, credentials(keys), port=other.port)
    words = [sys.executable, "-m", "agent", "site", "serve", "-f", str(site)]
    service, unit = subprocess.Popen(words), tmp_path / "unit"
    try:
        with Subscriber(settings, site=SITE, trust=trust, clock=SystemClock()) as heard:
            thread = threading.Thread(target=lambda: list(heard), daemon=True)
            thread.start()
            invitation, policy = read_invitation(text), tmp_path / "policy"
            join(invitation, unit, policy=policy, clock=SystemClock(), patience_s=60, tell=lambda _: None)
            wait_until(lambda: "door-77" in heard.verifier.trust.units_in_service())
            for node in cluster.nodes:  # each needs the list of who issued it: without one, it is refused
                node.take(fleet.files)
            opened(other, unit, "door-77").close()
            heard.stop()
            thread.join(10)
    finally:
        service.terminate()
        service.wait()


def test_a_node_dies_under_the_fleet_and_every_event_comes_once_and_in_order(
    cluster: Cluster, fleet: FleetSite
) -> None:
    """Killed as by a power cut, and back later; the units and the auditor go on at the nodes that are left."""
    victim, died = cluster.nodes[1], threading.Event()
    plan = Plan(rate=RATE, seconds=SECONDS, broker=(LOOPBACK, cluster.port))

    def kill() -> None:
        plan.speaking.wait()
        time.sleep(DIES_AT_S)
        victim.kill()
        died.set()
        time.sleep(BACK_AT_S - DIES_AT_S)
        victim.start()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    report = run(fleet, plan)
    thread.join()
    print(report.as_json())
    assert died.is_set()
    assert report.signed > 3 * UNITS, "the units hardly spoke"
    assert report.lost == report.altered == 0
    assert not report.waiting, "they wait at their units, and nothing more got through"
    assert report.delivered == report.signed
    assert report.overtaken == report.late == 0, "of one unit, an event came after one that it signed later"
    assert not report.refused, "a repeat by the broker is no event; nothing else may be refused"
