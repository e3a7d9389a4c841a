# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy between a unit and its broker that fails on command: refuse, cut, delay, or fall silent half-open."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time

CHUNK = 65536


class FaultyProxy:
    """Forwards to ``127.0.0.1:port``; the faults below may be set at any time."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.02)
        self.port: int = self._listener.getsockname()[1]
        self.delay_s = 0.0  # per chunk, both ways
        self.silent = False  # half-open: take bytes, pass nothing on, keep the connection
        self.deaf = False  # pass the unit's bytes on, but none of the broker's answers
        self.refuse = False  # close every new connection at once
        self.cut_after: int | None = None  # bytes from the unit until its connection is cut
        self.accepted = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """Reset every connection now."""
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs = []

    def close(self) -> None:
        self._closing.set()
        self.cut()
        for thread in self._threads:
            thread.join(2)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            self.accepted += 1
            if self.refuse:
                client.close()
                continue
            try:
                server = socket.create_connection(self._target, 2)
            except OSError:
                client.close()
                continue
            self._pairs.append((client, server))
            thread = threading.Thread(target=self._pump, args=(client, server), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        with client, server, contextlib.suppress(OSError):
            sent = 0
            while not self._closing.is_set():
                for source in select.select([client, server], [], [], 0.02)[0]:
                    data = source.recv(CHUNK)
                    if not data:
                        return
                    time.sleep(self.delay_s)
                    if self.silent or (self.deaf and source is server):
                        continue
                    (server if source is client else client).sendall(data)
                    sent += len(data) if source is client else 0
                    if self.cut_after is not None and sent >= self.cut_after:
                        return
