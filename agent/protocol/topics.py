# SPDX-License-Identifier: Apache-2.0
"""Every topic of a unit, in one place. Names cannot hold a wildcard, a separator or a control character."""

from __future__ import annotations

from agent.errors import printable
from agent.protocol.event import KINDS
from agent.protocol.names import BOARD_ROOT, TOPIC_ROOT, check_name

# Home Assistant's. The unit is a level of its own there, because a broker's ACL can only substitute whole levels.
DISCOVERY_PREFIX = "homeassistant"


def _check_kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"unknown event kind '{printable(kind)}'")
    return kind


class Topics:
    """The topics of one unit of one site. ``requests`` is a filter; verbs may hold one '/', as in ``enrol/begin``."""

    def __init__(self, site: str, unit: str) -> None:
        self.site = check_name("site", site)
        self.unit = check_name("unit", unit)
        self.base = f"{TOPIC_ROOT}/{site}/{unit}"
        self.availability = f"{self.base}/availability"
        self.info = f"{self.base}/info"
        self.health = f"{self.base}/health"
        self.discovery = f"{DISCOVERY_PREFIX}/device/postern-{site}/{unit}/config"
        self.requests = f"{self.base}/request/#"

    def event(self, kind: str) -> str:
        return f"{self.base}/event/{_check_kind(kind)}"

    def backlog(self, kind: str) -> str:
        return f"{self.base}/backlog/{_check_kind(kind)}"

    def response(self, verb: str) -> str:
        return f"{self.base}/response/{verb}"

    def verb(self, topic: str) -> str | None:
        """Return the verb of a request topic of this unit, None for any other topic."""
        prefix = f"{self.base}/request/"
        return topic[len(prefix) :] if topic.startswith(prefix) else None


def list_topic(site: str) -> str:
    """Return where the site's service retains the list of units, as signed."""
    check_name("site", site)
    return f"{BOARD_ROOT}/{site}/trust"


def list_part_topic(site: str, part: int | None = None) -> str:
    """Return where one part of a longer list is retained; without ``part`` the filter for all of them."""
    return f"{list_topic(site)}/{'+' if part is None else part}"


def certificate_topic(site: str, program: str) -> str:
    """Return where the site's service retains the newest certificate of a program."""
    return f"{BOARD_ROOT}/{check_name('site', site)}/certificate/{check_name('program', program)}"


def resolving_topic(site: str, program: str) -> str:
    """Return where the site's service retains the epoch keys of a program that may resolve, sealed to it."""
    return f"{BOARD_ROOT}/{check_name('site', site)}/epoch-keys/{check_name('program', program)}"


def event_filters(site: str) -> tuple[str, str]:
    """Return what a subscriber listens to: live events and backlog of every unit of the site."""
    check_name("site", site)
    return f"{TOPIC_ROOT}/{site}/+/event/+", f"{TOPIC_ROOT}/{site}/+/backlog/+"


def replay_filter(site: str) -> str:
    """Return what the units of the site answer to whoever asks for missed events."""
    check_name("site", site)
    return f"{TOPIC_ROOT}/{site}/+/response/outbox/replay"


def health_filter(site: str) -> str:
    """Return the health of every unit of the site."""
    check_name("site", site)
    return f"{TOPIC_ROOT}/{site}/+/health"
