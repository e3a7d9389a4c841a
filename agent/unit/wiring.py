# SPDX-License-Identifier: Apache-2.0
"""Every button of a unit, and what its configuration names that this machine has not."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from agent.config.door import ButtonInput, GpioInput, KeyInput, OsdpOutput
from agent.config.schema import Config
from agent.errors import PosternError
from agent.unit.at_the_door import buttons, lights, pulses
from agent.unit.cards import read_panel_key

NO_CHIP: Final = "there is no GPIO chip {} on this machine: name a chip that gpiodetect shows"
BY_ID: Final = "name one of /dev/serial/by-id"
CLASSES: Final = Path("/sys/dev/char")  # of each device by its number, whose subsystem it is


def all_buttons(config: Config) -> list[tuple[str, ButtonInput]]:
    """The inputs by which people act, and the one that opens the console."""
    own = config.console.button if config.console is not None else None
    return [*buttons(config), *([("console.button", own)] if own is not None else [])]


def absent(config: Config) -> list[str]:
    """What the file names and this machine has not, a sentence each; nothing is opened."""
    found: list[str] = []
    for name, one in all_buttons(config):
        if isinstance(one, GpioInput) and not _is_there(one.chip, "gpio"):
            found.append(f"{name}.chip: {NO_CHIP.format(one.chip)}")
        if isinstance(one, KeyInput) and not _is_there(one.device, "input"):
            found.append(
                f"{name}.device: there is no input device {one.device}: plug it in, or name one of /dev/input/by-id"
            )
    outputs = [*((f"outputs: {name}", one.line) for name, one in pulses(config).items())]
    outputs += [(f"feedback.{name}", one) for name, one in lights(config).items()]
    found += [f"{name}: {NO_CHIP.format(one.chip)}" for name, one in outputs if not _is_there(one.chip, "gpio")]
    text = config.feedback.text
    if text is not None and not text.parent.is_dir():
        found.append(
            f"feedback.text: there is no folder {text.parent}: name a file in /run/postern, or make the folder"
        )
    for reader in (one for one in config.outputs if isinstance(one, OsdpOutput)):
        if not _is_there(reader.device, "tty"):
            place = f"outputs: {reader.name}.device"
            found.append(f"{place}: there is no serial line {reader.device}: plug the adapter in, or {BY_ID}")
        try:
            read_panel_key(reader.key_file)
        except PosternError as error:
            found.append(f"outputs: {reader.name}.key_file: {error}")
    return found


def _is_there(device: Path, kind: str) -> bool:
    """Whether a device is there that is none of another subsystem than ``kind``, as far as the kernel tells."""
    try:
        status = device.stat()
    except OSError:
        return False
    if not stat.S_ISCHR(status.st_mode):
        return False
    place = CLASSES / f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" / "subsystem"
    return not place.exists() or place.resolve().name == kind
