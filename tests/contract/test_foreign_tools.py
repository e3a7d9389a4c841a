# SPDX-License-Identifier: Apache-2.0
"""Contracts held by tools that this project did not write: CloudEvents SDKs, AsyncAPI's parser, Node-RED itself.

They are not part of each run: POSTERN_NODE_MODULES names a folder in which ``npm install node-red @asyncapi/parser
cloudevents`` was done; the Python SDK is used where it is installed. Results with their date stand in tests/README.md.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import __version__
from agent.keys import SigningKey
from agent.protocol.asyncapi import asyncapi
from tests.simulators import node
from tests.simulators.broker import PATIENCE_S, RealBroker, wait_until
from tests.simulators.pki import Authority
from tests.simulators.ports import free_port
from tests.simulators.signing_unit import trust_list
from tests.simulators.unit_on_broker import UnitOnBroker

ROOT = Path(__file__).parents[2]
MODULES = os.environ.get("POSTERN_NODE_MODULES")
needs_modules = pytest.mark.skipif(MODULES is None, reason="POSTERN_NODE_MODULES is not set")
PARSER = """
const { Parser } = require('@asyncapi/parser');
new Parser().parse(require('node:fs').readFileSync(0, 'utf8')).then(({ document, diagnostics }) =>
    console.log(JSON.stringify({ channels: document?.channels().all().length ?? 0, diagnostics })));
"""
CLOUDEVENTS = """
const { HTTP } = require('cloudevents');
const bodies = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));
const headers = { 'content-type': 'application/cloudevents+json' };
console.log(JSON.stringify(bodies.map((body) => { const one = HTTP.toEvent({ headers, body });
    return { id: one.id, source: one.source, type: one.type, time: one.time, valid: one.validate() }; })));
"""


def accepted() -> list[dict[str, Any]]:
    """Every event of the vectors that a verifier accepts."""
    content = json.loads((ROOT / "tests" / "vectors" / "events.json").read_text())
    return [json.loads(case["payload"]) for case in content["cases"] if case["expect"].get("accepted")]


def run_js(program: str, given: str) -> Any:
    assert MODULES is not None
    command = [node.program(), "-e", program]
    environment = {**os.environ, "NODE_PATH": f"{MODULES}/node_modules"}
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_document_of_topics_names_every_channel() -> None:
    document = asyncapi(__version__)
    assert set(document["channels"]) == {"live", "backlog", "health", "availability", "request", "response"}
    text = json.dumps(document)
    assert "#/$defs" not in text
    assert document["operations"]["availability"]["bindings"]["mqtt"]["retain"] is True


@needs_modules
def test_asyncapis_own_parser_finds_nothing_wrong() -> None:
    found = run_js(PARSER, json.dumps(asyncapi(__version__)))
    assert found["channels"] == 6
    assert [one for one in found["diagnostics"] if one["severity"] <= 1] == []


def test_cloudevents_sdk_in_python_parses_every_vector() -> None:
    core = pytest.importorskip("cloudevents.core.bindings.http", reason="the CloudEvents SDK is not installed")
    events = accepted()
    assert len(events) > 5
    for event in events:
        message = core.HTTPMessage({"content-type": "application/cloudevents+json"}, json.dumps(event).encode())
        parsed = core.from_http_event(message)
        assert (parsed.get_id(), parsed.get_source(), parsed.get_type()) == (
            event["id"],
            event["source"],
            event["type"],
        )
        assert parsed.get_data() == event["data"]


@needs_modules
def test_cloudevents_sdk_in_javascript_parses_every_vector() -> None:
    events = accepted()
    parsed = run_js(CLOUDEVENTS, json.dumps([json.dumps(event) for event in events]))
    assert all(one["valid"] for one in parsed)
    assert [one["id"] for one in parsed] == [event["id"] for event in events]


@pytest.fixture
def red(tmp_path: Path) -> Iterator[tuple[Path, RealBroker, UnitOnBroker]]:
    """Node-RED's folder with the flow as an installer leaves it, a broker, and a unit that may speak."""
    broker = RealBroker(tmp_path, Authority(tmp_path / "pki"))
    broker.start()
    unit = UnitOnBroker(tmp_path, broker.settings(broker.authority.issue("door-1")))
    yield tmp_path, broker, unit
    unit.uplink.stop()
    broker.stop()


@needs_modules
@pytest.mark.broker
@pytest.mark.timeout(240)
def test_shipped_flow_in_a_real_node_red_lets_verified_matches_through(
    red: tuple[Path, RealBroker, UnitOnBroker],
) -> None:
    folder, broker, unit = red
    site_key = SigningKey.generate()
    keys, user, out = folder / "keys", folder / "user", folder / "out.jsonl"
    keys.mkdir()
    user.mkdir()
    files = broker.authority.issue("auditor")
    for source, name in ((files.ca, "ca.crt"), (files.certificate, "tls.crt"), (files.key, "tls.key")):
        shutil.copy(source, keys / name)
    (keys / "site.jwk").write_text(json.dumps(site_key.public_jwk()))
    (keys / "trust.jws").write_text(trust_list(unit.unit).sign(site_key))
    flow = json.loads((ROOT / "deploy" / "node-red" / "flow.json").read_text())
    for one in flow:
        if one["type"] == "mqtt-broker":
            one |= {"broker": "127.0.0.1", "port": str(broker.port)}
        if one["type"] == "tls-config":
            one |= {"ca": str(keys / "ca.crt"), "cert": str(keys / "tls.crt"), "key": str(keys / "tls.key")}
        if one["id"] == "postern-tab":
            one["env"] = [
                {"name": "POSTERN_KEYS", "value": str(keys), "type": "str"},
                {"name": "POSTERN_STATE", "value": str(folder / "seen.json"), "type": "str"},
            ]
        if one["id"] == "postern-verify":
            one["wires"] = [["t-json"], ["t-json"]]
    flow += [
        {"id": "t-json", "type": "json", "z": "postern-tab", "property": "payload", "action": "str",
         "wires": [["t-file"]]},
        {"id": "t-file", "type": "file", "z": "postern-tab", "filename": str(out), "filenameType": "str",
         "appendNewline": True, "overwriteFile": "false", "wires": [[]]},
    ]  # fmt: skip
    (user / "flows.json").write_text(json.dumps(flow))
    (user / "package.json").write_text('{"name": "red", "version": "1.0.0", "private": true}')
    install = [node.program("npm"), "install", "--install-links", "--no-audit", "--no-fund", str(node.VERIFIER)]
    subprocess.run(install, cwd=user, check=True, capture_output=True, timeout=100)
    port = free_port()
    program = f"{MODULES}/node_modules/.bin/node-red"
    with (folder / "red.log").open("w") as log:
        process = subprocess.Popen(
            [program, "--userDir", user, "--port", str(port), user / "flows.json"], stdout=log, stderr=log, cwd=user
        )
    try:
        wait_until(lambda: "Connected to broker" in (folder / "red.log").read_text(), 6 * PATIENCE_S)
        time.sleep(1)  # it subscribes after that
        unit.start()
        unit.say(3)
        wait_until(lambda: out.exists() and len(out.read_text().splitlines()) >= 3, 2 * PATIENCE_S)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        print((folder / "red.log").read_text())
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line.get("zone") for line in lines] == ["door", "door", "door"]
