# SPDX-License-Identifier: Apache-2.0
"""What a new unit needs to join its site: one line of text, as a file on its card or as a QR code.

It holds where the broker is, the site's authority, and a claim: 16 secret bytes, good once and for a stated time. From
the claim follow both the key of the proofs (as from a token, ``agent.protocol.joining``) and the key of a certificate
that stands beside it, which lets its holder ask to join and nothing else. Whoever finds the card learns nothing more.

The text is ``POSTERN1:`` and base32 of deflated JSON: capitals and digits, which a QR code packs best (ISO/IEC 18004,
alphanumeric mode). It is no secret's protection; keep it like a key until it was used.
"""

from __future__ import annotations

import base64
import codecs
import zlib
from typing import Annotated, Final, Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Meta

from agent.errors import RefusedError
from agent.parse import strict_json
from agent.protocol.joining import TOKEN_BYTES, spell_token
from agent.protocol.names import Name, Seconds

PREFIX: Final = "POSTERN1:"
MAX_TEXT: Final = 4_096  # characters; one has about 1 500, and a QR code holds 4 296 (version 40-L)
MAX_BYTES: Final = 4_096  # of the JSON inside
_LABEL = b"postern/claim/tls/v1"
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256 (FIPS 186-4, D.1.2.3)

Der = Annotated[str, Meta(max_length=1_400)]  # base64 of a certificate, which has about 500 bytes
Host = Annotated[str, Meta(min_length=1, max_length=253)]


class Invitation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Times are whole seconds since 1970, UTC. ``claim`` and the certificates are base64."""

    v: Literal[1]
    site: Name
    unit: Name
    host: Host
    port: Annotated[int, Meta(ge=1, le=65535)]
    claim: Annotated[str, Meta(min_length=24, max_length=24)]
    ends: Seconds
    ca: Der
    via: Der
    crt: Der

    def __repr__(self) -> str:
        return f"Invitation(site={self.site!r}, unit={self.unit!r})"

    def secret(self) -> bytes:
        """The claim's bytes; RefusedError when they are damaged."""
        return _bytes(self.claim, TOKEN_BYTES)

    def token(self) -> str:
        """The claim as a token of joining."""
        return spell_token(self.secret())

    def certificate(self, name: Literal["ca", "via", "crt"]) -> x509.Certificate:
        """The site's authority, its issuing certificate, or that of the claim; RefusedError when it is damaged."""
        try:
            return x509.load_der_x509_certificate(_bytes({"ca": self.ca, "via": self.via, "crt": self.crt}[name]))
        except ValueError:
            raise _damaged() from None


def write_invitation(invitation: Invitation) -> str:
    """Spell an invitation as one line."""
    packed = zlib.compress(msgspec.json.encode(invitation), 9)
    return PREFIX + base64.b32encode(packed).decode("ascii").rstrip("=")


def text_of(content: bytes) -> str:
    """The text of a file, with the marks that editors put before it, or in UTF-16."""
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if wide else "utf-8-sig", errors="replace")


def read_invitation(text: str) -> Invitation:
    """Read one; RefusedError, without any of the text, when it is none."""
    folded = "".join(text[: MAX_TEXT + 1].split()).upper()
    if not folded.startswith(PREFIX):
        raise RefusedError("this is no invitation: give the file that 'postern site invite' wrote", reason="malformed")
    if len(text) > MAX_TEXT:
        raise _damaged()
    body = folded.removeprefix(PREFIX)
    try:
        packed = base64.b32decode(body + "=" * (-len(body) % 8))
        inflating = zlib.decompressobj()
        content = inflating.decompress(packed, MAX_BYTES)
        if not inflating.eof or inflating.unused_data:
            raise _damaged()
        invitation = strict_json.decode(content, Invitation, MAX_BYTES)
    except (ValueError, zlib.error):
        raise _damaged() from None
    invitation.secret()
    return invitation


def claim_key(secret: bytes) -> ec.EllipticCurvePrivateKey:
    """The key of the certificate in an invitation: HKDF-SHA-256 of the claim, as a number from 1 to the order."""
    # 16 bytes more than the order has: the remainder is uniform but for 2**-128 (FIPS 186-5, A.2.1).
    wide = HKDF(algorithm=hashes.SHA256(), length=48, salt=None, info=_LABEL).derive(secret)
    return ec.derive_private_key(int.from_bytes(wide, "big") % (_ORDER - 1) + 1, ec.SECP256R1())


def spell_claim(secret: bytes) -> str:
    """A claim's bytes as they stand in an invitation."""
    return base64.b64encode(secret).decode("ascii")


def der(certificate: x509.Certificate) -> str:
    """A certificate as it stands in an invitation."""
    return base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode("ascii")


def _bytes(text: str, length: int | None = None) -> bytes:
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:
        raise _damaged() from None
    if length is not None and len(content) != length:
        raise _damaged()
    return content


def _damaged() -> RefusedError:
    return RefusedError("the invitation is damaged: copy the whole file again, or make a new one", reason="malformed")
