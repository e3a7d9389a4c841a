# SPDX-License-Identifier: Apache-2.0
"""What a unit says of an answer, a list or an issue that it does not take, whole; and that nothing of it stays."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from agent.disk.files import PUBLIC_MODE, SECRET_MODE
from agent.errors import PosternError
from agent.keys import SigningKey, UnitKey, load_private_key
from agent.outbox.epoch_keys import EpochKeys
from agent.protocol.epoch_keys import read_seal_statement
from agent.protocol.joining import ANSWER_TYPE, UnitAnswer, unverified
from agent.protocol.record import encode
from agent.site import units
from agent.site.programs import issue_broker, revoke_broker
from agent.unit.joining import install, install_epoch_keys, new_unit_request, read_pending
from agent.unit.key_files import UnitFiles
from agent.unit.revocations import install_revocations
from agent.unit.seal_key import last_issue, settle, statement, was_taken
from tests.simulators.site_office import SiteOffice

UNIT = "door-3"


@pytest.fixture
def office(tmp_path: Path) -> SiteOffice:
    return SiteOffice(tmp_path)


def said(act: Callable[[], object]) -> tuple[str | None, str]:
    with pytest.raises(PosternError) as refusal:
        act()
    return getattr(refusal.value, "reason", None), str(refusal.value)


def everything(keys: UnitFiles) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in keys.folder.rglob("*") if path.is_file()}


def resigned(office: SiteOffice, answer: bytes, **changes: object) -> bytes:
    """The answer with something changed, signed by the site's own key all the same."""
    content = msgspec.structs.replace(unverified(answer.decode(), UnitAnswer), **changes)
    return UnitKey.load(office.files.site_key).sign(encode(content), typ=ANSWER_TYPE).encode()


def test_each_answer_that_is_not_this_units_is_refused_with_what_to_do_and_changes_nothing(
    office: SiteOffice, tmp_path: Path
) -> None:
    other = SiteOffice(tmp_path / "elsewhere")
    waiting = office.request(UNIT)
    keys = office.keys(UNIT)
    of_door_4 = units.add_unit(office.site, office.request("door-4"), **office.options)
    foreign = units.add_unit(other.site, other.request(UNIT), **other.options)
    own = units.add_unit(office.site, waiting, **office.options)
    empty = tmp_path / "empty"
    empty.mkdir()
    before = everything(keys)

    def taking(answer: bytes, folder: Path = keys.folder, **more: tuple[str, str]) -> Callable[[], object]:
        return lambda: install(folder, answer, clock=office.clock, **more)

    another = (
        "the answer is to another request than this unit's newest: bring the answer to that, or make a new request"
    )
    for act, reason, sentence in (
        (taking(of_door_4), "wrong_unit", "the answer is for another unit: fetch the one for this unit"),
        (taking(foreign), "bad_proof", another),
        (taking(b"postern1:abc"), "malformed", "this is an invitation: 'postern unit join FILE' takes it"),
        (
            taking(own, configured=("hq", "door-9")),
            "wrong_unit",
            (
                "the answer is for door-3 of site hq, the configuration for door-9 of site hq: fetch the answer"
                " for that one, or correct the section unit"
            ),
        ),
        (taking(own, empty), None, f"{empty} waits for no answer: make a request first"),
    ):
        assert said(act) == (reason, sentence)
    assert everything(keys) == before
    assert list(empty.iterdir()) == []
    assert taking(own, configured=("hq", UNIT))() == UNIT
    settled = everything(keys)
    renewed = units.renew_unit(other.site, UNIT, **other.options)
    assert said(taking(renewed))[0] == "wrong_key"
    assert everything(keys) == settled


