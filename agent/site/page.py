# SPDX-License-Identifier: Apache-2.0
"""The list of units as one page for a browser: plain HTML without a script, so that what a unit said is but text.

It holds what ``postern site units`` says, and nobody's name, face or score. It is a file; ``postern site console``
shows it in a browser, behind a code.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from typing import Final

from agent.site.fleet import UnitState

RELOAD_S: Final = 60  # how often a browser asks again; health comes once a minute
STYLE: Final = """
body { font: 16px/1.4 system-ui, sans-serif; margin: 1rem; color: #1a1a1a; background: #fff; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .5rem; border-bottom: 1px solid #ccc; }
th, td { overflow-wrap: anywhere; }
thead th { position: sticky; top: 0; background: #fff; }
tbody th, .state { white-space: nowrap; }
.todo { min-width: 16rem; }
ul { margin: 0; padding-left: 1.1rem; }
span { display: inline-block; margin-right: .9rem; }
span::before { content: attr(data-of) " "; color: #555; font-size: .875rem; }
input, button { font: inherit; padding: .5rem; }
.online { color: #0a5c2b; } .waiting, .invited { color: #7a4b00; }
.offline, .silent, .unheard, .late { color: #9b1c1c; }
@media (max-width: 45rem) {
  table, tbody, tr, th, td { display: block; border: 0; padding: .1rem 0; }
  thead, td:empty { display: none; }
  tr { border-bottom: 1px solid #ccc; padding: .6rem 0; }
  tbody th, .state { display: inline-block; margin-right: .9rem; }
}
"""
# Of this style alone: neither a script nor another style is taken, wherever it came from (CSP Level 3 sec. 2.3.1).
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
)


def fleet_page(site: str, units: Iterable[UnitState], service: Iterable[str], *, at: str) -> str:
    """The page; ``service`` is what is to be done about the site's service, ``at`` when this was written."""
    units = tuple(units)
    busy = sum(bool(unit.advice) for unit in units)
    todo = "".join(f"<li>{escape(advice)}</li>" for advice in service)
    heads = "".join(f"<th>{name}</th>" for name in ("unit", "state", "what to do", "what it says"))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="refresh" content="{RELOAD_S}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>Units of {escape(site)}</title><style>{STYLE}</style></head><body>"
        f"<header><h1>Units of {escape(site)}</h1>"
        f"<p>{len(units)} units, something to do about {busy} of them. Written at {escape(at)}.</p>"
        f"<ul>{todo}</ul></header>"
        f"<table><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(map(_row, units))}</tbody></table></body></html>\n"
    )


def _row(unit: UnitState) -> str:
    advice = "".join(f"<li>{escape(one)}</li>" for one in unit.advice)
    said = " ".join(f'<span data-of="{escape(name)}">{escape(text)}</span>' for name, text in unit.known().items())
    state = escape(unit.state)
    return (
        f'<tr><th scope="row">{escape(unit.unit)}</th><td class="state {state}">{state}</td>'
        f'<td class="todo">{f"<ul>{advice}</ul>" if advice else ""}</td><td>{said}</td></tr>\n'
    )
