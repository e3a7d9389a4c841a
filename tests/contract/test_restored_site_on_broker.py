# SPDX-License-Identifier: Apache-2.0
"""A site's folder that was put back from a backup, its service, and a subscriber, at Mosquitto as deployed."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.errors import RefusedError
from agent.keys import load_public_key
from agent.mqtt.connection import Connection
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import BrokerSettings, Incoming
from agent.protocol.topics import list_topic
from agent.protocol.trust_file import TrustFile
from agent.site import joining
from agent.site.programs import issue_client
from agent.subscribe.subscriber import Subscriber
from tests.contract.test_site_service import joined
from tests.simulators.broker import wait_until
from tools.lib.demo.site import postern
from tools.lib.lifetime.joining import SITE, LiveSite

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[LiveSite]:
    live = LiveSite(tmp_path)
    with live.running():
        yield live


def retained_list(settings: BrokerSettings) -> bytes:
    """The list of units that the broker retains now."""
    connection = Connection(settings, client_id="guard-looks", clock=SystemClock())
    connection.open()
    heard: list[Incoming] = []
    try:
        connection.subscribe(list_topic(SITE), retained=True)
        wait_until(lambda: heard.extend(connection.poll(0.1).messages) or heard)
    finally:
        connection.close()
    return heard[0].payload


def auditor_of(site: LiveSite) -> BrokerSettings:
    guard = issue_client(site.folder, "guard", "auditor")
    credentials = Credentials.in_folder(guard)
    time.sleep(1)  # the broker has the auditor's rules
    return BrokerSettings("127.0.0.1", credentials, port=site.broker.port)


def test_a_broker_that_lost_what_it_retained_has_the_list_again_within_seconds(site: LiveSite) -> None:
    settings = auditor_of(site)
    assert retained_list(settings) == site.files.trust.read_bytes()
    site.broker.stop()
    (site.broker.folder / "mosquitto.db").unlink()
    site.broker.start()
    assert retained_list(settings) == site.files.trust.read_bytes()


def test_a_folder_put_back_from_a_backup_says_no_older_list_and_is_believed_again_after_one_command(
    site: LiveSite, tmp_path: Path
) -> None:
    settings = auditor_of(site)
    guard = settings.credentials.ca.parent
    trust = TrustFile(guard / "trust.jws", load_public_key(guard / "site.jwk"))
    shutil.copytree(site.folder, tmp_path / "backup")
    with Subscriber(settings, site=SITE, trust=trust, clock=SystemClock()) as subscriber:
        thread = threading.Thread(target=lambda: list(subscriber), daemon=True)
        thread.start()
        unit = joined(site, tmp_path)
        wait_until(lambda: "door-7" in subscriber.verifier.trust.units_in_service())
        unit.close()
        before = site.files.trust.read_bytes()
        site.stop_service()
        held = (guard / "trust.jws").read_bytes()
        shutil.copytree(tmp_path / "backup", site.folder, dirs_exist_ok=True)
        (guard / "trust.jws").write_bytes(held)  # the auditor's machine is another one
        site.files.unit("door-7").unlink()
        site.start_service()
        wait_until(site.files.newer_list.exists)
        assert site.files.newer_list.read_bytes() == before
        assert retained_list(settings) == before, "an older one was put in its place, and nobody can hear the newer"
        with pytest.raises(RefusedError, match="postern site recover"):
            joining.invite(site.folder, "door-8")
        assert subscriber.verifier.trust.units_in_service() == ("door-7",)
        postern("site", "recover", "-f", site.folder)
        wait_until(lambda: subscriber.verifier.trust.serial > 10_000)
        assert subscriber.verifier.trust.units_in_service() == (), "it was let in after the backup"
        subscriber.stop()
        thread.join(10)
    joining.invite(site.folder, "door-7")
