# SPDX-License-Identifier: Apache-2.0
"""The section of the configuration about the web console of the unit."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from agent.config.door import SpotInput
from agent.protocol import names


class Console(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The console for whoever installs the unit; without this section there is none."""

    address: Annotated[
        str, Meta(max_length=45, description="the unit's own address in the local network, such as 192.168.1.30")
    ]
    port: Annotated[int, Meta(ge=1024, le=65_535, description="TCP port, 1024 to 65535")] = 8443
    minutes: Annotated[int, Meta(ge=1, le=120, description="how long it stays open, 1 to 120 minutes")] = 30
    button: Annotated[
        SpotInput | None,
        Meta(description="opens it for aiming alone; the code stands on the display that feedback.text names"),
    ] = None
    first_boot_code: Annotated[
        names.Digest | None,
        Meta(description="what 'postern console code' printed: open it once, at the unit's first start"),
    ] = None
    folder: Annotated[Path, Meta(description="a folder in memory for socket and opening, the service's alone")] = (
        msgspec.field(default_factory=lambda: Path("/run/postern-console"))
    )


def refuse_address(text: str) -> str | None:
    """Why the console may not listen at ``text``; None if it may: an address of a local network, not of everybody."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "is no address: give this machine's own in the local network, such as 192.168.1.30"
    if address.is_unspecified or address.is_multicast or not address.is_private:
        return "is no address of a local network: whoever can reach the console must be in the building"
    return None
