# SPDX-License-Identifier: Apache-2.0
"""The door's key button on the kernel's own input devices (uinput): sent into the emulated unit, run there as root."""

import time
from collections.abc import Callable
from pathlib import Path

from evdev import InputDevice, UInput, ecodes, list_devices

from agent.door.keys import KeyButton
from agent.errors import DeviceLostError

NAME = "postern test"


def told(does: Callable[[], object]) -> str:
    try:
        does()
    except DeviceLostError as error:
        return str(error)
    raise SystemExit("nothing was refused")


def expect(what: str, *, holds: bool) -> None:
    if not holds:
        raise SystemExit(f"not so: {what}")
    print(what)


device = UInput({ecodes.EV_KEY: [ecodes.KEY_ENTER, ecodes.KEY_A]}, name=NAME)
time.sleep(3)
path = next(Path(one) for one in list_devices() if InputDevice(one).name == NAME)


def send(key: int, value: int) -> None:
    device.write(ecodes.EV_KEY, key, value)
    device.syn()
    time.sleep(0.2)


button = KeyButton(path, "KEY_ENTER")
expect("nothing was pressed yet", holds=not button.pressed())
send(ecodes.KEY_ENTER, 1)
expect("a press counts once", holds=button.pressed() and not button.pressed())
send(ecodes.KEY_ENTER, 2)
send(ecodes.KEY_ENTER, 0)
expect("a repeat and letting go are no press", holds=not button.pressed())
send(ecodes.KEY_A, 1)
expect("another key is no press", holds=not button.pressed())
expect("nobody else gets the device", holds="grabbed" in told(lambda: KeyButton(path, "KEY_ENTER")))
expect("a key that it has not is refused", holds="no such key" in told(lambda: KeyButton(path, "KEY_F1")))
device.close()
time.sleep(1)
expect("a device that was unplugged is told", holds="plug" in told(button.pressed))
button.close()
expect("one that is not there is told", holds="plug" in told(lambda: KeyButton(path, "KEY_ENTER")))
