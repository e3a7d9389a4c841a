# SPDX-License-Identifier: Apache-2.0
"""A program takes the certificate that its site renewed, and no other that somebody retains at the broker."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.clock import SimulatedClock
from agent.errors import KeyStoreError, PosternError
from agent.keys import load_private_key
from agent.mqtt.credentials import Credentials, load_identity, offer_certificate
from agent.site.authority import Authority, pem
from agent.site.delegation import delegate
from agent.site.folder import changing
from agent.site.mandated import load_issuing
from agent.site.programs import issue_client, renew_client, revoke_client
from tests.simulators.site_office import SiteOffice


class Program:
    """An auditor of a site, whose certificate is three months old."""

    def __init__(self, folder: Path) -> None:
        self.office = SiteOffice(folder)
        self.clock: SimulatedClock = self.office.clock
        self.site, self.files = self.office.site, self.office.files
        delegate(self.site, clock=self.clock)
        keys = issue_client(self.site, "guard", "auditor", clock=self.clock)
        self.credentials = Credentials.in_folder(keys)
        self.clock.advance(90 * 86_400)

    @property
    def present(self) -> bytes:
        return self.credentials.certificate.read_bytes()

    def offer(self, content: bytes) -> bool:
        return offer_certificate(self.credentials, content, self.clock)

    def renewed(self) -> bytes:
        delegate(self.site, clock=self.clock)  # the issuing certificate, too, lasts a year and a month
        assert renew_client(self.site, "guard", clock=self.clock)
        return self.files.sent_certificate("guard").read_bytes()

    def key(self) -> ec.EllipticCurvePublicKey:
        return load_private_key(self.credentials.key).public_key()

    def by_a_false_issuer(self) -> bytes:
        """An issuer of the site's very name, whose own certificate the site's authority never signed."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuing = x509.load_pem_x509_certificate(self.files.issuing_crt.read_bytes())
        root = Authority.create("hq", self.clock.now())
        false = Authority(key, root.delegate(_name(issuing), self.clock.now(), key).certificate)
        return pem(false.issue_client("guard", self.key(), self.clock.now())) + pem(false.certificate)

    def by_another_program(self) -> bytes:
        """A program's certificate in the issuer's place."""
        thief = issue_client(self.site, "thief", "auditor", clock=self.clock)
        certified = x509.load_pem_x509_certificate((thief / "tls.crt").read_bytes())
        false = Authority(load_private_key(thief / "tls.key"), certified)
        return pem(false.issue_client("guard", self.key(), self.clock.now())) + (thief / "tls.crt").read_bytes()

    def for_another_key(self) -> bytes:
        with changing(self.site, clock=self.clock) as site:
            return site.certify("guard", ec.generate_private_key(ec.SECP256R1()).public_key(), days=365)[1]

    def for_another_name(self) -> bytes:
        with changing(self.site, clock=self.clock) as site:
            return site.certify("warden", self.key(), days=365)[1]


def _name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def test_what_the_site_renewed_is_taken_once_and_counts_at_the_next_connection(program: Program) -> None:
    before, chain = program.present, program.renewed()
    assert program.offer(chain)
    assert program.present == chain
    assert not program.offer(chain)
    assert not program.offer(before), "an older one that is retained again changes nothing"
    assert load_identity(program.credentials, program.clock).common_name == "guard"
    assert not renew_client(program.site, "guard", clock=program.clock), "not again for a month"


@pytest.mark.parametrize(
    "make",
    [Program.by_a_false_issuer, Program.by_another_program, Program.for_another_key, Program.for_another_name],
)
def test_a_certificate_that_only_the_broker_believes_in_shuts_nobody_out(
    program: Program, make: Callable[[Program], bytes]
) -> None:
    before, offered = program.present, make(program)
    with pytest.raises(KeyStoreError):
        program.offer(offered)
    assert program.present == before


def test_one_that_a_thief_of_the_service_made_last_for_ever_goes_with_the_thief(program: Program) -> None:
    """Else it would shut the program out once the former issuer's certificates are revoked."""
    assert program.offer(program.renewed())
    stolen = load_issuing(program.files)
    assert stolen is not None
    ends = program.clock.now() + timedelta(days=9_000)
    for_ever = pem(stolen.issue_client("guard", program.key(), program.clock.now(), until=ends))
    for_ever += pem(stolen.certificate)
    program.offer(for_ever)
    program.clock.advance(86_400)
    delegate(program.site, replace=True, clock=program.clock)
    assert renew_client(program.site, "guard", clock=program.clock)
    chain = program.files.sent_certificate("guard").read_bytes()
    assert program.offer(chain)
    assert not program.offer(for_ever), "it is there still, for whoever reads the broker"
    assert program.present == chain


def test_one_from_the_future_waits_and_a_huge_one_is_none(program: Program) -> None:
    before, chain = program.present, program.renewed()
    program.clock.step_wall(-2 * 86_400)
    with pytest.raises(KeyStoreError, match="valid from"):
        program.offer(chain)
    assert not program.offer(chain * 100)
    assert program.present == before


def test_a_revoked_program_and_one_whose_key_the_site_does_not_know_are_renewed_by_nobody(program: Program) -> None:
    program.renewed()
    revoke_client(program.site, "guard", clock=program.clock)
    program.clock.advance(120 * 86_400)
    assert not renew_client(program.site, "guard", clock=program.clock)


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
def test_no_bytes_in_a_certificates_place_end_a_program(program: Program, content: bytes) -> None:
    before = program.present
    wrapped = b"-----BEGIN CERTIFICATE-----\n" + content + b"\n-----END CERTIFICATE-----\n"
    for each in (content, wrapped, wrapped + before):
        with pytest.raises(PosternError):
            program.offer(each)
    assert program.present == before
