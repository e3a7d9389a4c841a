# SPDX-License-Identifier: Apache-2.0
"""Upgrades of an emulated unit by what its own window starts, on a root that is read-only before and after."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tools.lib.image.checks import CheckError, Shell
from tools.lib.image.releases import Releases

WELL: Final = "9.0.1"
BAD: Final = "9.0.2"  # does not start
APT_S: Final = 900.0  # of an emulated processor
JUDGED_S: Final = 1500.0  # five minutes of waiting are the judge's own
LOOK_S: Final = 5.0
_ALONE: Final = "-o Dir::Etc::sourcelist=/etc/apt/sources.list.d/postern.sources -o Dir::Etc::sourceparts=-"
_STATE: Final = "/var/lib/postern-upgrade"


def try_upgrades(shell: Shell, work: Path, say: Callable[[str], None]) -> None:
    """A release that is well stays; one that does not start goes back. Raises CheckError."""
    with Releases(work) as releases:
        releases.add(WELL, starts=True)
        before = _version(shell)
        shell(
            "sudo mkdir -p /etc/apt/keyrings; base64 -d | sudo tee /etc/apt/keyrings/postern.gpg >/dev/null",
            stdin=releases.ring,
        )
        shell("sudo tee /etc/apt/sources.list.d/postern.sources", stdin=releases.source)
        took_s = _upgrade(shell)
        if (now := _version(shell)) != WELL or _back(shell):
            raise CheckError(f"after the upgrade from {before} the unit has {now}: {_back(shell) or 'nothing is told'}")
        say(f"upgrade of the window, {before} to {WELL}: judged well {took_s:.0f} s after apt began")
        releases.add(BAD, starts=False)
        took_s = _upgrade(shell)
        if (now := _version(shell)) != WELL or BAD not in _back(shell):
            raise CheckError(f"{BAD} does not start, and the unit has {now}: {_back(shell) or 'nothing is told'}")
        say(f"upgrade to {BAD}, which does not start: back on {WELL} after {took_s:.0f} s; it says: {_back(shell)}")
        candidate = shell("apt-cache policy postern | sed -n 's/ *Candidate: //p'")
        if candidate != WELL:
            raise CheckError(f"the release that was not well would be installed again: {candidate}")
        if "ro" not in shell("findmnt -n -o OPTIONS /").split(","):
            raise CheckError("the root stayed writable")
        say("that release is not offered again, and the root is read-only")


def _upgrade(shell: Shell) -> float:
    """Have apt look at the repository, and start what the window starts; how long until it was judged."""
    shell("sudo rm -f /var/lib/apt/periodic/*")
    said = shell(f"sudo apt-get -q {_ALONE} -o APT::Update::Error-Mode=any update 2>&1 || echo no", timeout_s=APT_S)
    if said.endswith("no"):
        raise CheckError(f"the repository is not taken: {said}")
    began = time.monotonic()
    shell("sudo systemctl start apt-daily-upgrade.service", timeout_s=APT_S)
    while trial := shell(f"cat {_STATE}/trial 2>/dev/null || true"):
        if not trial.endswith(" yes"):
            raise CheckError(f"the unit did not run when apt began, so nothing is judged: {trial}")
        if time.monotonic() - began > JUDGED_S:
            raise CheckError(
                "the upgrade was not judged: " + shell("systemctl status --no-pager postern-after-upgrade")
            )
        time.sleep(LOOK_S)
    return time.monotonic() - began


def _version(shell: Shell) -> str:
    return shell("dpkg-query -W -f '${Version}' postern")


def _back(shell: Shell) -> str:
    return shell(f"cat {_STATE}/went-back 2>/dev/null || true")
