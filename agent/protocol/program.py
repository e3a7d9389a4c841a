# SPDX-License-Identifier: Apache-2.0
"""Whose files a program's folder holds, in ``program.json`` beside them.

The broker decides what a program may, by its name; most brokers say nothing to one that hears nothing. So the site
writes the role down, and a program that was given another's files says so instead of listening in vain.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from agent.errors import RefusedError
from agent.protocol.names import Name
from agent.protocol.record import Record, load

PROGRAM_FILE = "program.json"
Role = Literal["auditor", "home-assistant", "operator", "announcer", "service"]
_WORK: dict[Role, str] = {
    "auditor": "hears every event and asks for what it missed",
    "home-assistant": "hears what is of this moment, and is Home Assistant's own client",
    "operator": "sends commands, and hears no event",
    "announcer": "tells Home Assistant of people, and hears no event",
    "service": "is the site's service, and hears no event",
}


class Program(Record, frozen=True):
    """``program.json``; not signed, because the broker holds whoever lies to the role that it knows."""

    version: Literal[1]
    site: Name
    name: Name
    role: Role


def check_role(folder: Path, role: Role, *, site: str) -> None:
    """Raise RefusedError where the folder says that its files are of another role or site; KeyStoreError when damaged.

    A folder that a release before made says nothing.
    """
    file = folder / PROGRAM_FILE
    if not file.exists():
        return
    program = load(file, Program)
    if program.site != site:
        raise RefusedError(f"{folder} holds the files of a program of site {program.site}, not {site}: give its own")
    if program.role != role:
        raise RefusedError(
            f"{folder} holds the files of {program.name}, whose role is {program.role} ({_WORK[program.role]}): give"
            f" those of a program that {_WORK[role].split(',')[0]} ('postern site add-program NAME --role {role}')"
        )
