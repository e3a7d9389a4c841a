# SPDX-License-Identifier: Apache-2.0
"""The verb ``unit/configure``: settings, or a newer policy, as the site signed them.

Neither needs a new process: a reload puts them in force, within seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from agent.clock import Clock
from agent.config.schema import Config
from agent.errors import RefusedError
from agent.keys import load_public_key
from agent.match.policy import Policy
from agent.parse.strict_json import convert
from agent.protocol.command import Command
from agent.unit.configuring import Configuring
from agent.unit.key_files import KeptFiles, UnitFiles
from agent.unit.new_policy import install_policy
from agent.uplink.commands import Handler


class _FromSite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of ``unit/configure``: the settings, or a policy with its number."""

    configuration: str | None = None
    policy: str | None = None
    issue: str | None = None


def site_settings(config: Config, configuring: Configuring, policy: Policy, detector: str, clock: Clock) -> Handler:
    """Handler of the verb at a unit that runs with ``policy`` on the detector of that digest."""

    def configure(command: Command) -> Mapping[str, Any]:
        wanted = _read(command.args)
        if wanted.configuration is not None:
            return configuring.take(wanted.configuration)
        fresh = install_policy(
            wanted.policy or "",
            wanted.issue or "",
            path=config.match.policy,
            record=KeptFiles(config.outbox.path).policy,
            site_key=load_public_key(UnitFiles(config.keys.folder).site_jwk),
            site=config.unit.site,
            now=clock.now() if clock.state() == "synced" else None,
            model=policy.model,
            detector=detector,
        )
        if fresh.digest != policy.digest:
            configuring.asked.set()  # the start that follows tells the audit log
        return {"policy": fresh.digest}

    return configure


def _read(args: Mapping[str, Any]) -> _FromSite:
    try:
        wanted = convert(args, _FromSite)
    except msgspec.ValidationError:
        wanted = _FromSite()
    if (wanted.configuration is None) == (wanted.policy is None) or (wanted.policy is None) != (wanted.issue is None):
        raise RefusedError("give configuration, or policy with issue, as the site signed them", reason="bad_args")
    return wanted
