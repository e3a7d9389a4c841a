# SPDX-License-Identifier: Apache-2.0
"""Debian's own Chromium, headless, as the phone or the laptop of an installer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
STARTUP_MS = 110_000  # the driver's own bound is a minute, too short beside much else; its client waits for two
PHONE = {"width": 390, "height": 844, "pixelRatio": 2.0, "touch": True, "mobile": True}


@contextmanager
def chromium(*, phone: bool = False) -> Iterator[WebDriver]:
    """One browser with a profile of its own; skips the test where there is none.

    It takes the console's certificate, as an installer does who has compared its fingerprint.
    """
    if not (shutil.which(CHROMIUM) and shutil.which(DRIVER)):
        message = "Chromium is not installed: apt-get install chromium chromium-driver"
        if os.environ.get("POSTERN_REQUIRE_CHROMIUM") == "1":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    from selenium import webdriver  # noqa: PLC0415 - only where there is a browser

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.accept_insecure_certs = True
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--lang=en"):
        options.add_argument(argument)
    options.add_argument("--window-size=1100,1300")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("browserStartupTimeout", STARTUP_MS)
    if phone:
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": PHONE})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield browser
    finally:
        browser.quit()
