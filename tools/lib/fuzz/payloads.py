# SPDX-License-Identifier: Apache-2.0
"""Payloads of four kinds: bytes, soup of tokens, altered or forged signed commands, honestly signed nonsense."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from agent.keys import SigningKey, encode_base64url
from agent.protocol.command import MAX_COMMAND_BYTES, SIGNATURE_TYPE, VERBS
from agent.site import units
from tools.lib.fuzz.target import SITE, UNIT, Target

KINDS = ("bytes", "soup", "unsigned", "signed")
SHARES = (25, 20, 40, 15)  # of 100; signing costs most of a payload's time
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # SEC 2, sec. 2.4.2
REFRESH = 500  # payloads after which the tokens that are altered are signed anew, so that they would be obeyed

WORDS = [
    "eyJ", ".", "..", "~", "{", "}", "[", "]", ":", ",", '"', "null", "true", "1e9", "-0", "NaN", "\\u0000", "\ud7ff",
    '"alg"', '"none"', '"ES256"', '"HS256"', '"kid"', '"typ"', '"crit"', '"jwk"', f'"{SIGNATURE_TYPE}"', "=", "==", "-",
    '"site"', '"cmd_seq"', '"args"', '"nonce"', "enrol/begin", "+", "#", "/", "\n", " ", "AAAA",
]  # fmt: skip
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**53 - 1, 2**53, 2**64, 10**400, 1.5, -0.0, "", " ", "\n", "\0", "x" * 70, "é",
    "0" * 32, "f" * 32, "../../etc", "+", "#", SITE, UNIT, [], {}, [[]], [None] * 50, {"": ""}, {"a": {"b": {"c": []}}},
    "00" * 16, "t-1", "renew", "e30..", "2026-11-22T09:00:00Z",
]  # fmt: skip


class Payloads:
    """Makes payloads for ``target`` from ``rng``; every one is one call of ``next``."""

    def __init__(self, target: Target, rng: Random) -> None:
        self._target, self._rng = target, rng
        self._thief = SigningKey.generate()
        self._made = 0
        self._tokens: list[str] = []
        self._sealed = units.issue_epoch_keys(target.site.folder, UNIT, clock=target.clock).decode()

    def next(self, *, signed: bool = True) -> tuple[str, str, bytes]:
        """Kind, verb of the topic, payload; without ``signed`` none that the site's key signed as it is."""
        if self._made % REFRESH == 0:
            self._tokens = [self._sign(self._command(verb)) for verb in VERBS]
        self._made += 1
        (kind,) = self._rng.choices(KINDS, SHARES) if signed else self._rng.choices(KINDS[:3], SHARES[:3])
        makers: dict[str, Callable[[], bytes]] = {
            "bytes": self._bytes,
            "soup": self._soup,
            "unsigned": self._unsigned,
        }
        if kind == "signed":
            verb, payload = self._signed()
            return kind, verb, payload
        return kind, self._rng.choice(VERBS), makers[kind]()

    def _bytes(self) -> bytes:
        size = MAX_COMMAND_BYTES + self._rng.randint(-2, 2) if self._rng.random() < 0.01 else self._rng.randint(0, 300)
        return self._rng.randbytes(size)

    def _soup(self) -> bytes:
        text = "".join(self._rng.choices(WORDS, k=self._rng.randint(0, 30)))
        parts = [encode_base64url(part.encode()) if self._rng.random() < 0.6 else part for part in text.split(".")]
        return ".".join(parts).encode()

    def _unsigned(self) -> bytes:
        """A signed command that somebody without the key has altered."""
        token = self._rng.choice(self._tokens)
        while (altered := self._altered(token)) == token.encode():
            pass
        return altered

    def _altered(self, token: str) -> bytes:
        rng = self._rng
        header, content, signature = token.split(".")
        how = rng.randrange(10)
        if how == 0:
            return f"{header}.{content}.".encode()
        if how == 1:
            return f"{header}..{signature}".encode()
        if how == 2:
            members = {"alg": rng.choice(["none", "HS256", "ES256", "es256"]), "kid": self._target.site_key.kid}
            members |= {"typ": rng.choice([SIGNATURE_TYPE, "JWT", "postern-policy+jws"])}
            others: list[dict[str, Any]] = [{}, {"crit": ["exp"]}, {"jwk": self._thief.public_jwk()}, {"b64": False}]
            more = rng.choice(others)
            return f"{encode_base64url(json.dumps({**members, **more}).encode())}.{content}.{signature}".encode()
        if how == 3:
            other = encode_base64url(json.dumps(self._command(rng.choice(VERBS))).encode())
            return f"{header}.{other}.{signature}".encode()
        if how == 4:
            return f"{header}.{content}.{rng.choice(self._tokens).split('.')[2]}".encode()
        if how == 5:
            return self._thief.sign(json.dumps(self._command("subject/revoke")).encode(), typ=SIGNATURE_TYPE).encode()
        if how == 6:
            parts = rng.sample([header, content, signature, ""], k=rng.randint(1, 4))
            return ".".join(parts).encode()
        return self._damaged(token.encode())

    def _damaged(self, payload: bytes) -> bytes:
        rng, altered = self._rng, bytearray(payload)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(altered) or 1)
            what = rng.randrange(4)
            if what == 0 and altered:
                altered[at] ^= 1 << rng.randrange(8)
            elif what == 1:
                del altered[at : at + rng.randint(1, 40)]
            elif what == 2:
                altered[at:at] = rng.randbytes(rng.randint(1, 12))
            else:
                altered[at:at] = altered[rng.randrange(len(altered) or 1) :][: rng.randint(1, 60)]
        return bytes(altered)

    def _signed(self) -> tuple[str, bytes]:
        """What whoever holds the key might send by mistake: mostly a command with something wrong in it."""
        rng, verb = self._rng, self._rng.choice(VERBS)
        command: Any = self._command(verb)
        topic, typ = verb, SIGNATURE_TYPE
        how = rng.randrange(12)
        if how < 3:
            self._spoil(command, rng.choice([*command, "nonce", "extra"]))
        elif how < 6 and command["args"]:
            self._spoil(command["args"], rng.choice([*command["args"], "extra"]))
        elif how == 6:
            command["args"] = {rng.choice(["consent", "subject", "enrolment", "epoch_keys", "references"]): self._odd()}
        elif how == 7:
            topic = rng.choice(VERBS)
        elif how == 9:  # honest in all but its time: before, after, or too long ago by hours
            shift = rng.choice([-7200, -90, -20, 20, 90, 7200])
            command |= {name: command[name] + shift for name in ("issued_at", "expires_at")}
        elif how == 8:
            typ = rng.choice(["postern-policy+jws", "postern-receipt+jws", "JWT", ""])
        try:
            content = json.dumps(command).encode()
        except (ValueError, RecursionError):
            content = b"{}"
        if rng.random() < 0.1:
            content = self._damaged(content)
        return topic, self._target.site_key.sign(content, typ=typ).encode()

    def _spoil(self, members: dict[str, Any], name: str) -> None:
        if self._rng.random() < 0.2:
            members.pop(name, None)
        elif name == "cmd_seq":  # not far ahead: the unit would be right to refuse all that follows
            last = self._target.last_number
            members[name] = self._rng.choice([0, -1, last - 1, last, last + 2, 2**53, 1.5, str(last + 1), None])
        elif name == "consent" and isinstance(members.get(name), dict):
            self._spoil(members[name], self._rng.choice([*members[name], "extra"]))
        else:
            members[name] = self._odd()

    def _odd(self) -> Any:  # noqa: ANN401 - any JSON value, and some that are none
        return self._rng.choice(ODD)

    def _command(self, verb: str) -> dict[str, Any]:
        target = self._target
        args: dict[str, dict[str, Any]] = {
            "enrol/begin": {"consent": msgspec.to_builtins(target.consent())},
            "enrol/commit": {"enrolment": f"t-{target.last_number}"},
            "enrol/abort": {"enrolment": f"t-{target.last_number}"},
            "subject/revoke": {"subject": target.subject},
            "key/rotate": self._rng.choice([{"references": "renew"}, {"epoch_keys": self._sealed}]),
        }
        return target.valid(verb, args.get(verb, {}))

    def _sign(self, command: dict[str, Any]) -> str:
        return self._target.site_key.sign(json.dumps(command).encode(), typ=SIGNATURE_TYPE)
