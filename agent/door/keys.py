# SPDX-License-Identifier: Apache-2.0
"""A key of a USB button, by the kernel's input events (evdev). The device is grabbed: its keys type nowhere else."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import DeviceLostError

if TYPE_CHECKING:
    from evdev import InputDevice

DOWN = 1  # value of a key event: 0 is up, 2 is a repeat (linux/input.h)
MAX_EVENTS = 4096  # at one look: a device that sends without end must not hold up the frames
MISSING = "evdev is missing: install python3-evdev"


def key_codes() -> Mapping[str, int] | None:
    """The kernel's number of each key by its name in linux/input-event-codes.h; None where evdev is missing."""
    try:
        from evdev import ecodes  # noqa: PLC0415 - only units with such a button have it
    except ImportError:
        return None
    codes: Mapping[str, int] = ecodes.ecodes
    return codes


class KeyButton:
    """One key of one input device. Raises DeviceLostError when the device is missing, taken or lacks the key."""

    on_the_spot = True

    def __init__(self, device: Path, key: str) -> None:
        """``key`` by its name in linux/input-event-codes.h."""
        self._path, self._name = device, key
        try:
            from evdev import InputDevice, ecodes  # noqa: PLC0415 - only units with such a button have it

            self._code = ecodes.ecodes.get(key)
            self._device: InputDevice[str] = InputDevice(str(device))
            offered = self._device.capabilities().get(ecodes.EV_KEY, [])
            self._kind = ecodes.EV_KEY
        except ImportError as error:
            raise DeviceLostError(f"{self} cannot be used: {MISSING}") from error
        except OSError as error:
            raise DeviceLostError(f"{self} cannot be used: {_advice(error)}") from error
        if self._code not in offered:
            self._device.close()
            raise DeviceLostError(f"{self} cannot be used: the device has no such key; evtest shows what it has")
        try:
            self._device.grab()
        except OSError as error:
            self._device.close()
            raise DeviceLostError(f"{self} cannot be used: {_advice(error)}") from error

    def __str__(self) -> str:
        return f"key {self._name} of {self._path}"

    def pressed(self) -> bool:
        found = False
        try:
            for _ in range(MAX_EVENTS):
                if (event := self._device.read_one()) is None:
                    break
                found = found or (event.type == self._kind and event.code == self._code and event.value == DOWN)
        except OSError as error:
            raise DeviceLostError(f"{self} cannot be used: {_advice(error)}") from error
        return found

    def close(self) -> None:
        self._device.close()  # which ends the grab


def _advice(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENODEV:
            return "it is not plugged in: plug it in, or name one of /dev/input/by-id"
        case errno.EACCES | errno.EPERM:
            return "this user may not read it: put the service's user into the group input"
        case errno.EBUSY:
            return "another program has grabbed it: stop that"
        case _:
            return f"{error.strerror or 'it failed'}: plug it in again"
