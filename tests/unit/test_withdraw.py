# SPDX-License-Identifier: Apache-2.0
"""A withdrawal reaches every unit of the site, and only receipts that a unit's own key signed are believed."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from agent.cli import main
from agent.clock import SimulatedClock, SystemClock
from agent.errors import BrokerError, RefusedError
from agent.gallery.store import GalleryStore
from agent.keys import SigningKey, UnitKey
from agent.protocol.receipt import ErasureReceipt
from agent.protocol.response import Response
from agent.protocol.subject import SubjectId, parse_subject, subject_digest
from agent.protocol.trust import TrustedUnits, TrustList, UnitKeyEntry
from agent.site.programs import issue_client
from agent.site.withdraw import Answer, read_list, whom_to_ask, withdraw
from agent.uplink.commands import CommandCounter, Commands
from tests.simulators.answering import answers
from tests.simulators.broker import RealBroker
from tests.simulators.gallery_life import MODEL, captures, consent, open_store
from tests.simulators.pki import Authority
from tests.simulators.site_office import SiteOffice
from tests.simulators.unit_on_broker import UnitOnBroker

UNITS = ("door-1", "door-2", "door-3")


class Site:
    """Three units; the same person is enrolled at the first two under one id. ``away`` ones do not answer."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        clock, rng = SimulatedClock(), np.random.default_rng(1)
        self.keys = {unit: UnitKey.generate() for unit in UNITS}
        self.galleries: dict[str, GalleryStore] = {}
        self.subject = SubjectId(secrets.token_bytes(16))
        self.away: set[str] = set()
        self.tamper: Callable[[dict[str, Any]], object] = lambda _: None
        for unit in UNITS:
            (folder / unit).mkdir()
            store = stack.enter_context(open_store(folder / unit, clock, key=self.keys[unit], unit=unit))
            self.galleries[unit] = store
            if unit != "door-3":
                agreed = consent(clock.now(), units=UNITS)
                store.enrol(captures(rng), consent=agreed, model=MODEL, subject=self.subject)
        entries = {unit: (UnitKeyEntry(jwk=key.public_jwk(), status="active"),) for unit, key in self.keys.items()}
        self.listed = TrustList(version=1, site="hq", serial=1, issued_at="2026-01-05T08:00:00Z", units=entries)
        self.trusted = TrustedUnits(self.listed)

    def ask(self, unit: str, verb: str, args: Mapping[str, Any]) -> Response:
        """What a unit's handler does with the command, without the broker between."""
        assert verb == "subject/revoke"
        if unit in self.away:
            raise BrokerError(f"unit {unit} does not answer")
        try:
            receipt = msgspec.to_builtins(self.erase(unit, args))
        except RefusedError as error:
            return Response(status="error", transaction="t", error="refused", message=str(error))
        self.tamper(receipt)
        return Response(status="ok", transaction="t", data={"receipt": receipt})

    def erase(self, unit: str, args: Mapping[str, Any]) -> ErasureReceipt:
        return self.galleries[unit].erase(parse_subject(args["subject"]))

    def withdraw(self) -> dict[str, Answer]:
        return {one.unit: one for one in withdraw(self.subject, UNITS, trusted=self.trusted, ask=self.ask)}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path, stack)


def test_every_unit_that_held_the_person_gives_a_receipt(site: Site) -> None:
    answers = site.withdraw()
    assert [unit for unit, answer in answers.items() if answer.receipt is not None] == ["door-1", "door-2"]
    assert not any(answer.again for answer in answers.values())
    assert "no such subject" in answers["door-3"].message
    assert all(store.held(site.subject) is None for store in site.galleries.values())


def test_a_unit_that_was_away_is_asked_again_and_the_others_repeat_their_receipt(site: Site) -> None:
    site.away = {"door-2"}
    first = site.withdraw()
    assert first["door-2"].again
    assert first["door-1"].receipt is not None
    site.away = set()
    second = site.withdraw()
    assert second["door-1"].receipt is not None
    assert second["door-1"].receipt.erased_at == first["door-1"].receipt.erased_at
    assert second["door-2"].receipt is not None


@pytest.mark.parametrize(
    "tamper",
    [
        lambda receipt: receipt.update(subject="sha256:" + "0" * 64),
        lambda receipt: receipt.update(erased_at="2020-01-01T00:00:00Z"),
        lambda receipt: receipt.update(unit="door-2"),
        lambda receipt: receipt.update(signature=""),
        lambda receipt: receipt.clear(),
    ],
    ids=["another subject", "another time", "another unit", "unsigned", "empty"],
)
def test_a_receipt_that_the_unit_did_not_give_is_no_receipt(site: Site, tamper: Callable[[Any], object]) -> None:
    site.tamper = tamper
    answers = site.withdraw()
    assert answers["door-1"].receipt is None
    assert answers["door-1"].again


