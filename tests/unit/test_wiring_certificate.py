# SPDX-License-Identifier: Apache-2.0
"""Which certificate a unit takes for itself: by its beginning, its end and its key, at each bound."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agent.errors import KeyStoreError, PosternError, VerificationError
from agent.keys import save_private_key
from agent.site.authority import BACKDATE, Authority, pem
from agent.unit.certificate import MIN_LEFT, check_certificate, renew_certificate
from agent.unit.key_files import UnitFiles

BEGAN = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW = BEGAN + timedelta(days=200)
DAY = timedelta(days=1)


class Unit:
    """Keys of a unit with a certificate that began at ``BEGAN`` and ends ``days`` from now."""

    def __init__(self, folder: Path, days: float = 100.0) -> None:
        self.files = UnitFiles(folder)
        self.root = Authority.create("hq", BEGAN - 30 * DAY)
        self.key = ec.generate_private_key(ec.SECP256R1())
        save_private_key(self.key, self.files.tls_key)
        self.files.ca_crt.write_bytes(pem(self.root.certificate))
        self.files.tls_crt.write_text(self.made(BEGAN, NOW + days * DAY))

    def made(self, begins: datetime, ends: datetime, key: ec.EllipticCurvePrivateKey | None = None) -> str:
        public = (key or self.key).public_key()
        return pem(self.root.issue_client("door-1", public, begins, since=begins + BACKDATE, until=ends)).decode()

    def take(self, text: str) -> int:
        return renew_certificate(self.files.folder, "door-1", text, now=NOW)

    def refused(self, text: str) -> tuple[str, str]:
        before = self.files.tls_crt.read_bytes()
        with pytest.raises(VerificationError) as refusal:
            self.take(text)
        assert self.files.tls_crt.read_bytes() == before
        return refusal.value.reason, str(refusal.value)


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    return Unit(tmp_path)


def test_one_that_begins_no_sooner_and_lasts_is_taken_and_its_days_are_told(unit: Unit) -> None:
    for begins, ends, days in (
        (BEGAN, NOW + 100 * DAY, 100),
        (NOW, NOW + 180 * DAY, 180),  # from this very second on
        (NOW, NOW + 180 * DAY - timedelta(seconds=1), 179),
    ):
        text = unit.made(begins, ends)
        assert unit.take(text) == days
        assert unit.files.tls_crt.read_text() == text
        assert unit.files.tls_crt.stat().st_mode & 0o777 == 0o644


def test_one_that_begins_sooner_than_the_one_in_force_is_a_repetition(unit: Unit) -> None:
    said = ("replayed", "this unit has a newer certificate: issue a new one")
    assert unit.refused(unit.made(BEGAN - timedelta(seconds=1), NOW + 300 * DAY)) == said


@pytest.mark.parametrize(
    ("begins", "ends"),
    [(NOW + timedelta(seconds=1), NOW + 300 * DAY), (BEGAN, NOW), (BEGAN, NOW - timedelta(seconds=1))],
)
def test_one_that_is_not_valid_now_would_leave_the_unit_without_a_session(
    unit: Unit, begins: datetime, ends: datetime
) -> None:
    said = f"the certificate is not valid here, where it is {NOW:%Y-%m-%d %H:%M} UTC"
    assert unit.refused(unit.made(begins, ends)) == ("not_valid", said)


@pytest.mark.parametrize(("in_force", "least"), [(100.0, MIN_LEFT), (10.0, 10 * DAY)])
def test_one_that_ends_soon_is_taken_only_where_the_one_in_force_ends_no_later(
    tmp_path: Path, in_force: float, least: timedelta
) -> None:
    unit = Unit(tmp_path, in_force)
    said = ("not_valid", "the certificate ends before the one in force: issue one that lasts")
    assert unit.refused(unit.made(NOW, NOW + least - timedelta(seconds=1))) == said
    assert unit.take(unit.made(NOW, NOW + least)) == least.days


def test_what_is_no_certificate_of_this_unit_is_refused_in_one_sentence_each(unit: Unit) -> None:
    broker = pem(unit.root.issue_broker(["127.0.0.1"], unit.key.public_key(), NOW)).decode()
    of_a_kind = "the certificate is of a kind that no broker takes from a unit: ask the site again"
    other = ec.generate_private_key(ec.SECP256R1())
    another = "the certificate is for another key than the one that waits here: make a new request"
    unreadable = "the certificate is not readable: ask the site again"
    for name, text, said in (
        ("broker", broker, of_a_kind),
        ("door-1", unit.made(BEGAN, NOW + 100 * DAY, other), another),
        ("door-1", "", unreadable),
        ("door-1", unit.made(BEGAN, NOW + 100 * DAY).replace("M", "N"), unreadable),
    ):
        with pytest.raises(PosternError) as refused:
            check_certificate(text, unit.root.certificate, name, unit.files.tls_key)
        assert str(refused.value) == said, name
        malformed = isinstance(refused.value, VerificationError) and refused.value.reason == "malformed"
        assert malformed == (said == unreadable)
        assert malformed or isinstance(refused.value, KeyStoreError)
    good = unit.made(BEGAN, NOW + 100 * DAY)
    found = check_certificate(good, unit.root.certificate, "door-1", unit.files.tls_key)
    assert pem(found).decode() == good
    for root, name in ((unit.root, "door-2"), (Authority.create("hq", NOW), "door-1")):
        with pytest.raises(KeyStoreError):
            check_certificate(good, root.certificate, name, unit.files.tls_key)