def test_an_answer_that_the_site_signed_and_that_is_no_good_is_refused_before_anything_is_in_force(
    office: SiteOffice, tmp_path: Path
) -> None:
    keys = office.enrol(UNIT)
    other = SiteOffice(tmp_path / "elsewhere")
    renewed = units.renew_unit(office.site, UNIT, **office.options)
    foreign = unverified(units.renew_unit(office.site, UNIT, **office.options).decode(), UnitAnswer)
    other_jwk = json.loads(other.files.site_jwk.read_bytes())
    before = everything(keys)
    unreadable = "a certificate in the answer is not readable"
    for changes, reason, sentence in (
        ({"ca_crt": "nothing"}, "malformed", unreadable),
        ({"tls_crt": "nothing"}, "malformed", "the certificate is not readable: ask the site again"),
        ({"site_jwk": other_jwk}, "wrong_key", "the answer names another site's key: ask this unit's own site"),
        (
            {"revoked_brokers": "nothing"},
            "malformed",
            "this is no list of revoked brokers: copy brokers.crl again",
        ),
    ):
        answer = resigned(office, renewed, **changes)
        assert said(lambda taken=answer: install(keys.folder, taken, clock=office.clock)) == (reason, sentence)
        assert everything(keys) == before, changes
    assert foreign.unit == UNIT


def test_a_request_leaves_its_keys_beside_those_in_force_and_its_token_nowhere(office: SiteOffice) -> None:
    keys = office.keys(UNIT)
    office.request(UNIT)
    waiting = keys.waiting
    files = (waiting.event_key, waiting.tls_key, waiting.seal_key, waiting.next_seal_key, waiting.pending)
    assert sorted(waiting.folder.iterdir()) == sorted(files)
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [SECRET_MODE] * 5
    assert len({path.read_bytes() for path in files}) == 5
    pending = read_pending(waiting.pending)
    assert pending is not None
    assert (pending.site, pending.unit) == ("hq", UNIT)
    keys.folder.chmod(0o777)
    waiting.request.write_bytes(b"of the keys before these")
    office.request(UNIT)
    assert not waiting.request.exists()
    assert stat.S_IMODE(keys.folder.stat().st_mode) == 0o700
    assert read_pending(waiting.folder / "nothing") is None
    for half in (b"", b"{\0\0"):
        waiting.pending.write_bytes(half)
        assert read_pending(waiting.pending) is None, "half overwritten for its removal"


@pytest.mark.parametrize(("site", "unit"), [("h q", UNIT), ("hq", "door/3")])
def test_a_request_by_a_name_that_is_none_makes_no_folder(office: SiteOffice, site: str, unit: str) -> None:
    token = units.new_token(office.site, UNIT, clock=office.clock)
    with pytest.raises(PosternError):
        new_unit_request(office.folder / "nowhere", site, unit, token)
    assert not (office.folder / "nowhere").exists()


def test_what_is_put_in_force_is_readable_by_whom_it_concerns_and_nothing_waits_any_more(office: SiteOffice) -> None:
    issue_broker(office.site, ["127.0.0.1"], **office.options)
    revoke_broker(office.site, **office.options)
    keys = office.enrol(UNIT)
    public = (keys.ca_crt, keys.site_jwk, keys.tls_crt, keys.revoked_brokers)
    secret = (keys.event_key, keys.tls_key, keys.seal_key, keys.seal_state, keys.epoch_keys)
    assert [stat.S_IMODE(path.stat().st_mode) for path in public] == [PUBLIC_MODE] * 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} <= {SECRET_MODE, PUBLIC_MODE}
    assert sorted(path for path in keys.folder.iterdir()) == sorted((*public, *secret))
    assert keys.ca_crt.read_bytes() == office.files.ca_crt.read_bytes()
    assert keys.revoked_brokers.read_bytes() == office.files.brokers_crl.read_bytes()


def test_a_renewal_is_taken_while_a_newer_request_waits_which_waits_on(office: SiteOffice) -> None:
    keys = office.enrol(UNIT)
    renewed = units.renew_unit(office.site, UNIT, **office.options)
    event_key, certificate = keys.event_key.read_bytes(), keys.tls_crt.read_bytes()
    request = office.request(UNIT)
    waits = everything(keys.waiting)
    office.clock.advance(86_400)
    assert install(keys.folder, renewed, clock=office.clock) == UNIT
    assert keys.event_key.read_bytes() == event_key
    assert keys.tls_crt.read_bytes() != certificate
    assert everything(keys.waiting) == waits
    answer = units.add_unit(office.site, request, replace=True, **office.options)
    assert install(keys.folder, answer, clock=office.clock) == UNIT
    assert keys.event_key.read_bytes() != event_key
    assert not keys.waiting.folder.exists()