def test_a_receipt_by_a_key_that_the_site_does_not_trust_is_no_receipt(site: Site) -> None:
    known = {u: (UnitKeyEntry(jwk=UnitKey.generate().public_jwk(), status="active"),) for u in UNITS}
    listed = TrustList(version=1, site="hq", serial=2, issued_at="2026-01-05T08:00:00Z", units=known)
    site.trusted = TrustedUnits(listed)
    answer = site.withdraw()["door-1"]
    assert (answer.receipt, answer.again) == (None, True)
    assert "does not trust" in answer.message


def test_units_that_were_revoked_are_named_and_not_asked(site: Site) -> None:
    revoked = {
        unit: tuple(msgspec.structs.replace(key, status="revoked" if unit == "door-2" else "active") for key in keys)
        for unit, keys in site.listed.units.items()
    }
    trusted = TrustedUnits(msgspec.structs.replace(site.listed, units=revoked))
    path = Path("trust.jws")
    assert whom_to_ask(trusted, None, path) == (("door-1", "door-3"), ("door-2",))
    assert whom_to_ask(trusted, ["door-1", "door-2"], path) == (("door-1",), ("door-2",))
    with pytest.raises(RefusedError, match="no unit that may be asked"):
        whom_to_ask(trusted, ["door-2"], path)
    with pytest.raises(RefusedError, match="no unit door-9"):
        whom_to_ask(trusted, ["door-1", "door-9"], path)


def test_a_list_without_any_unit_is_refused_as_such(site: Site) -> None:
    trusted = TrustedUnits(msgspec.structs.replace(site.listed, units={}))
    with pytest.raises(RefusedError, match="no unit that may be asked: give the newest"):
        whom_to_ask(trusted, None, Path("trust.jws"))


def test_a_unit_that_came_after_the_operators_copy_of_the_list_is_asked(tmp_path: Path) -> None:
    """The list in the site's folder is the newest; the operator's is as it was when its folder was carried away."""
    office = SiteOffice(tmp_path)
    office.enrol("door-1")
    program = issue_client(office.site, "operator", "operator", **office.options).rename(tmp_path / "operator")
    office.enrol("door-2")
    path, trusted = read_list(None, office.site, program)
    assert (path, trusted.units()) == (office.files.trust, ("door-1", "door-2"))
    elsewhere = tmp_path / "elsewhere"  # where the site's key alone was brought to
    path, trusted = read_list(None, elsewhere, program)
    assert (path, trusted.units()) == (program / "trust.jws", ("door-1",))
    newest = Path(shutil.copy(office.files.trust, tmp_path / "newest.jws"))
    path, trusted = read_list(newest, elsewhere, program)
    assert (path, trusted.units()) == (newest, ("door-1", "door-2"))


@pytest.mark.broker
def test_the_command_gathers_receipts_over_a_real_broker(
    tmp_path: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two units that the site lists one is there; afterwards it is clear which of them has to be asked again."""
    authority, site_key = Authority(tmp_path / "pki"), SigningKey.generate()
    keys = tmp_path / "operator"
    keys.mkdir()
    files = authority.issue("operator")
    for source, name in ((files.ca, "ca.crt"), (files.certificate, "tls.crt"), (files.key, "tls.key")):
        shutil.copy(source, keys / name)
    site_key.save(tmp_path / "site.key")
    (keys / "site.jwk").write_bytes(msgspec.json.encode(site_key.public_jwk()))
    (keys / "trust.jws").write_text(site.listed.sign(site_key))
    broker = RealBroker(tmp_path, authority)
    broker.start()
    commands = Commands(
        site="hq",
        unit="door-1",
        key=site_key.public,
        counter=CommandCounter(tmp_path / "commands.json"),
        answers=answers(site.keys["door-1"]),
        clock=SystemClock(),
        random=secrets.token_bytes,
        on_outcome=lambda _: None,
    )
    commands.bind({"subject/revoke": lambda asked: {"receipt": msgspec.to_builtins(site.erase("door-1", asked.args))}})
    unit = UnitOnBroker(tmp_path, broker.settings(authority.issue("door-1")), on_request=commands.handle)
    unit.start()
    place = ["--broker", "127.0.0.1", "--port", str(broker.port), "--site", "hq", "--keys", str(keys)]
    words = ["withdraw", site.subject.hex(), *place, "--site-key", str(tmp_path / "site.key"), "--timeout", "4"]
    try:
        assert main([*words, "--unit", "door-1", "--unit", "door-2"]) == 75
        told = capsys.readouterr()
        assert [json.loads(line)["unit"] for line in told.out.splitlines()] == ["door-1"]
        assert "ask again, the person is not known to be erased at: door-2" in told.err
        assert f"asked: door-1, door-2 (list of units number 1, {keys / 'trust.jws'})" in told.err
        assert main([*words, "--unit", "door-1"]) == 0
        assert json.loads(capsys.readouterr().out)["subject"] == subject_digest(site.subject)
    finally:
        unit.uplink.stop()
        broker.stop()
