# SPDX-License-Identifier: Apache-2.0
"""HTTP POST to one address over a connection that is kept, for outputs that hand over that way."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from agent.errors import KeyStoreError, RefusedError, printable

TIMEOUT_S = 10.0  # for one step
DEADLINE_S = 30.0  # for all of them, however slowly the receiver sends: one byte in ten seconds is no answer
DRAIN_S = 1.0  # for the rest of an answer that nobody needs; without it the connection is not kept
MAX_ANSWER_BYTES = 64 * 1024
MAX_ADDRESSES = 4  # of a name that are tried
SWITCHING = 101  # the one interim answer that is final
MOVED = range(300, 400)  # answers that name another address, to which nobody is followed


class UnreachableError(Exception):
    """The receiver could not be reached, or did not answer; the text is a sentence for a person."""


class Poster:
    """``post`` and ``status`` block for ``deadline_s`` at most, once the receiver's name is resolved."""

    def __init__(self, url: str, ca: Path | None = None, *, deadline_s: float = DEADLINE_S) -> None:
        """``ca`` is who vouches for the receiver, by default the system's; RefusedError or KeyStoreError."""
        self._deadline_s = deadline_s
        try:
            parts = urlsplit(url)
            self._port, self.host = parts.port, parts.hostname or ""
            self.host.encode("idna")
        except ValueError:  # of a port, an address in brackets or a name that cannot be
            raise RefusedError("the URL of an output names no host and port that can be: correct it") from None
        if not self.host or parts.username is not None:
            raise RefusedError("the URL of an output names a host, and no user or password: secrets lie in files")
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not all("!" <= sign <= "~" for sign in self._target):
            raise RefusedError("the URL of an output has signs that no URL has: write them as %20 and the like")
        if ca is not None and parts.scheme != "https":
            raise RefusedError(f"nobody vouches for {self.host} over http: give the URL with https, or no 'ca'")
        self._context = trusting(ca) if parts.scheme == "https" else None
        self.private = self._context is not None or is_here(self.host)
        self._connection: http.client.HTTPConnection | None = None
        self._overdue = False

    def post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Status and content of the answer; UnreachableError, after which it may have come or not."""
        answer = self._within(body, headers, whole=True)
        return answer.status, answer.content

    def status(self, body: bytes, headers: Mapping[str, str]) -> int:
        """Status of the answer, whatever becomes of its content; UnreachableError as for ``post``."""
        return self._within(body, headers, whole=False).status

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _within(self, body: bytes, headers: Mapping[str, str], *, whole: bool) -> _Answer:
        """One exchange within the deadline, and a second one where a kept connection was closed meanwhile."""
        self._overdue = False
        watch = threading.Timer(self._deadline_s, self._cut)
        watch.daemon = True
        watch.start()
        try:
            try:
                return self._exchange(body, headers, whole=whole)
            except (ConnectionError, http.client.RemoteDisconnected):
                self.close()  # of a connection that the receiver closed meanwhile
                if self._overdue:
                    raise
                return self._exchange(body, headers, whole=whole)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            what = in_words(error)
            if self._overdue:
                what = f"no whole answer within {self._deadline_s:.0f} seconds"
            raise UnreachableError(f"the receiver {self.host} cannot be reached ({what}): it is tried again") from error
        finally:
            watch.cancel()

    def _cut(self) -> None:
        """End what the exchange waits for; runs on the watch's thread."""
        self._overdue = True
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)  # beneath TLS, which another thread uses

    def _exchange(self, body: bytes, headers: Mapping[str, str], *, whole: bool) -> _Answer:
        if self._connection is None:
            self._connection = self._connect()
        self._connection.request("POST", self._target, body, dict(headers))
        answer = self._connection.getresponse()
        if self._overdue:  # the library takes a head that was cut off for a whole one
            raise TimeoutError
        if whole:
            content = answer.read(MAX_ANSWER_BYTES + 1)
            if len(content) > MAX_ANSWER_BYTES:
                self.close()
            return _Answer(answer.status, content)
        try:
            if self._connection.sock is not None:
                self._connection.sock.settimeout(DRAIN_S)
            if len(answer.read(MAX_ANSWER_BYTES + 1)) > MAX_ANSWER_BYTES:
                self.close()
            elif self._connection.sock is not None:
                self._connection.sock.settimeout(TIMEOUT_S)
        except (OSError, http.client.HTTPException):
            self.close()
        return _Answer(answer.status, b"")

    def _connect(self) -> http.client.HTTPConnection:
        """A connection to the first of the name's addresses that answers; OSError."""
        port = self._port or (http.client.HTTP_PORT if self._context is None else http.client.HTTPS_PORT)
        connection = http.client.HTTPConnection(self.host, port, timeout=TIMEOUT_S)
        connection.response_class = _Final
        try:
            found = socket.getaddrinfo(self.host, port, type=socket.SOCK_STREAM)[:MAX_ADDRESSES]
        except UnicodeError as error:
            raise OSError("no such name") from error
        for number, (family, kind, protocol, _, address) in enumerate(found, 1):
            plain = socket.socket(family, kind, protocol)
            try:
                plain.settimeout(self._deadline_s / 2 / MAX_ADDRESSES if number < len(found) else TIMEOUT_S)
                plain.connect(address)
                plain.settimeout(TIMEOUT_S)
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock = plain
                if self._context is not None:
                    sock = self._context.wrap_socket(plain, server_hostname=self.host)
            except OSError:
                plain.close()
                if number == len(found) or self._overdue:
                    raise
                continue
            connection.sock = sock
            return connection
        raise OSError("the name has no address")


def in_words(error: Exception) -> str:
    """Why a receiver was not reached, and what to do where its certificate is not believed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not believed: {printable(error.verify_message)}; give it a new one where it has ended,"
            " or name who vouches for it with 'ca' or to the system"
        )
    return printable(str(error)) or type(error).__name__


class _Answer(msgspec.Struct, frozen=True):
    status: int
    content: bytes


class _Final(http.client.HTTPResponse):
    """The answer behind every interim one (RFC 9110, 15.2): the library takes 103 for the answer itself."""

    def begin(self) -> None:
        super().begin()
        while self.status < 200 and self.status != SWITCHING:
            self.headers = None  # type: ignore[assignment] # as before its beginning
            super().begin()


def is_here(host: str) -> bool:
    """Whether a host is this machine, so that nobody listens on the way."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def trusting(ca: Path | None) -> ssl.SSLContext:
    """TLS that believes in ``ca``, or in whom the system believes; KeyStoreError when the file is none."""
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise KeyStoreError(f"{ca} is not a certificate authority in PEM: copy it from the receiver again") from error
