# SPDX-License-Identifier: Apache-2.0
"""A site's service, Mosquitto with the site's own rules, and a bridge that was given nothing but its folder."""

from __future__ import annotations

import secrets
import threading
from pathlib import Path

import msgspec
import pytest

from agent.bridge.service import Bridge
from agent.bridge.settings import load_settings
from agent.clock import SystemClock
from agent.disk.files import write_atomic
from agent.errors import BrokerError
from agent.keys import encode_base64url
from agent.mqtt.connection import Connection
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import BrokerSettings
from agent.protocol.pseudonym import epoch_of, epochs_from
from agent.protocol.topics import list_topic, resolving_topic
from agent.site.folder import changing
from agent.site.programs import issue_client
from tests.simulators.broker import wait_until
from tools.lib.demo.site import postern
from tools.lib.lifetime.joining import SITE, LiveSite

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

PATIENCE_S = 60.0
CONFIG = """\
site: {site}
broker: {{host: 127.0.0.1, port: {port}}}
keys: keys
state: state
people: people
epoch_keys: epoch-keys
outputs:
  - {{kind: sql, name: archive, people: true, url: "sqlite:///{archive}"}}
"""


def heard(folder: Path, port: int, name: str, topic: str) -> list[bytes]:
    """What a program gets of a topic."""
    settings = BrokerSettings("127.0.0.1", Credentials.in_folder(folder), port=port)
    connection = Connection(settings, client_id=name, clock=SystemClock(), session_expiry_s=0)
    connection.open()
    try:
        connection.subscribe(topic, retained=True)
        return [one.payload for _ in range(10) for one in connection.poll(0.05).messages]
    except BrokerError:
        return []
    finally:
        connection.close()


def test_bridge_gets_the_keys_of_its_weeks_and_nobody_else_hears_them(tmp_path: Path) -> None:
    live = LiveSite(tmp_path)
    postern("site", "add-program", "-f", live.folder, "bridge", "--resolves", "access")
    issue_client(live.folder, "other", "auditor")
    bridge_folder = tmp_path / "bridge"
    bridge_folder.mkdir(mode=0o700)
    for one in ("state", "epoch-keys"):
        (bridge_folder / one).mkdir(mode=0o700)
    keys = (live.files.clients / "bridge").rename(bridge_folder / "keys")
    write_atomic(bridge_folder / "people", f"{'00' * 16} anna Anna Bauer\n".encode())
    text = CONFIG.format(site=SITE, port=live.broker.port, archive=bridge_folder / "archive.db")
    (bridge_folder / "bridge.yaml").write_text(text)
    notices: list[str] = []
    bridge = Bridge(
        load_settings(bridge_folder / "bridge.yaml"),
        clock=SystemClock(),
        random=secrets.token_bytes,
        on_notice=notices.append,
    )
    thread = threading.Thread(target=bridge.run)
    folder = bridge_folder / "epoch-keys"
    with live.running():
        live.broker.reload(live.files)  # it was started with the rules of before
        wait_until(lambda: heard(keys, live.broker.port, "bridge", list_topic(SITE)), PATIENCE_S)  # they are in force
        thread.start()
        try:
            wait_until(lambda: len(list(folder.glob("site-access-*.json"))) == 3, PATIENCE_S)
            wait_until(lambda: bridge.status.facts.epoch_keys == 3, PATIENCE_S)
            topic = resolving_topic(SITE, "bridge")
            assert heard(live.files.clients / "other", live.broker.port, "other", topic) == []
        finally:
            bridge.stop()
            thread.join(PATIENCE_S)
        (sealed,) = heard(keys, live.broker.port, "bridge", topic)
    held = {epoch for epoch in epochs_from(SystemClock().now()) if any(folder.glob(f"site-access-{epoch}-*.json"))}
    assert len(held) == 3
    with changing(live.folder) as site:
        secret = site.epoch_key("access", epoch_of(SystemClock().now())).secret()
    assert encode_base64url(bytes(secret)).encode() not in sealed
    found = [msgspec.json.decode(file.read_bytes())["key"] for file in folder.iterdir()]
    assert encode_base64url(bytes(secret)) in found
    assert not [one for one in notices if "not taken" in one or "nobody here" in one]
