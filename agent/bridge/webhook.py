# SPDX-License-Identifier: Apache-2.0
"""Each record as one signed HTTP POST, in order.

``Postern-Signature: v1=HEX`` is HMAC-SHA-256 by the shared secret over the text of ``Postern-Time`` (seconds since
1970), a full stop, and the body: a receiver refuses what is older than a few minutes, and drops an ``Idempotency-Key``
that it has seen. 2xx is taken. 408, 425, 429 and 5xx are tried again, and are a dead letter after many attempts; any
other answer is one at once. A receiver that cannot be reached is waited for.
"""

from __future__ import annotations

import hmac
import http.client
import ssl
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from agent.bridge.outputs import Item, Sent, told
from agent.errors import RefusedError, printable
from agent.files import read_secret
from agent.strict_json import dumps

MIN_SECRET_BYTES = 16
TIMEOUT_S = 10.0
AGAIN = (408, 425, 429)  # and 5xx: the receiver says that another time may do
MAX_ATTEMPTS = 20  # of one record that the receiver answers with such a status: with back-off, more than an hour
MAX_ANSWER_BYTES = 64 * 1024


class Webhook:
    """See the module."""

    batch = 32

    def __init__(self, url: str, secret: Path, words: str | None) -> None:
        """Read the secret; RefusedError or KeyStoreError says what is wrong with it."""
        self._secret = read_secret(secret).strip()
        if len(self._secret) < MIN_SECRET_BYTES:
            raise RefusedError(
                f"{secret} holds less than {MIN_SECRET_BYTES} bytes: make one with 'openssl rand -hex 32'"
            )
        self._words = words
        parts = urlsplit(url)
        if not parts.hostname or parts.username is not None:
            raise RefusedError("the URL of a webhook names a host, and no user: the secret signs")
        self._parts, self._host = parts, parts.hostname
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._context = ssl.create_default_context() if parts.scheme == "https" else None
        self._connection: http.client.HTTPConnection | None = None
        self._attempts: tuple[str, int] = ("", 0)

    def send(self, items: Sequence[Item], now_s: int) -> Sent:
        sent = Sent()
        for item in items:
            try:
                status = self._post(item, now_s)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                what = printable(str(error)) or type(error).__name__
                sent.problem = f"the receiver {self._host} cannot be reached ({what}): it is tried again"
                return sent
            if not 200 <= status < 300:
                if (status in AGAIN or status >= 500) and not self._tried_enough(item.record.key):
                    sent.problem = f"the receiver {self._host} answers {status}: it is tried again"
                    return sent
                sent.dead.append((item.record, f"the receiver answered {status}"))
            sent.through = item.record.number
        return sent

    def idle(self, now_s: int) -> None:
        """Nothing is due."""

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _post(self, item: Item, now_s: int) -> int:
        body = dumps(told(item, now_s, self._words)).encode()
        signed = hmac.digest(self._secret, f"{now_s}.".encode() + body, "sha256").hex()
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": item.record.key,
            "Postern-Time": str(now_s),
            "Postern-Signature": f"v1={signed}",
        }
        try:
            return self._exchange(body, headers)
        except (ConnectionError, http.client.RemoteDisconnected):
            self.close()  # of a connection that the receiver closed meanwhile
            return self._exchange(body, headers)

    def _exchange(self, body: bytes, headers: dict[str, str]) -> int:
        if self._connection is None:
            if self._context is None:
                self._connection = http.client.HTTPConnection(self._host, self._parts.port, timeout=TIMEOUT_S)
            else:
                self._connection = http.client.HTTPSConnection(
                    self._host, self._parts.port, timeout=TIMEOUT_S, context=self._context
                )
        self._connection.request("POST", self._target, body, headers)
        answer = self._connection.getresponse()
        if len(answer.read(MAX_ANSWER_BYTES + 1)) > MAX_ANSWER_BYTES:
            self.close()
        return answer.status

    def _tried_enough(self, key: str) -> bool:
        last, count = self._attempts
        self._attempts = (key, count + 1 if key == last else 1)
        return self._attempts[1] >= MAX_ATTEMPTS
