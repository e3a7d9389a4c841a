# SPDX-License-Identifier: Apache-2.0
"""What the person at the door is told by lights, a buzzer or a small text: the same for everybody who is not let in.

Somebody whom the unit does not know, somebody who has to wait and somebody whose liveness did not pass see the same
``wait``, for the same time, and then ``again``: nobody can learn from it who is enrolled. Passers-by see ``ready``, for
they did not act. Where liveness is required, whoever was recognised is asked to turn their head and then knows that
they were; a challenge that failed ends in the same ``wait`` and ``again``. Somebody whose token is refused sees the
lights of ``again``, and as the text the sentence that says why: what is wrong with it is theirs to know.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from agent.clock import Clock
from agent.disk.files import PUBLIC_MODE
from agent.door.lines import OutputLine
from agent.errors import DeviceLostError, PosternError, StorageError

Shown = Literal["ready", "wait", "granted", "again", "press", "front", "left", "right", "up", "down"]

TEXTS: Mapping[Shown, str] = {
    "ready": "ready",
    "wait": "one moment",
    "granted": "come in",
    "again": "please use the other way in, or try again",
    "press": "press the button",
    "front": "look into the camera",
    "left": "turn your head to your left",
    "right": "turn your head to your right",
    "up": "look up",
    "down": "look down",
}
GRANTED_NS = 3_000_000_000  # long enough to be read
WAIT_NS = 4_000_000_000  # from the act to ``again``: longer than any attempt takes, the same for everybody
AGAIN_NS = 3_000_000_000
REFUSED_NS = 5_000_000_000  # a sentence takes longer to read
MAX_TEXT_BYTES = 512  # of a text
ACT_GAP_NS = 1_000_000_000  # nobody admitted for so long: the act is over

_A_TEXT = re.compile(rb"(ready|[ !'-z]* [ !'-z]*)?\n?")  # one line of words, of this release or another


class Feedback:
    """Shows one thing at a time; owned by the pipeline's thread.

    ``lights`` are lines by what they show; ``text`` is a file that a display program shows. Where a ``press`` is the
    act there is one answer to each; else somebody acts anew who was away for ``ACT_GAP_NS``. A press admits somebody
    who is refused for a shorter time than a stranger, so who comes back must not tell them apart.
    """

    def __init__(
        self,
        lights: Mapping[Shown, Sequence[OutputLine]],
        text: Path | None,
        *,
        press: bool,
        clock: Clock,
        on_problem: Callable[[PosternError], None],
    ) -> None:
        self._lights, self._text, self._clock, self._on_problem = dict(lights), text, clock, on_problem
        self._press = press
        self._lit: dict[int, bool] = {}  # each line as it is, as far as that is known
        self._act_ns: int | None = None  # since when somebody is acting
        self._seen_ns = 0  # when somebody who acts was seen last
        self._told = False  # whoever still stands there knows how it ended
        self._granted_ns: int | None = None
        self._guide: Shown | None = None
        self._refusal: tuple[str, int] | None = None  # the sentence, and until when it is shown
        self._announced: str | None = None
        self._written: str | None = None
        self._show("ready")

    def acting(self) -> None:
        """Somebody's face is admitted in this frame."""
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._seen_ns > ACT_GAP_NS and not self._press:
            self._told = False
        self._seen_ns = now_ns
        if self._act_ns is None and not self._told:
            self._act_ns = now_ns

    def begin_act(self) -> None:
        """Somebody pressed, or was asked for: whoever is admitted now acts anew."""
        self._act_ns, self._told, self._refusal = None, False, None

    def granted(self) -> None:
        """Something was opened."""
        self._granted_ns = self._clock.monotonic_ns()

    def refuse(self, sentence: str) -> None:
        """Tell somebody why what they held up is refused."""
        self._refusal = (sentence, self._clock.monotonic_ns() + REFUSED_NS)

    def guide(self, shown: Shown | None) -> None:
        """What a person is asked to do at this moment, or None."""
        if shown is None and self._guide is not None and self._act_ns is not None:
            self._act_ns = self._clock.monotonic_ns()  # how it ended is told from here on
        self._guide = shown

    def announce(self, text: str | None) -> None:
        """Show ``text`` on the display while it would say nothing else; may be called from any thread."""
        self._announced = text

    def tick(self) -> None:
        """Show what there is to show now."""
        self._show(self._now(self._clock.monotonic_ns()))

    def close(self) -> None:
        """Switch everything off."""
        self._show("ready")
        for line in self._each_line():
            try:
                line.close()
            except DeviceLostError as error:
                self._on_problem(error)
        self._lights = {}

    def _now(self, now_ns: int) -> Shown:
        if self._granted_ns is not None:
            if now_ns - self._granted_ns < GRANTED_NS:
                return "granted"
            self._granted_ns, self._act_ns, self._told = None, None, True
        if self._refusal is not None and now_ns >= self._refusal[1]:
            self._refusal = None
        if self._refusal is not None and self._act_ns is None:
            return "again"
        if self._guide is not None:
            return self._guide
        if self._act_ns is None:
            return "ready"
        if now_ns - self._act_ns < WAIT_NS:
            return "wait"
        if now_ns - self._act_ns < WAIT_NS + AGAIN_NS:
            return "again"
        self._act_ns, self._told = None, True
        return "ready"

    def _show(self, shown: Shown) -> None:
        """Each part by itself: a lamp that is broken keeps no door from deciding, and no other lamp from its word."""
        on = self._lights.get(shown, ())
        for line in self._each_line():
            lit = any(line is other for other in on)
            if self._lit.get(id(line), False) == lit:
                continue
            try:
                line.set(on=lit)
                self._lit[id(line)] = lit
            except DeviceLostError as error:
                self._on_problem(error)
        text = (shown == "ready" and self._announced) or TEXTS[shown]
        if shown == "again" and self._refusal is not None:
            text = self._refusal[0]
        if self._text is not None and self._written != text:
            try:
                write_text(self._text, text)
                self._written = text
            except StorageError as error:
                self._on_problem(error)

    def _each_line(self) -> list[OutputLine]:
        return list({id(line): line for lines in self._lights.values() for line in lines}.values())


def write_text(path: Path, text: str) -> None:
    """Replace the text whole; it need not survive anything. Raises StorageError.

    Nothing but such a text is replaced, and no link is followed: a path that somebody mistyped, or laid a trap at,
    costs no other file, and the unit never waits for one.
    """
    fresh = path.with_name(f".{path.name}.new")
    try:
        check_text(path)
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PUBLIC_MODE)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(file.fileno(), PUBLIC_MODE)  # whoever shows it is another user, whatever the service's umask
            file.write(re.sub("[^ !'-z]", "?", text)[: MAX_TEXT_BYTES - 1] + "\n")
        fresh.replace(path)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink()
        raise StorageError(f"cannot write {path} ({error.strerror}): make its folder writable, with space") from error


def check_text(path: Path) -> None:
    """Raises StorageError when something else lies there than a text of ours, or nothing yet, in a plain file."""
    with suppress(FileNotFoundError):
        status = path.lstat()
        ours = stat.S_ISREG(status.st_mode) and status.st_size <= MAX_TEXT_BYTES
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC) if ours else -1
        if descriptor >= 0:
            with os.fdopen(descriptor, "rb") as file:
                ours = _A_TEXT.fullmatch(file.read(MAX_TEXT_BYTES + 1)) is not None
        if not ours:
            raise StorageError(
                f"{path} holds no text of a display: name another file as feedback.text, or move it away"
            )
