# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: F811 - names of fixtures
"""Nothing is retained that is no longer meant, and two boards with one certificate are told so: on a real broker."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from agent.cli import main
from agent.config.load import load_config
from agent.disk.process_lock import ProcessLock
from agent.protocol.topics import Topics
from agent.uplink.discovery import make_discovery
from tests.simulators.broker import RealBroker, connect, wait_until
from tests.simulators.unit_on_broker import UnitOnBroker
from tests.unit.test_cli_doctor import file, findings, site  # noqa: F401

pytestmark = pytest.mark.broker

TOPICS = Topics("hq", "door-1")
RETAINED = ["postern/hq/door-1/availability", "postern/hq/door-1/info", TOPICS.discovery]


@pytest.fixture
def broker(tmp_path: Path, site: object) -> Iterator[RealBroker]:
    real = RealBroker(tmp_path / "real", site)  # type: ignore[arg-type]
    real.start()
    yield real
    real.stop()


def kept(broker: RealBroker) -> dict[str, bytes]:
    """What the broker hands to whoever subscribes now."""
    every = {"home-assistant": ["homeassistant/#"], "auditor": ["postern/hq/+/availability", "postern/hq/+/info"]}
    found: dict[str, bytes] = {}
    for name, filters in every.items():
        listener = connect(broker, broker.authority.issue(name, file=f"look-{name}"), f"{name}-look")
        for topic in filters:
            listener.connection._client.subscribe(topic, qos=1)
        for _ in range(10):
            listener.messages += listener.connection.poll(0.05).messages
        found |= {one.topic: one.payload for one in listener.messages if one.retained}
        listener.connection.close()
    return found


def run(broker: RealBroker, folder: Path, *, home_assistant: bool) -> None:
    folder.mkdir(exist_ok=True)
    discovery = make_discovery(TOPICS, name="n", model="m", version="1", presence=False, health_interval_s=60)
    options = {"discovery": discovery} if home_assistant else {"unwanted": (discovery.topic,)}
    unit = UnitOnBroker(folder, broker.settings(broker.authority.issue("door-1")), **options)
    unit.start()
    unit.say()
    wait_until(lambda: unit.outbox.depth() == 0)
    wait_until(lambda: not unit.uplink._others)
    assert not [notice for notice in unit.notices if notice.kind == "refused"]
    unit.uplink.stop()
    unit.outbox.close()


def test_discovery_that_was_switched_off_is_taken_back(broker: RealBroker, tmp_path: Path) -> None:
    run(broker, tmp_path / "on", home_assistant=True)
    assert sorted(kept(broker)) == sorted(RETAINED)
    run(broker, tmp_path / "off", home_assistant=False)
    assert sorted(kept(broker)) == sorted(RETAINED[:2])


def test_a_broker_without_home_assistant_is_no_reason_to_complain(broker: RealBroker, tmp_path: Path) -> None:
    lines = [line for line in broker.acl.read_text().splitlines() if "homeassistant/device" not in line]
    broker.acl.write_text("\n".join(lines) + "\n")
    broker.reload()
    run(broker, tmp_path / "off", home_assistant=False)


def test_a_unit_that_is_renamed_or_taken_away_leaves_nothing_behind(
    broker: RealBroker,
    tmp_path: Path,
    file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(broker, tmp_path / "on", home_assistant=True)
    own = broker.authority.issue("door-1")
    shutil.copy(own.certificate, file.parent / "tls.crt")
    shutil.copy(own.key, file.parent / "tls.key")
    text = file.read_text().replace("id: door-3", "id: door-1").replace("port: 9\n", f"port: {broker.port}\n")
    file.write_text(text)
    retire = ["unit", "retire", "-c", str(file)]
    lock = ProcessLock(load_config(file).gallery.path)  # as the running unit holds it
    assert main(retire) == 70
    lock.release()
    assert "stop the service first (systemctl stop postern)" in capsys.readouterr().err
    lines = broker.acl.read_text().splitlines()
    broker.acl.write_text("\n".join(line for line in lines if line != "pattern write postern/hq/%u/info") + "\n")
    broker.reload()
    assert main(retire) == 75
    said = "the broker refuses postern/hq/door-1/info: carry the site's acl there, unless this unit was revoked"
    assert said in capsys.readouterr().err
    assert "postern/hq/door-1/info" in kept(broker)
    broker.acl.write_text("\n".join(line for line in lines if "homeassistant/device" not in line) + "\n")
    broker.reload()  # a site without Home Assistant
    assert main(retire) == 0
    told = capsys.readouterr().out
    assert [line.split()[-1] for line in told.splitlines()] == RETAINED[1::-1], "discovery went at the first try"
    assert kept(broker) == {}


def set_at_broker(file: Path, **settings: object) -> None:
    """Change the section ``broker`` of a unit's file."""
    content = yaml.safe_load(file.read_text())
    content["broker"] |= settings
    file.write_text(yaml.safe_dump(content))


