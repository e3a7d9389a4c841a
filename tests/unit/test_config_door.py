# SPDX-License-Identifier: Apache-2.0
"""What may not stand together at a door: each contradiction is told at its own line, and its mend is taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.config.drawn import zone_file
from agent.config.schema import Config
from agent.config.told import told_file
from agent.errors import ConfigError
from tests.simulators.config import parse_config
from tests.unit.test_config_rules import BASE

FILE = Path("unit.yaml")
UNCHECKED = "unchecked: a photograph opens it"
TOKEN, COMMAND = {"kind": "token"}, {"kind": "command"}
BARRIER = {"kind": "event", "name": "barrier"}
READER = {"kind": "osdp", "name": "reader", "device": "/dev/ttyS0", "key_file": "reader.key"}
BOARDING = {"name": "boarding", "when": "token", "then": ["barrier"]}
CROSSED = [[0.2, 0.2], [0.8, 0.8], [0.8, 0.2], [0.2, 0.8]]
LINE = {"chip": "/dev/gpiochip0", "line": 4}
CONSOLE: dict[str, Any] = {"address": "192.168.1.20", "button": {"kind": "gpio", **LINE}}


def door(**changes: object) -> Config:
    """A door with a barrier that a token opens, with whole sections changed."""
    data: dict[str, Any] = {
        **BASE,
        "activation": {"kind": "button", "name": "gate", "inputs": [TOKEN], "window_s": 30},
        "liveness": "require",
        "outputs": [BARRIER],
        "rules": [BOARDING],
        **changes,
    }
    return parse_config(json.dumps({k: v for k, v in data.items() if v is not None}, indent=1).encode(), FILE)


def problems(**changes: object) -> list[str]:
    """What is wrong, each as ``place: reason``."""
    try:
        door(**changes)
    except ConfigError as error:
        return [line.split(": ", 1)[1] if line.startswith("unit.yaml:") else line for line in str(error).splitlines()]
    return []


def button(*inputs: dict[str, object]) -> dict[str, object]:
    return {"kind": "button", "name": "gate", "inputs": list(inputs), "window_s": 30}


CONTRADICTIONS: dict[str, Any] = {  # what is changed, and what is told of it
    "a token where nobody checks for life": (
        {"liveness": "not_checked", "rules": [{**BOARDING, "liveness": UNCHECKED}]},
        "activation.inputs[0]: a photographed code and a print of its bearer would pass: set 'liveness: require' above",
        "rules[0].liveness: with a token liveness must pass: a photographed code and a print would open it",
    ),
    "a second token reader": (
        {"activation": button(TOKEN, TOKEN)},
        "activation.inputs[1]: is there already: one is enough",
    ),
    "a rule for tokens that nobody can bring": (
        {"activation": button(COMMAND)},
        "rules[0].when: nobody can bring a token: add '{kind: token}' to activation.inputs (of kind button)",
    ),
    "using up what is no token": (
        {"rules": [{**BOARDING, "when": "match", "single_use": True}]},
        "rules[0].single_use: only a token is used up: set 'when: token'",
    ),
    "a token that a photograph opens with": (
        {"rules": [{**BOARDING, "liveness": UNCHECKED}]},
        "rules[0].liveness: with a token liveness must pass: a photographed code and a print would open it",
    ),
    "two outputs of one name": (
        {"outputs": [BARRIER, BARRIER]},
        "outputs[1].name: there is another output 'barrier': give each its own name",
    ),
    "two rules of one name": (
        {"rules": [BOARDING, BOARDING]},
        "rules[1].name: there is another rule 'boarding': give each its own name",
    ),
    "a rule that waits in vain": (
        {"liveness": "not_checked", "activation": button(COMMAND), "rules": [{**BOARDING, "when": "match"}]},
        (
            "rules[0]: it would never open: it waits for liveness, which is not checked; set "
            "'liveness: require', or the rule's 'liveness' to \"unchecked: a photograph opens it\""
        ),
    ),
    "a rule for another zone": (
        {"rules": [{**BOARDING, "zone": "yard"}]},
        "rules[0].zone: there is no such zone: the activation's name is 'gate'",
    ),
    "a rule for an output that is not there": (
        {"rules": [{**BOARDING, "then": ["barrier", "bolt"]}]},
        "rules[0].then[1]: there is no output 'bolt'; there are: barrier",
    ),
    "an output that nothing opens": (
        {"outputs": [BARRIER, READER]},
        "outputs[1]: no rule opens 'reader': name it in a rule's 'then', or leave it out",
    ),
    "two readers on one line": (
        {
            "outputs": [READER, {**READER, "name": "other", "address": 1}],
            "rules": [{**BOARDING, "then": ["reader", "other"]}],
        },
        "outputs[1].device: another output has this line: one reader has one",
    ),
    "a line without that speed": (
        {"outputs": [{**READER, "baud": 9601}], "rules": [{**BOARDING, "then": ["reader"]}]},
        "outputs[0].baud: no serial line has this speed: take one of 9600, 19200, 38400, 57600, 115200, 230400",
    ),
    "a button for a code that nobody can read": (
        {"console": CONSOLE},
        "console.button: shows its code on a display: name the display's file, feedback.text",
    ),
    "a button of a scene before a real camera": (
        {"activation": button(TOKEN, {"kind": "scene"})},
        "activation.inputs[1]: is the button of a simulated scene, and the camera is none: take gpio or key",
    ),
    "an enrolment by a scene's button before a real camera": (
        {"enrolment": {"button": {"kind": "scene"}}},
        "enrolment.button: is the button of a simulated scene, and the camera is none: take gpio or key",
    ),
    "a console by a scene's button before a real camera": (
        {"console": {**CONSOLE, "button": {"kind": "scene"}}, "feedback": {"text": "/run/postern/display"}},
        "console.button: is the button of a simulated scene, and the camera is none: take gpio or key",
    ),
    "one line for two things": (
        {"activation": button(TOKEN, CONSOLE["button"]), "enrolment": {"button": CONSOLE["button"]}},
        "enrolment.button: uses the same line as activation.inputs[1]: give each its own",
    ),
    "a lamp on a button's line": (
        {"activation": button(TOKEN, CONSOLE["button"]), "feedback": {"wait": LINE}},
        "feedback.wait: uses the same line as activation.inputs[1]: give each its own",
    ),
    "a bolt on a lamp's line": (
        {
            "outputs": [{"kind": "gpio", "name": "barrier", **LINE}],
            "feedback": {"granted": LINE, "text": "/run/postern/display"},
        },
        "feedback.granted: uses the same line as outputs[0]: give each its own",
    ),
    "a zone's view at a button": (
        {"detection": {"view": "zone"}},
        "detection.view: a button has no zone to look at: set it to 'picture', or leave it out",
    ),
    "sealed to nobody": (
        {"events": {"subject": "sealed"}},
        "events.consumer_key: is missing: 'subject: sealed' needs the consumer's public key",
    ),
    "a key that seals nothing": (
        {"events": {"subject": "pseudonym", "consumer_key": "x.json"}},
        "events.consumer_key: nothing is sealed to this key unless 'subject' is 'sealed'",
    ),
    "gallery and log in one file": (
        {"gallery": {"path": "/a/x"}, "audit": {"path": "/a/x"}},
        "audit.path: is the same file as gallery.path",
    ),
    "outbox and policy in one file": (
        {"outbox": {"path": "/a/x"}, "match": {"policy": "/a/x"}},
        "match.policy: is the same file as outbox.path",
    ),
    "gallery and policy in one file": (
        {"gallery": {"path": "/a/x"}, "match": {"policy": "/a/x"}},
        "match.policy: is the same file as gallery.path",
    ),
    "a path that is a number": (
        {"gallery": {"path": 7}},
        "gallery.path: expected a path (the gallery's database)",
    ),
    "a path that is empty": (
        {"gallery": {"path": ""}},
        "gallery.path: expected a path (the gallery's database)",
    ),
    "a check for life that is too weak alone": (
        {"liveness_parts": ["passive"]},
        "liveness_parts: the other parts alone are too weak to let anybody in: add 'challenge'",
    ),
    "one part of the check twice": (
        {"liveness_parts": ["challenge", "challenge"]},
        "liveness_parts: names a part twice: once is enough",
    ),
    "depth without a camera for it": (
        {"liveness_parts": ["challenge", "depth"]},
        "liveness_parts: this camera measures no depth, so nobody would pass: leave out 'depth'",
    ),
    "parts of a check that is not made": (
        {
            "liveness": "not_checked",
            "liveness_parts": ["challenge", "passive"],
            "rules": [],
            "activation": {"kind": "button", "name": "gate", "inputs": [COMMAND], "window_s": 30},
            "outputs": [],
        },
        "liveness_parts: nothing is checked: set 'liveness: require', or leave this out",
    ),
    "a window that ends before the challenge": (
        {"activation": {"kind": "button", "name": "gate", "inputs": [TOKEN], "window_s": 29}},
        "activation.window_s: liveness: require takes its time: set 30 seconds or more",
    ),
    "a console for the whole world": (
        {"console": {"address": "8.8.8.8"}},
        "console.address: is no address of a local network: whoever can reach the console must be in the building",
    ),
    "a password that is not percent-encoded": (
        {"camera": {"source": "rtsp", "url": "rtsp://a%zz:b@192.0.2.1/x"}},
        (
            "camera: a character of user, password or path has to be percent-encoded "
            "('#' is %23, '/' %2F, '?' %3F, '%' %25, and '@' in the "
            "path %40): write it so, or put user and password into credentials_file as they are"
        ),
    ),
    "a zone that crosses itself": (
        {"activation": {**BASE["activation"], "polygon": CROSSED}, "rules": [], "outputs": []},
        "activation.polygon: the sides of the zone cross each other; list the corners in order around it",
    ),
    "a bound that crosses itself": (
        {"activation": {**BASE["activation"], "within": CROSSED}, "rules": [], "outputs": []},
        "activation.within: the sides of the zone cross each other; list the corners in order around it",
    ),
    "two passwords of one camera": (
        {"camera": {"source": "rtsp", "url": "rtsp://a:b@192.0.2.1/x", "credentials_file": "login"}},
        "camera: the password stands both in the URL and in credentials_file; keep it in the file alone",
    ),
    "a notice that names nobody": (
        {"notice": {**BASE["notice"], "operator": None}},
        "notice.operator: is missing: without it there is no notice, and without a notice nobody can consent",
    ),
    "a notice without another way in": (
        {"notice": {**BASE["notice"], "alternative": None}},
        "notice.alternative: is missing: without it there is no notice, and without a notice nobody can consent",
    ),
}


@pytest.mark.parametrize(("changes", "told"), [(c, told) for c, *told in CONTRADICTIONS.values()], ids=CONTRADICTIONS)
def test_what_contradicts_itself_is_told_at_its_line_and_alone(changes: dict[str, object], told: list[str]) -> None:
    assert problems(**changes) == told


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rules": [{**BOARDING, "single_use": True}]},
        {"activation": button(TOKEN, COMMAND)},
        {"activation": button(COMMAND), "rules": [{**BOARDING, "when": "match"}]},
        {"activation": button(COMMAND), "rules": [{**BOARDING, "when": "match", "liveness": UNCHECKED}]},
        {"rules": [{**BOARDING, "zone": "gate"}]},
        {"outputs": [BARRIER, READER], "rules": [{**BOARDING, "then": ["barrier", "reader"]}]},
        {
            "outputs": [READER, {**READER, "name": "other", "device": "/dev/ttyS1"}],
            "rules": [{**BOARDING, "then": ["reader", "other"]}],
        },
        {"console": CONSOLE, "feedback": {"text": "/run/postern/display"}},
    ],
)
def test_what_stands_together_is_taken(changes: dict[str, object]) -> None:
    assert problems(**changes) == []


@pytest.mark.parametrize("user", ["a%c3%a9:b", "a%C3%A9:b", "a:%23"])
def test_user_information_that_is_percent_encoded_is_taken_in_either_case(user: str) -> None:
    assert problems(camera={"source": "rtsp", "url": f"rtsp://{user}@192.0.2.1/x"}) == []


def test_what_was_drawn_or_set_is_looked_for_where_the_release_before_left_it() -> None:
    unit = door(outbox={"path": "/srv/unit/outbox.db"})
    assert (str(zone_file(unit)), str(told_file(unit))) == ("/srv/unit/zone.json", "/srv/unit/configuration.json")
