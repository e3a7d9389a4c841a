# SPDX-License-Identifier: Apache-2.0
"""Mutants that no test could notice: equivalent.yaml, each with its reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec
import yaml

FILE = Path(__file__).with_name("equivalent.yaml")
# A line of which each text is a piece of a statement, without a text of its own: there SQL does know case.
_WORDS = "SELECT|INSERT|UPDATE|DELETE|VALUES|FROM|WHERE|SET|AND|ORDER BY|LIMIT|ON CONFLICT|PRAGMA|VACUUM"
_SQL: Final = re.compile(rf"""[^"']*"\s*({_WORDS})\b[^"']*"[^"']*""")


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


def why(file: str, diff: str) -> str | None:
    """The reason for which nothing could notice ``diff``, where one is known."""
    lines = diff.strip().split("\n")
    alike = [line[:1] for line in lines] == ["-", "+"] and lines[0][1:].casefold() == lines[1][1:].casefold()
    if alike and _SQL.fullmatch(lines[0][1:]):
        return "SQL knows no case"
    return next((one.why for one in read() if one.is_of(file, diff)), None)
