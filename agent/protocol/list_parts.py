# SPDX-License-Identifier: Apache-2.0
"""The site's list of units in parts: what is longer than one message may be goes over the broker in several.

A part is no document of its own: it proves nothing, and only what all of them together spell is verified, as ever.
Its digest says which parts belong together, so that an older list's, or a liar's, are never mixed with them.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal

from msgspec import Meta

from agent.keys import MAX_TOKEN_BYTES
from agent.parse import strict_json
from agent.protocol.names import Digest
from agent.protocol.record import Record, encode

PART_BYTES: Final = 28 * 1024  # of the list; below what a broker takes and a subscriber reads at once (32 KiB)
MAX_PARTS: Final = -(-MAX_TOKEN_BYTES // PART_BYTES)
MAX_PART_BYTES: Final = PART_BYTES + 512  # with what stands around it
MAX_GATHERED: Final = 2  # lists that are gathered at once: the one in force, and its successor


class ListPart(Record, frozen=True):
    """``part`` of ``parts``; ``text`` is that much of the compact JWS, ``digest`` that of all of it."""

    version: Literal[1]
    digest: Digest
    part: Annotated[int, Meta(ge=1, le=MAX_PARTS)]
    parts: Annotated[int, Meta(ge=2, le=MAX_PARTS)]
    text: Annotated[str, Meta(min_length=1, max_length=PART_BYTES, pattern=r"^[A-Za-z0-9_.~-]+$")]


def in_parts(token: bytes) -> list[bytes]:
    """Cut a signed list into messages; none where it fits into one by itself."""
    if len(token) <= PART_BYTES:
        return []
    text = token.decode("ascii").strip()
    cut = [text[at : at + PART_BYTES] for at in range(0, len(text), PART_BYTES)]
    named = _digest(text)
    return [
        encode(ListPart(version=1, digest=named, part=at, parts=len(cut), text=piece))
        for at, piece in enumerate(cut, start=1)
    ]


class Gathering:
    """Puts parts together, in whatever order and however often they come; holds ``MAX_GATHERED`` lists at most."""

    def __init__(self) -> None:
        self._lists: dict[str, dict[int, str]] = {}  # by digest; the one that was heard of last is the last
        self._whole: str | None = None  # digest of the list that was put together last: it is said again and again

    def hear(self, payload: bytes, *, whole: bool) -> bytes | None:
        """The list that a message brings, ``whole`` or with its last part; nothing where it brings none.

        ValueError as ``take``.
        """
        return payload if whole or not payload else self.take(payload)

    def take(self, payload: bytes) -> bytes | None:
        """Take one message; the list, once, when it is whole. ValueError for what is no part of the list it names."""
        part = strict_json.decode(payload, ListPart, MAX_PART_BYTES)
        if part.digest == self._whole:
            return None
        pieces = self._lists.pop(part.digest, {})
        pieces[part.part] = part.text
        if len(pieces) < part.parts:
            self._lists[part.digest] = pieces
            if len(self._lists) > MAX_GATHERED:
                del self._lists[next(iter(self._lists))]
            return None
        text = "".join(pieces[number] for number in sorted(pieces))
        if _digest(text) != part.digest:
            raise ValueError("the parts of the site's list of units do not belong together")
        self._whole = part.digest
        return text.encode()


def _digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
