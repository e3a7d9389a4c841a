# SPDX-License-Identifier: Apache-2.0
"""A site's folder put back from a backup: noticed before it says anything, and above all that was signed by one act."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from agent.errors import KeyStoreError, RefusedError, VerificationError
from agent.keys import PublicKey, SigningKey, load_public_key
from agent.protocol.grant import MandatedKey, make_mandate
from agent.protocol.list_parts import in_parts
from agent.protocol.record import load
from agent.protocol.topics import list_part_topic, list_topic
from agent.protocol.trust import TrustedUnits, TrustList, UnitKeyEntry
from agent.protocol.trust_file import TrustFile
from agent.site import joining, restored, units
from agent.site.delegation import delegate
from agent.site.fleet import service_advice
from agent.site.records import SERVICE, SiteFiles, SiteRecord, UnitRecord
from agent.site.token_list import issue_token_list
from agent.unit.joining import install_epoch_keys
from agent.unit.seal_key import statement
from agent.unit.tokens import install_token_list
from tests.simulators.fleets import fleet_in
from tests.simulators.site_office import SiteOffice, let_in, listed_units
from tools.lib.lifetime.days import SITE

TOPIC = list_topic(SITE)


class Restored:
    """A fleet whose second unit was revoked after the backup, and a third one let in; then it is put back."""

    def __init__(self, folder: Path) -> None:
        self.fleet = fleet_in(folder, 2)
        self.files = SiteFiles(self.fleet.folder)
        self.clock = self.fleet.clock
        self.backup = folder / "backup"
        shutil.copytree(self.fleet.folder, self.backup, symlinks=True)
        units.revoke_unit(self.fleet.folder, "door-2", clock=self.clock)
        self.fleet.units["door-3"] = self.fleet._join("door-3")
        self.retained = self.files.trust.read_bytes()
        self.known = TrustFile(folder / "subscriber.jws", load_public_key(self.files.site_jwk))
        (folder / "subscriber.jws").write_bytes(self.retained)
        self.known.load()

    def put_back(self) -> None:
        shutil.rmtree(self.fleet.folder)
        shutil.copytree(self.backup, self.fleet.folder, symlinks=True)
        self.fleet.desk = self.fleet._start_desk()

    def root_back(self) -> None:
        safe = self.fleet.folder.parent / "safe"
        if safe.exists():
            safe.rename(self.fleet.folder.parent / "stick")

    def hear(self, token: bytes) -> None:
        assert self.fleet.desk.take(TOPIC, token) == []

    def record(self) -> SiteRecord:
        return load(self.files.record, SiteRecord)


@pytest.fixture
def site(tmp_path: Path) -> Restored:
    made = Restored(tmp_path)
    made.put_back()
    return made


def test_the_service_says_no_older_list_and_does_nothing(site: Restored) -> None:
    site.hear(site.retained)
    for _ in range(2):
        with pytest.raises(RefusedError, match="run 'postern site recover'"):
            site.fleet.desk.board()
        with pytest.raises(RefusedError, match="put back from a backup"):
            joining.invite(site.fleet.folder, "door-4", clock=site.clock)
        site.fleet.desk = site.fleet._start_desk()  # also after a restart
    assert any("put back" in advice for advice in service_advice(site.fleet.folder, clock=site.clock))
    before = site.files.trust.read_bytes()
    assert site.fleet.desk.take(f"postern/{SITE}/door-1/health", site.fleet.units["door-1"].health()) == []
    assert site.files.trust.read_bytes() == before


def test_a_folder_that_is_put_back_below_the_running_service_takes_no_newer_list_from_the_broker(
    tmp_path: Path,
) -> None:
    """The newest one would be overwritten there, and with it what shows that there was one."""
    site = Restored(tmp_path)
    (letter,) = site.fleet.desk.board()
    site.hear(letter.payload)  # the broker gives it back
    shutil.rmtree(site.fleet.folder)
    shutil.copytree(site.backup, site.fleet.folder, symlinks=True)
    for _ in range(2):
        with pytest.raises(RefusedError, match="put back from a backup"):
            site.fleet.desk.board()


def test_a_long_list_is_heard_in_its_parts(tmp_path: Path) -> None:
    site = Restored(tmp_path)
    let_in(site.fleet.folder, 150, clock=site.clock)
    retained = site.files.trust.read_bytes()
    site.put_back()
    assert in_parts(retained), "longer than a message"
    for number, part in enumerate(in_parts(retained), start=1):
        site.fleet.desk.take(list_part_topic(SITE, number), part)
    with pytest.raises(RefusedError, match="put back"):
        site.fleet.desk.board()


def test_one_act_brings_it_above_all_that_was_signed(site: Restored) -> None:
    site.hear(site.retained)
    with pytest.raises(KeyStoreError, match="bring them"):
        restored.recover(site.fleet.folder, clock=site.clock)
    site.root_back()
    done = restored.recover(site.fleet.folder, clock=site.clock)
    assert (done.revoked, done.anew) == (("door-2",), ("door-3",))
    (letter,) = site.fleet.desk.board()
    assert site.known.offer(letter.payload), "a subscriber takes it"
    listed = site.known.load()
    assert listed.units_in_service() == ("door-1",)
    assert listed.mandate == site.record().mandates > 1
    assert "user door-2\n" not in site.files.acl.read_text()
    site.hear(site.retained)
    assert service_advice(site.fleet.folder, clock=site.clock) == ()
    site.fleet.units = {"door-1": site.fleet.units["door-1"]}
    site.fleet.live(21, (), seed=1)  # a unit takes what the service sends
    assert site.fleet.units["door-1"].weeks() == 3
    joining.invite(site.fleet.folder, "door-3", clock=site.clock)


def test_the_same_serial_signed_twice_is_noticed(site: Restored) -> None:
    """Acts after the restore bring it up to the number that others hold with other units in it."""
    joining.invite(site.fleet.folder, "door-9", accepted=True, clock=site.clock)
    while site.record().trust_serial < TrustedUnits.from_signed(site.retained, site_key(site)).serial:
        name = f"door-{10 + site.record().trust_serial}"
        site.fleet._join(name)
    site.hear(site.retained)
    with pytest.raises(RefusedError, match="put back"):
        site.fleet.desk.board()


def site_key(site: Restored) -> PublicKey:
    return load_public_key(site.files.site_jwk)


def test_what_the_site_did_not_sign_stops_nothing(site: Restored) -> None:
    """A broker retains anything: another site's list, half of one, one by a service whose keys were replaced."""
    site.root_back()
    root = SigningKey.load(site.files.site_key)
    former = SigningKey.generate()
    thief = MandatedKey(former, make_mandate(SERVICE, former, root, site=SITE, now=site.clock.now(), number=1))
    delegate(site.fleet.folder, replace=True, clock=site.clock)
    content = TrustList(
        version=2,
        site=SITE,
        serial=1_000_000,
        issued_at="2026-01-05T08:00:00Z",
        expires_at="2027-01-05T08:00:00Z",
        units={},
    )
    other = msgspec.structs.replace(content, site="annex")
    for token in (
        b"",
        site.retained[:-9],
        content.sign(SigningKey.generate()).encode(),
        content.sign(thief).encode(),
        other.sign(root).encode(),
        site.files.trust.read_bytes(),
        (site.backup / "trust.jws").read_bytes(),
        b"\xff" * 70_000,
    ):
        site.hear(token)
        assert site.fleet.desk.board() or site.fleet.desk._shown is not None
    assert not site.files.newer_list.exists()


