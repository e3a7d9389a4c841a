# SPDX-License-Identifier: Apache-2.0
"""HTTP POST to one address over a connection that is kept, for outputs that hand over that way."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from agent.errors import KeyStoreError, RefusedError, printable

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 64 * 1024


class UnreachableError(Exception):
    """The receiver could not be reached, or did not answer; the text is a sentence for a person."""


class Poster:
    """``post`` blocks for a few timeouts at most."""

    def __init__(self, url: str, ca: Path | None = None) -> None:
        """``ca`` is who vouches for the receiver, by default the system's; RefusedError or KeyStoreError."""
        parts = urlsplit(url)
        if not parts.hostname or parts.username is not None:
            raise RefusedError("the URL of an output names a host, and no user or password: secrets lie in files")
        self._parts, self.host = parts, parts.hostname
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._context = trusting(ca) if parts.scheme == "https" else None
        self._connection: http.client.HTTPConnection | None = None

    def post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Status and content of the answer; UnreachableError, after which it may have come or not."""
        try:
            try:
                return self._exchange(body, headers)
            except (ConnectionError, http.client.RemoteDisconnected):
                self.close()  # of a connection that the receiver closed meanwhile
                return self._exchange(body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            what = printable(str(error)) or type(error).__name__
            raise UnreachableError(f"the receiver {self.host} cannot be reached ({what}): it is tried again") from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _exchange(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        if self._connection is None:
            port = self._parts.port
            self._connection = (
                http.client.HTTPConnection(self.host, port, timeout=TIMEOUT_S)
                if self._context is None
                else http.client.HTTPSConnection(self.host, port, timeout=TIMEOUT_S, context=self._context)
            )
        self._connection.request("POST", self._target, body, dict(headers))
        answer = self._connection.getresponse()
        content = answer.read(MAX_ANSWER_BYTES + 1)
        if len(content) > MAX_ANSWER_BYTES:
            self.close()
        return answer.status, content


def trusting(ca: Path | None) -> ssl.SSLContext:
    """TLS that believes in ``ca``, or in whom the system believes; KeyStoreError when the file is none."""
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise KeyStoreError(f"{ca} is not a certificate authority in PEM: copy it from the receiver again") from error
