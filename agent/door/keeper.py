# SPDX-License-Identifier: Apache-2.0
"""The keeper: a small process that alone holds the output lines, so that none stays on when the unit dies.

The unit (``agent.door.kept``) tells it by a pipe what to switch. It ends each pulse by itself after the line's longest
time, whatever the unit does or says. When the pipe closes, because the unit ended, by whatever signal, and on SIGTERM
and SIGABRT, which the service manager sends to both, it switches everything off at once and ends. Whatever else a
terminal or a manager sends it ignores, so that Ctrl-Z stops no pulse from ending. It has no thread, opens no socket and
no file but the lines' chips, and is started with nothing of the unit's but the pipes: it knows no secret.

Messages end in a zero byte. To the keeper: ``open KEY LINE LOW LONGEST CHIP`` (LOW 1 where on is low; LONGEST in
milliseconds, 0 for no end), ``on KEY``, ``off KEY``, ``close KEY``. Its answer to each is ``ok`` or what is wrong.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent.disk.dumps import forbid_dumps
from agent.door.gpio import GpiodLines
from agent.door.lines import OutputLine, OutputSpec
from agent.errors import DeviceLostError

MAX_MESSAGE_BYTES: Final = 8192  # a path of 4096 and some numbers
MAX_FILES: Final = 1 << 20  # of a process; more than any may have open
AGAIN_NS: Final = 20_000_000  # between attempts to switch off a line that did not go off
LAST_NS: Final = 1_000_000_000  # for such attempts in the end; then ``postern door-off`` is next
OK: Final = "ok"
ENDING: Final = (signal.SIGTERM, signal.SIGABRT)  # of 'systemctl stop' and of its watchdog
# Its own faults, and what no process can ignore; every other signal means nothing to it.
FAULTS: Final = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGSYS, signal.SIGTRAP)
IGNORED: Final = signal.valid_signals() - {*ENDING, *FAULTS, signal.SIGKILL, signal.SIGSTOP}

Open = Callable[[OutputSpec], OutputLine]


class _Held:
    """One line; ``ends_ns`` is when it has to be off, None while it is off or may stay on until it is told."""

    def __init__(self, line: OutputLine, longest_ns: int) -> None:
        self.line, self.longest_ns = line, longest_ns
        self.lit = False
        self.ends_ns: int | None = None


class Keeper:
    """What the process does, without the process: the time is passed in, nothing waits."""

    def __init__(self, open_output: Open) -> None:
        self._open = open_output
        self._held: dict[str, _Held] = {}

    def obey(self, message: str, now_ns: int) -> str:
        """Do what one message says; the answer."""
        try:
            verb, key, *rest = message.split(" ", 5)
            if verb == "open":
                line, low, longest_ms, chip = rest
                taken = self._open(OutputSpec(Path(chip), int(line), active_low=low == "1"))
                self._held[key] = _Held(taken, int(longest_ms) * 1_000_000)
            elif verb == "on":
                self._on(self._held[key], now_ns)
            elif verb == "off":
                self._off(self._held[key])
            else:
                self._held.pop(key).line.close()
        except DeviceLostError as error:
            return str(error)
        except (KeyError, ValueError):
            return "the line is not held any more: it is taken again"
        return OK

    def tick(self, now_ns: int) -> int | None:
        """End what is due; nanoseconds until something is, None when nothing will be."""
        for held in self._held.values():
            if held.ends_ns is not None and held.ends_ns <= now_ns and not self._is_off(held):
                held.ends_ns = now_ns + AGAIN_NS
        ends = [one.ends_ns for one in self._held.values() if one.ends_ns is not None]
        return max(0, min(ends) - now_ns) if ends else None

    def all_off(self) -> bool:
        """Switch off whatever is on; whether nothing is any more."""
        stuck = [held for held in self._held.values() if held.lit and not self._is_off(held)]  # each is tried
        return not stuck

    @staticmethod
    def _on(held: _Held, now_ns: int) -> None:
        if not held.lit and held.longest_ns:  # one that is on stays on no longer than it would
            held.ends_ns = now_ns + held.longest_ns
        held.lit = True  # before it is: whether it went on is not known when switching fails
        held.line.set(on=True)

    @staticmethod
    def _off(held: _Held) -> None:
        held.line.set(on=False)
        held.lit, held.ends_ns = False, None

    def _is_off(self, held: _Held) -> bool:
        try:
            self._off(held)
        except DeviceLostError:
            return False
        return True


def keep(open_output: Open, *, told: int, answers: int) -> None:
    """Obey what comes from ``told`` until it closes or a signal ends this process, then switch everything off."""
    keeper = Keeper(open_output)
    try:
        _obey_all(keeper, told, answers)
    finally:  # whatever goes wrong here, as when there is no memory
        began_ns = time.monotonic_ns()
        while not keeper.all_off() and time.monotonic_ns() - began_ns < LAST_NS:
            time.sleep(AGAIN_NS / 1e9)


def _obey_all(keeper: Keeper, told: int, answers: int) -> None:
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in ENDING:
        signal.signal(number, lambda *_: None)  # the byte in the pipe says so
    waiting, poll = b"", select.poll()
    poll.register(told, select.POLLIN)
    poll.register(woken, select.POLLIN)
    while True:
        due_ns = keeper.tick(time.monotonic_ns())
        ready = [one for one, _ in poll.poll(None if due_ns is None else -(-due_ns // 1_000_000))]
        if woken in ready:
            return
        if told in ready:
            more = os.read(told, MAX_MESSAGE_BYTES)
            *messages, waiting = (waiting + more).split(b"\0")
            if not more or len(waiting) > MAX_MESSAGE_BYTES:
                return
            said = [keeper.obey(os.fsdecode(one), time.monotonic_ns()) for one in messages]
            try:
                os.write(answers, b"".join(one.encode(errors="replace") + b"\0" for one in said))
            except OSError:  # nobody listens any more
                return


def main(open_output: Open | None = None) -> None:
    """The process: told by standard input, answering by standard output."""
    forbid_dumps()  # who debugs it holds a door open
    os.closerange(3, MAX_FILES)  # a library's file that was not closed for us, as a camera's, is not ours to keep
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    keep(open_output or GpiodLines().open_output, told=0, answers=1)
