# SPDX-License-Identifier: Apache-2.0
"""The console of a running unit in a real Chromium: aim, draw the zone, check, enrol, on a laptop and on a phone.

Outside CI, because a browser beside a unit needs a machine that is not busy: POSTERN_BROWSER=1 plays it. With
POSTERN_SCREENSHOTS=deploy/console the pictures of the documentation are taken anew; the people on them are drawn.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agent.audit.chain import read_entries
from agent.clock import SystemClock
from agent.config.load import load_config
from agent.config.schema import ZoneActivation
from agent.console.opening import read_opening
from tests.contract.test_commands_of_a_running_unit import NOBODY, PATIENCE_S, SCENE, RunningUnit
from tests.simulators.browser import chromium
from tests.simulators.ports import free_port

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

pytestmark = [
    pytest.mark.broker,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.environ.get("POSTERN_BROWSER") != "1", reason="POSTERN_BROWSER=1 plays a real browser"),
]

DOCUMENTED = ("laptop-zone", "phone-picture", "phone-captures", "phone-receipt")
KEPT = Path(__file__).parents[2] / "deploy" / "console"


class Opened:
    """The console's process, and what 'postern console open' said."""

    def __init__(self, unit: RunningUnit, port: int, *words: str) -> None:
        command = [sys.executable, "-m", "agent", "console"]
        where = ["-c", str(unit.site.config)]
        opened = subprocess.run([*command, "open", *words, *where], capture_output=True, text=True, timeout=PATIENCE_S)
        assert opened.returncode == 0, opened.stderr
        self.link = opened.stdout.strip()
        self.address, _, self.code = self.link.partition("#")
        self.process = subprocess.Popen([*command, "serve", *where], stderr=subprocess.PIPE, text=True)
        wait_for(lambda: listens(port))

    def end(self) -> str:
        self.process.terminate()
        return self.process.communicate(timeout=30)[1]


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def wait_for(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


@pytest.fixture(scope="module")
def unit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningUnit, int]]:
    if shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("mosquitto is not installed")
    folder, port = tmp_path_factory.mktemp("console"), free_port()
    made = RunningUnit(
        folder,
        {**SCENE, "presses": [n * 5 for n in range(60)]},  # for five minutes, on a machine that is busy
        camera={"source": "scene", "script": str(folder / "scene.yaml"), "loop": True},
        console={"address": "127.0.0.1", "port": port, "folder": str(folder / "run")},
    )
    yield made, port
    made.process.terminate()
    made.process.communicate(timeout=30)
    made.broker.stop()


class Page:
    """What a person does on the page."""

    def __init__(self, browser: WebDriver, name: str) -> None:
        self.browser, self._name = browser, name

    def text(self, element: str) -> str:
        return str(self.browser.execute_script("return document.getElementById(arguments[0]).innerText", element))

    def shown(self, element: str) -> bool:
        return self.browser.find_element("id", element).is_displayed()

    def click(self, element: str) -> None:
        self.browser.find_element("id", element).click()

    def tab(self, name: str) -> None:
        self.browser.find_element("css selector", f"[data-tab={name}]").click()

    def keep(self, name: str, documented: tuple[str, ...] = DOCUMENTED) -> None:
        """Take the picture that the documentation shows."""
        folder = os.environ.get("POSTERN_SCREENSHOTS")
        if folder is not None and f"{self._name}-{name}" in documented:
            self.browser.save_screenshot(str(Path(folder) / f"{self._name}-{name}.png"))

    def wait_for(self, condition: Callable[[], Any]) -> None:
        """Wait as a person does, who looks at the page where nothing happens."""
        try:
            wait_for(condition)
        except AssertionError as error:
            body = self.browser.find_element("tag name", "body").text
            told = f"{self.text('error')!r}, {self.complaints()[-3:]}, {body}"
            raise AssertionError(f"it did not happen in time; the page says {told}") from error

    def complaints(self) -> list[str]:
        """What the browser refused or could not do."""
        return [one["message"] for one in self.browser.get_log("browser") if one["level"] == "SEVERE"]


def enter(page: Page, opened: Opened) -> None:
    page.browser.get(opened.link)
    assert page.browser.find_element("id", "code").get_attribute("value") == opened.code
    assert opened.code not in page.browser.current_url, "the code stays in no history"
    page.browser.find_element("css selector", "#login button").click()
    page.wait_for(lambda: "face of" in page.text("faces"))


def saved(unit: RunningUnit) -> Any:
    """The zone that whoever reads the configuration finds."""
    activation = load_config(unit.site.config).activation
    assert isinstance(activation, ZoneActivation)
    return activation.polygon


def corners(page: Page, where: list[tuple[float, float]]) -> None:
    """Tap the corners of a zone, in fractions of the picture."""
    from selenium.webdriver import ActionChains  # noqa: PLC0415 - only where there is a browser

    page.click("zone-new")
    view = page.browser.find_element("id", "view")
    width, height = view.size["width"], view.size["height"]
    for x, y in where:
        taps = ActionChains(page.browser)
        place = round((x - 0.5) * width), round((y - 0.5) * height)
        taps.move_to_element_with_offset(view, *place).click().perform()


def test_the_documentation_shows_what_this_test_saw() -> None:
    text = (KEPT / "README.md").read_text()
    assert {path.stem for path in KEPT.glob("*.png")} == set(DOCUMENTED)
    assert all(f"({name}.png)" in text for name in DOCUMENTED)


