# SPDX-License-Identifier: Apache-2.0
"""The rules as Mosquitto reads them: ``acl``. Its configuration is ``deploy/mosquitto/mosquitto.conf``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.site.acl import JOINING, Entry, Rules


def spell(rules: Rules) -> str:
    """The whole list. Invitations go by pattern, so that Mosquitto need not read it again for each of them.

    By that pattern a unit or program, too, may say there what nobody listens to.
    """
    head = f"# Access list of site {rules.site}, written by the site kit: changes made by hand are overwritten.\n\n"
    patterns = ((access, topic.format(site=rules.site, name="%u")) for access, topic in JOINING)
    joining = "".join(f"pattern {access} {topic}\n" for access, topic in patterns)
    return head + joining + "\n" + "\n".join(_blocks((*rules.units, *rules.programs)))


def by_name(text: str) -> dict[str, str]:
    """Split a list by name."""
    return dict(entry.partition("\n")[::2] for entry in text.split("user ")[1:])


def configuration() -> Mapping[str, str]:
    """Nothing that follows from the site: the deployed file is the whole of it."""
    return {}


def _blocks(entries: Iterable[Entry]) -> Iterable[str]:
    for entry in entries:
        yield f"user {entry.name}\n" + "".join(f"topic {access} {topic}\n" for access, topic in entry.rights)