def unnumbered(office: SiteOffice) -> bytes:
    """A list by the site's own authority as another program may make one."""
    key = load_private_key(office.files.ca_key)
    root = x509.load_pem_x509_certificate(office.files.ca_crt.read_bytes())
    now = office.clock.now()
    listed = x509.CertificateRevocationListBuilder().issuer_name(root.subject).last_update(now)
    made = listed.next_update(now + timedelta(days=1)).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


def test_each_list_of_revoked_brokers_that_is_not_taken_says_which_one_to_copy(
    office: SiteOffice, tmp_path: Path
) -> None:
    keys = office.enrol(UNIT)
    other = SiteOffice(tmp_path / "elsewhere")
    for one in (office, other):
        issue_broker(one.site, ["127.0.0.1"], **one.options)
    foreign = revoke_broker(other.site, **other.options).read_bytes()
    first = revoke_broker(office.site, **office.options).read_bytes()
    office.clock.advance(3600)
    issue_broker(office.site, ["127.0.0.1"], **office.options)
    second = revoke_broker(office.site, **office.options).read_bytes()
    assert install_revocations(keys.folder, first) == 1
    assert install_revocations(keys.folder, second) == 2
    assert install_revocations(keys.folder, second) == 2, "again"
    assert stat.S_IMODE(keys.revoked_brokers.stat().st_mode) == PUBLIC_MODE
    before = everything(keys)
    for content, reason, sentence in (
        (first, "replayed", "this unit has a newer list of revoked brokers: copy the newest"),
        (foreign, "bad_signature", "the list of revoked brokers is not by this unit's site: copy it again"),
        (b"nothing", "malformed", "this is no list of revoked brokers: copy brokers.crl again"),
        (unnumbered(office), "malformed", "the list of revoked brokers has no number: copy it again"),
    ):
        assert said(lambda taken=content: install_revocations(keys.folder, taken)) == (reason, sentence)
    assert everything(keys) == before
    keys.revoked_brokers.write_bytes(foreign)  # another authority's is none of this unit's
    assert install_revocations(keys.folder, first) == 1


def test_an_issue_is_taken_once_and_again_without_a_change(office: SiteOffice) -> None:
    keys = office.enrol(UNIT)
    assert (last_issue(keys), was_taken(keys, "nothing")) == (1, False)

    def take(sealed: bytes) -> EpochKeys:
        return install_epoch_keys(
            keys.folder, sealed, site="hq", unit=UNIT, now=office.clock.now(), clock=office.clock.state()
        )

    office.clock.advance(7 * 86_400)
    sealed = units.issue_epoch_keys(office.site, UNIT, **office.options)
    held = take(b" " + sealed + b"\n")
    assert was_taken(keys, sealed.decode().strip())
    assert last_issue(keys) == 2
    assert held.pseudonym(b"s", "access", office.clock.now(), settled=None)
    before = everything(keys)
    take(sealed)
    assert everything(keys) == before
    settle(keys)
    assert everything(keys) == before
    stated = read_seal_statement(
        statement(keys, site="hq", unit=UNIT), UnitKey.load(keys.event_key).public, site="hq", unit=UNIT
    )
    assert (stated.number, stated.site, stated.unit, stated.version) == (2, "hq", UNIT, 1)
    assert stated.jwk == SigningKey.load(keys.seal_key).public_jwk()
    other = SigningKey.generate()
    keys.seal_key.unlink()
    other.save(keys.seal_key)
    sentence = "seal.key and seal.json do not belong together: replace this unit's keys, as for a new unit"
    assert said(lambda: statement(keys, site="hq", unit=UNIT)) == ("wrong_key", sentence)
