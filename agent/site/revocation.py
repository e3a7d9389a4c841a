# SPDX-License-Identifier: Apache-2.0
"""Shutting somebody out by name: a program, a unit, or whoever holds an open invitation."""

from __future__ import annotations

from pathlib import Path

from agent.clock import Clock
from agent.errors import RefusedError
from agent.protocol.names import check_name
from agent.site import joining, programs, units
from agent.site.folder import SYSTEM_CLOCK, check_site


def revoke(folder: Path, name: str, *, clock: Clock = SYSTEM_CLOCK, passphrase: bytes | None = None) -> bool:
    """Shut out who has this name; whether that was, or was also, an invitation. May be repeated.

    RefusedError where the site has nobody of that name.
    """
    files = check_site(folder)
    check_name("unit or program", name)
    is_invited = joining.is_invited(folder, name)
    if files.program(name).exists():
        programs.revoke_client(folder, name, clock=clock, passphrase=passphrase)
    elif files.unit(name).exists():
        units.revoke_unit(folder, name, clock=clock, passphrase=passphrase)
    elif not is_invited and not joining.was_invited(files, name):
        raise RefusedError("this site has nobody of that name: look at the folders 'units' and 'programs'")
    else:  # also where it was taken back before: the power may have failed then
        is_invited = True
    if is_invited:  # of a unit that was revoked, too: it would come back by it
        joining.take_back(folder, name, clock=clock, passphrase=passphrase)
    return is_invited
