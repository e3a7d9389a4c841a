# SPDX-License-Identifier: Apache-2.0
"""The running unit's side of its console: it notices an opening, and answers a local socket for as long as it stands.

The console itself is a process of its own (``agent.console``). It gets covered pictures, words and whole numbers; what
it may have done is the handful of acts below, each with the checks that a command has. What it asks is answered one at
a time, on a thread of its own; whoever may connect is who may open the folder: the service's user.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.clock import Clock
from agent.config.console import Console
from agent.console.link import MAX_ASK_BYTES, socket_of
from agent.console.opening import Opening, close, read_opening
from agent.door.acts import Inputs
from agent.errors import PosternError, RefusedError, in_one_sentence
from agent.parse.strict_json import StrictJsonError, convert, loads
from agent.unit.beside import Beside

log = logging.getLogger("postern")

OVER: Final = 64  # openings that are remembered to be over; each lasts two hours at most
LOOK_S: Final = 0.5  # between looks at opening and button
ASK_S: Final = 2.0  # for one question to come in, and for its answer to go out
WAITING: Final = 4  # questions that may wait

Act = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class Desk(Beside):
    """``acts`` by what is asked; each raises PosternError to refuse, and then its sentence is the answer.

    ``noticed`` is told of each opening and, with None, of its end; ``pressed`` opens the console for aiming.
    """

    def __init__(
        self,
        settings: Console,
        acts: Mapping[str, Act],
        clock: Clock,
        *,
        noticed: Callable[[Opening | None], None],
        button: Inputs,
        pressed: Callable[[], None],
        on_problem: Callable[[PosternError], None],
    ) -> None:
        super().__init__("desk")
        self._settings, self._acts, self._clock = settings, acts, clock
        self._noticed, self._button, self._pressed, self._on_problem = noticed, button, pressed, on_problem
        self._opening: Opening | None = None
        self._over: deque[Opening] = deque(maxlen=OVER)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    if self._look() is None:
                        self._stop.wait(LOOK_S)
                    else:
                        self._answer_all()
                except (PosternError, OSError) as error:
                    self._on_problem(error if isinstance(error, PosternError) else RefusedError(_sentence(error)))
                    self._stop.wait(LOOK_S)
        finally:
            self._button.close()

    def _look(self) -> Opening | None:
        if self._button.look() is not None:
            self._pressed()
        opening = read_opening(self._settings.folder, self._clock)
        if opening is not None and opening in self._over:  # its code was used, perhaps, and is known to others
            close(self._settings.folder)
            self._on_problem(RefusedError("an opening of the console that was over was put back: it opens nothing"))
            opening = None
        if opening != self._opening:
            if self._opening is not None:
                self._over.append(self._opening)
            self._opening = opening
            self._noticed(opening)
        return opening

    def _answer_all(self) -> None:
        path = socket_of(self._settings.folder)
        with closing(_listening(path)) as listening:
            listening.settimeout(LOOK_S)
            while not self._stop.is_set() and self._look() is not None:
                with suppress(TimeoutError):
                    link, _ = listening.accept()
                    with closing(link), suppress(OSError):
                        link.settimeout(ASK_S)
                        link.sendall(msgspec.json.encode(self._answer(_line(link))) + b"\n")
        if not self._stop.is_set():  # else the next run of this process may listen there already
            path.unlink(missing_ok=True)

    def _answer(self, line: bytes) -> Mapping[str, Any]:
        try:
            match loads(line, limit=MAX_ASK_BYTES):
                case {"do": str(name), **arguments} if name in self._acts:
                    return self._acts[name]({str(key): value for key, value in arguments.items()})
                case _:
                    return {"error": "the unit knows no such act: upgrade unit and console together"}
        except StrictJsonError:
            return {"error": "the unit cannot read this: send JSON with whole numbers"}
        except PosternError as error:
            return {"error": str(error)}
        except Exception as error:  # noqa: BLE001 - what nobody foresaw ends neither the desk nor the unit
            return {"error": _sentence(error)}


def _sentence(error: BaseException) -> str:
    return in_one_sentence(error)[0]


def _listening(path: Path) -> socket.socket:
    """A socket at ``path`` that this user alone can connect to; one that a kill left behind is replaced."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.bind(str(path))
        path.chmod(0o600)
        listening.listen(WAITING)
    except OSError:
        listening.close()
        raise
    return listening


def _line(link: socket.socket) -> bytes:
    content = b""
    while not content.endswith(b"\n") and len(content) <= MAX_ASK_BYTES:
        more = link.recv(MAX_ASK_BYTES)
        if not more:
            break
        content += more
    return content


def reread() -> Mapping[str, Any]:
    """Have this process read its configuration again, as 'systemctl reload' does."""
    os.kill(os.getpid(), signal.SIGHUP)
    return {}


def corners_in(arguments: Mapping[str, Any]) -> Sequence[tuple[int, int]]:
    """Corners of a zone in thousandths as a page sends them; RefusedError for anything else."""
    try:
        return convert(arguments, _Zone).corners
    except msgspec.ValidationError:
        raise RefusedError("a zone is a list of corners within the picture: draw it anew") from None


class _Zone(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    corners: tuple[tuple[int, int], ...]
