# SPDX-License-Identifier: Apache-2.0
"""Who reaches the site's console without its code, by another page, or as a unit that lies, gets nothing by it."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from agent.clock import SimulatedClock
from agent.console.access import MAX_WRONG, Access
from agent.console.guard import COOKIE
from agent.console.listed import FORM, MAX_FORM_BYTES, MAX_PAGE_BYTES, make_list_app, read_page
from agent.console.opening import digest_of_code, make_opening
from agent.errors import RetryError
from agent.site.fleet import UnitState
from agent.site.page import POLICY, STYLE, fleet_page
from agent.site.seen import UnitSeen
from tests.simulators.asgi import HOST, Answered, request

CODE = "7K3M-9QTA-0BCD-EFGH"
SECRET = "door-of-the-vault"


def list_of(*advice: str) -> str:
    return fleet_page("hq", [UnitState(SECRET, "online", UnitSeen(version=1, unit=SECRET), advice)], (), at="now")


class Web:
    """The console's application."""

    def __init__(self, page: Callable[[], str] = list_of) -> None:
        self.clock, self.floods = SimulatedClock(), 0
        self.access = Access(self.clock, secrets.token_bytes, on_flood=self._flood)
        opening = make_opening(self.clock, code=digest_of_code(CODE), minutes=30, scope="aim", by="command")
        self.access.take(opening)
        self.app = make_list_app(HOST, self.access, page, title="Units", style=STYLE, policy=POLICY)

    def _flood(self) -> None:
        self.floods += 1

    def login(self, body: bytes = b"code=" + quote(CODE).encode(), **headers: str) -> Answered:
        return request(self.app, "POST", "/login", body, **{"content_type": FORM, **headers})

    def get(self, cookie: str = "", **headers: str) -> Answered:
        return request(self.app, "GET", "/", cookie=cookie, **headers)

    def enter(self) -> str:
        """The cookie of a session."""
        answer = self.login()
        assert (answer.status, answer.headers["location"]) == (303, "/")
        return answer.headers["set-cookie"].split(";")[0]


def test_without_the_session_no_unit_is_named() -> None:
    web = Web()
    mine = web.enter()
    for cookie in ("", f"{COOKIE}=", f"{COOKIE}={'00' * 32}", f"{COOKIE}=ä".encode().decode("latin-1"), "x=y"):
        answer = web.get(cookie)
        assert answer.status == 200
        assert SECRET.encode() not in answer.body
        assert b'action="/login"' in answer.body
    assert SECRET.encode() in web.get(mine).body


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": ""},
        {"origin": "null"},
        {"origin": f"http://{HOST}"},
        {"content_type": "text/plain"},
        {"content_type": "application/json"},
        {"host": "evil.example"},
    ],
)
def test_another_page_logs_nobody_in(headers: dict[str, str]) -> None:
    web = Web()
    answer = web.login(**headers)
    assert answer.status == 403
    assert "set-cookie" not in answer.headers
    assert web.get(web.enter(), host="evil.example:8443").status == 403, "a name bound to this address reads nothing"


def test_there_is_nothing_to_change_and_no_other_address() -> None:
    web = Web()
    cookie = web.enter()
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert request(web.app, method, "/", b"", cookie=cookie, content_type=FORM).status == 405
    for path in ("/login/", "/../site.key", "/units.html", "/console.js", "//"):
        assert request(web.app, "GET", path, cookie=cookie).status in {307, 404}
    assert request(web.app, "GET", "/login", cookie=cookie).status == 405


def test_the_browser_takes_this_style_alone_and_no_script_from_anywhere() -> None:
    web = Web()
    told = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    for answer in (web.get(), web.get(web.enter()), request(web.app, "GET", "/none"), web.login(b"code=x")):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith(f"default-src 'none'; style-src 'sha256-{told}';")
        assert "script-src" not in policy, "default-src 'none' counts"
        assert "unsafe" not in policy
        assert {"base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'"} <= set(policy.split("; "))
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(rb"<script|javascript:|\son\w+=|style=|https?://", answer.body)


def test_a_code_serves_one_browser_once_and_wrong_ones_cost_time_then_the_opening() -> None:
    web = Web()
    assert web.login(b"code=AAAA").status == 422
    assert web.login().status == 429, "one try a second, the right one too"
    web.clock.advance(1.1)
    web.enter()
    web.clock.advance(1.1)
    assert b"this code was used" in web.login().body
    other = Web()
    for _ in range(MAX_WRONG):
        other.clock.advance(1.1)
        assert other.login(b"code=x").status == 422
    other.clock.advance(1.1)
    assert b"closed" in other.login().body
    assert other.floods == 1


def test_the_session_ends_with_its_time() -> None:
    web = Web()
    cookie = web.enter()
    web.clock.advance(30 * 60 + 1)
    assert SECRET.encode() not in web.get(cookie).body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"code",
        b"code=%",
        b"a=1&b=2&c=3&d=4&e=5&code=" + CODE.encode(),
        b"code=" + CODE.encode() + b"&x=" + b"y" * MAX_FORM_BYTES,
        b'{"code":"' + CODE.encode() + b'"}',
    ],
)
def test_bytes_of_no_form_are_no_code(body: bytes) -> None:
    answer = Web().login(body)
    assert answer.status == 422
    assert b"this is not the code" in answer.body
    assert "set-cookie" not in answer.headers


def test_what_a_unit_says_of_itself_stays_text(tmp_path: Path) -> None:
    said = "</td><script>alert(1)</script><header>"
    file = tmp_path / "units.html"
    file.write_text(list_of(said))
    clock = SimulatedClock()
    page = read_page(file, clock, writer="the <b>service</b>")
    assert "<script" not in page
    assert "the &lt;b&gt;service&lt;/b&gt; running?" in page, "this clock is far from the file's time"
    assert page.count("<header>") == 1


def test_a_list_that_is_old_says_so_and_one_that_is_none_is_told_in_a_sentence(tmp_path: Path) -> None:
    clock, file = SimulatedClock(), tmp_path / "units.html"
    now = clock.now().timestamp()

    def page() -> str:
        return read_page(file, clock, writer="the service")

    web = Web(page)
    cookie = web.enter()
    missing = web.get(cookie)
    assert missing.status == 503
    assert b"is the service running" in missing.body
    assert b"<form" not in missing.body
    file.write_text(list_of())
    os.utime(file, (now - 60, now - 60))
    assert b"and not since" not in web.get(cookie).body
    os.utime(file, (now - 301, now - 301))
    assert b"and not since: is the service running?" in web.get(cookie).body
    with file.open("wb") as big:
        big.truncate(MAX_PAGE_BYTES + 1)
    with pytest.raises(RetryError, match="larger than"):
        page()
