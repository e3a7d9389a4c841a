# SPDX-License-Identifier: Apache-2.0
"""A configuration that is in no file."""

from __future__ import annotations

from pathlib import Path

from agent.config.load import checked
from agent.config.schema import Config
from agent.parse.strict_yaml import parse_document


def parse_config(content: bytes, file: Path) -> Config:
    """As ``load_config``, for the bytes of a file named ``file``."""
    return checked(parse_document(content, file))
