# SPDX-License-Identifier: Apache-2.0
"""Certificates that are shown to the broker for years: OpenSSL reads them again where its answer may be another."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509

from agent.clock import Clock
from agent.disk.files import REVOKED_BROKERS
from agent.mqtt.credentials import Credentials, load_identity


class Shown:
    """What one program or unit shows; each ``check`` says what ``load_identity`` says at that moment."""

    def __init__(self, credentials: Credentials, clock: Clock, *, name: str) -> None:
        self._credentials, self._clock, self._name = credentials, clock, name
        self._files: tuple[bytes, ...] = ()
        self._good: tuple[datetime, datetime] | None = None  # these files, from when until before when

    def check(self) -> None:
        """Raise KeyStoreError where the broker would take it no more."""
        now, files = self._clock.now(), self._read()
        if files == self._files and self._good is not None and self._good[0] <= now < self._good[1]:
            return
        load_identity(self._credentials, self._clock, common_name=self._name)
        certificates = [one for content in files[:2] for one in x509.load_pem_x509_certificates(content)]
        self._files, self._good = files, (now, min(one.not_valid_after_utc for one in certificates))

    def _read(self) -> tuple[bytes, ...]:
        own = self._credentials
        revoked = own.revoked or own.ca.with_name(REVOKED_BROKERS)
        paths = (own.ca, own.certificate, own.key, own.ca.with_name(REVOKED_BROKERS), revoked)
        return tuple(path.read_bytes() if path.exists() else b"" for path in paths)