@pytest.mark.parametrize("name", ["laptop", "phone"])
def test_an_installer_aims_draws_the_zone_checks_and_enrols(
    unit: tuple[RunningUnit, int], tmp_path: Path, name: str
) -> None:
    running, port = unit
    with chromium(phone=name == "phone") as browser:
        opened, page = Opened(running, port), Page(browser, name)
        try:
            enter(page, opened)
            page.wait_for(lambda: "accepted here" in page.text("faces"))
            assert "1280 x 720" in page.text("camera")
            page.keep("picture")

            zone = [(0.2, 0.1), (0.8, 0.1), (0.8, 0.95), (0.2, 0.9 if name == "phone" else 0.95)]
            corners(page, zone)
            page.keep("zone")
            page.click("zone-save")
            page.wait_for(lambda: page.shown("zone-new"))
            page.wait_for(lambda: saved(running)[0] == pytest.approx((0.2, 0.1), abs=0.02))
            page.wait_for(lambda: "face of" in page.text("faces") and not page.shown("waiting"))

            page.tab("checks")
            page.click("check-all")
            page.wait_for(
                lambda: "broker:" in page.text("findings") and browser.find_element("id", "check-all").is_enabled()
            )
            assert "signing key" in page.text("findings")
            assert "FAULT" not in page.text("findings")

            signed = tmp_path / "signed.pdf"
            signed.write_bytes(b"%PDF the person signed this " + name.encode())
            page.tab("enrol")
            page.wait_for(lambda: "NOTICE" in page.text("notice"))
            page.click("read")
            browser.find_element("id", "evidence").send_keys(str(signed))
            browser.find_element("id", "days").clear()
            browser.find_element("id", "days").send_keys("1")
            page.click("begin")
            page.wait_for(lambda: page.shown("captures"))
            page.wait_for(lambda: page.shown("commit"))
            page.keep("captures")
            page.click("commit")
            page.wait_for(lambda: page.shown("receipt"))
            page.keep("receipt")
            subject = browser.find_element("css selector", "#receipt dd").text
            refused = [one for one in page.complaints() if "/do/look" not in one]  # while the unit reads its zone
            assert refused == []
        finally:
            opened.end()
    held = running.ask("gallery/status").data
    assert held is not None
    assert held["subjects"] == [subject]
    running.ask("subject/revoke", {"subject": subject})
    assert running.ask("gallery/status").data == NOBODY
    entries = list(read_entries(load_config(running.site.config).audit.path))
    assert {entry.facts.get("what") for entry in entries if entry.kind == "console"} >= {"opened", "zone"}


def test_a_zone_that_cannot_be_is_refused_in_one_sentence(unit: tuple[RunningUnit, int]) -> None:
    running, port = unit
    with chromium() as browser:
        opened, page = Opened(running, port, "--scope", "aim"), Page(browser, "laptop")
        try:
            enter(page, opened)
            assert not browser.find_element("css selector", "[data-tab=enrol]").is_displayed(), "aim enrols nobody"
            corners(page, [(0.2, 0.2), (0.8, 0.8), (0.8, 0.2), (0.2, 0.8)])
            page.click("zone-save")
            page.wait_for(lambda: page.shown("error"))
            assert page.text("error") == "the sides of the zone cross each other; list the corners in order around it"
        finally:
            opened.end()


def test_the_site_opens_the_console_by_command_with_a_code_that_never_travels(unit: tuple[RunningUnit, int]) -> None:
    running, port = unit
    made = subprocess.run(
        [sys.executable, "-m", "agent", "console", "code"], capture_output=True, text=True, timeout=PATIENCE_S
    )
    digest, code = made.stdout.strip(), made.stderr.split("the code is ")[1].split(":")[0]
    answer = running.ask("console/open", {"code": digest, "minutes": "5"})
    assert answer.data is not None, answer
    assert answer.data["seconds"] == 300
    assert code not in json.dumps(answer.data)
    serving = subprocess.Popen([sys.executable, "-m", "agent", "console", "serve", "-c", str(running.site.config)])
    try:
        wait_for(lambda: listens(port))
        with chromium() as browser:
            page = Page(browser, "laptop")
            browser.get(answer.data["address"])
            browser.find_element("id", "code").send_keys(code.lower().replace("-", " "))
            browser.find_element("css selector", "#login button").click()
            page.wait_for(lambda: "face of" in page.text("faces"))
            assert running.ask("console/close").data == {"console": "closed"}
            assert serving.wait(30) == 0, "the process ends with the opening"
            assert not listens(port)
    finally:
        serving.kill()
        serving.wait()


def test_the_first_start_opens_it_once_and_a_button_for_aiming_alone(tmp_path: Path) -> None:
    digest, port, display = "sha256:" + "ab" * 32, free_port(), tmp_path / "display"
    folder = tmp_path / "run"
    presses = {"address": "127.0.0.1", "port": port, "folder": str(folder), "first_boot_code": digest}
    running = RunningUnit(
        tmp_path / "site",
        feedback={"text": str(display)},
        console={**presses, "button": {"kind": "scene"}},
    )
    try:
        log = load_config(running.site.config).audit.path

        def opened() -> list[tuple[Any, Any]]:
            entries = [one.facts for one in read_entries(log) if one.kind == "console"]
            return [(one.get("by"), one.get("scope")) for one in entries if one["what"] == "opened"]

        wait_for(lambda: ("first_boot", "install") in opened() or ("button", "aim") in opened())
        wait_for(lambda: ("button", "aim") in opened())
        assert opened()[0] in {("first_boot", "install"), ("button", "aim")}
        wait_for(lambda: "code" in display.read_text())
        shown = display.read_text().split()
        assert shown[0] == f"https://127.0.0.1:{port}/"
        held = read_opening(folder, SystemClock())
        assert held is not None
        assert held.scope == "aim"
        running.restart()
        first = [one for one in opened() if one[0] == "first_boot"]
        assert len(first) <= 1, "once"
    finally:
        running.process.terminate()
        running.process.communicate(timeout=30)
        running.broker.stop()
