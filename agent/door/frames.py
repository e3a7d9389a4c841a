# SPDX-License-Identifier: Apache-2.0
"""Commands of an access controller as they come over the line: whole, unharmed, ours, and each of them once. No I/O.

A controller that gets no answer in 200 ms sends its command again, the same bytes. A reader then repeats its answer
(IEC 60839-11-5); libosdp 3.2 obeys the command again, which in a secure channel breaks the chain of authentication:
the channel ends, as it does with half a command or a byte that the line changed. Its own controller does not try again
for five minutes. So what is no whole command never reaches the library, and an answer is repeated here; a reader that
did not get to run for a quarter of a second, or noise, costs a repetition and no door.
"""

from __future__ import annotations

import binascii
from typing import Final

START: Final = 0x53
HEADER_BYTES: Final = 5  # start, address, length (2), control
MIN_BYTES, MAX_BYTES = 7, 256  # of a command: the longest that libosdp takes
BROADCAST: Final = 0x7F
SEQUENCE, HAS_CRC = 0x03, 0x04  # of the control byte
CRC_BEGIN: Final = 0x1D0F  # CRC-16 of the standard; its polynomial is that of binascii.crc_hqx
GAP_NS: Final = 200_000_000  # between two bytes of one command: then the rest does not come
ANSWER_NS: Final = 200_000_000  # for an answer; a controller waits no longer
AGAIN_NS: Final = (
    8_000_000_000  # within which an answer is said again: libosdp ends a channel that was silent for longer
)


class Commands:
    """Of one reader, ``address``."""

    def __init__(self, address: int) -> None:
        self._ours = (address, BROADCAST)
        self._part, self._heard_ns = b"", 0
        self._last, self._taken_ns = b"", 0
        self._answer, self._answered_ns, self._again_ns = b"", 0, AGAIN_NS

    def take(self, heard: bytes, now_ns: int) -> tuple[bytes, bytes]:
        """What came over the line since: commands to obey, end to end, and the answer to repeat, if any."""
        if heard:
            self._part = (self._part if now_ns - self._heard_ns <= GAP_NS else b"") + heard
            self._heard_ns = now_ns
        obey, repeat = b"", b""
        while (command := self._next()) is not None:
            if self._is_again(command, now_ns):
                repeat = self._answer  # nothing where it is under way
            else:
                obey += command
                self._last, self._taken_ns, self._answer = command, now_ns, b""
        return obey, repeat

    def answered(self, sent: bytes, now_ns: int) -> None:
        """What went over the line as the answer to the last command, or a part of it."""
        if not self._answer:
            self._answered_ns, self._again_ns = now_ns, AGAIN_NS
        self._answer = (self._answer + sent)[:MAX_BYTES]

    def reported(self, fresh_ns: int) -> None:
        """The answer holds a report, which is said again for so long and no longer: it is for the moment."""
        self._again_ns = fresh_ns

    def _is_again(self, command: bytes, now_ns: int) -> bool:
        if command != self._last or not command[HEADER_BYTES - 1] & SEQUENCE:  # with 0 a controller begins anew
            return False
        if self._answer:
            return now_ns - self._answered_ns <= self._again_ns
        return now_ns - self._taken_ns <= ANSWER_NS

    def _next(self) -> bytes | None:
        """The next command that is whole, unharmed and ours; None where more has to come."""
        while (start := self._part.find(START)) >= 0:
            self._part = self._part[start:]
            if len(self._part) < HEADER_BYTES:
                return None
            length = self._part[2] | self._part[3] << 8
            if MIN_BYTES <= length <= MAX_BYTES and len(self._part) < length:
                return None
            frame = self._part[:length]
            if not MIN_BYTES <= length <= MAX_BYTES or not _is_unharmed(frame):
                self._part = self._part[1:]  # a start that was none
                continue
            self._part = self._part[length:]
            if frame[1] in self._ours:  # others on the line are asked too, and answer
                return frame
        self._part = b""
        return None


def _is_unharmed(frame: bytes) -> bool:
    if frame[HEADER_BYTES - 1] & HAS_CRC:
        return binascii.crc_hqx(frame[:-2], CRC_BEGIN) == frame[-2] | frame[-1] << 8
    return sum(frame) & 0xFF == 0
