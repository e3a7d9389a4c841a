# SPDX-License-Identifier: Apache-2.0
"""Somebody records every issue of epoch keys, and weeks later takes the unit's disk; or plays an old issue again."""

from __future__ import annotations

import json
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from agent.clock import SimulatedClock
from agent.errors import RefusedError, VerificationError
from agent.keys import UnitKey, load_public_key
from agent.outbox.epoch_keys import EpochKeys
from agent.protocol import joining
from agent.protocol.epoch_keys import SEAL_KEY_TYPE, SealStatement, open_epoch_keys
from agent.protocol.record import encode
from agent.site import units
from agent.unit.joining import install, install_epoch_keys, new_unit_request
from agent.unit.key_files import UnitFiles
from tests.simulators.signing_unit import START
from tests.simulators.site_office import SiteOffice
from tools.lib.fuzz.target import UNIT, Target

WEEK_S = 7 * 86_400


def issue(target: Target) -> bytes:
    return units.issue_epoch_keys(target.site.folder, UNIT, clock=target.clock)


def rotate(target: Target, args: dict[str, object]) -> dict[str, object]:
    """Send ``key/rotate`` to the assembled unit as the site's operator does; what it answered."""
    command = target.valid("key/rotate", args)
    answer = target.deliver(
        "key/rotate", target.site_key.sign(json.dumps(command).encode(), typ="postern-command+jws").encode()
    )
    assert answer is not None
    content: dict[str, object] = json.loads(joining.decode_base64url(answer.decode().split(".")[1]))
    return content


def stolen(files: UnitFiles) -> list[Path]:
    """Whatever on the disk may be a private key."""
    return [path for path in files.folder.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]


def opened_by(files: UnitFiles, recorded: bytes, site_key: Path) -> list[str]:
    """The keys of the thief that open a recorded issue."""
    found = []
    for path in stolen(files):
        try:
            open_epoch_keys(
                recorded.decode(),
                seal_key=path,
                site_key=load_public_key(site_key),
                site="hq",
                unit=UNIT,
                above=0,
                now=START - timedelta(days=365),
                clock="synced",
                on_mandate=lambda _: None,
            )
            found.append(path.name)
        except VerificationError:
            pass
    return found


def test_recorded_issue_gives_nothing_to_whoever_takes_the_seal_key_later(tmp_path: Path) -> None:
    with ExitStack() as stack:
        target = Target(tmp_path, stack)
        recorded = []
        for _ in range(4):
            sealed = issue(target)
            assert opened_by(target.unit, sealed, target.unit.site_jwk), "the unit itself can open it now"
            answer = rotate(target, {"epoch_keys": sealed.decode()})
            assert answer["status"] == "ok", answer
            units.take_seal_key(target.site.folder, answer["data"]["seal_key"], clock=target.clock)  # type: ignore[index]
            recorded.append(sealed)
            target.clock.advance(2 * WEEK_S)
        for sealed in recorded:
            assert opened_by(target.unit, sealed, target.unit.site_jwk) == []


def test_recorded_answer_of_a_joining_gives_nothing_later(tmp_path: Path) -> None:
    office = SiteOffice(tmp_path)
    request = office.request(UNIT)
    answer = units.add_unit(office.site, request, **office.options)
    install(office.keys(UNIT).folder, answer, clock=office.clock)
    sealed = joining.unverified(answer.decode(), joining.UnitAnswer).epoch_keys.encode()
    assert opened_by(office.keys(UNIT), sealed, office.keys(UNIT).site_jwk) == []


@pytest.mark.parametrize("synced", [True, False])
def test_unit_takes_no_issue_again_whatever_it_knows_of_the_time(tmp_path: Path, synced: bool) -> None:
    office = SiteOffice(tmp_path)
    keys = office.enrol(UNIT)
    clock = SimulatedClock(START, state="synced" if synced else "unsynced")
    held = lambda: EpochKeys.load(keys.epoch_keys).epochs("access")  # noqa: E731
    taken = []
    for _ in range(2):
        sealed = units.issue_epoch_keys(office.site, UNIT, **office.options)
        install_epoch_keys(keys.folder, sealed, site="hq", unit=UNIT, now=clock.now(), clock=clock.state())
        units.take_seal_key(office.site, statement_of(keys), clock=office.clock)
        taken.append(sealed)
    later = held()
    with pytest.raises(VerificationError) as refusal:
        install_epoch_keys(keys.folder, taken[0], site="hq", unit=UNIT, now=clock.now(), clock=clock.state())
    assert refusal.value.reason == "not_for_us"
    install_epoch_keys(keys.folder, taken[1], site="hq", unit=UNIT, now=clock.now(), clock=clock.state())
    assert held() == later, "the last one, delivered twice, changes nothing"


def statement_of(keys: UnitFiles) -> str:
    from agent.unit.seal_key import statement  # noqa: PLC0415 - not there in the release before

    return statement(keys, site="hq", unit=UNIT)


def test_issue_with_a_number_that_was_passed_is_refused_even_if_it_opens(tmp_path: Path) -> None:
    """A site folder restored from a backup counts from an old number; the unit's own statement corrects it."""
    office = SiteOffice(tmp_path)
    keys = office.enrol(UNIT)
    backup = office.files.unit(UNIT).read_bytes()
    for _ in range(2):
        sealed = units.issue_epoch_keys(office.site, UNIT, **office.options)
        install_epoch_keys(keys.folder, sealed, site="hq", unit=UNIT, now=START, clock="unsynced")
        units.take_seal_key(office.site, statement_of(keys), clock=office.clock)
    record = json.loads(backup) | {"seal_jwk": json.loads(office.files.unit(UNIT).read_bytes())["seal_jwk"]}
    office.files.unit(UNIT).write_text(json.dumps(record))
    old = units.issue_epoch_keys(office.site, UNIT, **office.options)
    with pytest.raises(VerificationError) as refusal:
        install_epoch_keys(keys.folder, old, site="hq", unit=UNIT, now=START, clock="unsynced")
    assert refusal.value.reason == "old_issue"
    office.files.unit(UNIT).write_bytes(backup)
    units.take_seal_key(office.site, statement_of(keys), clock=office.clock)
    fresh = units.issue_epoch_keys(office.site, UNIT, **office.options)
    install_epoch_keys(keys.folder, fresh, site="hq", unit=UNIT, now=START, clock="unsynced")


