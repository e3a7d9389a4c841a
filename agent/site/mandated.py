# SPDX-License-Identifier: Apache-2.0
"""What the site's service holds instead of the root: an issuing key, a signing key with a mandate, some epoch keys.

``agent.site.delegation`` makes them. A thief of all of it can let false units and programs in, and tell who it was in
the weeks whose keys are here, until the site delegates anew; no more than that (see the security page).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from agent.disk.files import files_in, finish_secret, read_token, replace_secret
from agent.errors import KeyStoreError, PosternError, RefusedError, VerificationError
from agent.keys import MAX_TOKEN_BYTES, PublicKey, SigningKey, load_public_key
from agent.protocol.command import CONFIGURE
from agent.protocol.grant import SIGNS_CONFIGURATION, Grant, MandatedKey, read_grant
from agent.protocol.pseudonym import EpochKey
from agent.protocol.record import Record, encode, load
from agent.site.authority import ISSUED_LEAF_DAYS, Authority
from agent.site.records import SiteFiles, SiteRecord

WEEKS: Final = 60  # of epoch keys that the service is given: longer than its mandate lasts
DELEGATE: Final = "delegate anew (postern site delegate)"


class ServiceEpochs(Record, frozen=True):
    """``service/epochs/<audience>.json``: the keys of the coming epochs; past ones are destroyed."""

    version: Literal[1]
    keys: Annotated[tuple[EpochKey, ...], Meta(max_length=WEEKS + 1)]


def load_issuing(files: SiteFiles) -> Authority | None:
    """The issuing certificate with its key; None where nothing was delegated."""
    if not files.issuing_crt.exists():
        return None
    return Authority.load(files.issuing_key, files.issuing_crt, None, leaf_days=ISSUED_LEAF_DAYS)


def load_mandate(files: SiteFiles, site_key: PublicKey, site: str, now: datetime) -> MandatedKey:
    """The service's signing key and its mandate.

    Raises KeyStoreError, VerificationError, and RefusedError when the mandate has ended.
    """
    token = read_mandate(files)
    try:
        grant, public = read_grant(token, site_key, site=site)
    except VerificationError as error:
        raise VerificationError(
            error.reason,
            f"the mandate of the site's service is not by the site's key of now: {DELEGATE}, or end a change of that"
            " key (postern site change-key --finish)",
        ) from None
    key = SigningKey.load(files.mandated_key)
    if key.kid != public.kid:
        raise KeyStoreError(f"{files.mandated_key} is not the key of the service's mandate: {DELEGATE}")
    if now.timestamp() > grant.expires_at:
        raise RefusedError(f"the mandate of the site's service has ended: {DELEGATE}")
    return MandatedKey(key, token)


def mandate_is_by(files: SiteFiles, key: PublicKey, site: str) -> bool:
    """Whether the site's ``key`` signed what the service may, or it may nothing."""
    if not files.delegated:
        return True
    try:
        read_grant(read_mandate(files), key, site=site)
    except VerificationError:
        return False
    return True


def mandate_counts(files: SiteFiles, now: datetime) -> bool:
    """Whether the service's mandate is the site's and has not ended."""
    grant = _grant(files, load(files.record, SiteRecord).site)
    return grant is not None and now.timestamp() <= grant.expires_at


def read_mandate(files: SiteFiles) -> str:
    """The grant by which the service acts, as it was signed."""
    return read_token(files.mandate, MAX_TOKEN_BYTES)


def may_configure(files: SiteFiles, site: str) -> bool:
    """Whether the service's mandate lets it set units; one by a release before does not."""
    grant = _grant(files, site)
    return grant is not None and {CONFIGURE, SIGNS_CONFIGURATION} <= set(grant.verbs)


def _grant(files: SiteFiles, site: str) -> Grant | None:
    """What the service may, by the site's key of now; None where it may nothing, or that cannot be read."""
    try:
        return read_grant(read_mandate(files), load_public_key(files.site_jwk), site=site)[0]
    except PosternError:
        return None


def service_epoch_key(files: SiteFiles, audience: str, epoch: str) -> EpochKey:
    """A key that the service was given; RefusedError where it was not."""
    path = files.service_epochs(audience)
    finish_secret(path)
    if path.exists():
        for key in load(path, ServiceEpochs, secret=True).keys:
            if key.epoch == epoch:
                return key
    raise RefusedError(f"the site's service was given no key of audience '{audience}' for {epoch}: {DELEGATE}")


def save_epochs(path: Path, keys: Iterable[EpochKey]) -> None:
    """Write one audience's keys durably; the bytes of those before are overwritten, also after a power cut."""
    replace_secret(path, encode(ServiceEpochs(version=1, keys=tuple(keys))))


def destroy_past(files: SiteFiles, epoch: str) -> int:
    """Destroy what the service holds of epochs before ``epoch``; how many keys that were."""
    gone = 0
    for path in files_in(files.epochs, ".json"):
        finish_secret(path)
        held = load(path, ServiceEpochs, secret=True).keys
        kept = tuple(key for key in held if key.epoch >= epoch)
        if len(kept) != len(held):
            save_epochs(path, kept)
            gone += len(held) - len(kept)
    return gone
