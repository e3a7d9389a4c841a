# SPDX-License-Identifier: Apache-2.0
"""Receivers of logs on the loopback: a collector that reads OTLP by its own messages, and syslog over TLS."""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from agent.mqtt.credentials import Credentials
from tests.simulators.receiver import encrypted

# RFC 5424, 6: header, nil structured data, message.
SYSLOG = re.compile(
    r"<(?P<priority>\d{1,3})>1 (?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) (?P<host>[!-~]{1,255}) (?P<app>[!-~]{1,48})"
    r" - (?P<id>[!-~]{1,32}) - (?P<message>.*)",
    re.DOTALL,
)


class Collector:
    """``status`` is the next answers'; ``rejects`` says which records are rejected for good.

    With ``files`` it speaks TLS, as ``localhost``.
    """

    def __init__(self, files: Credentials | None = None) -> None:
        self.status = 200
        self.rejects: Callable[[Any], bool] = lambda _: False
        self.taken: list[Any] = []
        self.authorization: set[str | None] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = ExportLogsServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
                outer.authorization.add(self.headers["Authorization"])
                answer = ExportLogsServiceResponse()
                records = [
                    one
                    for resource in request.resource_logs
                    for scope in resource.scope_logs
                    for one in scope.log_records
                ]
                if outer.status == 200:
                    wrong = [one for one in records if outer.rejects(one)]
                    outer.taken += [one for one in records if one not in wrong]
                    answer.partial_success.rejected_log_records = len(wrong)
                    answer.partial_success.error_message = "too odd" if wrong else ""
                content = answer.SerializeToString()
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1/logs"
        if files is not None:
            self._server.socket = encrypted(self._server.socket, files)
            self.url = self.url.replace("http://127.0.0.1", "https://localhost")
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class SyslogReceiver:
    """``taken`` are the messages, as their parts; ``resets`` makes it end a connection unread."""

    def __init__(self, files: Credentials) -> None:
        self.taken: list[dict[str, str]] = []
        self.resets = False
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(files.certificate, files.key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self.port: int = self._listener.getsockname()[1]
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            try:
                with client, self._context.wrap_socket(client, server_side=True) as session:
                    session.settimeout(2)
                    if self.resets:
                        session.recv(1)
                        session.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    else:
                        self._read(session)
            except OSError:
                continue

    def _read(self, session: ssl.SSLSocket) -> None:
        content = b""
        while part := session.recv(65536):
            content += part
        while content:
            length, _, rest = content.partition(b" ")
            message, content = rest[: int(length)], rest[int(length) :]
            found = SYSLOG.fullmatch(message.decode("ascii"))
            assert found, message
            self.taken.append(found.groupdict())
        session.unwrap()
