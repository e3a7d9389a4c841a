# SPDX-License-Identifier: Apache-2.0
"""The camera's password, proven and never said: Digest alone (RFC 7616; RFC 2617 for cameras without ``qop``).

Whoever asks gets a proof for a nonce of their choice, from which a weak password can be guessed. There is no branch
that sends the password itself, and none that answers another scheme.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from agent.camera.rtsp.wire import RtspError

IN_CLEAR: Final = "it wants the password in clear: set the camera to digest authentication"
OTHER_WAY: Final = (
    "it asks for the password in a way that this unit does not know: set the camera to digest authentication with MD5"
    " or SHA-256"
)
CLIENT_NONCE_BYTES: Final = 16
# Names of RFC 7616, section 6.1, the better one first; ``-sess`` binds the key to the nonces.
_HASHES: Final[dict[str, Callable[[bytes], hashlib._Hash]]] = {
    "SHA-256": hashlib.sha256,
    "MD5": lambda data: hashlib.md5(data, usedforsecurity=False),
}
_ITEM: Final = re.compile(
    r"""\s*+(?:(?P<scheme>[A-Za-z][\w-]*+)(?:\s++|(?=\s*+(?:,|$))))?
        (?:(?P<name>[\w-]++)\s*+=\s*+(?:"(?P<quoted>(?:[^"\\]|\\.)*+)"|(?P<bare>[^\s",]*+)))?\s*+(?:,|$)""",
    re.VERBOSE | re.ASCII,
)


class Challenge(NamedTuple):
    """What a camera wants proven; texts as they stood between their quotes."""

    realm: str
    nonce: str
    algorithm: str  # as the camera spells it; empty where it says none, which means MD5
    qop: bool  # whether ``auth`` is offered
    opaque: str | None
    stale: bool

    @property
    def strength(self) -> int:
        """Place of its hash in the order of preference, from 0."""
        return list(_HASHES).index(_hash_name(self.algorithm))


def challenges(values: Iterable[str]) -> list[Challenge]:
    """The challenges by digest that this unit can answer. Raises RtspError where there is none."""
    found: list[tuple[str, dict[str, str]]] = []
    for value in values:
        at = 0
        while at < len(value):
            item = _ITEM.match(value, at)
            if item is None or item.end() == at:
                raise RtspError(OTHER_WAY)
            at = item.end()
            if item["scheme"]:
                found.append((item["scheme"].lower(), {}))
            if item["name"] and found:
                text = item["quoted"] if item["quoted"] is not None else item["bare"]
                found[-1][1][item["name"].lower()] = text
    digests = [one for scheme, fields in found if scheme == "digest" and (one := _challenge(fields)) is not None]
    if not digests:
        raise RtspError(IN_CLEAR if {scheme for scheme, _ in found} == {"basic"} else OTHER_WAY)
    return sorted(digests, key=lambda one: one.strength)


def _challenge(fields: dict[str, str]) -> Challenge | None:
    qop = [one.strip().lower() for one in fields.get("qop", "").split(",") if one.strip()]
    algorithm = fields.get("algorithm", "")
    if not fields.get("nonce") or "realm" not in fields or _hash_name(algorithm) not in _HASHES:
        return None
    if qop and "auth" not in qop:
        return None
    stale = fields.get("stale", "").lower() == "true"
    return Challenge(fields["realm"], fields["nonce"], algorithm, bool(qop), fields.get("opaque"), stale)


def _hash_name(algorithm: str) -> str:
    return (algorithm.upper() or "MD5").removesuffix("-SESS")


class Digest:
    """Answers for one user at one camera; ``random`` gives n random bytes."""

    def __init__(self, user: str, password: str, random: Callable[[int], bytes]) -> None:
        self._user, self._password, self._random = user, password, random
        self._challenge: Challenge | None = None
        self._count = 0  # of answers to this nonce

    def take(self, values: Iterable[str]) -> bool:
        """Take the best of what ``WWW-Authenticate`` offers; whether it says that only the nonce was old.

        Raises RtspError where the camera wants the password otherwise.
        """
        challenge = challenges(values)[0]
        if self._challenge is None or challenge.nonce != self._challenge.nonce:
            self._count = 0
        self._challenge = challenge
        return challenge.stale

    def header(self, verb: str, uri: str) -> str | None:
        """Value of ``Authorization`` for a request; None before the camera asked."""
        challenge = self._challenge
        if challenge is None:
            return None
        self._count += 1
        count, client_nonce = f"{self._count:08x}", self._random(CLIENT_NONCE_BYTES).hex()

        def hashed(text: str) -> str:
            return _HASHES[_hash_name(challenge.algorithm)](text.encode()).hexdigest()

        key = hashed(f"{self._user}:{_unquoted(challenge.realm)}:{self._password}")
        nonce = _unquoted(challenge.nonce)
        if challenge.algorithm.upper().endswith("-SESS"):
            key = hashed(f"{key}:{nonce}:{client_nonce}")
        middle = f"{nonce}:{count}:{client_nonce}:auth" if challenge.qop else nonce
        proof = hashed(f"{key}:{middle}:{hashed(f'{verb}:{uri}')}")
        user = re.sub(r'(["\\])', r"\\\1", self._user)
        parts = [
            f'username="{user}"', f'realm="{challenge.realm}"', f'nonce="{challenge.nonce}"', f'uri="{uri}"',
            f'response="{proof}"',
        ]  # fmt: skip
        if challenge.algorithm:
            parts.append(f"algorithm={challenge.algorithm}")
        if challenge.opaque is not None:
            parts.append(f'opaque="{challenge.opaque}"')
        if challenge.qop or challenge.algorithm.upper().endswith("-SESS"):
            parts.append(f'cnonce="{client_nonce}"')
        if challenge.qop:
            parts += ["qop=auth", f"nc={count}"]
        return f"Digest {', '.join(parts)}"


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)
