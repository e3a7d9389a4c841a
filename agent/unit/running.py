# SPDX-License-Identifier: Apache-2.0
"""Run one unit from start to stop, on one configuration after the other.

SIGTERM and SIGINT ask the pipeline to end after the frame in hand; SIGHUP asks for the configuration to be read again
(``agent.unit.reload``).
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack

from agent.config.schema import Config
from agent.errors import PosternError
from agent.unit.reload import Reload
from agent.unit.service import Service
from agent.unit.world import World

log = logging.getLogger("postern")


def run_unit(
    config: Config,
    *,
    world: World | None = None,
    on_frame: Callable[[], None] = lambda: None,
    reread: Callable[[], Config] | None = None,
) -> int:
    """Run until the camera ends or a signal comes; the exit status. Raises PosternError when it cannot start.

    ``on_frame`` is called once a frame and about twice a second while no frame comes: a watchdog hangs on it.
    ``reread`` gives the configuration anew on SIGHUP.
    """
    world = world or World()
    stopping, reload = threading.Event(), Reload(reread, world.clock)
    with ExitStack() as signals:
        for number, event in (
            (signal.SIGTERM, stopping),
            (signal.SIGINT, stopping),
            (signal.SIGHUP, reload.asked),
        ):
            previous = signal.signal(number, lambda *_, event=event: event.set())
            signals.callback(signal.signal, number, previous)

        def keep_going() -> bool:
            on_frame()
            return not stopping.is_set() and not reload.is_due()

        before: Config | None = None  # what the unit ran on until it read another configuration
        while True:
            with ExitStack() as stack:
                try:
                    service = Service(config, world, stack)
                except PosternError as error:
                    if before is None:
                        raise
                    log.error("the new configuration does not start, the old one begins again: %s", error)  # noqa: TRY400
                    config, before = before, None
                    continue
                service.run(keep_going)
            following = reload.take()
            if following is None:
                return 0
            service.check_ended()
            config, before = following, config
