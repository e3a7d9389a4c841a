# SPDX-License-Identifier: Apache-2.0
"""One page for whoever typed the code: a form, and behind it a file that somebody else writes anew each minute.

No script, no JSON, and nothing to change: the process reads that one file, and holds no key but its own.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from agent.clock import Clock
from agent.console.access import Access
from agent.console.guard import Guard, session_of, set_session
from agent.console.opening import MAX_CODE
from agent.errors import PosternError, RefusedError, RetryError

MAX_FORM_BYTES: Final = 3 * MAX_CODE + 64  # a code with every letter as %XX, and its name
MAX_PAGE_BYTES: Final = 8 * 1024 * 1024  # of 4 000 units, the most that a site lists, it has 5
LATE: Final = timedelta(minutes=5)  # after the last writing; each minute there is one
FORM: Final = "application/x-www-form-urlencoded"
_BEGINS: Final = "<!DOCTYPE html>"  # a name that was typed wrong puts no key of the site on the network
_HEAD: Final = "<header>"
_FORM: Final = (
    '<form method="post" action="/login"><label>Code <input name="code" autocomplete="off" autofocus'
    f' autocapitalize="characters" spellcheck="false" maxlength="{MAX_CODE}"></label> <button>Show</button></form>'
)


def read_page(file: Path, clock: Clock, *, writer: str) -> str:
    """The page in ``file``, with a warning where it was not written lately by ``writer``. RetryError without one."""
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_PAGE_BYTES + 1)
        written = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    except OSError as error:
        raise RetryError(
            f"cannot read {file} ({error.strerror}): is {writer} running, and may this user read it?"
        ) from error
    if len(content) > MAX_PAGE_BYTES:
        raise RetryError(f"{file} is larger than {MAX_PAGE_BYTES} bytes: it is not what {writer} writes")
    page = content.decode(errors="replace")
    if not page.startswith(_BEGINS):
        raise RetryError(f"{file} is no page: give the one that {writer} writes")
    if abs(clock.now() - written) > LATE:
        warning = (
            f'<p class="late">Written at {written:%Y-%m-%d %H:%M} UTC, and not since: is {escape(writer)} running?</p>'
        )
        page = page.replace(_HEAD, _HEAD + warning, 1)
    return page


def make_list_app(
    host: str, access: Access, page: Callable[[], str], *, title: str, style: str, policy: str
) -> ASGIApp:
    """``page`` may block; it raises PosternError where there is none. ``policy`` lets ``style`` alone through."""

    def plain(said: str, status: int, form: str = "") -> Response:
        text = (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)}</title><style>{style}</style></head><body>"
            f"<h1>{escape(title)}</h1><p>{escape(said)}</p>{form}</body></html>\n"
        )
        return HTMLResponse(text, status_code=status)

    async def show(request: Request) -> Response:
        if access.scope(session_of(request)) is None:
            return plain("Type the code that stands where this was opened.", 200, _FORM)
        try:
            return HTMLResponse(await run_in_threadpool(page))
        except PosternError as error:
            return plain(str(error), 503)

    async def login(request: Request) -> Response:
        try:
            token = access.login(await _code(request))
        except RefusedError as error:
            return plain(str(error), 429 if error.reason == "too_fast" else 422, _FORM)
        answer = RedirectResponse("/", status_code=303)
        set_session(answer, token)
        return answer

    routes = [Route("/", show), Route("/login", login, methods=["POST"])]
    whole = f"{policy}; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    return Guard(Starlette(routes=routes), host, kind=FORM, policy=whole)


async def _code(request: Request) -> str:
    """The code of a form; empty where there is none."""
    content = b""
    try:
        async for part in request.stream():
            content += part
            if len(content) > MAX_FORM_BYTES:
                return ""
    except ClientDisconnect:
        return ""
    try:
        return parse_qs(content.decode(errors="replace"), max_num_fields=4).get("code", [""])[0]
    except ValueError:  # more fields than that
        return ""