def test_a_thief_of_the_service_uses_up_no_numbers(site: Restored) -> None:
    """The highest serial there is: the next mandate's lists count whatever it was."""
    site.root_back()
    root = SigningKey.load(site.files.site_key)
    stolen = SigningKey.load(site.files.mandated_key)
    thief = MandatedKey(stolen, site.files.mandate.read_text().strip())
    assert root.kid != stolen.kid
    absurd = TrustList(
        version=2,
        site=SITE,
        serial=2**53 - 1,
        issued_at="2026-01-05T08:00:00Z",
        expires_at="2027-01-05T08:00:00Z",
        units={},
    ).sign(thief)
    site.hear(absurd.encode())
    with pytest.raises(RefusedError, match="put back"):
        site.fleet.desk.board()
    restored.recover(site.fleet.folder, clock=site.clock)
    site.hear(absurd.encode())
    assert site.fleet.desk.board()


def test_a_thief_of_the_service_gets_no_key_into_the_folder_that_is_recovered(site: Restored) -> None:
    """A list that looks newer is all it takes to have somebody recover: it shuts out, and lets nobody in."""
    site.root_back()
    root = load(site.files.unit("door-1"), UnitRecord).keys
    units.revoke_unit(site.fleet.folder, "door-2", clock=site.clock)
    own = SigningKey.generate()
    false = UnitKeyEntry(jwk=own.public_jwk(), status="active")
    back = tuple(
        UnitKeyEntry(jwk=entry.jwk, status="active") for entry in load(site.files.unit("door-2"), UnitRecord).keys
    )
    forged = TrustList(
        version=2,
        site=SITE,
        serial=2**40,
        issued_at="2026-01-05T08:00:00Z",
        expires_at="2027-01-05T08:00:00Z",
        units={"door-1": (*root, false), "door-2": back, "door-9": ()},
    ).sign(MandatedKey(SigningKey.load(site.files.mandated_key), site.files.mandate.read_text().strip()))
    site.hear(forged.encode())
    with pytest.raises(RefusedError, match="somebody else has the service's keys"):
        delegate(site.fleet.folder, replace=True, clock=site.clock)
    done = restored.recover(site.fleet.folder, clock=site.clock)
    assert done.anew == ("door-1",), "it is told of"
    delegate(site.fleet.folder, replace=True, clock=site.clock)
    listed = TrustedUnits.from_signed(site.files.trust.read_bytes(), site_key(site))
    assert listed.units_in_service() == ("door-1",)
    assert load(site.files.unit("door-1"), UnitRecord).keys == root
    assert all(entry.status == "revoked" for entry in load(site.files.unit("door-2"), UnitRecord).keys)


