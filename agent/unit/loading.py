# SPDX-License-Identifier: Apache-2.0
"""Work that goes on beside what the caller does next: a start waits for disks, and models take a processor."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from agent.config.schema import Config
    from agent.unit.models import Models

Result = TypeVar("Result")


def begun(work: Callable[[], Result]) -> Callable[[], Result]:
    """Begin ``work`` in a thread of its own; the answer waits for its end and gives, or raises, what came of it."""
    came: list[Result] = []
    failed: list[BaseException] = []

    def do() -> None:
        try:
            came.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            failed.append(error)

    thread = Thread(target=do, name="postern-loading")  # no daemon: a runtime that is cut off while it loads aborts
    thread.start()

    def ended() -> Result:
        thread.join()
        if failed:
            raise failed[0]
        return came[0]

    return ended


def begin_models(config: Config) -> Callable[[], Models]:
    """Begin to load the models of ``config``; the answer waits for them and raises ModelError."""

    def load() -> Models:
        from agent.unit.models import load_models  # noqa: PLC0415 - it reads the runtime, beside the caller

        return load_models(config)

    return begun(load)
