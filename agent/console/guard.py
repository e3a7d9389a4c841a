# SPDX-License-Identifier: Apache-2.0
"""Whose requests count, and what a browser may do with an answer: the same for each page of a console.

A request counts only if it names this console as its host, and changes something only if the page itself sent it: its
origin is this console's, its body is of the one kind that the page sends, and the session's cookie goes with requests
of the same site alone. Nothing is kept by a browser.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE: Final = "__Host-console"  # the prefix: https alone, this host alone, every path (RFC 6265bis)
HEADERS: Final = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "referrer-policy": "same-origin",  # under no-referrer a form does not tell its origin either (Fetch sec. 3.1)
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """Every answer with its headers, every request from where it says that it comes."""

    def __init__(self, app: ASGIApp, host: str, *, kind: str, policy: str) -> None:
        """``host`` as a browser names it; ``kind`` of the bodies that it sends; ``policy`` for its content (CSP)."""
        self._app, self._host, self._kind = app, host, kind
        self._headers = {**HEADERS, "content-security-policy": policy}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(raw=message.setdefault("headers", [])).update(self._headers)
            await send(message)

        refused = self._refusal(Request(scope))
        if refused is not None:
            await JSONResponse({"error": refused}, status_code=403)(scope, receive, with_headers)
        else:
            await self._app(scope, receive, with_headers)

    def _refusal(self, request: Request) -> str | None:
        headers = request.headers
        if headers.get("host") != self._host:
            return f"this console is https://{self._host}/ and answers to no other name"
        if request.method != "POST":
            return None
        if headers.get("origin") != f"https://{self._host}":
            return "this request comes from another page"
        if headers.get("content-type") != self._kind:
            return f"send {self._kind}"
        return None


def session_of(request: Request) -> str:
    """The token that a browser brings; empty without one."""
    return request.cookies.get(COOKIE, "")


def set_session(answer: Response, token: str) -> None:
    """Have the browser bring ``token`` from now on, over TLS, to this host, from its own pages, and to no script."""
    answer.set_cookie(COOKIE, token, secure=True, httponly=True, samesite="strict", path="/")


def leave(answer: Response) -> None:
    """Have the browser forget the session."""
    answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")
