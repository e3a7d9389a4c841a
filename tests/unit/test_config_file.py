# SPDX-License-Identifier: Apache-2.0
"""A configuration either loads, or says file, line, key, what was expected and the nearest valid key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config.camera import RtspCamera
from agent.config.load import json_schema, load_config
from agent.config.schema import Config
from agent.errors import ConfigError
from agent.parse.strict_yaml import MAX_CONFIG_BYTES, MAX_DEPTH
from agent.unit.assemble import credentials_of
from tests.simulators.config import parse_config

VALID = """\
profile: demo
purpose: To open the side door for staff who asked for it.
unit: {site: hq, id: door-3, name: Side door}
notice: {version: "1"}
camera:
  source: file
  path: recordings/a.mp4
activation:
  kind: zone
  name: door
  polygon: [[0.2, 0.2], [0.8, 0.2], [0.8, 0.9]]
broker:
  host: broker.local
"""


def parse(text: str | bytes) -> Config:
    return parse_config(text.encode() if isinstance(text, str) else text, Path("unit.yaml"))


def refusal(text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return str(caught.value)


def test_the_least_file_loads_with_safe_defaults() -> None:
    config = parse(VALID)
    assert not config.events.presence
    assert config.events.subject == "pseudonym"
    assert config.gallery.retention_days <= 1095
    assert config.broker.protocol == "5"
    assert not config.broker.home_assistant


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "unit.yaml"
    file.write_text(VALID + "keys: {folder: secrets}\ngallery: {path: ../gallery.db}\n")
    config = load_config(file)
    assert config.keys.folder == tmp_path / "secrets"
    assert config.gallery.path == tmp_path / "../gallery.db"
    assert config.camera.path == tmp_path / "recordings/a.mp4"
    assert credentials_of(config).certificate == tmp_path / "secrets/tls.crt"


def test_tls_files_can_lie_elsewhere() -> None:
    files = credentials_of(parse(VALID + "  tls: {ca: /etc/ssl/site.pem}\n"))
    assert files.ca == Path("/etc/ssl/site.pem")
    assert files.key == Path("/var/lib/postern/keys/tls.key")


def test_a_mistyped_key_is_refused_with_line_and_nearest_key() -> None:
    assert refusal(VALID.replace("  host:", "  hots:")) == (
        "unit.yaml:12: broker.host: is missing (host name or address as in the broker's certificate, "
        "no scheme and no port)\n"
        "unit.yaml:13: broker.hots: unknown key; the nearest valid key is 'host'"
    )


def test_every_problem_is_told_at_once_in_the_order_of_the_file() -> None:
    text = VALID.replace("demo", "demos").replace("id: door-3", "id: Door 3").replace("kind: zone", "kind: always")
    problems = refusal(text + "galery: {}\n").splitlines()
    assert [problem.split(": ")[:2] for problem in problems] == [
        ["unit.yaml:1", "profile"],
        ["unit.yaml:3", "unit.id"],
        ["unit.yaml:9", "activation.kind"],
        ["unit.yaml:14", "galery"],
    ]
    assert problems[0].startswith("unit.yaml:1: profile: expected one of production, demo; did you mean 'demo'?")
    assert "expected one of button, zone" in problems[2] or "expected one of zone, button" in problems[2]


@pytest.mark.parametrize(
    ("old", "new", "place", "reason"),
    [
        ('version: "1"', "version: 1.10", "4: notice.version", "put it in quotes"),
        ("broker.local", "mqtts://broker.local", "13: broker.host", "no scheme"),
        ("site: hq", 'site: "hq\\n"', "3: unit.site", "a-z"),
        ("site: hq", "site: '+'", "3: unit.site", "a-z"),
        ("[0.2, 0.2]", "[0.2, 1.2]", "11: activation.polygon[0]", "fractions"),
        ("[0.2, 0.2]", "[0.2, .nan]", "11: activation.polygon[0][1]", "finite"),
        ("[0.2, 0.2], ", "", "11: activation.polygon", ">= 3"),
        ("name: door\n", "name: door\n  dwell_ms: 5\n", "11: activation.dwell_ms", "200 to 10000 ms"),
        ("name: door\n", "name: door\n  dwell_ms: soon\n", "11: activation.dwell_ms", "got `str`"),
        ("host: broker.local", "host: b\n  protocol: 5.0", "14: broker.protocol", "3.1.1"),
        ("host: broker.local", "host: b\n  protocol: 5", "14: broker.protocol", "put it in quotes"),
        ("host: broker.local", "host: b\n  tls: {ca: 3}", "14: broker.tls.ca", "expected a path"),
        ("host: broker.local", "host: b\n  tls: []", "14: broker.tls", "ca, certificate, key"),
        ("recordings/a.mp4", "''", "7: camera.path", "expected a path"),
        ("source: file\n", "", "5: camera.source", "is missing: one of"),
        ("To open the side door for staff who asked for it.", "Door.", "2: purpose", "one sentence"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_its_place_and_meaning(old: str, new: str, place: str, reason: str) -> None:
    text = VALID.replace(old, new)
    assert text != VALID
    message = refusal(text)
    assert message.startswith(f"unit.yaml:{place}"), message
    assert reason in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected keys and values"),
        ("- 1", "expected keys and values"),
        ("a: 1\na: 2", "unit.yaml:2: a: the key is given twice, first in line 1"),
        ("a: {b: 1,\n b: 2}", "unit.yaml:2: a.b: the key is given twice, first in line 1"),
        ("a: &x 1\nb: *x", "anchors and aliases are not used here"),
        ("<<: {a: 1}", "a key must be plain text"),
        ("yes: 1", "a key must be plain text"),
        ("a: !!python/object/apply:os.system ['true']", "tags are not used here"),
        ("a: !!binary aGVsbG8=", "YAML reads this as binary"),
        ("a: 2026-11-22", "YAML reads this as timestamp; put it in quotes if it is text"),
        ("a: !!int x", "the value cannot be read"),
        ("a: " + "9" * 5000, "the value cannot be read"),
        ("a: 1\n---\nb: 1", "another document"),
        ("a: [1", "unit.yaml:1: this is not YAML"),
        ("a: \0", "a character that text cannot hold"),
        (b"a: 1\nb: \xff", "unit.yaml:2: the text is not UTF-8"),
        ("[" * 5000, f"more than {MAX_DEPTH} levels"),
        ("a: [" + "1," * 5000 + "]", "values"),
        ("#" * (MAX_CONFIG_BYTES + 1), "at most"),
    ],
)
def test_hostile_or_ambiguous_yaml_is_refused(text: str | bytes, reason: str) -> None:
    assert reason in refusal(text)


def test_an_alias_bomb_is_refused_before_it_grows() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 30)]
    assert "unit.yaml:1: this is not YAML: anchors" in refusal("\n".join(lines))


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"cannot read the configuration \(No such file or directory\): give its path with -c"
    ):
        load_config(tmp_path / "none.yaml")


def test_a_password_in_a_camera_address_is_never_told() -> None:
    camera = "source: rtsp\n  url: rtsp://user:hunter2@192.0.2.1/x\n"
    text = VALID.replace("source: file\n  path: recordings/a.mp4\n", camera)
    config = parse(text)
    assert isinstance(config.camera, RtspCamera)
    assert "hunter2" not in repr(config)
    assert "hunter2" not in refusal(text.replace("192.0.2.1/x", "192.0.2.1:99999/x"))
    assert "hunter2" not in refusal(text + "  timeout: 3\n")


def test_every_type_in_the_schema_is_one_that_json_schema_knows_and_a_path_is_no_empty_text() -> None:
    def parts(node: object) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict):
            yield node
        for one in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from parts(one)

    definitions = json_schema()["$defs"]
    told = {
        d["type"] for definition in definitions.values() for d in parts(definition) if isinstance(d.get("type"), str)
    }
    assert told <= {"array", "boolean", "integer", "null", "number", "object", "string"}
    path = definitions["Gallery"]["properties"]["path"]
    assert (path["type"], path["minLength"]) == ("string", 1)


def test_the_schema_is_closed_everywhere() -> None:
    objects = [d for d in json_schema()["$defs"].values() if d["type"] == "object"]
    assert len(objects) > 10
    assert all(d["additionalProperties"] is False for d in objects)


def loads_or_is_refused(text: str) -> None:
    try:
        parse(text)
    except ConfigError as refused:
        message = str(refused)
    else:
        return
    assert all(line.startswith("unit.yaml") for line in message.splitlines())


_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**25), 10**25), st.floats(), st.text(max_size=8), st.just("x" * 3000)
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def _places(data: object, place: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else []
    return [place, *(deep for key, value in items for deep in _places(value, (*place, key)))]


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_changed_value_loads_or_is_refused(data: st.DataObject) -> None:
    tree = yaml.safe_load(VALID)
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from([place for place in _places(tree) if place]))
        parent = tree
        for part in path:
            parent = parent[part]
        action = data.draw(st.sampled_from(["replace", "delete", "add"]))
        if action == "replace":
            parent[last] = data.draw(_values)
        elif action == "delete":
            del parent[last]
        elif isinstance(parent, dict):
            parent[data.draw(st.text(max_size=6))] = data.draw(_values)
        if not tree:
            break
    loads_or_is_refused(yaml.safe_dump(tree, allow_unicode=True))


@settings(max_examples=100, deadline=None)
@given(start=st.integers(0, len(VALID)), length=st.integers(0, 12), junk=st.text(max_size=12))
def test_any_changed_text_loads_or_is_refused(start: int, length: int, junk: str) -> None:
    loads_or_is_refused(VALID[:start] + junk + VALID[start + length :])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_load_or_are_refused(content: bytes) -> None:
    with pytest.raises(ConfigError):
        parse(content)
