# SPDX-License-Identifier: Apache-2.0
"""A button and a line of the emulated board, as the running unit uses them by the kernel's GPIO character device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

from tools.lib.image.checks import CheckError, Shell
from tools.lib.image.chip import BUTTON, CHIP, Chip

STRIKE: Final = 1  # the line
PULSE_MS: Final = 15_000  # longer than a command takes to get there
PRESS_S: Final = 12.0  # longer than an emulated unit may be behind its camera: the last press is the one that counts
PULSE_WAIT_S: Final = 180.0  # for the next visit and its match
OFF_S: Final = 90.0  # after a kill: 'postern door-off' starts within that on an emulated board
SLACK_S: Final = 2.0  # of an emulator beside other work
LINES: Final[dict[str, Any]] = {
    "enrolment": {
        "button": {"kind": "gpio", "chip": CHIP, "line": BUTTON, "bias": "as_is", "active_low": False},
    },
    "outputs": [{"name": "strike", "kind": "gpio", "chip": CHIP, "line": STRIKE, "pulse_ms": PULSE_MS}],
    "rules": [
        {
            "name": "staff",
            "when": "match",
            "liveness": "unchecked: a photograph opens it",
            "cooldown_s": 5,
            "then": ["strike"],
        }
    ],
}


@contextmanager
def pressed_again_and_again(chip: Chip) -> Iterator[None]:
    """Somebody presses the button every few seconds while the block runs."""
    ending = threading.Event()

    def press() -> None:
        while not ending.wait(PRESS_S):
            chip.press()

    thread = threading.Thread(target=press, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def try_lines(chip: Chip, shell: Shell, say: Callable[[str], None]) -> None:
    """A pulse to its end; one in which the unit is killed; one in which it is stopped. Raises CheckError."""
    _off(chip, PULSE_MS / 1000 + SLACK_S, "after the pulse before")
    began = _on(chip)
    length_s = _off(chip, PULSE_MS / 1000 + SLACK_S, "at the end of a pulse") - began
    if length_s < PULSE_MS / 1000 - SLACK_S:
        raise CheckError(f"a pulse of {PULSE_MS} ms took {length_s:.1f} s")
    say(f"a match: the line is on for {length_s:.2f} s, of {PULSE_MS / 1000:.2f}")
    for how, command in (
        ("killed (SIGKILL)", "sudo systemctl kill --kill-whom=main --signal=KILL postern"),
        ("aborted (SIGABRT)", "sudo systemctl kill --signal=ABRT postern"),
        ("stopped", "sudo systemctl stop postern"),
    ):
        _on(chip)
        with ThreadPoolExecutor(1) as beside:  # the command ends later than the pulse
            began = time.monotonic()
            ended = beside.submit(shell, command)
            say(f"{how} in a pulse: the line is off {_off(chip, OFF_S, how) - began:.1f} s after the command began")
            ended.result()
    time.sleep(SLACK_S)
    if chip.on(STRIKE):
        raise CheckError("the line went on again after the stop")
    shell("sudo systemctl start postern")


def _on(chip: Chip) -> float:
    at = chip.wait(STRIKE, on=True, timeout_s=PULSE_WAIT_S)
    if at is None:
        raise CheckError(f"no pulse within {PULSE_WAIT_S:g} s")
    return at


def _off(chip: Chip, timeout_s: float, when: str) -> float:
    at = chip.wait(STRIKE, on=False, timeout_s=timeout_s)
    if at is None:
        raise CheckError(f"the line is on {timeout_s:g} s {when}")
    return at
