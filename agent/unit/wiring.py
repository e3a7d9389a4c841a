# SPDX-License-Identifier: Apache-2.0
"""Every button of a unit, and what its configuration names that this machine has not."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from agent.config.door import ButtonInput, GpioInput, KeyInput, OsdpOutput
from agent.config.schema import Config
from agent.door import codes, gpio, keys, osdp
from agent.door.feedback import check_text
from agent.errors import PosternError, StorageError
from agent.protocol import token
from agent.unit.at_the_door import buttons, lights, pulses, reads_tokens
from agent.unit.cards import read_panel_key

NO_CHIP: Final = "there is no GPIO chip {} on this machine: name a chip that gpiodetect shows"
BY_ID: Final = "name one of /dev/serial/by-id"
KEYS_BY_ID: Final = "/dev/input/by-id"
DEVICES: Final = Path("/sys/dev/char")  # of each device by its number, what it is


@dataclass(frozen=True, slots=True)
class Machine:
    """What a unit runs on.

    Libraries that can be imported, the kernel's numbers of keys by name (None: unknown), where it says what its devices
    are, and what keeps a line of a chip from being used.
    """

    libraries: frozenset[str]
    key_codes: Mapping[str, int] | None
    devices: Path = DEVICES
    line_problem: Callable[[Path, int], str | None] = gpio.line_problem


def this_machine() -> Machine:
    """What there is here."""
    found = {name for name in ("gpiod", "evdev", "osdp", "zxingcpp", "cbor2") if find_spec(name) is not None}
    return Machine(frozenset(found), keys.key_codes())


def all_buttons(config: Config) -> list[tuple[str, ButtonInput]]:
    """The inputs by which people act, and the one that opens the console."""
    own = config.console.button if config.console is not None else None
    return [*buttons(config), *([("console.button", own)] if own is not None else [])]


def unknown_keys(config: Config, machine: Machine) -> list[str]:
    """Keys in the file that no keyboard has, a sentence each; none where no names are known."""
    known = machine.key_codes
    named = [(name, one.key) for name, one in all_buttons(config) if isinstance(one, KeyInput)]
    if known is None:
        return []
    return [f"{name}.key: there is no key {key}: {_nearest(key, known)}" for name, key in named if key not in known]


def _nearest(key: str, known: Mapping[str, int]) -> str:
    found = get_close_matches(key, [one for one in known if one.startswith(("KEY_", "BTN_"))], n=1)
    return f"the nearest is {found[0]}" if found else "evtest shows what the button's is called"


def absent(config: Config, machine: Machine) -> list[str]:
    """What the file names and the machine has not, or somebody else holds, a sentence each; nothing is taken."""
    return [*_inputs(config, machine), *_outputs(config, machine), *_readers(config, machine)]


def _inputs(config: Config, machine: Machine) -> Iterator[str]:
    for name, one in all_buttons(config):
        if isinstance(one, GpioInput):
            yield from _line(f"{name}.chip", one.chip, one.line, machine)
        if isinstance(one, KeyInput):
            if not _is_there(one.device, "input", machine):
                yield f"{name}.device: there is no input device {one.device}: plug it in, or name one of {KEYS_BY_ID}"
            elif machine.key_codes is None:
                yield f"{name}: {keys.MISSING}"
            elif not _offers(one.device, machine.key_codes.get(one.key), machine):
                yield f"{name}.key: {one.device} has no {one.key}: evtest shows what it has"
    if reads_tokens(config):
        needed = {"zxingcpp": codes.MISSING, "cbor2": token.MISSING}
        yield from (f"activation.inputs: {lack}" for name, lack in needed.items() if name not in machine.libraries)


def _outputs(config: Config, machine: Machine) -> Iterator[str]:
    wired = [*((f"outputs: {name}", one.line) for name, one in pulses(config).items())]
    wired += [(f"feedback.{name}", one) for name, one in lights(config).items()]
    for name, spec in wired:
        yield from _line(name, spec.chip, spec.line, machine)
    text = config.feedback.text
    if text is not None and not text.parent.is_dir():
        yield f"feedback.text: there is no folder {text.parent}: name a file in /run/postern, or make the folder"
    elif text is not None:
        try:
            with suppress(OSError):  # as where this user may not look: the service is another
                check_text(text)
        except StorageError as error:
            yield f"feedback.text: {error}"


def _readers(config: Config, machine: Machine) -> Iterator[str]:
    for reader in (one for one in config.outputs if isinstance(one, OsdpOutput)):
        place = f"outputs: {reader.name}"
        if not _is_there(reader.device, "tty", machine):
            yield f"{place}.device: there is no serial line {reader.device}: plug the adapter in, or {BY_ID}"
        elif "osdp" not in machine.libraries:
            yield f"{place}: {osdp.MISSING}"
        if not _is_anothers(reader.key_file):
            try:
                read_panel_key(reader.key_file)
            except PosternError as error:
                yield f"{place}.key_file: {error}"


def anothers(config: Config) -> list[str]:
    """Keys in the file that only their owner, as a rule the service, can look at, a sentence each."""
    keys = [(one.name, one.key_file) for one in config.outputs if isinstance(one, OsdpOutput)]
    return [
        f"outputs: {name}.key_file: {path} is another user's, so its key was not looked at: run this as its owner"
        for name, path in keys
        if _is_anothers(path)
    ]


def _is_anothers(path: Path) -> bool:
    try:
        return path.stat().st_uid not in (0, os.geteuid())
    except OSError:  # it is told that there is none
        return False


def _line(place: str, chip: Path, line: int, machine: Machine) -> Iterator[str]:
    if not _is_there(chip, "gpio", machine):
        yield f"{place}: {NO_CHIP.format(chip)}"
    elif "gpiod" not in machine.libraries:
        yield f"{place}: {gpio.MISSING}"
    elif (problem := machine.line_problem(chip, line)) is not None:
        yield f"{place}: {problem}"


def _entry(device: Path, machine: Machine) -> Path | None:
    """Where the kernel says what a device is; None where there is no such device."""
    try:
        status = device.stat()
    except OSError:
        return None
    if not stat.S_ISCHR(status.st_mode):
        return None
    return machine.devices / f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def _is_there(device: Path, kind: str, machine: Machine) -> bool:
    """Whether a device is there that is none of another subsystem than ``kind``, as far as the kernel tells."""
    entry = _entry(device, machine)
    if entry is None:
        return False
    place = entry / "subsystem"
    return not place.exists() or place.resolve().name == kind


def _offers(device: Path, code: int | None, machine: Machine) -> bool:
    """Whether an input device has a key, as far as the kernel tells."""
    entry = _entry(device, machine)
    listed = None if entry is None else entry / "device" / "capabilities" / "key"
    if code is None or listed is None or not listed.exists():
        return True  # a name that is no key's is told as that
    number = 0
    for word in listed.read_text().split():  # of 64 bits, the first holds the highest keys
        number = number << 64 | int(word, 16)
    return bool(number >> code & 1)
