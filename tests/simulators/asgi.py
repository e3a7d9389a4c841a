# SPDX-License-Identifier: Apache-2.0
"""A browser without a network: one request to an ASGI application, and all of its answer."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

HOST = "192.168.1.30:8443"


@dataclass(frozen=True)
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


def request(app: Any, method: str, path: str, body: object = None, **headers: str) -> Answered:
    """Send as the console's own page does; ``headers`` (with '_' for '-') replace its own, empty ones are left out."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    sent = {"host": HOST, "origin": f"https://{HOST}", "content-type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in sent.items() if value],
        "client": ("192.168.1.9", 40000),
        "server": ("192.168.1.30", 8443),
    }
    parts: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        parts.append(message)

    asyncio.run(app(scope, receive, send))
    head = {name.decode().lower(): value.decode() for name, value in parts[0]["headers"]}
    return Answered(parts[0]["status"], head, b"".join(part.get("body", b"") for part in parts[1:]))
