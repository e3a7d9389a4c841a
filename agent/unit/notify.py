# SPDX-License-Identifier: Apache-2.0
"""What systemd wants to hear from a service: it is ready, it still works, it is stopping (sd_notify(3))."""

from __future__ import annotations

import contextlib
import socket

from agent.clock import Clock

SHARE = 4  # of the watchdog's time between two signs of life; systemd recommends half, a slow frame needs room


class Notifier:
    """Tells the service manager; does nothing where there is none.

    ``address`` is NOTIFY_SOCKET, ``watchdog_us`` is WATCHDOG_USEC. ``alive`` comes from the loop that must not hang:
    its first call says READY.
    """

    def __init__(self, address: str | None, watchdog_us: int, clock: Clock) -> None:
        self._address = None if not address else "\0" + address[1:] if address.startswith("@") else address
        self._period_ns = watchdog_us * 1000 // SHARE
        self._clock = clock
        self._last_ns: int | None = None

    def alive(self) -> None:
        now_ns = self._clock.monotonic_ns()
        if self._last_ns is None:
            self._send("READY=1\nWATCHDOG=1")
        elif not self._period_ns or now_ns - self._last_ns < self._period_ns:
            return
        else:
            self._send("WATCHDOG=1")
        self._last_ns = now_ns

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        # The manager may be restarting or busy: the next sign of life is as good, and the pipeline never waits for it.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.sendto(message.encode(), socket.MSG_DONTWAIT, self._address)
