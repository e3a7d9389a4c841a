# SPDX-License-Identifier: Apache-2.0
"""One false answer of a time service, for an hour: what it must not unlock, nor make anybody forget, when it is over.

``test_wrong_time`` has what a unit destroys for its age; here are the site's folder and what has ended or was used.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from agent.audit.ageing import WINDOW_S, Ageing
from agent.clock import ClockState, SimulatedClock
from agent.config.load import load_config
from agent.door.rights import Rights, TokenUse
from agent.errors import PosternError, RefusedError, VerificationError
from agent.keys import SigningKey, decode_base64url
from agent.outbox.draft import make_unit
from agent.protocol.command import SIGNATURE_TYPE, Command
from agent.protocol.record import load
from agent.site import programs
from agent.site.mandated import ServiceEpochs
from agent.site.records import SiteFiles, TokenFile
from agent.site.units import add_unit, load_site_key, new_token
from agent.unit.joining import new_unit_request
from agent.unit.tokens import TokenCheck
from tests.simulators.dark_unit import assembled, conditions
from tests.simulators.fleets import fleet_in
from tests.simulators.quiet_unit import Premises
from tests.simulators.signing_unit import START
from tests.simulators.site_office import SiteOffice, listed_units
from tests.simulators.token_desk import GATE, MODEL, TokenDesk
from tests.simulators.unit_life import opened, write_unit

DAY = 86_400.0
WAYS = [s * jump for jump in (11.0, 3600.0, DAY, 8 * DAY, 31 * DAY, 366 * DAY, 1096 * DAY, 7305 * DAY) for s in (1, -1)]
AHEAD = (8 * DAY, 400 * DAY, 7305 * DAY)
OWNER = "sha256:" + "0" * 64


def for_an_hour(clock: SimulatedClock, jump: float, act: Callable[[], object]) -> None:
    clock.step_wall(jump, "synced")
    act()
    clock.advance(3_600)
    clock.step_wall(-jump, "synced")


@pytest.mark.parametrize("jump", AHEAD)
@pytest.mark.parametrize("restarted", [False, True])
def test_the_sites_service_destroys_no_key_of_a_week_to_come(tmp_path: Path, jump: float, *, restarted: bool) -> None:
    fleet = fleet_in(tmp_path, 1)
    path = SiteFiles(fleet.folder).service_epochs("access")
    held = {key.epoch for key in load(path, ServiceEpochs, secret=True).keys}
    for _ in range(5):
        fleet.clock.advance(DAY / 4)
        fleet.desk.daily()

    def act() -> None:
        if restarted:
            fleet.desk = fleet._start_desk()
        for _ in range(4):
            fleet.clock.advance(600)
            with suppress(PosternError):  # by that time its mandate has ended
                fleet.desk.daily()

    for_an_hour(fleet.clock, jump, act)
    assert {key.epoch for key in load(path, ServiceEpochs, secret=True).keys} == held


def revoked(office: SiteOffice) -> set[int]:
    return {one.serial_number for one in x509.load_pem_x509_crl(office.files.crl.read_bytes())}


@pytest.mark.parametrize("jump", AHEAD)
def test_the_site_forgets_no_certificate_that_it_revoked(tmp_path: Path, jump: float) -> None:
    """Nobody's old certificate counts again: of a unit whose keys were replaced, of a program that was issued anew."""
    office = SiteOffice(tmp_path)
    stolen = x509.load_pem_x509_certificate(office.enrol("door-3").tls_crt.read_bytes()).serial_number
    office.enrol("door-3", replace=True)
    programs.issue_client(office.site, "auditor", "auditor", **office.options).rename(tmp_path / "first")
    programs.revoke_client(office.site, "auditor", **office.options)
    before = revoked(office)
    assert stolen in before

    def act() -> None:
        office.enrol("door-3", replace=True)
        programs.issue_client(office.site, "auditor", "auditor", **office.options).rename(tmp_path / "second")

    def ahead() -> None:
        with suppress(RefusedError):  # beyond the end of the site's authority
            act()

    for_an_hour(office.clock, jump, ahead)
    office.enrol("door-4")
    assert before <= revoked(office)
    assert listed_units(office.site).units_in_service() == ("door-3", "door-4")


@pytest.mark.parametrize("state", ["synced", "unsynced"])
@pytest.mark.parametrize("jump", WAYS)
def test_a_card_that_lies_ready_still_joins(tmp_path: Path, jump: float, state: ClockState) -> None:
    """The one-time token of another unit is forgotten by no act at the site while its clock is wrong."""
    office = SiteOffice(tmp_path)
    ready = new_token(office.site, "door-7", clock=office.clock)
    office.clock.step_wall(jump, state)
    for act in (lambda: new_token(office.site, "door-8", clock=office.clock), lambda: office.enrol("door-9")):
        with suppress(PosternError):  # beyond the end of the site's authority, or before its begin
            act()
    office.clock.step_wall(-jump, "synced")
    office.enrol("door-9", replace=("door-9" in listed_units(office.site).units()))
    kept = {record.unit: record for record in load(SiteFiles(office.site).tokens, TokenFile, secret=True).tokens}
    assert kept["door-7"].used is None
    keys = office.keys("door-7").folder
    made = new_unit_request(keys, "hq", "door-7", ready)
    assert add_unit(office.site, made, **office.options)