def test_doctor_tries_what_the_access_list_allows(broker: RealBroker, file: Path) -> None:
    file.write_text(file.read_text().replace("port: 9\n", f"port: {broker.port}\n"))
    reached, allowed = findings("broker", file)
    place = f"127.0.0.1:{broker.port}"
    assert (reached.state, reached.text) == (
        "ok",
        f"{place} is the site's and takes this unit's certificate (TLSv1.3)",
    )
    assert (allowed.state, allowed.text) == (
        "ok",
        "the broker lets this unit write its 10 topics, and takes its subscription",
    ), "availability, info, health, answers, and each event live and late"
    broker.acl.write_text(broker.acl.read_text().replace("pattern write postern/hq/%u/event/+\n", ""))
    broker.reload()
    _, finding = findings("broker", file)
    assert finding.state == "fault"
    refused, _, advice = finding.text.partition(": ")
    assert sorted(refused.removeprefix("the broker refuses ").split(", ")) == sorted(
        f"postern/hq/door-3/event/{kind}" for kind in ("match", "presence", "unit")
    )
    assert advice == "give it the site's newest acl, then have it read the file again or restart it"
    set_at_broker(file, home_assistant=True)
    broker.acl.write_text(broker.acl.read_text().replace("pattern write homeassistant/device/", "# "))
    broker.reload()
    _, finding = findings("broker", file)
    assert len(finding.text.partition(": ")[0].split(", ")) == 4, "discovery, too, where it is wanted"
    set_at_broker(file, protocol="3.1.1")
    _, finding = findings("broker", file)
    assert (finding.state, finding.text) == (
        "advice",
        "MQTT 3.1.1 does not tell what an access list refuses: set broker.protocol to '5' to know it",
    )


def test_doctor_disturbs_neither_the_running_unit_nor_who_listens(
    broker: RealBroker,
    tmp_path: Path,
    file: Path,
) -> None:
    auditor = connect(broker, broker.authority.issue("auditor"), "auditor", "postern/hq/+/event/+")
    (tmp_path / "running").mkdir()
    running = UnitOnBroker(tmp_path / "running", broker.settings(broker.authority.issue("door-3")), name="door-3")
    running.start()
    file.write_text(file.read_text().replace("port: 9\n", f"port: {broker.port}\n"))
    shutil.copy(broker.authority.folder / "door-3.crt", file.parent / "tls.crt")
    shutil.copy(broker.authority.folder / "door-3.key", file.parent / "tls.key")
    lock = ProcessLock(load_config(file).gallery.path)  # as the running unit holds it
    assert [finding.state for finding in findings("broker", file)] == ["ok", "ok"]
    told = "the unit runs: what the broker refuses stands in its log (journalctl -u postern)"
    assert findings("broker", file)[-1].text == told
    lock.release()
    running.say()
    auditor.pump(lambda: any(message.payload for message in auditor.messages))
    assert [notice.kind for notice in running.notices] == ["connected"]
    real = [json.loads(message.payload) for message in auditor.messages if message.payload]
    assert [event["type"] for event in real] == ["io.postern.match.v1"]
    assert "postern/hq/door-3/availability" in kept(broker)
    running.uplink.stop()


def test_two_boards_with_one_certificate_are_told_so(broker: RealBroker, tmp_path: Path) -> None:
    boards = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        boards.append(UnitOnBroker(tmp_path / name, broker.settings(broker.authority.issue("door-1"))))
        boards[-1].start(connected=False)
    try:
        wait_until(lambda: all("another unit or program uses this certificate" in words(board) for board in boards))
    finally:
        for board in boards:
            board.uplink.stop()


def words(board: UnitOnBroker) -> str:
    return " ".join(notice.message for notice in board.notices)
