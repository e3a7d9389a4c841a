# SPDX-License-Identifier: Apache-2.0
"""SIGHUP, as ``systemctl reload postern`` sends it: the configuration is read again without a new process.

The new file is first read and its keys, models and policy are tried while the unit still runs on the old one. What
does not work is logged and changes nothing. What works ends the run as a stop does, events ``stopping`` and ``started``
included, and begins the next one: a unit never runs on half of one file and half of another.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from agent.config.schema import Config
from agent.errors import PosternError
from agent.unit.assemble import load_key, load_models, load_policy

log = logging.getLogger("postern")


class Reload:
    """``asked`` is set by the signal's handler; ``is_due`` and ``take`` belong to the pipeline's thread."""

    def __init__(self, reread: Callable[[], Config] | None) -> None:
        self.asked = threading.Event()
        self._reread = reread
        self._config: Config | None = None

    def is_due(self) -> bool:
        """Whether a configuration that works waits to be taken; never raises PosternError."""
        if self.asked.is_set() and self._reread is not None:
            self.asked.clear()
            try:
                config = self._reread()
                load_key(config)
                load_policy(config, load_models(config).embedder.model)
            except PosternError as error:
                log.warning("the new configuration is not taken, the old one stays: %s", error)
            else:
                log.info("the configuration was read again")
                self._config = config
        return self._config is not None

    def take(self) -> Config | None:
        """Hand the new configuration over, once; None when there is none."""
        config, self._config = self._config, None
        return config
