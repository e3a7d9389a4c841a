# SPDX-License-Identifier: Apache-2.0
"""What other threads leave for the uplink, and how they wake it. Made before everything that uses it."""

from __future__ import annotations

import contextlib
import socket
from collections import deque

MAX_REPORTS = 16  # of what is under way; whoever reads them wants the newest


class Mailbox:
    """Three kinds of news: rows wait, ``info`` has changed, and what to say about a command that is under way.

    All methods may be called from any thread and never block. The uplink opens it and closes it; what is left before
    that waits.
    """

    def __init__(self) -> None:
        self._reports: deque[tuple[str, bytes]] = deque(maxlen=MAX_REPORTS)
        self._info_changed = False
        self._writer: socket.socket | None = None

    def open(self) -> socket.socket:
        """Begin to wake whoever waits for the socket that is returned to become readable; it does not block."""
        reader, self._writer = socket.socketpair()
        reader.settimeout(0)
        self._writer.settimeout(0)
        return reader

    def wake(self) -> None:
        """Say that rows were appended."""
        if self._writer is not None:
            with contextlib.suppress(OSError):  # full: the uplink will wake anyway; closed: it has ended
                self._writer.send(b"w")

    def info_changed(self) -> None:
        """Ask for ``info`` to be published again."""
        self._info_changed = True
        self.wake()

    def report(self, verb: str, payload: bytes) -> None:
        """Leave a further response to a command that is under way; dropped while there is no connection."""
        self._reports.append((verb, payload))
        self.wake()

    def take_info_changed(self) -> bool:
        """Whether ``info`` has to be published again; asking takes the wish."""
        changed, self._info_changed = self._info_changed, False
        return changed

    def take_report(self) -> tuple[str, bytes] | None:
        """Oldest report that was not taken: verb and payload."""
        return self._reports.popleft() if self._reports else None

    def drop_reports(self) -> None:
        """Forget the reports: who waited for them has been told that the unit was away."""
        self._reports.clear()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
