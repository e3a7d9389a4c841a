# SPDX-License-Identifier: Apache-2.0
"""Each record as one signed HTTP POST, in order.

``Postern-Signature: v1=HEX`` is HMAC-SHA-256 by the shared secret over the text of ``Postern-Time`` (seconds since
1970), a full stop, and the body: a receiver refuses what is older than a few minutes, and drops an ``Idempotency-Key``
that it has seen. 2xx is taken. 3xx, 404, 405, 408, 410, 425, 429 and 5xx are tried again, and are a dead letter after
many attempts; any other answer is one at once. Nobody is followed to another address: what is said here is for the
receiver that was named. One that cannot be reached, or does not take the secret (401, 403, 407), is waited for: that
is the fault of no record.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path

from agent.bridge.outputs import BATCH_NS, Item, Sent, told
from agent.bridge.post import DEADLINE_S, MOVED, Poster, UnreachableError
from agent.clock import Clock
from agent.disk.files import read_brought
from agent.errors import RefusedError
from agent.parse.strict_json import dumps

MIN_SECRET_BYTES = 16
AGAIN = (*MOVED, 404, 405, 408, 410, 425, 429)  # and 5xx: another time, or at another address, it may do
NOT_FROM_US = (401, 403, 407)  # it is the sender that is refused: every record would be
MAX_ATTEMPTS = 20  # of one record that the receiver answers with such a status: with back-off, more than an hour


class Webhook:
    """See the module."""

    batch = 32

    def __init__(
        self,
        url: str,
        secret: Path,
        words: str | None,
        clock: Clock,
        *,
        ca: Path | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """Read secret and ``ca``; RefusedError or KeyStoreError says what is wrong with which."""
        self._secret = read_brought(secret, secret=True).strip()
        if len(self._secret) < MIN_SECRET_BYTES:
            raise RefusedError(
                f"{secret} holds less than {MIN_SECRET_BYTES} bytes: make one with 'openssl rand -hex 32'"
            )
        self._words, self._clock = words, clock
        self._poster = Poster(url, ca, deadline_s=deadline_s)
        self.private = self._poster.private
        self._attempts: tuple[str, int] = ("", 0)

    def send(self, items: Sequence[Item], now_s: int) -> Sent:
        sent, host, began_ns = Sent(), self._poster.host, self._clock.monotonic_ns()
        for item in items:
            if self._clock.monotonic_ns() - began_ns > BATCH_NS:  # what is said of the rest would be of the past
                break
            try:
                status = self._post(item, now_s)
            except UnreachableError as error:
                sent.problem = str(error)
                return sent
            if not 200 <= status < 300:
                if status in NOT_FROM_US:
                    sent.problem = (
                        f"the receiver {host} answers {status}: it does not take this secret; correct the file and"
                        " restart the bridge, until then everything waits"
                    )
                    return sent
                if (status in AGAIN or status >= 500) and not self._tried_enough(item.record.key):
                    moved = ", and is not followed to another address: correct the URL" if status in MOVED else ""
                    sent.problem = f"the receiver {host} answers {status}{moved}: it is tried again"
                    return sent
                sent.dead.append((item.record, f"the receiver answered {status}"))
            sent.through = item.record.number
        return sent

    def idle(self, now_s: int) -> None:
        """Nothing is due."""

    def close(self) -> None:
        self._poster.close()

    def _post(self, item: Item, now_s: int) -> int:
        body = dumps(told(item, now_s, self._words)).encode()
        signed = hmac.digest(self._secret, f"{now_s}.".encode() + body, "sha256").hex()
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": item.record.key,
            "Postern-Time": str(now_s),
            "Postern-Signature": f"v1={signed}",
        }
        return self._poster.status(body, headers)

    def _tried_enough(self, key: str) -> bool:
        last, count = self._attempts
        self._attempts = (key, count + 1 if key == last else 1)
        return self._attempts[1] >= MAX_ATTEMPTS
