# SPDX-License-Identifier: Apache-2.0
"""The site kit: a unit joins by a token, gets what it needs and no more, and can be shut out again."""

from __future__ import annotations

import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.audit.chain import read_entries, verify_log
from agent.errors import KeyStoreError, RefusedError, VerificationError
from agent.keys import load_public_key
from agent.outbox.epoch_keys import EpochKeys
from agent.protocol.trust import TrustedUnits
from agent.site import programs, units
from agent.site.creation import create_site
from agent.site.published import read_units, unfinished
from agent.site.records import SiteFiles
from agent.unit.joining import install, install_epoch_keys
from agent.unit.key_files import UnitFiles
from tests.simulators.signing_unit import START
from tests.simulators.site_office import SiteOffice, listed_units

SECRETS = ("ca.key", "site.key", "master.key", "tokens.json")


@pytest.fixture
def office(tmp_path: Path) -> SiteOffice:
    return SiteOffice(tmp_path)


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> SiteOffice:
    """A site with one unit, for tests that change neither."""
    office = SiteOffice(tmp_path_factory.mktemp("enrolled"))
    office.enrol("door-3")
    return office


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_new_site_has_its_keys_for_its_owner_alone(office: SiteOffice) -> None:
    assert mode(office.site) == 0o700
    for name in SECRETS:
        assert mode(office.site / name) == 0o600, name
    assert load_public_key(office.files.site_jwk).kid == units.load_site_key(office.site).kid
    assert listed_units(office.site).units() == ()
    assert "master.key" in office.files.explanation.read_text()


def test_existing_site_is_never_overwritten(office: SiteOffice) -> None:
    for name, why in (("hq", "already, and whole"), ("other", "not empty")):
        with pytest.raises(RefusedError, match=why):
            create_site(office.site, name, clock=office.clock)


@pytest.mark.parametrize("name", ["", "HQ", "a b", "a/b", "+", "#", "a" * 65, "höf", "a\n"])
def test_names_that_could_reach_into_other_topics_are_refused(office: SiteOffice, tmp_path: Path, name: str) -> None:
    with pytest.raises(RefusedError, match="is not usable"):
        create_site(tmp_path / "other", name)
    with pytest.raises(RefusedError, match="is not usable"):
        units.new_token(office.site, name)
    with pytest.raises(RefusedError, match="is not usable"):
        programs.issue_client(office.site, name, "auditor", **office.options)


def test_epoch_keys_reach_their_unit_alone(office: SiteOffice) -> None:
    office.enrol("door-3")
    office.enrol("door-4")
    sealed = units.issue_epoch_keys(office.site, "door-3", **office.options)
    with pytest.raises(VerificationError) as refusal:
        install_epoch_keys(office.keys("door-4").folder, sealed, site="hq", unit="door-4", now=START, clock="synced")
    assert refusal.value.reason == "not_for_us"


