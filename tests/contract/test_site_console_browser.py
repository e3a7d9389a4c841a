# SPDX-License-Identifier: Apache-2.0
"""The list of a site's units in a real Chromium, on a laptop and on a phone, and what a unit that lies gets by it.

Outside CI, as the unit's console: POSTERN_BROWSER=1 plays it. With POSTERN_SCREENSHOTS=deploy/site the pictures of the
documentation are taken anew.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from agent.protocol.names import round_down
from agent.protocol.record import save
from agent.site.seen import UnitSeen
from tests.contract.test_console_browser import Page, listens, wait_for
from tests.simulators.browser import chromium
from tests.simulators.ports import free_port
from tests.simulators.site_office import SiteOffice

browser_alone = pytest.mark.skipif(os.environ.get("POSTERN_BROWSER") != "1", reason="POSTERN_BROWSER=1 plays one")
pytestmark = pytest.mark.timeout(300)

DOCUMENTED = ("laptop-units", "phone-units")
KEPT = Path(__file__).parents[2] / "deploy" / "site"
COMMAND = [sys.executable, "-m", "agent", "site"]
LIE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


def a_site(folder: Path) -> SiteOffice:
    """Units as one finds them on a Monday, and one that tells lies."""
    office, now = SiteOffice(folder), datetime.now(UTC)
    well = UnitSeen(
        version=1,
        unit="door-1",
        at=round_down(now, 1),
        online=True,
        epochs=3,
        certificate_days=364,
        queue=0,
        clock="synced",
        recognition="on",
        release="0.2.0",
        camera="rtsp 1920x1080",
        policy="sha256:" + "5" * 64,
        models={"detector": "sha256:" + "a" * 64, "embedder": "sha256:" + "b" * 64},
        renews=True,
        configures=True,
    )
    old = round_down(now - timedelta(hours=5), 1)
    for name, changes in {
        "door-1": {},
        "door-2": {"clock": "unsynced", "camera": "none"},
        "gate-north": {"at": old, "online": False, "queue": 14},
        "hall": {"queue": 250, "epochs": 1, "certificate_days": 21},
        "yard": {"release": LIE, "camera": LIE, "update": LIE, "told": LIE, "models": {LIE[:60]: LIE}},
    }.items():
        office.enrol(name)
        save(office.files.seen / f"{name}.json", msgspec.structs.replace(well, unit=name, **changes))
    for act in (["delegate"], ["broker", "127.0.0.1"], ["invite", "stairs", "-o", folder / "x"]):
        subprocess.run([*COMMAND, act[0], "-f", office.site, *act[1:]], check=True, timeout=60)
    return office


class Opened:
    """The console's process, and what it said."""

    def __init__(self, page: Path, port: int) -> None:
        words = [*COMMAND, "console", "--page", page, "--address", "127.0.0.1", "--port", str(port), "--minutes", "5"]
        self.files = page.parent / "memory"
        self.files.mkdir()
        self.process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(self.files)},
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.address = self.process.stdout.readline().strip()
        self.code = self.process.stderr.readline().split()[1].rstrip(",")
        self.fingerprint = self.process.stderr.readline()
        wait_for(lambda: listens(port))

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Of a page alone: the site's folder is gone, so whatever the process needs of it would be missed."""
    office, page = a_site(tmp_path), tmp_path / "units.html"
    subprocess.run([*COMMAND, "units", "-f", office.site, "--page", page], check=True, timeout=60)
    shutil.rmtree(office.site)
    made = Opened(page, free_port())
    yield made
    made.end()


def test_the_documentation_shows_what_this_test_saw() -> None:
    text = (KEPT / "README.md").read_text()
    assert {path.stem for path in KEPT.glob("*.png")} == set(DOCUMENTED)
    assert all(f"({name}.png)" in text for name in DOCUMENTED)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_ends_it_without_a_word_and_leaves_nothing(opened: Opened, number: int, status: int) -> None:
    assert re.fullmatch(r"https://127\.0\.0\.1:\d+/", opened.address)
    assert "SHA-256" in opened.fingerprint
    assert list(opened.files.iterdir()), "its own key and certificate"
    assert opened.end(number) == (status, "")
    assert not list(opened.files.iterdir())


@browser_alone
@pytest.mark.parametrize("name", ["laptop", "phone"])
def test_the_list_of_units_in_a_browser(opened: Opened, name: str) -> None:
    with chromium(phone=name == "phone") as browser:
        page = Page(browser, name)
        browser.get(opened.address)
        assert "door-1" not in browser.page_source
        browser.find_element("name", "code").send_keys(opened.code.lower().replace("-", " "))
        browser.find_element("css selector", "button").click()
        wait_for(lambda: "Units of hq" in browser.title)
        text = browser.find_element("tag name", "body").text
        for word in ("door-1", "gate-north", "offline", "stairs", "invited", "let it reach a time server", "364 days"):
            assert word in text
        assert "aaaaaaaaaaaa" in text, "digests of models"
        assert LIE[:40] in text, "what a unit says is text"
        assert browser.title == "Units of hq", "and runs nothing"
        assert not page.complaints(), "neither an image nor a script was even asked for"
        wide, seen = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert wide <= seen, "nothing to push aside on this screen"
        if name == "laptop":  # the picture is of the units that tell no lies
            browser.set_window_size(1100, 900)
        page.keep("units", DOCUMENTED)
        browser.refresh()
        assert "door-1" in browser.page_source, "the session stays"
    with chromium() as other:
        other.get(opened.address)
        other.find_element("name", "code").send_keys(opened.code)
        other.find_element("css selector", "button").click()
        wait_for(lambda: "this code was used" in other.page_source)
