# SPDX-License-Identifier: Apache-2.0
"""The console's process: TLS with the unit's key, one port of one address, for as long as an opening stands."""

from __future__ import annotations

import threading
from pathlib import Path
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


def serve(
    app: ASGIApp,
    access: Access,
    folder: Path,
    *,
    address: str,
    port: int,
    certificate: Path,
    key: Path,
    clock: Clock,
    advice: str,
) -> None:
    """Serve until the opening in ``folder`` is over; RefusedError with ``advice`` where it cannot listen."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=address,
            port=port,
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
        server.run()
    except SystemExit:
        if server.started:  # a signal
            raise
    finally:
        ended.set()
        watching.join()
    if not server.started:
        raise RefusedError(f"the console cannot listen at {host_of(address, port)}: {advice}")
