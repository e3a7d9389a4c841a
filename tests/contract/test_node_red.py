# SPDX-License-Identifier: Apache-2.0
"""The flow that people import into Node-RED: it loads, and what comes out of it was verified."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.simulators import node
from tools.lib.vectors.build import DIGEST, SITE_KEY, digest, event, payload, sign_list, topic, unit_list
from tools.lib.vectors.event_signatures import forged

SITE_FILES = {"site.jwk": json.dumps(SITE_KEY.jwk), "trust.jws": sign_list(unit_list()) + "\n"}

# What Node-RED gives to a function node: modules by the names in ``libs``, the environment, a memory, a way to warn.
HARNESS = """
const { createRequire } = require('node:module');
const { folder, flow, variables, messages } = JSON.parse(require('node:fs').readFileSync(0));
const installed = createRequire(`${folder}/node_modules/x`);
const names = Object.fromEntries(flow.libs.map(({ var: name, module }) => [name, module]));
const modules = Object.entries(names).map(([name, module]) =>
    [name, module === 'postern-verify' ? require(folder) : installed(module)]);
const kept = {}, warnings = [];
const scope = {
    ...Object.fromEntries(modules),
    env: { get: (name) => variables[name] },
    context: { get: (name) => kept[name], set: (name, value) => { kept[name] = value; } },
    node: { status: () => {}, warn: (text) => warnings.push(text) },
};
const compile = (code) => new Function(...Object.keys(scope), 'msg', code).bind(null, ...Object.values(scope));
compile(flow.initialize)();
const run = compile(flow.func);
const out = messages.map(({ before, ...msg }) => {
    for (const [path, text] of Object.entries(before ?? {})) require('node:fs').writeFileSync(path, text);
    return run({ ...msg, payload: Buffer.from(msg.payload, 'base64') }) ?? null;
});
console.log(JSON.stringify({ out, warnings }));
"""


def nodes() -> dict[str, Any]:
    return {one["id"]: one for one in json.loads((node.VERIFIER / "flow.json").read_text())}


def test_flow_is_wired() -> None:
    found = nodes()
    for one in found.values():
        for wires in one.get("wires", []):
            assert set(wires) <= set(found)
        for name in ("broker", "tls"):
            if str(one.get(name, "")).startswith("postern-"):
                assert one[name] in found
        assert one.get("z") in (None, "postern-tab")
    assert len(found["postern-verify"]["wires"]) == found["postern-verify"]["outputs"] == 2


def test_flow_hears_all_that_a_chain_is_made_of_as_bytes_over_tls() -> None:
    found = nodes()
    heard = [one for one in found.values() if one["type"] == "mqtt in"]
    assert {one["topic"] for one in heard} == {"postern/hq/+/event/+", "postern/hq/+/backlog/+"}
    assert {(one["datatype"], one["qos"]) for one in heard} == {("buffer", "1")}
    assert found["postern-broker"]["usetls"]
    assert found["postern-tls"]["verifyservercert"]


def test_function_node_names_the_package_that_the_readme_installs() -> None:
    modules = {one["var"]: one["module"] for one in nodes()["postern-verify"]["libs"]}
    package = json.loads((node.VERIFIER / "package.json").read_text())
    assert modules == {"postern": package["name"], "fs": "fs"}
    assert "npm install --install-links" in (node.VERIFIER / "README.md").read_text()


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return node.install_verifier(tmp_path_factory.mktemp("verifier"))


class Flow:
    """The flow's function node between two folders of its own."""

    def __init__(self, verifier: Path, folder: Path) -> None:
        self.verifier, self.keys, self.state = verifier, folder / "keys", folder / "seen.json"
        self.keys.mkdir()
        for name, text in SITE_FILES.items():
            (self.keys / name).write_text(text)

    def run(self, *messages: dict[str, Any]) -> dict[str, Any]:
        given = {
            "folder": str(self.verifier),
            "flow": nodes()["postern-verify"],
            "variables": {"POSTERN_KEYS": str(self.keys), "POSTERN_STATE": str(self.state)},
            "messages": list(messages),
        }
        result = node.run("-e", HARNESS, given=json.dumps(given))
        assert result.returncode == 0, result.stderr
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer


@pytest.fixture
def flow(verifier: Path, tmp_path: Path) -> Flow:
    return Flow(verifier, tmp_path)


def sent(content: bytes, where: str | None = None, *, retain: bool = False, **more: Any) -> dict[str, Any]:
    return {"topic": where or topic(), "payload": base64.b64encode(content).decode(), "retain": retain, **more}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_flow_passes_fresh_verified_matches_alone_and_says_why_not(flow: Flow) -> None:
    fresh = payload(event(time=now()))
    later = event(seq=4, prev=DIGEST, time=now())
    messages = [
        sent(fresh),
        sent(fresh),
        sent(payload(later)),
        sent(forged(event(seq=5, time=now()))),
        sent(payload(event(seq=5, prev=digest(later), time="2026-01-01T00:00:00Z"))),
        sent(fresh, retain=True),
        sent(payload(event(seq=3, clock="unsynced"))),
        sent(b"no json"),
    ]
    data = event()["data"]
    match = {"topic": "door-3", "payload": {name: data[name] for name in ("subject", "zone", "liveness")}}
    refused = [{"topic": topic(), "payload": {"refused": reason}} for reason in (
        "duplicate", "bad_signature", "retained", "fork", "malformed")]  # fmt: skip
    gap = {"topic": "door-3", "payload": {"missing": [2, 3]}}
    assert flow.run(*messages)["out"] == [
        [match, None], [None, refused[0]], [match, gap], [None, refused[1]],
        [None, None],  # held back: taken, and nothing acts on it
        *[[None, one] for one in refused[2:]],
    ]  # fmt: skip


def test_restart_of_node_red_makes_no_old_event_new(flow: Flow) -> None:
    fresh = payload(event(time=now()))
    assert flow.run(sent(fresh))["out"][0][0] is not None
    assert flow.run(sent(fresh))["out"] == [[None, {"topic": topic(), "payload": {"refused": "duplicate"}}]]


def test_newer_list_counts_at_once_and_a_foreign_one_changes_nothing(flow: Flow) -> None:
    path = str(flow.keys / "trust.jws")
    empty = sign_list(unit_list(serial=8, units={}))
    old = sign_list(unit_list(serial=6))
    first, second = event(time=now()), event(seq=2, time=now())
    answer = flow.run(
        sent(payload(first), before={path: "half a li"}),
        sent(payload(second), before={path: old}),
        sent(payload(second), before={path: empty}),
    )
    assert answer["out"][0][0] is not None
    assert [out[1]["payload"]["refused"] for out in answer["out"][1:]] == ["fork", "unknown_unit"]
    assert answer["warnings"] == ["trust.jws: malformed", "trust.jws: replayed"]


def test_flow_does_not_start_without_a_list_that_it_can_believe(flow: Flow) -> None:
    (flow.keys / "trust.jws").write_text("nothing")
    with pytest.raises(AssertionError, match="malformed"):
        flow.run()
