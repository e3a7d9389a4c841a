# SPDX-License-Identifier: Apache-2.0
"""A receiver of webhooks on the loopback: real HTTP, or HTTPS; it keeps what it took and answers as it is told."""

from __future__ import annotations

import hmac
import json
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from agent.mqtt.credentials import Credentials

SECRET = b"0123456789abcdef0123456789abcdef"


class Receiver:
    """``answer`` is the status of the next answers; ``taken`` what was answered with 2xx, in order.

    With ``files`` it speaks TLS, as ``localhost``.
    """

    def __init__(self, port: int = 0, files: Credentials | None = None) -> None:
        self.answer = 204
        self.answers: dict[str, int] = {}  # by the zone of the event
        self.location: str | None = None  # where its answers point
        self.taken: list[dict[str, Any]] = []
        self.forged = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if len(body) < int(self.headers["Content-Length"]):
                    return  # the sender was killed in the middle of it
                signed = self.headers["Postern-Time"].encode() + b"." + body
                right = "v1=" + hmac.digest(SECRET, signed, "sha256").hex()
                outer.forged += not hmac.compare_digest(right, self.headers["Postern-Signature"])
                content = json.loads(body)
                assert content["key"] == self.headers["Idempotency-Key"]
                status = outer.answers.get(content.get("zone"), outer.answer)
                if 200 <= status < 300:
                    outer.taken.append(content)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                if outer.location is not None:
                    self.send_header("Location", outer.location)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """Whoever was killed in the middle of a request is none of the receiver's business."""

        self._server = Server(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        if files is not None:
            self._server.socket = encrypted(self._server.socket, files)
            self.url = f"https://localhost:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def events(self) -> list[tuple[str, int]]:
        return [(one["unit"], one["seq"]) for one in self.taken if one["kind"] in ("match", "presence", "unit")]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def encrypted(listener: socket.socket, files: Credentials) -> ssl.SSLSocket:
    """The same listener for TLS; each handshake is made by whoever reads from the connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context.wrap_socket(listener, server_side=True, do_handshake_on_connect=False)