def test_by_hand_units_and_their_lists_go_on(tmp_path: Path) -> None:
    """A site without a service: keys and lists are refused until the act, and taken after it."""
    office = SiteOffice(tmp_path)
    office.enrol("door-3")
    issue_token_list(office.site, issuers=["door-3"], clock=office.clock)
    shutil.copytree(office.site, tmp_path / "backup")
    lost = "ab" * 12
    for _ in range(3):
        newer = issue_token_list(office.site, tokens=[lost], clock=office.clock)
        carry(office)
    held = office.files.trust.read_bytes()
    files = office.keys("door-3")
    install_token_list(files.folder, newer.encode(), site="hq")
    shutil.rmtree(office.site)
    shutil.copytree(tmp_path / "backup", office.site)
    with pytest.raises(VerificationError, match="is newer"):
        install_token_list(files.folder, issue_token_list(office.site, clock=office.clock).encode(), site="hq")
    with pytest.raises(VerificationError):
        carry(office)
    with pytest.raises(VerificationError, match="leave it out"):
        restored.recover(office.site, [b"a.b.c"], **office.options)
    restored.recover(office.site, [held, newer.encode()], **office.options)
    listed = install_token_list(files.folder, office.files.token_list.read_bytes(), site="hq")
    assert lost in listed.tokens, "what the newer list revoked stays so"
    stated = statement(files, site="hq", unit="door-3")
    units.take_seal_key(office.site, stated, clock=office.clock)
    carry(office)
    assert listed_units(office.site).serial > TrustedUnits.from_signed(held, office_key(office)).serial


def office_key(office: SiteOffice) -> PublicKey:
    return load_public_key(office.files.site_jwk)


def carry(office: SiteOffice) -> None:
    """Bring the unit its coming epoch keys, and its next seal key back."""
    files, now = office.keys("door-3"), office.clock.now()
    sealed = units.issue_epoch_keys(office.site, "door-3", clock=office.clock)
    install_epoch_keys(files.folder, sealed, site="hq", unit="door-3", now=now, clock="synced")
    units.take_seal_key(office.site, statement(files, site="hq", unit="door-3"), clock=office.clock)
