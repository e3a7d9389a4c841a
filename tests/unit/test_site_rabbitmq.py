# SPDX-License-Identifier: Apache-2.0
"""The site's rules for RabbitMQ: the same rights as for Mosquitto, in regular expressions over routing keys."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.protocol.topics import Topics, event_filters, health_filter, list_part_topic, list_topic, replay_filter
from agent.site import rabbitmq
from agent.site.acl import Rules
from agent.site.authority import read_certificate
from agent.site.creation import create_site
from agent.site.delegation import delegate
from agent.site.desk import Desk
from agent.site.joining import invite
from agent.site.programs import issue_broker, issue_client, revoke_client
from agent.site.published import unfinished
from agent.site.records import SiteFiles

TAKE = Path(__file__).parents[2] / "deploy" / "rabbitmq" / "postern-broker-take"
RULES = Rules.of(
    "hq", ["door-3"], [("guard", "auditor"), ("office", "operator")], revoked=["door-9"], joining=["door-4.join"]
)
UNIT = Topics("hq", "door-3")


def key(topic: str) -> str:
    """The routing key of a topic, or of a filter, as RabbitMQ's MQTT plugin makes it."""
    return topic.replace("/", ".").replace("+", "*")


def may(name: str, access: str, topic: str) -> bool:
    (found,) = (one for one in json.loads(rabbitmq.spell(RULES))["topic_permissions"] if one["user"] == name)
    return re.search(found[access], key(topic)) is not None


def test_a_unit_says_all_that_it_has_to_and_hears_its_own_commands() -> None:
    said = [UNIT.availability, UNIT.info, UNIT.health, UNIT.discovery, UNIT.response("outbox/replay")]
    said += [leaf(kind) for kind in ("match", "presence", "unit") for leaf in (UNIT.event, UNIT.backlog)]
    assert all(may("door-3", "write", topic) for topic in said)
    assert may("door-3", "read", UNIT.requests)
    assert may("door-3", "read", "homeassistant/status")


@pytest.mark.parametrize(
    "topic",
    [
        "postern/hq/door-4/event/match",
        "postern/hq/door-33/event/match",
        "postern/hq/door-3.x/event/match",
        "postern/hq/door-3/event",
        "postern/hq/door-3/event/match/x",
        "postern/hq/door-3/event/#",
        "postern/hq/+/event/match",
        "postern/hqxdoor-3/event/match",
        "x/postern/hq/door-3/event/match",
        "postern-site/hq/trust",
        UNIT.requests,
        "#",
        "",
    ],
)
def test_a_unit_says_nothing_elsewhere(topic: str) -> None:
    assert not may("door-3", "write", topic)


@pytest.mark.parametrize("topic", ["#", "+/#", "postern/#", "postern/hq/#", "postern/hq/+/#", "postern/hq/+/+/+"])
def test_nobody_hears_more_by_a_wildcard_than_was_given(topic: str) -> None:
    for name in ("door-3", "guard", "office", "door-4.join"):
        assert not may(name, "read", topic)


def test_an_auditor_subscribes_to_what_the_product_subscribes_to_and_asks_for_what_it_missed() -> None:
    heard = [*event_filters("hq"), health_filter("hq"), replay_filter("hq"), list_topic("hq"), list_part_topic("hq")]
    assert all(may("guard", "read", topic) for topic in heard)
    assert may("guard", "read", UNIT.event("match"))
    assert may("guard", "write", "postern/hq/door-3/request/outbox/replay")
    assert not may("guard", "write", "postern/hq/door-3/request/health")
    assert not may("guard", "read", UNIT.requests)
    assert not may("guard", "read", "postern/hq/+/event/#")


def test_an_operator_clears_what_is_left_of_a_revoked_unit_alone() -> None:
    assert may("office", "write", "postern/hq/door-9/availability")
    assert not may("office", "write", "postern/hq/door-3/availability")


def test_a_name_has_its_own_session_and_will_and_no_other() -> None:
    for one in json.loads(rabbitmq.spell(RULES))["permissions"]:
        own = re.escape(one["user"])
        for access in ("configure", "write", "read"):
            assert re.search(one[access], f"mqtt-subscription-{one['user']}qos1")
            for other in (
                f"mqtt-subscription-x{one['user']}qos1",
                f"mqtt-will-{one['user']}x",
                "mqtt-subscription-xqos1",
                "x",
            ):
                assert not re.search(one[access], other), own
        assert not re.search(one["configure"], "amq.topic")
    assert {user["password_hash"] for user in json.loads(rabbitmq.spell(RULES))["users"]} == {""}


