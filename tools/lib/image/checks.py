# SPDX-License-Identifier: Apache-2.0
"""What is looked at inside of the unit, as the installer whose SSH key lies on the card."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Final

TRY_S: Final = 3.0
ANSWER_S: Final = 300.0  # of an emulated processor, beside whatever else this machine does
# What each prints, as a regular expression of the whole.
CHECKS: Final = {
    "findmnt -n -o OPTIONS /": "ro,.*",
    "findmnt -n -o OPTIONS /boot/firmware": "ro,.*",
    "findmnt -n -o SOURCE /var/lib/postern": r".*\[/postern\]",
    "swapon --show | wc -l": "0",
    "timedatectl show -p NTPSynchronized --value": "yes",
    "sudo cat /sys/class/watchdog/watchdog0/state": "active",
    "systemctl show -p RuntimeWatchdogUSec --value": "15s",
    "systemctl show -p TimeoutStartUSec --value postern.service": "15min",  # as an emulator needs: machine.py
    "systemctl is-active postern.service": "active",
    "sudo cut -d : -f 2 /etc/shadow | sort -u | tr '\\n' ' '": r"(!|\*|!\*| )+",
    "sudo ls /boot/firmware | grep postern": "postern-joined",
    "systemctl --failed --plain --no-legend | wc -l": "0",
}
IDENTITY: Final = "cat /etc/machine-id; cat /etc/ssh/ssh_host_ed25519_key.pub"
DATA_KIB: Final = "df --output=size -k /data | tail -n 1"


class CheckError(Exception):
    """The unit is not as the manual says."""


class Shell:
    """Commands inside of the unit."""

    def __init__(self, key: Path, port: int) -> None:
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=60", "LogLevel=ERROR")
        self._words = ["ssh", "-i", str(key), "-p", str(port), *(word for one in options for word in ("-o", one))]

    def __call__(self, command: str, *, stdin: str = "", timeout_s: float = ANSWER_S) -> str:
        """What ``command`` prints. Raises CheckError where it cannot be asked, or has not ended in time."""
        words = [*self._words, "installer@127.0.0.1", command]
        try:
            done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            raise CheckError(f"not done within {timeout_s:g} s inside of the unit: {command}") from None
        if done.returncode == 255:  # ssh itself
            raise CheckError(f"no SSH: {done.stderr.strip()}")
        return done.stdout.strip()

    def wait(self, timeout_s: float) -> None:
        """Until the unit lets the installer in."""
        end = time.monotonic() + timeout_s
        while True:
            try:
                self("true")
            except CheckError:
                if time.monotonic() > end:
                    raise
                time.sleep(TRY_S)
            else:
                return


def try_keys(shell: Shell) -> list[str]:
    """The key button on an input device that the kernel makes; each thing that held. Raises CheckError."""
    script = Path(__file__).with_name("keys_in_guest.py").read_text()
    command = "sudo modprobe uinput; sudo env PYTHONPATH=/usr/lib/postern python3 - 2>&1 && echo all of it"
    *held, last = shell(command, stdin=script).splitlines() or [""]
    if last != "all of it":
        raise CheckError(f"key button: {' / '.join([*held, last])}")
    return held


def new_key(folder: Path) -> Path:
    """An SSH key of the installer."""
    key = folder / "installer"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    return key


def look(shell: Shell) -> list[str]:
    """Each check with what it printed. Raises CheckError with what is not as it should be."""
    shown, wrong = [], []
    for command, wanted in CHECKS.items():
        printed = shell(command)
        line = f"{command}: {' / '.join(printed.splitlines())}"
        shown.append(line)
        if re.fullmatch(wanted, printed, re.DOTALL) is None:
            wrong.append(line)
    if wrong:
        raise CheckError("\n".join(wrong))
    return shown
