# SPDX-License-Identifier: Apache-2.0
"""Configurations that are in no file."""

from __future__ import annotations

import functools
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from agent.config.load import checked
from agent.config.schema import Config
from agent.parse.strict_yaml import parse_document

EXAMPLE = Path(__file__).parents[2] / "deploy" / "config.example.yaml"

# A whole configuration but for who the unit is: that an invitation says.
CARD = """\
profile: demo
purpose: To show that a card is all that a unit needs.
notice: {version: "1", operator: "Nobody, nobody@example.org", alternative: the bell}
camera: {source: scene, script: /boot/firmware/scene.yaml}
activation:
  kind: zone
  name: door
  polygon: [[0.25, 0.1], [0.75, 0.1], [0.75, 0.9], [0.25, 0.9]]
"""


def parse_config(content: bytes, file: Path) -> Config:
    """As ``load_config``, for the bytes of a file named ``file``."""
    return checked(parse_document(content, file))


@functools.cache
def _read() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    return read


def example() -> dict[str, Any]:
    """What the example of a configuration says, as a copy of its own; it is read once a process."""
    return deepcopy(_read())


def configured(folder: Path = Path(), /, **sections: Any) -> Config:
    """The example with other ``sections``, as if its file lay in ``folder``; ConfigError names what is wrong in it."""
    return parse_config(yaml.safe_dump(example() | sections).encode(), folder / "config.yaml")
