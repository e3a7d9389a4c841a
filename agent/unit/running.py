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
from agent.unit.configuring import Configuring
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
    ``config`` is what the unit's own file says; ``reread`` gives that anew on SIGHUP. What the site set is added here.
    """
    world = world or World()
    configuring = Configuring(config, world.clock)
    stopping, reload = threading.Event(), Reload(configuring, reread or (lambda: config), world.clock)
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

        before: Config | None = None  # what the unit's file said until it was read again
        while True:
            service: Service | None = None
            try:
                with ExitStack() as stack:
                    service = Service(configuring.begin(), world, stack, configuring)
                    service.run(keep_going)
            except PosternError as error:
                if configuring.failed(str(error), state="rolled_back"):
                    if service is not None:  # a camera says only once it is opened that it cannot do what the site set
                        service.check_ended()
                    continue
                if before is None or service is not None:
                    raise
                log.error("the new configuration does not start, the old one begins again: %s", error)  # noqa: TRY400
                configuring.local, before = before, None
                continue
            following = reload.take()
            if following is None:
                return 0
            service.check_ended()
            configuring.local, before = following, configuring.local
