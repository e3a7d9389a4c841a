# SPDX-License-Identifier: Apache-2.0
"""Acts of the site kit are whole: what is refused changed nothing, what was done stands in every file and the log."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agent.audit.chain import read_entries
from agent.disk.files import read_bounded
from agent.errors import KeyStoreError, RefusedError, VerificationError
from agent.keys import load_public_key, private_pem
from agent.protocol.record import load
from agent.protocol.trust import TrustedUnits
from agent.site import delegation, policies, programs, restored, rotation, units
from agent.site.folder import changing
from agent.site.published import unfinished
from agent.site.records import MAX_AUDIENCES, MAX_CERTIFICATES, SiteRecord
from tests.simulators.signing_unit import START
from tests.simulators.site_office import SiteOffice, listed_units
from tests.unit.test_match_policy import policy

PASSPHRASE = b"correct horse"


@pytest.fixture
def office(tmp_path: Path) -> SiteOffice:
    return SiteOffice(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a site; an empty folder counts as one. The lock is no content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if path.suffix != ".lock"
    }


def revoked_serials(office: SiteOffice) -> set[int]:
    return {entry.serial_number for entry in x509.load_pem_x509_crl(office.files.crl.read_bytes())}


def serial(certificate: Path) -> int:
    return x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number


def steps(office: SiteOffice) -> list[object]:
    return [entry.facts.get("step") for entry in read_entries(office.files.audit)]


Act = Callable[[SiteOffice, bytes, dict[str, object]], object]
ACTS: dict[str, Act] = {
    "add-unit": lambda o, request, how: units.add_unit(o.site, request, **how),
    "replace": lambda o, request, how: units.add_unit(o.site, request, replace=True, **how),
    "renew-unit": lambda o, _, how: units.renew_unit(o.site, "door-3", **how),
    "issue-keys": lambda o, _, how: units.issue_epoch_keys(o.site, "door-3", **how),
    "epoch-key": lambda o, _, how: units.epoch_key(o.site, "access", "2026-W47", **how),
    "policy": lambda o, _, how: policies.issue_policy(o.site, policy(), **how),
    "change-key": lambda o, _, how: rotation.begin_site_key_change(o.site, policy(), **how),
    "change-key-finish": lambda o, _, how: rotation.finish_site_key_change(o.site, **how),
    "rotate-epoch-keys": lambda o, _, how: rotation.rotate_epoch_keys(o.site, **how),
    "add-program": lambda o, _, how: programs.issue_client(o.site, "new", "auditor", **how),
    "renew-program": lambda o, _, how: programs.issue_client(o.site, "guard", "operator", **how),
    "broker": lambda o, _, how: programs.issue_broker(o.site, ["localhost"], **how),
    "revoke-unit": lambda o, _, how: units.revoke_unit(o.site, "door-3", **how),
    "revoke-program": lambda o, _, how: programs.revoke_client(o.site, "guard", **how),
}


@pytest.mark.parametrize("wrong", [None, b"another", b""], ids=["without", "wrong", "empty"])
def test_no_act_changes_anything_without_the_right_passphrase(tmp_path: Path, wrong: bytes | None) -> None:
    office = SiteOffice(tmp_path, passphrase=PASSPHRASE)
    office.enrol("door-3")
    programs.issue_client(office.site, "guard", "auditor", **office.options)
    requests = {"add-unit": office.request("door-4"), "replace": office.request("door-3")}
    for name, act in ACTS.items():
        if name == "change-key-finish":
            rotation.begin_site_key_change(office.site, policy(), **office.options)
        before = contents(office.site)
        with pytest.raises(KeyStoreError, match="passphrase"):
            act(office, requests.get(name, b""), {**office.options, "passphrase": wrong})
        assert contents(office.site) == before, name
    for name, act in ACTS.items():  # and each of them does something with it
        before = contents(office.site)
        act(office, requests.get(name, b""), office.options)
        assert contents(office.site) != before, name


def test_a_name_whose_first_act_was_refused_is_free(tmp_path: Path) -> None:
    office = SiteOffice(tmp_path, passphrase=PASSPHRASE)
    for passphrase in (b"wrong", PASSPHRASE):
        try:
            programs.issue_client(office.site, "x", "auditor", clock=office.clock, passphrase=passphrase)
        except KeyStoreError:
            assert not office.files.client("x").exists()
            office.files.client("x").mkdir()  # an empty folder is no program either
    assert "user x\n" in office.files.acl.read_text()
    office.files.client("y").mkdir()
    office.enrol("y")


@pytest.mark.parametrize("spoil", ["trust", "crl", "acl"])
def test_files_that_do_not_follow_from_the_records_are_told_and_completed_by_the_next_act(
    office: SiteOffice, spoil: str
) -> None:
    office.enrol("door-3")
    path = getattr(office.files, spoil)
    before = path.read_bytes()
    units.revoke_unit(office.site, "door-3", **office.options)
    after = path.read_bytes()
    path.write_bytes(before)  # as the power cut found it
    assert unfinished(office.files).files == (path.name,)
    with changing(office.site, **office.options):
        pass
    assert not unfinished(office.files).files
    assert steps(office)[-1] == "act_completed"
    assert path.read_bytes() == after or spoil != "acl"
    assert serial(office.keys("door-3").tls_crt) in revoked_serials(office)
    assert listed_units(office.site).units_in_service() == ()


def test_an_act_that_changes_no_public_file_rewrites_none(office: SiteOffice) -> None:
    office.enrol("door-3")
    public = [office.files.trust, office.files.crl, office.files.acl]
    before = [path.read_bytes() for path in public]
    units.renew_unit(office.site, "door-3", **office.options)
    assert [path.read_bytes() for path in public] == before


def test_a_change_of_the_sites_key_that_was_cut_off_is_ended_by_repeating_it(office: SiteOffice) -> None:
    office.enrol("door-3")
    rotation.begin_site_key_change(office.site, policy(), **office.options)
    old = office.files.site_key.read_bytes()
    office.files.site_key.write_bytes(bytes(len(old) // 2) + old[len(old) // 2 :])  # being overwritten
    with pytest.raises(KeyStoreError, match="change-key --finish"):
        units.revoke_unit(office.site, "door-3", **office.options)
    rotation.finish_site_key_change(office.site, **office.options)
    assert load_public_key(office.files.site_jwk).kid == units.load_site_key(office.site).kid
    assert listed_units(office.site).units() == ("door-3",)


def test_no_other_act_ends_a_change_of_the_sites_key_whose_old_key_is_gone(office: SiteOffice) -> None:
    office.enrol("door-3")
    policies.issue_policy(office.site, policy(), **office.options)
    delegation.delegate(office.site, **office.options)
    rotation.begin_site_key_change(office.site, policy(), **office.options)
    office.files.next_site_key.replace(office.files.site_key)
    with pytest.raises(KeyStoreError, match="change-key --finish"):
        policies.issue_policy(office.site, policy(), **office.options)
    units.renew_unit(office.site, "door-3", **office.options)  # by the service, whose mandate is by the key before
    rotation.finish_site_key_change(office.site, **office.options)
    assert load_public_key(office.files.site_jwk).kid == units.load_site_key(office.site).kid
    TrustedUnits.from_signed(office.files.trust.read_bytes(), units.load_site_key(office.site).public)
    assert policies.newest_policy(office.files) is not None
    units.renew_unit(office.site, "door-3", **office.options)


def test_a_change_of_the_sites_key_that_was_cut_before_the_services_mandate_is_ended_by_repeating_it(
    office: SiteOffice,
) -> None:
    office.enrol("door-3")
    delegation.delegate(office.site, **office.options)
    mandate = office.files.mandate.read_bytes()
    rotation.begin_site_key_change(office.site, policy(), **office.options)
    rotation.finish_site_key_change(office.site, **office.options)
    office.files.mandate.write_bytes(mandate)
    with pytest.raises(VerificationError, match="change-key --finish"):
        units.renew_unit(office.site, "door-3", **office.options)
    rotation.finish_site_key_change(office.site, **office.options)
    units.renew_unit(office.site, "door-3", **office.options)
    with pytest.raises(RefusedError, match="it has ended"):
        rotation.finish_site_key_change(office.site, **office.options)


def test_a_broker_that_is_revoked_by_the_record_alone_is_told_and_listed_by_the_next_act(office: SiteOffice) -> None:
    office.enrol("door-3")
    programs.issue_broker(office.site, ["localhost"], **office.options)
    programs.revoke_broker(office.site, **office.options)
    office.files.brokers_crl.unlink()
    assert unfinished(office.files).files == ("brokers.crl",)
    units.renew_unit(office.site, "door-3", **office.options)
    assert unfinished(office.files).files == ()
    (broker,) = office.files.known_broker.certificates
    listed = x509.load_pem_x509_crl(office.files.brokers_crl.read_bytes())
    assert [entry.serial_number for entry in listed] == [int(broker.serial, 16)]


def test_a_program_whose_folder_was_moved_away_stays_on_the_access_list_and_can_be_revoked(
    office: SiteOffice, tmp_path: Path
) -> None:
    folder = programs.issue_client(office.site, "auditor", "auditor", **office.options)
    moved = folder.rename(tmp_path / "auditor-on-its-machine")
    assert {path.name for path in moved.iterdir()} == {
        "ask.key",
        "ca.crt",
        "grant.jws",
        "program.json",
        "tls.crt",
        "tls.key",
        "site.jwk",
        "trust.jws",
    }
    office.enrol("door-3")
    assert "user auditor\n" in office.files.acl.read_text()
    programs.revoke_client(office.site, "auditor", **office.options)
    assert serial(moved / "tls.crt") in revoked_serials(office)
    assert "user auditor\n" not in office.files.acl.read_text()


def test_a_program_of_another_role_has_nothing_of_the_role_before(office: SiteOffice) -> None:
    office.enrol("door-3")
    programs.issue_client(office.site, "desk", "auditor", resolves=["access"], **office.options)
    folder = programs.issue_client(office.site, "desk", "operator", **office.options)
    assert {path.name for path in folder.iterdir()} == {
        "ca.crt",
        "program.json",
        "tls.crt",
        "tls.key",
        "site.jwk",
        "trust.jws",
    }


def test_a_revoked_program_leaves_no_key_at_the_site(office: SiteOffice) -> None:
    office.enrol("door-3")
    folder = programs.issue_client(office.site, "bridge", "auditor", resolves=["access"], **office.options)
    programs.revoke_client(office.site, "bridge", **office.options)
    assert {path.name for path in folder.iterdir()} == {"ca.crt", "program.json", "tls.crt", "site.jwk", "trust.jws"}
    programs.revoke_client(office.site, "bridge", **office.options)


@pytest.mark.parametrize("act", ["again", "revoked"])
def test_nothing_that_waits_for_a_program_outlives_the_key_that_it_is_for(office: SiteOffice, act: str) -> None:
    """The service would offer it for months to whoever has another key now."""
    programs.issue_client(office.site, "desk", "auditor", **office.options)
    office.clock.advance(40 * 24 * 3600)
    delegation.delegate(office.site, **office.options)
    assert programs.renew_client(office.site, "desk", clock=office.clock)
    assert office.files.sent_certificate("desk").exists()
    if act == "again":
        programs.issue_client(office.site, "desk", "auditor", **office.options)
    else:
        programs.revoke_client(office.site, "desk", **office.options)
    assert not office.files.sent_certificate("desk").exists()


def test_both_certificates_of_a_program_that_was_issued_twice_are_revoked(office: SiteOffice, tmp_path: Path) -> None:
    first = programs.issue_client(office.site, "auditor", "auditor", **office.options).rename(tmp_path / "first")
    second = programs.issue_client(office.site, "auditor", "auditor", **office.options)
    programs.revoke_client(office.site, "auditor", **office.options)
    assert {serial(first / "tls.crt"), serial(second / "tls.crt")} <= revoked_serials(office)


def test_replacing_a_units_keys_revokes_its_old_certificate_and_no_other(office: SiteOffice) -> None:
    old, old_kid = serial(office.enrol("door-3").tls_crt), office.event_key("door-3").kid
    new = serial(office.enrol("door-3", replace=True).tls_crt)
    assert revoked_serials(office) == {old}
    assert new != old
    late = listed_units(office.site).find(old_kid)
    assert late is not None
    assert late.counts_at(START + timedelta(days=29))


def test_certificates_that_could_not_be_revoked_are_not_issued(office: SiteOffice) -> None:
    for _ in range(MAX_CERTIFICATES):
        programs.issue_client(office.site, "auditor", "auditor", **office.options)
    before = contents(office.site)
    with pytest.raises(RefusedError, match="choose another name"):
        programs.issue_client(office.site, "auditor", "auditor", **office.options)
    assert contents(office.site) == before


@pytest.mark.parametrize("count", [0, MAX_AUDIENCES + 1])
def test_a_unit_with_more_audiences_than_its_record_holds_is_refused(office: SiteOffice, count: int) -> None:
    request = office.request("door-3")
    before = contents(office.site)
    with pytest.raises(RefusedError, match="audiences"):
        units.add_unit(office.site, request, audiences=[f"a{n}" for n in range(count)], **office.options)
    assert contents(office.site) == before


def test_as_many_tokens_as_may_wait_stay_readable(office: SiteOffice) -> None:
    for number in range(units.MAX_TOKENS):
        units.new_token(office.site, f"{number:04d}".rjust(64, "d"), clock=office.clock)
    with pytest.raises(RefusedError, match="wait to be used"):
        units.new_token(office.site, "one-more", clock=office.clock)
    per_token = len(read_bounded(office.files.tokens)) / units.MAX_TOKENS
    used = len('"used":""') + 44  # what a used one has besides
    assert units.MAX_TOKENS * per_token + units.MAX_USED_TOKENS * (per_token + used) < 64 * 1024


def test_the_policy_that_was_signed_stands_in_the_log(office: SiteOffice) -> None:
    policies.issue_policy(office.site, policy(), **office.options)
    last = list(read_entries(office.files.audit))[-1]
    assert last.kind == "policy_changed"
    expected = {"step": "policy_signed", "digest": policy().digest, "model": policy().model, "serial": 1}
    assert last.facts == expected


@pytest.mark.parametrize("epoch", ["2026-W99", "2025-W53", "2026-W00", "0000-W01", "2026-W47\n", "2026-47", "now"])
def test_a_week_that_does_not_exist_has_no_key(office: SiteOffice, epoch: str) -> None:
    with pytest.raises(RefusedError, match="ISO week"):
        units.epoch_key(office.site, "access", epoch, **office.options)
    assert "epoch_key_taken_out" not in steps(office)


def test_the_53rd_week_of_a_year_that_has_one_has_a_key(office: SiteOffice) -> None:
    assert units.epoch_key(office.site, "access", "2026-W53", **office.options).epoch == "2026-W53"


@pytest.mark.parametrize("act", [units.revoke_unit, units.renew_unit, units.issue_epoch_keys, programs.revoke_client])
@pytest.mark.parametrize("name", ["../units/door-3", "door-3.json", "", "DOOR-3", "*"])
def test_a_name_that_is_a_path_is_refused(office: SiteOffice, act: object, name: str) -> None:
    office.enrol("door-3")
    with pytest.raises(RefusedError, match="is not usable"):
        act(office.site, name, **office.options)  # type: ignore[operator]


def test_no_key_is_written_under_an_empty_passphrase() -> None:
    with pytest.raises(ValueError, match="assword"):
        private_pem(ec.generate_private_key(ec.SECP256R1()), b"")


def test_each_issue_of_keys_has_the_next_number(office: SiteOffice) -> None:
    office.enrol("door-3")

    def issued() -> object:
        (one,) = office.files.all_units()
        return one.issued

    first = issued()
    assert isinstance(first, int)
    for more in (1, 2, 3):
        units.issue_epoch_keys(office.site, "door-3", **office.options)
        assert issued() == first + more
    assert [entry.facts["number"] for entry in read_entries(office.files.audit) if "number" in entry.facts][-3:] == [
        first + 1,
        first + 2,
        first + 3,
    ]


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_a_site_with_a_service_is_brought_back_with_its_passphrase(tmp_path: Path, passphrase: bytes | None) -> None:
    """The service's mandate is signed anew, with a higher number, by the root's key."""
    office = SiteOffice(tmp_path, passphrase=passphrase)
    office.enrol("door-3")
    delegation.delegate(office.site, **office.options)
    before = load(office.files.record, SiteRecord).mandates
    restored.recover(office.site, **office.options)
    assert load(office.files.record, SiteRecord).mandates > before
    assert "site_recovered" in steps(office)


def test_no_certificate_of_a_site_leaves_its_purpose_to_whoever_reads_it(office: SiteOffice) -> None:
    """RFC 5280, 4.2.1.3 and 4.2.1.9: what a key may do, and whether it may sign for others, is marked as critical."""
    office.enrol("door-3")
    programs.issue_broker(office.site, ["localhost"], **office.options)
    programs.issue_client(office.site, "guard", "operator", **office.options)
    delegation.delegate(office.site, **office.options)
    pems = [path.read_bytes() for path in office.folder.rglob("*.crt")]
    found = [one for pem in pems for one in x509.load_pem_x509_certificates(pem)]
    assert len({one.subject.rfc4514_string() for one in found}) >= 5
    for certificate in found:
        for kind in (x509.KeyUsage, x509.BasicConstraints):
            assert certificate.extensions.get_extension_for_class(kind).critical, (certificate.subject, kind)


def test_a_policy_whose_number_a_power_cut_left_by_the_key_before_is_numbered_by_the_new_one(
    office: SiteOffice,
) -> None:
    policies.issue_policy(office.site, policy(), **office.options)
    former = office.files.policy_issue.read_bytes()
    rotation.begin_site_key_change(office.site, policy(), **office.options)
    rotation.finish_site_key_change(office.site, **office.options)
    office.files.policy_issue.write_bytes(former)
    assert policies.newest_policy(office.files) is None
    with changing(office.site, **office.options) as site:
        policies.sign_policy_anew(site, site.public)
    newest = policies.newest_policy(office.files)
    assert newest is not None
    assert newest.serial == 3
