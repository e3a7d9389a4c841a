# SPDX-License-Identifier: Apache-2.0
"""Which brokers a unit no longer believes: the site's list of revoked broker certificates, beside ``ca.crt``.

It counts from the next connection on. Whoever carries it cannot change it, and an older one is refused.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agent.disk.files import PUBLIC_MODE, read_bounded, write_atomic
from agent.errors import KeyStoreError, VerificationError
from agent.site.authority import read_certificate
from agent.unit.key_files import UnitFiles


def install_revocations(keys: Path, content: bytes) -> int:
    """Put the list of this unit's authority in force; how many certificates it names.

    Raises VerificationError: ``malformed``, ``bad_signature``, ``replayed`` for a list that is older than the one in
    force.
    """
    files = UnitFiles(keys)
    if not is_newest(keys, content, root=read_certificate(files.ca_crt)):
        raise VerificationError("replayed", "this unit has a newer list of revoked brokers: copy the newest")
    write_atomic(files.revoked_brokers, content, mode=PUBLIC_MODE)
    return len(_read(content))


def is_newest(keys: Path, content: bytes, *, root: x509.Certificate) -> bool:
    """Whether the unit has no newer list by the authority ``root`` than this one, which has to be by it.

    A file that is damaged, or of another authority, is no newer list: a signed one takes its place. Raises
    VerificationError: ``malformed``, ``bad_signature``.
    """
    fresh, held = _read(content), UnitFiles(keys).revoked_brokers
    if not _is_by(fresh, root):
        raise VerificationError(
            "bad_signature", "the list of revoked brokers is not by this unit's site: copy it again"
        )
    number = _number(fresh)
    try:
        in_force = _read(read_bounded(held)) if held.exists() else None
        return in_force is None or not _is_by(in_force, root) or _number(in_force) <= number
    except (KeyStoreError, VerificationError):
        return True


def _is_by(listed: x509.CertificateRevocationList, root: x509.Certificate) -> bool:
    issuer = root.public_key()
    return isinstance(issuer, ec.EllipticCurvePublicKey) and listed.is_signature_valid(issuer)


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
