# SPDX-License-Identifier: Apache-2.0
"""An invitation that is held before the unit's own camera, as its QR code.

Each picture is looked at for a code and for nothing else: no model is loaded, nothing is kept. What a code says is
believed as little as a file: an invitation of another site or for another unit is refused by whoever reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from agent.camera.base import Camera, Picture
from agent.camera.open import open_camera
from agent.clock import Clock
from agent.config.schema import Config
from agent.door.codes import QrCodes
from agent.errors import RefusedError, RetryError
from agent.protocol.invitation import PREFIX, Invitation, read_invitation

PATIENCE_S: Final = 120.0  # for a code to come into view
LORES: Final = (320, 240)  # nobody looks at it here
NONE_CAME: Final = (
    "no invitation came into view: hold the code of 'postern site invite --png' or '--qr' still before the camera, flat"
    " and whole, so near that it fills two thirds of the picture's height"
)
ANOTHER_CODE: Final = "a code is in view, and it is no invitation: show the one that 'postern site invite' made"


def scan(
    camera: Camera,
    read: Callable[[Picture], Sequence[bytes]],
    clock: Clock,
    *,
    patience_s: float,
    tell: Callable[[str], None],
) -> Invitation:
    """The first invitation that comes into view of an open ``camera``; ``read`` gives the contents of codes.

    Raises RetryError when none came within ``patience_s``, RefusedError for one that is damaged.
    """
    end_ns, told = clock.monotonic_ns() + round(patience_s * 1e9), False
    for frame in camera.frames():
        with frame:
            contents = read(frame.main)
        for content in contents:
            text = content.decode("ascii", errors="replace")
            if text.upper().startswith(PREFIX):
                return read_invitation(text)
        if contents and not told:
            tell(ANOTHER_CODE)
            told = True
        if clock.monotonic_ns() >= end_ns:
            break
    raise RetryError(NONE_CAME)


def look_for_one(config: Config, clock: Clock, *, tell: Callable[[str], None]) -> Invitation:
    """The invitation that somebody holds before the camera of ``config``, which nobody else may use meanwhile.

    Raises as ``scan``, DeviceLostError where nothing reads codes, and what opening the camera raises.
    """
    codes = QrCodes()
    tell("hold the invitation's code before the camera")
    with open_camera(config.camera, lores_size=LORES, clock=clock) as camera:
        invitation = scan(camera, codes.read, clock, patience_s=PATIENCE_S, tell=tell)
    tell(f"read: the invitation of {invitation.unit}, site {invitation.site}")
    _check_configured(invitation, config)
    return invitation


def _check_configured(invitation: Invitation, config: Config) -> None:
    """RefusedError where the configuration is another unit's than the invitation, or names another broker."""
    mine, brought = (config.unit.site, config.unit.id), (invitation.site, invitation.unit)
    if mine != brought:
        raise RefusedError(
            f"the invitation is for {brought[1]} of site {brought[0]}, the configuration for {mine[1]} of site"
            f" {mine[0]}: show this unit's own, or correct the section unit",
            reason="other_unit",
        )
    if (config.broker.host, config.broker.port) != (invitation.host, invitation.port):
        raise RefusedError(
            f"the invitation names the broker {invitation.host}:{invitation.port}, the configuration"
            f" {config.broker.host}:{config.broker.port}: correct the section broker, then show it again",
            reason="other_broker",
        )
