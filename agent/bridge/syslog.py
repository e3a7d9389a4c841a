# SPDX-License-Identifier: Apache-2.0
"""Records as syslog (RFC 5424) over TLS (RFC 5425): MSGID is the kind, MSG the record as JSON, which holds its key.

Syslog has no acknowledgement. So each batch has a connection of its own, and counts as handed over once the receiver
has closed it after our end (RFC 5425, 4.4), which it does when it has read all that came before; a reset, or a
connection that ends sooner, is tried again. What a receiver had in its own memory when it died is lost: where nothing
may be, take a webhook, a database or OTLP. The libraries for syslog on PyPI drop what they cannot send, or were left
years ago; the format is two lines.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from agent.bridge.outputs import Item, Sent, told
from agent.bridge.post import in_words, trusting
from agent.errors import KeyStoreError
from agent.parse.strict_json import dumps

TIMEOUT_S = 10.0  # per step
FACILITY = 10  # security and authorisation messages (RFC 5424, table 1)
SEVERITIES = {"loss": 3, "gap": 4, "refusal": 4, "notice": 5}  # error, warning, notice (table 2)
INFORMATIONAL = 6
MAX_HOSTNAME = 255  # characters (RFC 5424, 6)


class Syslog:
    """See the module."""

    batch = 256
    private = True  # TLS, always

    def __init__(self, host: str, port: int, *, ca: Path | None, keys: Path | None, words: str | None) -> None:
        """Read the certificates; KeyStoreError says what is wrong with them."""
        self._place, self._words = (host, port), words
        self._context = trusting(ca)
        if keys is not None:
            try:
                self._context.load_cert_chain(keys / "tls.crt", keys / "tls.key")
            except (OSError, ssl.SSLError) as error:
                raise KeyStoreError(f"{keys} does not hold tls.crt and the tls.key that fits it: bring both") from error
        name = os.uname().nodename.encode("ascii", errors="ignore").decode()
        self._hostname = "".join(sign for sign in name if "!" <= sign <= "~")[:MAX_HOSTNAME] or "-"

    def send(self, items: Sequence[Item], now_s: int) -> Sent:
        content = b"".join(self._framed(item, now_s) for item in items)
        try:
            with (
                socket.create_connection(self._place, TIMEOUT_S) as plain,
                self._context.wrap_socket(plain, server_hostname=self._place[0]) as session,
            ):
                session.sendall(content)
                _await_end(session)
        except OSError as error:
            where = f"{self._place[0]} port {self._place[1]}"
            return Sent(problem=f"the receiver {where} did not take it ({in_words(error)}): it is tried again")
        return Sent(through=items[-1].record.number)

    def idle(self, now_s: int) -> None:
        """Nothing is due."""

    def close(self) -> None:
        """Nothing is open between two batches."""

    def _framed(self, item: Item, now_s: int) -> bytes:
        record = item.record
        priority = FACILITY * 8 + SEVERITIES.get(record.body.kind, INFORMATIONAL)
        taken = datetime.fromtimestamp(record.taken_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        message = dumps(told(item, now_s, self._words))
        line = f"<{priority}>1 {taken} {self._hostname} postern-bridge - {record.body.kind} - {message}".encode("ascii")
        return b"%d %s" % (len(line), line)  # octet counting (RFC 5425, 4.3)


def _await_end(session: ssl.SSLSocket) -> None:
    """Say that this was all, and wait until the receiver closes; OSError when it closed sooner, resets or does not."""
    session.settimeout(0)
    try:
        ended = session.recv(1) == b""
    except ssl.SSLWantReadError:
        ended = False
    session.settimeout(TIMEOUT_S)
    if ended:
        raise ConnectionError("it closed the connection")
    try:
        session.unwrap()
    except ssl.SSLEOFError:  # closed without TLS's own word for it, as many do; with anything unread it is a reset
        return
