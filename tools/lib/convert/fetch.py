# SPDX-License-Identifier: Apache-2.0
"""Fetches a file whose size and SHA-256 are known: over https, bounded in size and time.

It is checked before anybody reads it.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from agent.errors import KeyStoreError, ModelError, RetryError, StorageError, printable

STEP_S = 30.0  # without a byte
DEADLINE_S = 900.0  # for everything, however slowly the server sends: half a megabyte a second for the largest file
MAX_REDIRECTS = 5  # a release's address needs two
CHUNK_BYTES = 64 * 1024


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != "https":
            fp.close()
            raise ModelError(
                f"{host(req.full_url)} sends on to {printable(newurl)}, which is not https: nothing was read"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def host(address: str) -> str:
    return printable(urlsplit(address).hostname or address)


def fetch(address: str, target: Path, *, size: int, sha256: str, deadline_s: float = DEADLINE_S) -> None:
    """Write what lies at ``address`` to ``target``, a path where nothing is yet.

    Raises ModelError when it is not the file of that size and digest, RetryError when the server cannot be reached,
    ends early or takes longer than ``deadline_s``. ``target`` is then not there.
    """
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with closing(_open(address, size)) as answer:
                _store(iter(lambda: answer.read1(CHUNK_BYTES), b""), target, host(address), size=size, sha256=sha256)
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            failed.append(error)

    # A name that is being resolved and a header that comes byte by byte know no deadline but this one.
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(deadline_s)
    if worker.is_alive():
        raise RetryError(
            f"{host(address)} did not send the file within {deadline_s:g} s: try again. {other_way(address)}"
        )
    if failed:
        raise told(failed[0], address)


def copy(source: Path, target: Path, *, size: int, sha256: str) -> None:
    """Likewise for a file that was fetched by other means; raises ModelError, or OSError when it cannot be read."""
    with source.open("rb") as stream:
        _store(iter(lambda: stream.read(CHUNK_BYTES), b""), target, str(source), size=size, sha256=sha256)


def _open(address: str, size: int) -> http.client.HTTPResponse:
    context = ssl.create_default_context()
    opener = urllib.request.build_opener(_OnlyHttps(), urllib.request.HTTPSHandler(context=context))
    request = urllib.request.Request(address, headers={"Accept": "application/octet-stream, */*"})  # noqa: S310 - https, by the pack
    answer: http.client.HTTPResponse = opener.open(request, timeout=STEP_S)
    announced = answer.headers.get("Content-Length", "")
    if announced.isdecimal() and int(announced) > size:
        answer.close()
        raise ModelError(f"{host(address)} sends {announced[:20]} bytes and the pack names {size}: nothing was read")
    return answer


def _store(chunks: Iterator[bytes], target: Path, whence: str, *, size: int, sha256: str) -> None:
    try:
        with target.open("xb") as out:
            out.writelines(_checked(chunks, whence, size, sha256))
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _checked(chunks: Iterator[bytes], whence: str, size: int, sha256: str) -> Iterator[bytes]:
    """Hand the chunks on; what is wrong with all of them is raised before the end is reached."""
    seen, digest = 0, hashlib.sha256()
    for chunk in chunks:
        seen += len(chunk)
        if seen > size:
            raise ModelError(f"{whence} has more than the {size} bytes that the pack names: it is another file")
        digest.update(chunk)
        yield chunk
    if seen < size:
        raise RetryError(f"{whence} ended after {seen} of {size} bytes: fetch it again")
    if digest.hexdigest() != sha256:
        raise ModelError(
            f"{whence} has a file with the digest sha256:{digest.hexdigest()}, not the one that the pack names: it"
            " was replaced or altered, and nothing of it was read"
        )


def told(error: BaseException, address: str) -> BaseException:
    """The error in the words of this program."""
    where, reason = host(address), getattr(error, "reason", error)
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return RetryError(f"{where} answers {error.code} {printable(str(error.reason))}. {other_way(address)}")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return KeyStoreError(
            f"{where} shows a certificate that this machine does not trust ({printable(reason.verify_message)}):"
            f" nothing was read. {other_way(address)}"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return StorageError("the disk of the temporary folder is full: make room, or set TMPDIR to another one")
    if isinstance(error, OSError | http.client.HTTPException):  # URLError and time-outs are OSErrors
        return RetryError(f"{where} cannot be read ({printable(str(reason))}): check the network. {other_way(address)}")
    return error


def other_way(address: str) -> str:
    return f"Or fetch {printable(address, 1000)} on another machine and give it with --model FILE"