@pytest.mark.parametrize("left", [lambda _: b"", bytes, lambda n: b"\xef\xbf", lambda n: b"e30." * (n // 8)])
def test_a_file_of_epoch_keys_that_a_stick_damaged_is_told_as_that(
    office: SiteOffice, left: Callable[[int], bytes]
) -> None:
    """The other sentence has another seal key brought, which mends nothing here."""
    office.enrol("door-3")
    sealed = units.issue_epoch_keys(office.site, "door-3", **office.options)
    with pytest.raises(VerificationError, match="copy the file again") as refusal:
        install_epoch_keys(
            office.keys("door-3").folder, left(len(sealed)), site="hq", unit="door-3", now=START, clock="synced"
        )
    assert refusal.value.reason == "malformed"


def test_issued_epoch_keys_carry_a_unit_over_the_weeks(office: SiteOffice) -> None:
    keys = office.enrol("door-3", audiences=("access", "canteen"))
    assert EpochKeys.load(keys.epoch_keys).epochs("canteen") == ("2026-W47", "2026-W48", "2026-W49")
    office.clock.advance(86_400 * 14)
    sealed = units.issue_epoch_keys(office.site, "door-3", **office.options)
    held = install_epoch_keys(keys.folder, sealed, site="hq", unit="door-3", now=office.clock.now(), clock="synced")
    held.pseudonym(b"s", "access", office.clock.now(), settled=office.clock.now())
    assert EpochKeys.load(keys.epoch_keys).epochs("access") == ("2026-W49", "2026-W50", "2026-W51")


def test_same_site_gives_all_units_the_same_pseudonym_and_another_site_another(
    office: SiteOffice, tmp_path: Path
) -> None:
    other = SiteOffice(tmp_path / "elsewhere")
    names = {
        EpochKeys.load(made.enrol(unit).epoch_keys).pseudonym(b"s", "access", START, settled=None)[0]
        for made, unit in ((office, "door-3"), (office, "door-4"), (other, "door-3"))
    }
    assert len(names) == 2


def test_epoch_keys_of_the_past_or_too_far_ahead_are_refused(office: SiteOffice) -> None:
    keys = office.enrol("door-3")
    sealed = units.issue_epoch_keys(office.site, "door-3", **office.options)
    with pytest.raises(VerificationError, match="past epochs"):
        install_epoch_keys(
            keys.folder, sealed, site="hq", unit="door-3", now=START + timedelta(weeks=4), clock="synced"
        )
    with pytest.raises(RefusedError, match="keys of 0 to 2 epochs to come"):
        units.issue_epoch_keys(office.site, "door-3", ahead=3, **office.options)
    with pytest.raises(RefusedError, match="ISO week"):
        units.epoch_key(office.site, "access", "next week", **office.options)


@pytest.mark.parametrize("content", [b"", b"a.b.c.d.e", b"\xff\xfe", b"e30....", b"x" * 40_000])
def test_broken_epoch_keys_are_refused(office: SiteOffice, content: bytes) -> None:
    keys = office.enrol("door-3")
    with pytest.raises(VerificationError):
        install_epoch_keys(keys.folder, content, site="hq", unit="door-3", now=START, clock="synced")


PARTS = st.text(alphabet="eyJhbGciOiJFQ0RILUVTIn0_-A", max_size=60)
HEADER = units.encode_base64url(b'{"alg":"ECDH-ES","enc":"A256GCM","epk":{"kty":"EC","crv":"P-256","x":"A","y":"A"}}')


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    st.binary(max_size=80)
    | st.lists(PARTS | st.just(HEADER), min_size=3, max_size=5).map(lambda p: ".".join(p).encode())
)
def test_no_bytes_raise_anything_but_a_refusal(enrolled: SiteOffice, content: bytes) -> None:
    keys = enrolled.keys("door-3").folder
    with pytest.raises(VerificationError):
        install_epoch_keys(keys, content, site="hq", unit="door-3", now=START, clock="synced")
    with pytest.raises(VerificationError):
        install(keys, content, clock=enrolled.clock)
    with pytest.raises(VerificationError):
        units.add_unit(enrolled.site, content, **enrolled.options)


def test_revoked_unit_is_out_everywhere(office: SiteOffice) -> None:
    office.enrol("door-3")
    office.enrol("door-4")
    before = listed_units(office.site)
    kid = office.event_key("door-3").kid
    units.revoke_unit(office.site, "door-3", **office.options)
    after = listed_units(office.site)
    listed = after.find(kid)
    assert listed is not None
    assert not listed.counts_at(START)
    assert after.serial > before.serial
    crl = x509.load_pem_x509_crl(office.files.crl.read_bytes())
    serials = {
        unit: x509.load_pem_x509_certificate(office.keys(unit).tls_crt.read_bytes()).serial_number
        for unit in ("door-3", "door-4")
    }
    assert [revoked.serial_number for revoked in crl] == [serials["door-3"]]
    assert "user door-3\n" not in office.files.acl.read_text()
    assert "user door-4\n" in office.files.acl.read_text()
    for act in (units.issue_epoch_keys, units.renew_unit):
        with pytest.raises(RefusedError, match="revoked"):
            act(office.site, "door-3", **office.options)
    units.revoke_unit(office.site, "door-3", **office.options)
    with pytest.raises(VerificationError):
        TrustedUnits.from_signed(
            office.files.trust.read_bytes(), units.load_site_key(office.site).public, minimum_serial=after.serial + 2
        )


def test_revoked_unit_may_join_again_with_new_keys(office: SiteOffice) -> None:
    office.enrol("door-3")
    old = office.event_key("door-3").kid
    units.revoke_unit(office.site, "door-3", **office.options)
    office.enrol("door-3")
    trusted = listed_units(office.site)
    entries = [trusted.find(kid) for kid in (old, office.event_key("door-3").kid)]
    assert [entry is not None and entry.counts_at(START) for entry in entries] == [False, True]


@pytest.mark.parametrize("act", [units.revoke_unit, units.renew_unit, units.issue_epoch_keys, programs.revoke_client])
def test_unknown_name_is_refused(office: SiteOffice, act: object) -> None:
    with pytest.raises(RefusedError, match="of that name"):
        act(office.site, "nobody", **office.options)  # type: ignore[operator]


def test_folder_that_is_no_site_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="not the folder of a site"):
        units.new_token(tmp_path, "door-3")


def test_passphrase_protects_all_three_keys(tmp_path: Path) -> None:
    office = SiteOffice(tmp_path, passphrase=b"correct horse")
    for path in (office.files.ca_key, office.files.site_key, office.files.master_key):
        assert b"ENCRYPTED" in path.read_bytes()
    office.enrol("door-3")
    with pytest.raises(KeyStoreError, match="passphrase"):
        units.renew_unit(office.site, "door-3", clock=office.clock)


def test_every_act_stands_in_the_audit_log_and_no_secret_does(office: SiteOffice) -> None:
    office.enrol("door-3")
    programs.issue_client(office.site, "auditor-1", "auditor", **office.options)
    programs.revoke_client(office.site, "auditor-1", **office.options)
    programs.issue_broker(office.site, ["localhost"], **office.options)
    units.issue_epoch_keys(office.site, "door-3", **office.options)
    units.revoke_unit(office.site, "door-3", **office.options)
    verify_log(office.files.audit)
    steps = [entry.facts["step"] for entry in read_entries(office.files.audit)]
    assert steps == [
        "site_created",
        "token_issued",
        "unit_added",
        "client_issued",
        "client_revoked",
        "broker_issued",
        "epoch_keys_issued",
        "unit_revoked",
    ]
    assert b"PRIVATE" not in office.files.audit.read_bytes()


def test_a_record_that_is_gone_takes_no_unit_out_of_the_lists(office: SiteOffice) -> None:
    """Before, the next act of any kind forgot the unit, and that it was revoked."""
    office.enrol("door-3")
    office.enrol("door-4")
    units.revoke_unit(office.site, "door-3", **office.options)
    files = SiteFiles(office.site)
    before = {path: path.read_bytes() for path in (files.trust, files.crl, files.acl, files.record)}
    kept = files.unit("door-3").read_bytes()
    files.unit("door-3").unlink()
    for act in (
        lambda: programs.issue_client(office.site, "wall", "auditor", **office.options),
        lambda: unfinished(files),
    ):
        with pytest.raises(KeyStoreError, match=r"door-3\.json is gone.*restore it from the folder's backup"):
            act()
    assert {path: path.read_bytes() for path in before} == before
    files.unit("door-3").write_bytes(kept)
    programs.issue_client(office.site, "wall", "auditor", **office.options)
    assert read_units(files.trust.read_bytes(), load_public_key(files.site_jwk)).keys() == {"door-3", "door-4"}


def test_damaged_record_is_named(office: SiteOffice) -> None:
    office.enrol("door-3")
    office.files.unit("door-3").write_bytes(b"{}")
    with pytest.raises(KeyStoreError, match="restore the folder from its backup"):
        units.renew_unit(office.site, "door-3", **office.options)


def test_site_folder_can_be_moved(office: SiteOffice, tmp_path: Path) -> None:
    moved = office.site.rename(tmp_path / "backup")
    assert SiteFiles(moved).record.exists()
    units.new_token(moved, "door-9", clock=office.clock)


def test_unit_key_folder_has_the_names_that_the_agent_expects() -> None:
    files = UnitFiles(Path("keys"))
    names = [files.event_key, files.tls_key, files.tls_crt, files.ca_crt, files.site_jwk, files.epoch_keys]
    assert [path.name for path in names] == ["unit.key", "tls.key", "tls.crt", "ca.crt", "site.jwk", "epoch-keys.json"]
