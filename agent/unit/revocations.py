# SPDX-License-Identifier: Apache-2.0
"""Which brokers a unit no longer believes: the site's list of revoked broker certificates, beside ``ca.crt``.

It counts from the next connection on. Whoever carries it cannot change it, and an older one is refused.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agent.errors import VerificationError
from agent.files import PUBLIC_MODE, read_bounded, write_atomic
from agent.site.authority import read_certificate
from agent.unit.key_files import UnitFiles


def install_revocations(keys: Path, content: bytes, *, root: x509.Certificate | None = None) -> int:
    """Put the list in force; how many certificates it names.

    ``root`` is the authority, default that of this unit. Raises VerificationError: ``malformed``, ``bad_signature``,
    ``replayed`` for a list that is older than the one in force.
    """
    files = UnitFiles(keys)
    fresh = _read(content)
    authority = root or read_certificate(files.ca_crt)
    issuer = authority.public_key()
    if not isinstance(issuer, ec.EllipticCurvePublicKey) or not fresh.is_signature_valid(issuer):
        raise VerificationError(
            "bad_signature", "the list of revoked brokers is not by this unit's site: copy it again"
        )
    if files.revoked_brokers.exists() and _number(_read(read_bounded(files.revoked_brokers))) > _number(fresh):
        raise VerificationError("replayed", "this unit has a newer list of revoked brokers: copy the newest")
    write_atomic(files.revoked_brokers, content, mode=PUBLIC_MODE)
    return len(fresh)


def _read(content: bytes) -> x509.CertificateRevocationList:
    try:
        return x509.load_pem_x509_crl(content)
    except ValueError:
        raise VerificationError("malformed", "this is no list of revoked brokers: copy brokers.crl again") from None


def _number(listed: x509.CertificateRevocationList) -> int:
    try:
        return listed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (x509.ExtensionNotFound, ValueError):
        raise VerificationError("malformed", "the list of revoked brokers has no number: copy it again") from None
