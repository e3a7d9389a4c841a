# SPDX-License-Identifier: Apache-2.0
"""The broker's access list, name by name: a unit speaks on its own branch only, a program does what its role needs.

The format is Mosquitto's (mosquitto.conf(5), ``acl_file``) with ``use_identity_as_username``. What is not
written here is forbidden. Revoked names are left out, which together with the revocation list shuts them out.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.protocol.command import CONFIGURE, RENEW
from agent.protocol.names import BOARD_ROOT, JOINING_ROOT, TOPIC_ROOT
from agent.site.records import Role

_UNIT = (
    ("write", "{base}/{name}/availability"),
    ("write", "{base}/{name}/info"),
    ("write", "{base}/{name}/health"),
    ("write", "{base}/{name}/event/+"),
    ("write", "{base}/{name}/backlog/+"),
    ("write", "{base}/{name}/response/#"),
    ("read", "{base}/{name}/request/#"),
    # Home Assistant: the unit's own discovery message, and when to send it again.
    ("write", "homeassistant/device/postern-{site}/{name}/config"),
    ("read", "homeassistant/status"),
)
_ROLES: dict[Role, tuple[tuple[str, str], ...]] = {
    "auditor": (
        ("read", "{base}/+/event/+"),
        ("read", "{base}/+/backlog/+"),
        ("read", "{base}/+/availability"),
        ("read", "{base}/+/info"),
        ("read", "{base}/+/health"),
        # What it missed: a question that changes nothing, signed by the program's own key under the site's grant.
        ("write", "{base}/+/request/outbox/replay"),
        ("read", "{base}/+/response/outbox/replay"),
        ("read", BOARD_ROOT + "/{site}/trust"),
        ("read", BOARD_ROOT + "/{site}/trust/+"),
    ),
    # Live events, never the backlog: no automation may act on the past.
    "home-assistant": (
        ("read", "{base}/+/event/+"),
        ("read", "{base}/+/availability"),
        ("read", "{base}/+/health"),
        ("read", "homeassistant/#"),
        ("read", "postern-people/{site}/#"),
        ("write", "homeassistant/status"),
    ),
    # The bridge's other hand: tells Home Assistant of people. It hears no event.
    "announcer": (
        ("write", "homeassistant/device/postern-people-{site}/+/config"),
        ("write", "postern-people/{site}/#"),
        ("read", "homeassistant/status"),
    ),
    # Commands are signed besides: this role alone opens nothing.
    "operator": (
        ("write", "{base}/+/request/#"),
        ("read", "{base}/+/response/#"),
        ("read", "{base}/+/availability"),
        ("read", "{base}/+/info"),
        ("read", "{base}/+/health"),
    ),
    # The site's service renews and configures units, and lets them join. It hears no event.
    "service": (
        *(("write", "{base}/+/request/" + verb) for verb in (RENEW, CONFIGURE)),
        *(("read", "{base}/+/response/" + verb) for verb in (RENEW, CONFIGURE)),
        ("read", "{base}/+/availability"),
        ("read", "{base}/+/info"),
        ("read", "{base}/+/health"),
        ("read", JOINING_ROOT + "/{site}/+/request"),
        ("write", JOINING_ROOT + "/{site}/+/answer"),
        ("write", BOARD_ROOT + "/{site}/trust"),
        ("write", BOARD_ROOT + "/{site}/trust/+"),
        # By this a folder that was put back from a backup hears what was signed after that.
        ("read", BOARD_ROOT + "/{site}/trust"),
        ("read", BOARD_ROOT + "/{site}/trust/+"),
        ("write", BOARD_ROOT + "/{site}/certificate/+"),
    ),
}
_OWN_CERTIFICATE = ("read", BOARD_ROOT + "/{site}/certificate/{name}")  # of every program but the service
# Who has no more than an invitation: by the name in its certificate, which is no unit's. By pattern, so that the broker
# need not read the list again for each invitation; a unit or program may say there what nobody listens to.
_JOINING = (("write", JOINING_ROOT + "/{site}/%u/request"), ("read", JOINING_ROOT + "/{site}/%u/answer"))


# Of a unit that was revoked: whoever runs the site says that it is gone, for it cannot say so itself any more.
_OF_REVOKED = (
    ("write", "{base}/{unit}/availability"),
    ("write", "{base}/{unit}/info"),
    ("write", "homeassistant/device/postern-{site}/{unit}/config"),
)


def unit_acl(site: str, unit: str) -> str:
    return _entry(site, unit, _UNIT)


def client_acl(site: str, name: str, role: Role, revoked: Iterable[str] = ()) -> str:
    lines = [*_ROLES[role], *(() if role == "service" else (_OWN_CERTIFICATE,))]
    if role == "operator":
        lines += [(access, topic.replace("{unit}", unit)) for unit in revoked for access, topic in _OF_REVOKED]
    return _entry(site, name, lines)


def acl_file(site: str, units: Iterable[str], clients: Iterable[tuple[str, Role]], revoked: Iterable[str] = ()) -> str:
    """The whole list: ``units`` and ``clients`` may connect, of the ``revoked`` units operators clear what is left."""
    gone = tuple(revoked)
    entries = [unit_acl(site, unit) for unit in units] + [client_acl(site, name, role, gone) for name, role in clients]
    head = f"# Access list of site {site}, written by the site kit: changes made by hand are overwritten.\n\n"
    joining = "".join(f"pattern {access} {topic.format(site=site)}\n" for access, topic in _JOINING)
    return head + joining + "\n" + "\n".join(entries)


def _entry(site: str, name: str, lines: Iterable[tuple[str, str]]) -> str:
    base = f"{TOPIC_ROOT}/{site}"
    rules = "".join(f"topic {access} {topic.format(base=base, site=site, name=name)}\n" for access, topic in lines)
    return f"user {name}\n{rules}"
