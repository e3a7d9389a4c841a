# SPDX-License-Identifier: Apache-2.0
"""Who can reach the console's port and has no code, or only another page that an installer has open, gets nothing."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Any

import pytest

from agent.clock import SimulatedClock
from agent.console.access import MAX_WRONG, Access
from agent.console.app import ACTS, Console, make_app
from agent.console.guard import COOKIE
from agent.console.link import MAX_ASK_BYTES
from agent.console.opening import (
    Scope,
    close,
    digest_of_code,
    make_code,
    make_opening,
    path_of,
    read_opening,
    write_opening,
)
from agent.errors import RefusedError
from tests.simulators.asgi import HOST, Answered, request

PAGES = Path(__file__).parents[2] / "agent" / "console" / "pages"
CODE = "7K3M-9QTA-0BCD-EFGH"
EVERYTHING = [*(f"/do/{name}" for name in ACTS), "/do/checks", "/do/check"]


class Web:
    """The console's application, and what it asked of its unit."""

    def __init__(self, scope: Scope = "install") -> None:
        self.clock = SimulatedClock()
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.flooded = 0
        self.access = Access(self.clock, secrets.token_bytes, on_flood=self._flood)
        opening = make_opening(self.clock, code=digest_of_code(CODE), minutes=30, scope=scope, by="command")
        self.access.take(opening)
        self.app = make_app(Console(HOST, self.access, self._ask, lambda: ["disk"], lambda _: [{"state": "ok"}]))

    def _flood(self) -> None:
        self.flooded += 1

    def _ask(self, what: str, arguments: Any) -> dict[str, Any]:
        self.asked.append((what, arguments))
        return {"done": what}

    def post(self, path: str, body: object = None, **headers: str) -> Answered:
        return request(self.app, "POST", path, {} if body is None else body, **headers)

    def enter(self) -> str:
        """The cookie of a session."""
        answer = self.post("/login", {"code": CODE})
        assert answer.status == 200, answer.told
        return answer.headers["set-cookie"].split(";")[0]


@pytest.mark.parametrize("path", EVERYTHING)
def test_without_the_session_nothing_is_told_and_nothing_done(path: str) -> None:
    web = Web()
    web.enter()
    for cookie in ("", f"{COOKIE}=", f"{COOKIE}={'00' * 32}", f"{COOKIE}=ä".encode().decode("latin-1")):
        answer = web.post(path, cookie=cookie)
        assert (answer.status, set(answer.told)) == (401, {"error"})
    assert web.asked == []


@pytest.mark.parametrize("path", EVERYTHING)
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": ""},
        {"origin": "null"},
        {"origin": f"http://{HOST}"},
        {"content_type": "text/plain"},
        {"content_type": "application/x-www-form-urlencoded"},
        {"content_type": ""},
        {"host": "evil.example"},
        {"host": "localhost:8443"},
    ],
)
def test_another_page_does_nothing_with_the_installers_session(path: str, headers: dict[str, str]) -> None:
    web = Web()
    answer = web.post(path, cookie=web.enter(), **headers)
    assert answer.status == 403
    assert web.asked == []
    assert request(web.app, "GET", path, cookie="x").status in {404, 405}, "a link does nothing"


def test_a_name_that_was_bound_to_the_units_address_reads_nothing() -> None:
    assert request(Web().app, "GET", "/", host="evil.example:8443").status == 403


def test_the_cookie_is_for_this_host_over_tls_and_for_no_script() -> None:
    said = Web().post("/login", {"code": CODE}).headers["set-cookie"].lower()
    assert said.startswith("__host-")
    assert {"secure", "httponly", "samesite=strict", "path=/"} <= {part.strip() for part in said.split(";")}
    assert "domain" not in said


