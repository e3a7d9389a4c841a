# SPDX-License-Identifier: Apache-2.0
"""How the unit's console is opened and closed: by whoever holds the site's key, or by a person at the unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from agent.clock import Clock
from agent.config.schema import Config
from agent.console import opening as openings
from agent.console.certificate import certificate_of, make_certificate
from agent.console.opening import By, Scope, host_of, make_opening, write_opening
from agent.errors import RefusedError
from agent.parse.strict_json import convert
from agent.protocol.command import Command
from agent.protocol.names import Digest
from agent.unit.key_files import UnitFiles
from agent.uplink.commands import Handler


def open_console(
    config: Config, clock: Clock, *, code: str, scope: Scope, by: By, minutes: int | None = None
) -> dict[str, Any]:
    """Open the console of this unit to whoever has the code of digest ``code``; where it is, and its certificate.

    Raises RefusedError where the unit has none, KeyStoreError before it has keys, StorageError.
    """
    console = config.console
    if console is None:
        raise RefusedError(
            "this unit has no console: add 'console: {address: …}' to its configuration", reason="no_console"
        )
    lasts = console.minutes if minutes is None else minutes
    opening = make_opening(clock, code=code, minutes=lasts, scope=scope, by=by)
    openings.prepare(console.folder)
    key = config.broker.tls.key or UnitFiles(config.keys.folder).tls_key
    shown = make_certificate(config.unit.id, console.address, key, certificate_of(console.folder), clock)
    write_opening(console.folder, opening)
    host = host_of(console.address, console.port)
    return {"address": f"https://{host}/", "certificate": shown, "seconds": lasts * 60, "scope": scope}


class _Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of ``console/open``."""

    code: Digest
    minutes: int | None = None
    scope: Scope = "install"


def console_handlers(config: Config, clock: Clock) -> dict[str, Handler]:
    """The verbs by which the site opens and closes it, for a unit that has one."""
    console = config.console
    if console is None:
        return {}

    def begin(command: Command) -> Mapping[str, Any]:
        try:
            asked = convert(command.args, _Ask, strict=False)  # as text too, as a person types them
        except msgspec.ValidationError:
            raise RefusedError(
                "console/open takes code (a digest, from 'postern console code'), minutes, and scope (aim or install)",
                reason="bad_args",
            ) from None
        return open_console(config, clock, code=asked.code, scope=asked.scope, by="command", minutes=asked.minutes)

    def end(command: Command) -> Mapping[str, Any]:
        if command.args:
            raise RefusedError("console/close takes no arguments", reason="bad_args")
        openings.close(console.folder)
        return {"console": "closed"}

    return {"console/open": begin, "console/close": end}
