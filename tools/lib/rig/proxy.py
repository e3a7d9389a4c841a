# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy between a unit and its broker that fails on command: refuse, cut, delay, lose answers, fall silent.

TLS lets nobody in between repeat or reorder messages; what a network can do to MQTT it does by these. A message is
delivered twice when its acknowledgement is lost: ``deaf``, then ``cut``.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from typing import Self

CHUNK = 65536  # bytes forwarded at once
LOOK_S = 0.02  # how late a fault may take effect on an idle connection
CONNECT_TIMEOUT_S = 2.0
MAX_CONNECTIONS = 64  # open at once; a unit has one, a rig a handful


class FaultyProxy:
    """Forwards a loopback port of its own to ``127.0.0.1:port``; the faults below may be set at any time."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(LOOK_S)
        self.port: int = self._listener.getsockname()[1]
        self.delay_s = 0.0  # per chunk, both ways
        self.silent = False  # half-open: take bytes, pass nothing on, keep the connection
        self.deaf = False  # pass the unit's bytes on, but none of the broker's answers
        self.refuse = False  # close every new connection at once
        self.cut_after: int | None = None  # bytes from the unit until its connection is cut
        self.accepted = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()  # of the pairs
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def heal(self) -> None:
        """End every fault; bytes that were swallowed stay lost, so connections they belonged to are cut."""
        swallowed = self.silent or self.deaf
        self.delay_s, self.cut_after = 0.0, None
        self.silent = self.deaf = self.refuse = False
        if swallowed:
            self.cut()

    def cut(self) -> None:
        """Reset every connection now."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closing.set()
        self.cut()
        self._thread.join(CONNECT_TIMEOUT_S)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            self.accepted += 1
            if self.refuse or len(self._pairs) >= MAX_CONNECTIONS:
                client.close()
                continue
            try:
                server = socket.create_connection(self._target, CONNECT_TIMEOUT_S)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._pairs.append((client, server))
            threading.Thread(target=self._pump, args=(client, server), name="proxy-pump", daemon=True).start()

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        with client, server, contextlib.suppress(OSError, ValueError):
            self._forward(client, server)
        with self._lock:
            self._pairs = [pair for pair in self._pairs if pair[0] is not client]

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        """Until either end closes; OSError and ValueError when a connection was cut."""
        sent = 0
        while not self._closing.is_set():
            for source in select.select([client, server], [], [], LOOK_S)[0]:
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
