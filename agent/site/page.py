# SPDX-License-Identifier: Apache-2.0
"""The list of units as one page for a browser: plain HTML without a script, so that what a unit said is but text.

It holds what ``postern site units`` says, and nobody's name, face or score. It is a file; who may see it is up to who
serves it.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from agent.site.fleet import UnitState

RELOAD_S = 60  # how often a browser asks again; health comes once a minute
_STYLE = """
body { font: 16px/1.4 system-ui, sans-serif; margin: 1rem; color: #1a1a1a; background: #fff; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid #ccc; }
td ul, header ul { margin: 0; padding-left: 1.1rem; }
.online { color: #0a5c2b; } .offline, .silent, .unheard { color: #9b1c1c; } .waiting, .invited { color: #7a4b00; }
"""


def fleet_page(site: str, units: Iterable[UnitState], service: Iterable[str], *, at: str) -> str:
    """The page; ``service`` is what is to be done about the site's service, ``at`` when this was written."""
    rows = "".join(_row(unit) for unit in units)
    todo = "".join(f"<li>{escape(advice)}</li>" for advice in service)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="refresh" content="{RELOAD_S}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Units of {escape(site)}</title><style>{_STYLE}</style></head><body>"
        f"<header><h1>Units of {escape(site)}</h1><p>Written at {escape(at)}.</p><ul>{todo}</ul></header>"
        "<table><thead><tr><th>unit</th><th>state</th><th>what is known</th><th>what to do</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></body></html>\n"
    )


def _row(unit: UnitState) -> str:
    advice = "".join(f"<li>{escape(one)}</li>" for one in unit.advice)
    state = escape(unit.state)
    return (
        f'<tr><th scope="row">{escape(unit.unit)}</th><td class="{state}">{state}</td>'
        f"<td>{escape(unit.summary())}</td><td><ul>{advice}</ul></td></tr>\n"
    )
