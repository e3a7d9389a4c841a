# SPDX-License-Identifier: Apache-2.0
"""What the file of a unit names and its machine has not: each a sentence, with where to look."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.door.keys import KeyButton
from agent.errors import DeviceLostError
from agent.unit.wiring import absent
from tests.unit.test_door_bad_input import ALL, BUTTON, KEY, STAFF, STRIKE, button, config, machine_of


def test_each_device_that_is_not_there_is_one_sentence_with_where_to_look(tmp_path: Path) -> None:
    nothing, key = tmp_path / "nothing", tmp_path / "panel.key"
    key.touch(mode=0o600)
    key.write_text("00112233445566778899aabbccddeeff")
    osdp = {"name": "panel", "kind": "osdp", "device": str(nothing), "key_file": str(key)}
    named = config(
        activation=button(BUTTON | {"chip": str(nothing)}, KEY | {"device": str(nothing)}),
        outputs=[STRIKE | {"chip": str(nothing)}, osdp],
        rules=[STAFF | {"then": ["strike", "panel"]}],
        feedback={"look": {"chip": str(nothing), "line": 3}, "text": str(nothing / "display")},
    )
    no_chip = f"there is no GPIO chip {nothing} on this machine: name a chip that gpiodetect shows"
    assert absent(named, machine_of(tmp_path, libraries=ALL)) == [
        f"activation.inputs[0].chip: {no_chip}",
        f"activation.inputs[1].device: there is no input device {nothing}: plug it in, or name one of /dev/input/by-id",
        f"outputs: strike: {no_chip}",
        f"feedback.look: {no_chip}",
        f"feedback.text: there is no folder {nothing}: name a file in /run/postern, or make the folder",
        (
            f"outputs: panel.device: there is no serial line {nothing}: plug the adapter in, or name one of"
            " /dev/serial/by-id"
        ),
    ]
    key.write_text("1")
    (told,) = absent(
        config(outputs=[osdp | {"device": "/dev/null"}], rules=[STAFF | {"then": ["panel"]}]),
        machine_of(tmp_path / "again", libraries=ALL),
    )
    assert told == (
        f"outputs: panel.key_file: {key} holds no key: write the controller's 32 hex digits for this reader into it"
    )


@pytest.mark.parametrize("device", ["/dev/input/by-id/that-is-not", "/dev/null"])
def test_a_key_of_no_device_is_one_sentence(device: str) -> None:
    with pytest.raises(DeviceLostError, match=f"key KEY_ENTER of {device} cannot be used: "):
        KeyButton(Path(device), "KEY_ENTER")
