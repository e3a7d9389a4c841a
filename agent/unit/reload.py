# SPDX-License-Identifier: Apache-2.0
"""The configuration is read again without a new process, as ``systemctl reload postern`` asks by SIGHUP.

So it is, too, when the site set something (``agent.unit.configuring``) and when somebody drew a zone.

The new file is first read, and all that a start needs of it is tried, while the unit still runs on the old one. What
does not work is logged and changes nothing. What works ends the run as a stop does, events ``stopping`` and ``started``
included, and begins the next one: a unit never runs on half of one file and half of another. Where that cannot begin
all the same, the old one begins again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from agent.clock import Clock
from agent.config.schema import Config
from agent.errors import PosternError, StorageError
from agent.mqtt.credentials import load_identity
from agent.outbox.epoch_keys import check_readable
from agent.unit.assemble import credentials_of, load_key, load_policy, make_seal
from agent.unit.at_the_door import make_gate
from agent.unit.configuring import Configuring
from agent.unit.key_files import UnitFiles
from agent.unit.models import load_models

log = logging.getLogger("postern")
NO_MEMORY = "there is not enough memory to try it beside the running unit: restart the service"


class Reload:
    """``asked`` is set by the signal's handler; ``is_due`` and ``take`` belong to the pipeline's thread.

    ``reread`` gives the unit's own file anew.
    """

    def __init__(self, configuring: Configuring, reread: Callable[[], Config], clock: Clock) -> None:
        self.asked = configuring.asked
        self._configuring, self._reread, self._clock = configuring, reread, clock
        self._config: Config | None = None

    def is_due(self) -> bool:
        """Whether a configuration that works waits to be taken; never raises PosternError."""
        if self.asked.is_set():
            self.asked.clear()
            config: Config | None = None
            try:
                config = self._reread()
                check(self._configuring.following(config), self._clock)
            except (PosternError, MemoryError) as error:  # it is tried beside the running unit, within its bound
                why = str(error) or NO_MEMORY
                log.warning("the new configuration is not taken, the old one stays: %s", why)
                # With a file that can be read it may be what the site set; with one that cannot, nothing is tried.
                if config is not None or self._configuring.waits():
                    self._configuring.failed(why, state="refused")
            else:
                log.info("the configuration was read again")
                self._config = config
        return self._config is not None

    def take(self) -> Config | None:
        """Hand the new configuration over, once; None when there is none."""
        config, self._config = self._config, None
        return config


def check(config: Config, clock: Clock) -> None:
    """Try all that a start reads and that the running unit does not hold; raises PosternError."""
    load_key(config)
    load_policy(config, load_models(config))
    check_readable(UnitFiles(config.keys.folder).epoch_keys)
    load_identity(credentials_of(config), clock, common_name=config.unit.id)
    make_seal(config)
    make_gate(config)
    for folder in {path.parent for path in (config.gallery.path, config.outbox.path, config.audit.path)}:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StorageError(f"{folder} is no folder that this service can write: create it, or correct its owner")
