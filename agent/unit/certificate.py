# SPDX-License-Identifier: Apache-2.0
"""A unit's certificate: is it the site's, for this unit and its key; and taking a newer one while the unit runs.

A new one counts from the next connection on. The key stays: what renews a certificate needs nothing of the unit.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agent.disk.files import PUBLIC_MODE, write_atomic
from agent.errors import KeyStoreError, VerificationError
from agent.keys import load_private_key
from agent.mqtt.credentials import is_clients
from agent.site.authority import check_chain, public_pem, read_certificate, read_chain, validity
from agent.unit.key_files import UnitFiles

MIN_LEFT: Final = timedelta(days=30)  # of one that ends before the one in force: time to send another


def check_certificate(text: str, root: x509.Certificate, unit: str, tls_key: Path) -> x509.Certificate:
    """The unit's certificate of a chain in PEM, by ``root``, for ``unit`` and the key in ``tls_key``.

    Raises VerificationError ``malformed``, and KeyStoreError.
    """
    try:
        chain = read_chain(text)
    except ValueError:
        raise VerificationError("malformed", "the certificate is not readable: ask the site again") from None
    check_chain(chain, root, unit)
    if not is_clients(chain[0]):
        raise KeyStoreError("the certificate is of a kind that no broker takes from a unit: ask the site again")
    certified, held = chain[0].public_key(), load_private_key(tls_key).public_key()
    if not isinstance(certified, ec.EllipticCurvePublicKey) or public_pem(certified) != public_pem(held):
        raise KeyStoreError("the certificate is for another key than the one that waits here: make a new request")
    return chain[0]


def renew_certificate(keys: Path, unit: str, text: str, *, now: datetime) -> int:
    """Put a newer certificate for the unit's present key in force; for how many days it lasts.

    Raises as ``check_certificate``, and VerificationError: ``replayed`` for one from before the one in force,
    ``not_valid`` for one that would leave the unit without a session now or before the site can do anything about it.
    """
    files = UnitFiles(keys)
    fresh = check_certificate(text, read_certificate(files.ca_crt), unit, files.tls_key)
    begins, ends = validity(fresh)
    if begins < validity(read_certificate(files.tls_crt))[0]:  # by its beginning: the root's last longer
        raise VerificationError("replayed", "this unit has a newer certificate: issue a new one")
    if not begins <= now < ends:  # by the clock that the next session goes by, proven or not
        raise VerificationError("not_valid", f"the certificate is not valid here, where it is {now:%Y-%m-%d %H:%M} UTC")
    if ends < min(validity(read_certificate(files.tls_crt))[1], now + MIN_LEFT):
        raise VerificationError("not_valid", "the certificate ends before the one in force: issue one that lasts")
    write_atomic(files.tls_crt, text.encode(), mode=PUBLIC_MODE)
    return max((ends - now).days, 0)