def test_the_page_runs_its_own_script_and_nothing_else() -> None:
    for path in ("/", "/console.js", "/console.css", "/nothing"):
        headers = request(Web().app, "GET", path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
    html, script = (PAGES / "index.html").read_text(), (PAGES / "console.js").read_text()
    assert not re.search(r"\son\w+=|style=|<style|javascript:|<script(?! src=)", html)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|https?://", script)


def test_a_code_serves_one_browser_once_and_wrong_ones_cost_time_then_the_opening() -> None:
    web = Web()
    assert web.post("/login", {"code": "AAAA-AAAA-AAAA-AAAA"}).status == 422
    assert web.post("/login", {"code": CODE}).status == 429, "one try a second, the right one too"
    web.clock.advance(1.1)
    web.enter()
    web.clock.advance(1.1)
    assert web.post("/login", {"code": CODE}).told["error"].startswith("this code was used")
    other = Web()
    for _ in range(MAX_WRONG):
        other.clock.advance(1.1)
        assert other.post("/login", {"code": "x"}).status == 422
    other.clock.advance(1.1)
    assert "closed" in other.post("/login", {"code": CODE}).told["error"]
    assert other.flooded == 1


def test_a_session_ends_with_the_opening_and_with_the_next_one() -> None:
    web = Web()
    cookie = web.enter()
    assert web.post("/do/look", cookie=cookie).status == 200
    web.access.take(make_opening(web.clock, code=digest_of_code("B"), minutes=30, scope="install", by="unit"))
    assert web.post("/do/look", cookie=cookie).status == 401
    late = Web()
    cookie = late.enter()
    late.clock.advance(30 * 60 + 1)
    assert late.post("/do/look", cookie=cookie).status == 401


def test_who_leaves_has_left() -> None:
    web = Web()
    cookie = web.enter()
    assert web.post("/logout", cookie=f"{COOKIE}=other").status == 200
    assert web.post("/do/look", cookie=cookie).status == 200
    assert web.post("/logout", cookie=cookie).status == 200
    assert web.post("/do/look", cookie=cookie).status == 401


def test_an_opening_for_aiming_enrols_nobody_and_opens_nothing() -> None:
    web = Web("aim")
    cookie = web.enter()
    for name, scope in ACTS.items():
        assert web.post(f"/do/{name}", cookie=cookie).status == (200 if scope == "aim" else 403)
    assert {name for name, _ in web.asked} == {"look", "notice", "zone"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"a":1.5}',
        b'{"a":1,"a":2}',
        b"[" * 5000,
        b'{"a":"' + b"x" * MAX_ASK_BYTES + b'"}',
    ],
)
def test_bytes_of_no_page_are_refused_in_one_sentence(body: bytes) -> None:
    web = Web()
    answer = web.post("/do/look", body, cookie=web.enter())
    assert answer.status == 422
    assert set(answer.told) == {"error"}
    assert web.asked == []


def test_a_check_that_there_is_not_is_not_done() -> None:
    web = Web()
    cookie = web.enter()
    assert web.post("/do/check", {"check": "disk"}, cookie=cookie).told == {"findings": [{"state": "ok"}]}
    assert web.post("/do/check", {"check": "rm"}, cookie=cookie).status == 422


def test_the_opening_lasts_no_longer_than_was_said_not_over_a_restart_and_not_from_another_user(tmp_path: Path) -> None:
    clock, folder = SimulatedClock(), tmp_path / "run"
    folder.mkdir()
    opening = make_opening(clock, code=digest_of_code(CODE), minutes=5, scope="aim", by="unit")
    write_opening(folder, opening)
    assert read_opening(folder, clock) == opening
    path_of(folder).chmod(0o644)
    assert read_opening(folder, clock) is None, "whoever can read it could have been another who wrote it"
    path_of(folder).chmod(0o600)
    clock.advance(299)
    assert read_opening(folder, clock) == opening
    clock.advance(2)
    assert read_opening(folder, clock) is None
    path_of(folder).write_bytes(path_of(folder).read_bytes().replace(b"simulated", b"before"))
    assert read_opening(folder, SimulatedClock()) is None, "of another run of the machine"
    path_of(folder).write_bytes(b"\0" * 5000)
    assert read_opening(folder, clock) is None
    close(folder)
    close(folder)
    assert not path_of(folder).exists()


def test_a_code_is_eighty_bits_and_typed_as_people_type() -> None:
    code = make_code(secrets.token_bytes)
    assert re.fullmatch(r"([0-9A-HJKMNP-TV-Z]{4}-){3}[0-9A-HJKMNP-TV-Z]{4}", code)
    assert code != make_code(secrets.token_bytes)
    assert digest_of_code("o1lI ab-cd") == digest_of_code("0111ABCD")
    for minutes in (0, -1, 121):
        with pytest.raises(RefusedError):
            make_opening(SimulatedClock(), code=digest_of_code(code), minutes=minutes, scope="aim", by="unit")
    with pytest.raises(RefusedError):
        make_opening(SimulatedClock(), code=code, minutes=5, scope="aim", by="unit")