def made(tmp_path: Path) -> SiteFiles:
    files = create_site(tmp_path / "site", "hq")
    issue_broker(files.folder, ["broker.example"], kind="rabbitmq")
    return files


def test_the_kit_writes_all_that_a_node_needs_and_completes_what_a_power_cut_left(tmp_path: Path) -> None:
    files = made(tmp_path)
    names = {"rabbitmq.conf", "advanced.config", "enabled_plugins", "definitions.json"}
    assert {path.name for path in files.broker.iterdir()} == names | {"ca.crt", "ca.crl", "broker.crt", "broker.key"}
    issue_client(files.folder, "guard", "auditor")
    assert '"guard"' in files.acl.read_text()
    issue_broker(files.folder, ["broker.example"])
    assert files.broker_kind == "rabbitmq", "as it was"
    files.acl.write_text("{")
    assert unfinished(files).files == ("definitions.json",)
    assert "guard" in unfinished(files).names
    revoke_client(files.folder, "guard")
    assert '"guard"' not in files.acl.read_text()
    assert unfinished(files).files == ()
    issue_broker(files.folder, ["broker.example"], kind="mosquitto")
    assert not (files.broker / "definitions.json").exists()
    assert "Access list of site hq" in files.acl.read_text()


def test_who_is_invited_is_a_user_there_and_is_answered_where_it_asks(tmp_path: Path) -> None:
    """RabbitMQ takes the dot in the name for the end of a level."""
    files = made(tmp_path)
    delegate(files.folder)
    invite(files.folder, "door-4")
    assert '"door-4.join"' in files.acl.read_text()
    told: list[str] = []
    desk = Desk(files.folder, clock=SystemClock(), random=os.urandom, tell=told.append)
    assert "postern-join/hq/+/join/request" in desk.filters()
    (letter,) = desk.take("postern-join/hq/door-4/join/request", b"nothing of use")
    assert letter.topic == "postern-join/hq/door-4/join/answer"
    assert desk.take("postern-join/hq/door-4/request", b"nothing of use") == []
    assert desk.take("postern-join/hq/door-4/join/x/request", b"nothing of use") == []


def test_a_certificate_says_the_client_id(tmp_path: Path) -> None:
    files = made(tmp_path)
    folder = issue_client(files.folder, "guard", "auditor")
    certificate = read_certificate(folder / "tls.crt")
    names = [extension.value for extension in certificate.extensions if extension.oid.dotted_string == "2.5.29.17"]
    assert [str(name.value) for value in names for name in value] == ["guard"]


CTL = r"""#!/bin/sh
echo "$@" >> "$LOG"
case "$2" in list_users) printf 'guest\t[administrator]\nguard\t[postern]\ndoor-9\t[postern]\n' ;; esac
"""


def test_a_node_takes_rules_and_lists_and_puts_out_whom_they_do_not_name(tmp_path: Path) -> None:
    files, target = made(tmp_path), tmp_path / "node"
    issue_client(files.folder, "guard", "auditor")
    delegate(files.folder)  # a second issuer, and so a second list
    target.mkdir()
    ctl, log = tmp_path / "ctl", tmp_path / "log"
    ctl.write_text(CTL)
    ctl.chmod(0o700)
    environment = {**os.environ, "POSTERN_RABBITMQCTL": str(ctl), "LOG": str(log)}

    def take() -> str:
        words = [TAKE, files.broker, target]
        return subprocess.run(words, capture_output=True, text=True, env=environment, check=True).stdout

    (target / "crl").mkdir()
    (target / "crl" / "00000000.r0").write_text("of an issuer that is gone")
    assert "definitions.json" in take()
    lists = sorted(path.name for path in (target / "crl").iterdir() if not path.name.startswith("."))
    assert len(lists) == 2
    assert all(re.fullmatch(r"[0-9a-f]{8}\.r0", name) for name in lists)
    asked = log.read_text().splitlines()
    assert [words.split()[2] for words in asked if "delete_user" in words] == ["guest", "door-9"]
    assert asked[-1] == f"-q import_definitions {target}/definitions.json"
    assert "what was there" in take(), "may be repeated"
    (target / "definitions.json").unlink()
    (files.broker / "definitions.json").unlink()
    (files.broker / "definitions.json").symlink_to("/etc/passwd")
    with pytest.raises(subprocess.CalledProcessError):
        take()
    assert not (target / "definitions.json").exists()
