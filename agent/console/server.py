# SPDX-License-Identifier: Apache-2.0
"""The console's process: TLS with the unit's key, one port of one address, for as long as an opening stands."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from agent.clock import Clock
from agent.console.access import Access
from agent.console.opening import host_of, read_opening
from agent.errors import RefusedError

LOOK_S: Final = 0.5  # between looks at the opening
MAX_AT_ONCE: Final = 16  # connections and requests; a page has two or three
IDLE_S: Final = 15  # a connection without a request


def listen(address: str, port: int, *, advice: str) -> socket.socket:
    """Take one port of one address; RefusedError with ``advice`` where that cannot be."""
    try:
        return socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    except OSError as error:
        raise RefusedError(
            f"the console cannot listen at {host_of(address, port)} ({error.strerror}): {advice}"
        ) from error


def serve(
    app: ASGIApp,
    access: Access,
    folder: Path,
    *,
    listening: socket.socket,
    certificate: Path,
    key: Path,
    clock: Clock,
) -> None:
    """Serve at what ``listen`` gave until the opening in ``folder`` is over."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            ssl_certfile=str(certificate),
            ssl_keyfile=str(key),
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_AT_ONCE,
            timeout_keep_alive=IDLE_S,
        )
    )
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            opening = read_opening(folder, clock)
            access.take(opening)
            if opening is None:
                server.should_exit = True
            ended.wait(LOOK_S)

    access.take(read_opening(folder, clock))
    watching = threading.Thread(target=watch, name="postern-console-watch", daemon=True)
    watching.start()
    try:
        with _signals_wait(server):
            server.run(sockets=[listening])
    finally:
        ended.set()
        watching.join()


@contextlib.contextmanager
def _signals_wait(server: uvicorn.Server) -> Iterator[None]:
    """SIGTERM and SIGINT end the server, and reach whoever handled them before when it has ended.

    Raised while its event loop is being made they would leave half-made things, of which Python tells a person.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
        yield
        return
    came: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature is signal's
        came.append(number)
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])
