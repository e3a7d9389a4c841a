# SPDX-License-Identifier: Apache-2.0
"""Mutants that no test could notice: equivalent.yaml, each with its reason."""

from __future__ import annotations

from pathlib import Path

import msgspec
import yaml

FILE = Path(__file__).with_name("equivalent.yaml")


class Equivalent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """In a line of ``file``, or of any where that is ``*``, ``old`` became ``new``."""

    file: str
    old: str
    new: str
    why: str

    def is_of(self, file: str, diff: str) -> bool:
        """Whether ``diff``, the line taken and the line put, is this one."""
        lines = diff.strip().split("\n")
        if self.file not in ("*", file) or [line[:1] for line in lines] != ["-", "+"] or self.old not in lines[0]:
            return False
        before, _, after = lines[0][1:].partition(self.old)
        return lines[1][1:] == before + self.new + after


def read() -> list[Equivalent]:
    """All of the file."""
    return msgspec.convert(yaml.safe_load(FILE.read_text()), list[Equivalent])
