# SPDX-License-Identifier: Apache-2.0
"""The page of a site's units: what ``postern site units`` says, and nothing that a unit could put into a browser."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agent.protocol.health import ConfigurationState
from agent.protocol.record import save
from agent.site.fleet import UnitState, list_units
from agent.site.page import fleet_page
from agent.site.seen import UnitSeen
from tests.simulators.site_office import SiteOffice

TAGS = {"html", "head", "meta", "title", "style", "body", "header", "span", "h1", "p", "ul", "li"} | {
    "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.names: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(max_size=100))
def test_what_a_unit_says_is_text_and_no_more(said: str) -> None:
    hostile = "<script>alert(1)</script>" + said + "\"' onload=x"
    seen = UnitSeen(version=1, unit="door-1", at="2026-11-27T00:00:00Z", release=hostile, camera=hostile)
    page = Page(fleet_page("hq", [UnitState("door-1", "online", seen, (hostile,))], [hostile], at="now"))
    assert page.tags <= TAGS
    assert page.names <= {"lang", "charset", "http-equiv", "content", "name", "scope", "class", "data-of"}
    assert "<script>alert(1)</script>" in page.text


def test_the_page_lists_every_unit_with_what_to_do(tmp_path: Path) -> None:
    office = SiteOffice(tmp_path)
    office.enrol("door-1")
    seen = UnitSeen(version=1, unit="door-1", at="2026-01-01T00:00:00Z", clock="unsynced", release="0.2.0")
    save(office.files.seen / "door-1.json", seen)
    out = tmp_path / "units.html"
    words = [sys.executable, "-m", "agent", "site", "units", "-f", str(office.site), "--page", str(out)]
    subprocess.run(words, check=True, timeout=60)
    text = Page(out.read_text()).text
    for word in (
        "Units of hq",
        "door-1",
        "silent",
        "0.2.0",
        "let it reach a time server",
        "postern site delegate",
        "1 of them",
    ):
        assert word in text
    missing = subprocess.run([*words[:-1], str(tmp_path / "none" / "x")], capture_output=True, text=True, check=False)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)


def test_why_settings_do_not_fit_a_unit_is_said_once_and_what_else_it_did_not_take_still_is(tmp_path: Path) -> None:
    office = SiteOffice(tmp_path)
    office.enrol("door-1")
    why = "fleet.yaml:4: activation.dwell_ms: the unit's own file says 600"

    def advice(told: str) -> list[str]:
        state = ConfigurationState(serial=3, digest="sha256:" + "a" * 64, state="refused", why=why)
        at = f"{office.clock.now():%Y-%m-%dT%H:%M:%SZ}"
        seen = UnitSeen(version=1, unit="door-1", at=at, told=told, configuration=state)
        save(office.files.seen / "door-1.json", seen)
        (unit,) = list_units(office.site, clock=office.clock)
        return [one for one in unit.advice if "not fit" in one or "not taken" in one]

    assert len(advice(f"configuration: bad_configuration: {why}")) == 1
    assert len(advice("epoch_keys: replayed: this unit has newer ones")) == 2
