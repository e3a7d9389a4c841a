# SPDX-License-Identifier: Apache-2.0
"""The console's pages and what their buttons do; every answer is JSON but the three files of the page itself.

The page runs nothing but its own script file (Content-Security-Policy). Whose requests count: ``agent.console.guard``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import resources
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from agent.console.access import Access
from agent.console.guard import Guard, leave, session_of, set_session
from agent.console.link import MAX_ASK_BYTES
from agent.errors import PosternError, RefusedError, RetryError
from agent.parse.strict_json import StrictJsonError, loads

PAGES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/console.js": ("console.js", "text/javascript; charset=utf-8"),
    "/console.css": ("console.css", "text/css; charset=utf-8"),
}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# What each button asks of the unit, and the scope that it needs.
ACTS: Final = {
    "look": "aim",
    "notice": "aim",
    "zone": "aim",
    "enrol/begin": "install",
    "enrol/commit": "install",
    "enrol/abort": "install",
    "pulse": "install",
}

Answer = Callable[[Request], Awaitable[Response]]


class Console(msgspec.Struct, frozen=True):
    """What the pages stand on. ``ask`` asks the running unit, ``examine`` does one of ``checks``; both may block."""

    host: str  # as a browser names it: address and port
    access: Access
    ask: Callable[[str, Mapping[str, Any]], dict[str, Any]]
    checks: Callable[[], Sequence[str]]
    examine: Callable[[str], Sequence[Mapping[str, str]]]


def make_app(console: Console) -> ASGIApp:
    """The whole console as an ASGI application."""
    routes = [Route(path, _page(*page)) for path, page in PAGES.items()]
    routes += [Route("/login", _login(console), methods=["POST"]), Route("/logout", _logout(console), methods=["POST"])]
    routes += [Route(f"/do/{name}", _act(console, name, scope), methods=["POST"]) for name, scope in ACTS.items()]
    routes += [Route("/do/checks", _check_names(console), methods=["POST"])]
    routes += [Route("/do/check", _check(console), methods=["POST"])]
    return Guard(Starlette(routes=routes), console.host, kind="application/json", policy=POLICY)


def _page(file: str, kind: str) -> Answer:
    content = resources.files("agent.console").joinpath("pages", file).read_bytes()

    async def page(_: Request) -> Response:
        return Response(content, headers={"content-type": kind})

    return page


def _login(console: Console) -> Answer:
    async def login(request: Request) -> Response:
        try:
            match await _body(request):
                case {"code": str(code), **rest} if not rest:
                    token = console.access.login(code)
                case _:
                    raise RefusedError("send the code, and nothing else")
        except PosternError as error:
            return _refused(error)
        answer = JSONResponse({"seconds": console.access.seconds_left(), "scope": console.access.scope(token)})
        set_session(answer, token)
        return answer

    return login


def _logout(console: Console) -> Answer:
    async def logout(request: Request) -> Response:
        console.access.leave(session_of(request))
        answer = JSONResponse({})
        leave(answer)
        return answer

    return logout


def _allowed(console: Console, request: Request, wanted: str) -> Response | None:
    scope = console.access.scope(session_of(request))
    if scope is None:
        return JSONResponse({"error": "the session is over: type the code of a new opening"}, status_code=401)
    if wanted == "install" and scope != "install":
        text = "this opening is for aiming alone: open the console by a signed command, or at the unit as root"
        return JSONResponse({"error": text}, status_code=403)
    return None


def _act(console: Console, name: str, scope: str) -> Answer:
    async def act(request: Request) -> Response:
        if (refused := _allowed(console, request, scope)) is not None:
            return refused
        try:
            answer = await run_in_threadpool(console.ask, name, await _body(request))
        except PosternError as error:
            return _refused(error)
        return JSONResponse({**answer, "seconds": console.access.seconds_left()})

    return act


def _check_names(console: Console) -> Answer:
    async def names(request: Request) -> Response:
        return _allowed(console, request, "aim") or JSONResponse(
            {"checks": list(await run_in_threadpool(console.checks))}
        )

    return names


def _check(console: Console) -> Answer:
    async def check(request: Request) -> Response:
        if (refused := _allowed(console, request, "aim")) is not None:
            return refused
        try:
            match await _body(request):
                case {"check": str(name), **rest} if not rest and name in await run_in_threadpool(console.checks):
                    findings = await run_in_threadpool(console.examine, name)
                case _:
                    raise RefusedError("there is no such check")
        except PosternError as error:
            return _refused(error)
        return JSONResponse({"findings": [dict(one) for one in findings]})

    return check


async def _body(request: Request) -> dict[str, Any]:
    """Read the JSON object of a request, of bounded length; RefusedError for everything else."""
    content = b""
    try:
        async for part in request.stream():
            content += part
            if len(content) > MAX_ASK_BYTES:
                raise RefusedError("this is too long: send less")
        found = loads(content, limit=MAX_ASK_BYTES)
    except (StrictJsonError, ClientDisconnect):
        raise RefusedError("send JSON, with whole numbers alone") from None
    if not isinstance(found, dict):
        raise RefusedError("send a JSON object with what was asked for")
    return found


def _refused(error: PosternError) -> Response:
    if isinstance(error, RefusedError):
        return JSONResponse({"error": str(error)}, status_code=429 if error.reason == "too_fast" else 422)
    return JSONResponse({"error": str(error)}, status_code=503 if isinstance(error, RetryError) else 500)
