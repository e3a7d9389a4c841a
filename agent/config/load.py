# SPDX-License-Identifier: Apache-2.0
"""The one configuration file, read once: strict YAML in, a frozen ``Config`` out, or a ConfigError that tells where.

Nothing else in the agent reads configuration: stages take plain arguments. ``schema`` has the sections, ``strict_yaml``
reads the text, ``check`` compares both, and ``between`` knows what must hold between sections.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import msgspec

from agent.config.between import problems_of
from agent.config.camera import RtspCamera
from agent.config.check import convert, refusal
from agent.config.schema import Config
from agent.config.told import in_force
from agent.errors import ConfigError
from agent.parse.strict_yaml import Document, read_document

CONFIG_SCHEMA_ID = "urn:postern:config:1"  # changes when a file that was valid stops being valid


def load_config(file: Path) -> Config:
    """What a unit with this ``file`` runs on: the file, with what the site set and what was drawn at the unit.

    Raises ConfigError as ``load_file``.
    """
    return in_force(load_file(file))


def load_file(file: Path) -> Config:
    """Read ``file`` and nothing else; relative paths in it resolve against its folder. Raises ConfigError."""
    config = checked(read_document(file))
    check_secrecy(file, config, file.stat().st_mode)
    return config


def check_secrecy(file: Path, config: Config, mode: int) -> None:
    """A password in a file that everybody can read is everybody's; ConfigError says where it belongs.

    ``mode`` is the one that the file has, or is to get.
    """
    camera = config.camera
    if isinstance(camera, RtspCamera) and "@" in camera.url and mode & stat.S_IROTH:
        raise ConfigError(
            f"{file} holds the camera's password and can be read by everybody: put it into a file of mode 0600 and name"
            " that as camera.credentials_file"
        )


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the file, generated from the structs."""
    schema = msgspec.json.schema(Config, schema_hook=lambda _: {"type": "string", "minLength": 1})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": CONFIG_SCHEMA_ID, **schema}


def checked(document: Document) -> Config:
    """Turn what was read into a configuration; ConfigError names every problem with its line."""
    config = convert(_of_today(document), Config)
    problems = problems_of(config)
    if problems:
        raise refusal(document, problems)
    return config


def _of_today(document: Document) -> Document:
    """A file of release 0.1.0 says ``rotate180`` of its camera, which became an angle: it is read as it was meant."""
    camera = document.data.get("camera")
    if not isinstance(camera, dict) or "rotate" in camera or not isinstance(camera.get("rotate180"), bool):
        return document
    turned = {key: value for key, value in camera.items() if key != "rotate180"}
    turned["rotate"] = 180 if camera["rotate180"] else 0
    return Document(document.file, {**document.data, "camera": turned}, document.lines)