def test_nobody_but_the_unit_says_what_its_keys_are_sealed_to(tmp_path: Path) -> None:
    office = SiteOffice(tmp_path)
    keys = office.enrol(UNIT)
    office.enrol("door-9")
    before = office.files.unit(UNIT).read_bytes()
    thief, jwk = UnitKey.generate(), UnitKey.generate().public_jwk()
    told = SealStatement(version=1, site="hq", unit=UNIT, number=9, jwk=jwk)
    own = UnitKey.load(keys.event_key)
    forged = {
        "wrong_key": thief.sign(encode(told), typ=SEAL_KEY_TYPE),
        "another unit's key": office.event_key("door-9").sign(encode(told), typ=SEAL_KEY_TYPE),
        "wrong_type": own.sign(encode(told), typ="postern-event+jws"),
        "another site's": own.sign(
            encode(SealStatement(version=1, site="xx", unit=UNIT, number=9, jwk=jwk)), typ=SEAL_KEY_TYPE
        ),
        "old_issue": own.sign(
            encode(SealStatement(version=1, site="hq", unit=UNIT, number=0, jwk=jwk)), typ=SEAL_KEY_TYPE
        ),
        "malformed": own.sign(b"{}", typ=SEAL_KEY_TYPE),
        "nobody": "e30.e30.e30",
    }
    for how, token in forged.items():
        with pytest.raises(VerificationError):
            units.take_seal_key(office.site, token, clock=office.clock)
        assert office.files.unit(UNIT).read_bytes() == before, how
    units.revoke_unit(office.site, UNIT, **office.options)
    with pytest.raises(VerificationError) as refusal:
        units.take_seal_key(office.site, own.sign(encode(told), typ=SEAL_KEY_TYPE), clock=office.clock)
    assert refusal.value.reason == "revoked"


def test_unit_of_the_release_before_is_told_to_be_upgraded_first(tmp_path: Path) -> None:
    office = SiteOffice(tmp_path)
    token = units.new_token(office.site, UNIT, clock=office.clock)
    request = new_unit_request(office.keys(UNIT).folder, "hq", UNIT, token)
    content = joining.unverified(request.decode(), joining.UnitRequest)
    old = {name: content.seal_jwk[name] for name in ("kty", "crv", "x", "y")}
    record = joining.UnitRequest(
        **{**{f: getattr(content, f) for f in content.__struct_fields__}, "seal_jwk": old, "proof": None}
    )
    key = UnitKey.load(office.keys(UNIT).waiting.event_key)
    signed = key.sign(encode(record), typ=joining.REQUEST_TYPE).encode()
    with pytest.raises(RefusedError, match="upgrade the unit first"):
        units.add_unit(office.site, signed, **office.options)


def test_unit_takes_what_a_site_of_the_release_before_issues_until_its_site_is_upgraded(tmp_path: Path) -> None:
    office = SiteOffice(tmp_path)
    keys = office.enrol(UNIT)
    keys.seal_state.unlink()  # as if it had joined by that release
    record = units.load(office.files.unit(UNIT), units.UnitRecord)
    keys_of = {"site": "hq", "unit": UNIT, "clock": "synced", "now": START}
    old = old_issue(office, record)
    for _ in range(2):
        install_epoch_keys(keys.folder, old.encode(), **keys_of)  # type: ignore[arg-type]
    sealed = units.issue_epoch_keys(office.site, UNIT, **office.options)
    install_epoch_keys(keys.folder, sealed, **keys_of)  # type: ignore[arg-type]
    units.take_seal_key(office.site, statement_of(keys), clock=office.clock)
    again = old_issue(office, units.load(office.files.unit(UNIT), units.UnitRecord))
    with pytest.raises(VerificationError, match="upgrade the site"):
        install_epoch_keys(keys.folder, again.encode(), **keys_of)  # type: ignore[arg-type]


def old_issue(office: SiteOffice, record: units.UnitRecord) -> str:
    """Epoch keys as release 0.1 issued them: version 1, without a number."""
    from joserfc import jwe  # noqa: PLC0415
    from joserfc.jwk import ECKey  # noqa: PLC0415

    key = units.epoch_key(office.site, "access", "2026-W47", **office.options)
    content = {
        "version": 1,
        "site": "hq",
        "unit": UNIT,
        "issued_at": "2026-11-22T09:00:00Z",
        "keys": [{"site": "hq", "audience": "access", "epoch": "2026-W47", "key": key.key}],
    }
    signed = units.load_site_key(office.site).sign(json.dumps(content).encode(), typ="postern-epoch-keys+jws")
    header = {"alg": "ECDH-ES", "enc": "A256GCM"}
    return jwe.encrypt_compact(header, signed, ECKey.import_key(record.seal_jwk), algorithms=["ECDH-ES", "A256GCM"])


def test_no_statement_holds_a_private_key(tmp_path: Path) -> None:
    office = SiteOffice(tmp_path)
    keys = office.enrol(UNIT)
    told = joining.decode_base64url(statement_of(keys).split(".")[1])
    assert set(json.loads(told)["jwk"]) == {"kty", "crv", "x", "y"}