@pytest.mark.parametrize("jump", WAYS)
@pytest.mark.parametrize("state", ["synced", "unsynced"])
def test_no_jump_has_a_unit_forget_what_it_keeps_for_who_was_away(
    tmp_path: Path, jump: float, state: ClockState
) -> None:
    clock = SimulatedClock()
    with opened(write_unit(tmp_path / "config.yaml", tmp_path / "unit"), clock) as stores:
        for _ in range(5):
            clock.advance(DAY / 4)
            stores.outbox.expire(stores.ageing.known())
        seq = stores.outbox.append(make_unit("camera_lost", now=clock.now(), clock="synced"))
        assert seq is not None
        stores.outbox.acked(seq)
        clock.step_wall(jump, state)
        for _ in range(5):
            clock.advance(7_200)
            stores.outbox.expire(stores.ageing.known())
        clock.step_wall(-jump, "synced")
        clock.advance(7_200)
        stores.outbox.expire(stores.ageing.known())
        assert len(stores.outbox.told(seq, seq).events) == 1


@pytest.mark.parametrize("jump", AHEAD)
def test_the_site_forgets_no_token_that_it_revoked(tmp_path: Path, jump: float) -> None:
    desk = TokenDesk(tmp_path)
    issued = desk.issue()
    desk.renew_list(tokens=[issued.token_id])
    for_an_hour(desk.clock, jump, lambda: desk.renew_list(tokens=["0" * 24]))
    desk.renew_list()
    with pytest.raises(VerificationError) as refused:
        desk.gate(issued.token)
    assert refused.value.reason == "revoked"


@pytest.mark.parametrize("what", ["token", "list"])
def test_a_unit_takes_no_token_that_has_ended_by_a_clock_that_is_behind(tmp_path: Path, what: str) -> None:
    desk = TokenDesk(tmp_path)
    issued = desk.issue(until=desk.clock.now() + timedelta(days=3 if what == "token" else 60))
    ageing = Ageing(desk.clock, tmp_path / "time.json")
    for _ in range(20):
        desk.clock.advance(DAY)
        ageing.look()
    if what == "token":
        desk.renew_list()
    desk.clock.step_wall(-19 * DAY, "synced")
    for kept in (ageing, Ageing(desk.clock, tmp_path / "time.json")):  # also after a restart
        check = TokenCheck(
            config=desk.config(GATE), model=MODEL, clock=desk.clock, latest=kept.latest, tombstones=tuple
        )
        with pytest.raises(VerificationError) as refused:
            check(issued.token)
        assert refused.value.reason == ("expired" if what == "token" else "list_ended")


@pytest.mark.parametrize("jump", AHEAD)
def test_a_new_unit_forgets_no_token_that_was_used(tmp_path: Path, jump: float) -> None:
    """In its first day it knows no time that it could forget by."""
    clock = SimulatedClock()
    ageing = Ageing(clock)
    used = TokenUse(b"t" * 12, clock.now() + timedelta(days=2))
    with Rights(tmp_path / "rights.db", clock, settled=ageing.settled) as rights:
        assert rights.take("gate", OWNER, 0, used)
        other = TokenUse(b"u" * 12, clock.now() + timedelta(days=2))
        for_an_hour(clock, jump, lambda: rights.take("gate", OWNER, 0, other))
        assert not rights.take("gate", OWNER, 0, used)
        clock.advance(WINDOW_S)
        assert not rights.take("gate", OWNER, 0, used)


@pytest.mark.parametrize("jump", [-jump for jump in AHEAD])
def test_a_unit_forgets_nothing_that_it_said_while_its_clock_was_behind(tmp_path: Path, jump: float) -> None:
    clock = SimulatedClock()
    config = write_unit(tmp_path / "config.yaml", tmp_path / "unit")
    with opened(config, clock) as stores:

        def look() -> None:
            stores.ageing.look()
            stores.outbox.expire(stores.ageing.known())

        for _ in range(5):
            clock.advance(DAY / 4)
            look()
        seq = stores.outbox.append(make_unit("camera_lost", now=clock.now(), clock="synced"))
        assert seq is not None

        def taken() -> None:
            look()
            stores.outbox.acked(seq)

        for_an_hour(clock, jump, taken)
        for _ in range(4):
            clock.advance(7_200)
            look()
        assert len(stores.outbox.told(seq, seq).events) == 1


@pytest.mark.timeout(120)
def test_a_command_that_was_withheld_is_not_done_by_a_clock_that_is_behind(tmp_path: Path) -> None:
    """It is asked for a nonce, which a recording does not have; the operator's next command gets through by one."""
    premises, clock = Premises(tmp_path), SimulatedClock(START)
    config, key = load_config(premises.config), load_site_key(premises.site)
    withheld = pause(key, clock)
    with assembled(config, clock) as service:
        service._stores.ageing.confirm(clock.now())
        clock.advance(3 * DAY)
        service._stores.ageing.look()
        clock.step_wall(-3 * DAY, "synced")
        answer = service._uplink.on_request("recognition/pause", withheld)
        told = msgspec.json.decode(decode_base64url((answer or b"").split(b".")[1].decode()))
        assert told["error"] == "challenge"
        assert not service._paused.is_set()
        again = pause(key, clock, number=1, nonce=told["nonce"])
        service._uplink.on_request("recognition/pause", again)
        assert service._paused.is_set()
        assert "tamper" not in conditions(service)


def pause(key: SigningKey, clock: SimulatedClock, *, number: int = 0, nonce: str | None = None) -> bytes:
    """A command as the site signs it now."""
    now = int(clock.now().timestamp())
    command = Command(
        site="hq",
        unit="door-1",
        verb="recognition/pause",
        cmd_seq=now * 1000 + number,
        issued_at=now,
        expires_at=now + 60,
        transaction=f"t-{number}",
        args={},
        nonce=nonce,
    )
    return key.sign(msgspec.json.encode(command), typ=SIGNATURE_TYPE).encode()
