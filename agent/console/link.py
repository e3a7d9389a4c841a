# SPDX-License-Identifier: Apache-2.0
"""One question to the running unit over its local socket, and its answer: a line of JSON each way."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.errors import RefusedError, RetryError
from agent.parse.strict_json import StrictJsonError, loads

MAX_ASK_BYTES: Final = 32 * 1024  # the longest holds a zone or what makes a consent: a few hundred
MAX_ANSWER_BYTES: Final = 64 * 1024  # a covered picture of 64 x 64 is 16 KiB in base64, 32 faces are 6
LOOK_S: Final = 5.0  # the unit covers a picture in a fraction of it
ACT_S: Final = 30.0  # it waits for a look, and writes to a card, which may stall for seconds: what was done is told
AWAY = "the unit does not answer: it may be starting; else see the checks, and 'systemctl status postern'"


def can_listen(address: str, port: int) -> bool:
    """Whether this machine has ``address``; a port that is in use counts as well, the console may be open."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(place)
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return True


def socket_of(folder: Path) -> Path:
    return folder / "console.sock"


def ask(folder: Path, what: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the unit; its answer. RetryError when it is not there, RefusedError when it says no."""
    content = msgspec.json.encode({**arguments, "do": what}) + b"\n"
    if len(content) > MAX_ASK_BYTES:
        raise RefusedError("this is too long: send less")
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(LOOK_S if what == "look" else ACT_S)
            link.connect(str(socket_of(folder)))
            link.sendall(content)
            while not answer.endswith(b"\n") and len(answer) <= MAX_ANSWER_BYTES:
                more = link.recv(MAX_ANSWER_BYTES)
                if not more:
                    break
                answer += more
        told = loads(answer, limit=MAX_ANSWER_BYTES)
    except (OSError, StrictJsonError) as error:
        raise RetryError(AWAY) from error
    if not isinstance(told, dict):
        raise RetryError(AWAY)
    if isinstance(refused := told.get("error"), str):
        raise RefusedError(refused)
    return told
