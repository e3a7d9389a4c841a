# SPDX-License-Identifier: Apache-2.0
"""The power may fail at any write of an act of a site's owner: repeated, also after another act, it ends well.

One life of a site is recorded write by write, act after act, on two disks: the site's, and a stick without a journal
that the root's keys are taken to. After each cut the act that was under way is done once more.
POSTERN_EXHAUSTIVE=1 tries every step.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509

from agent.audit.chain import read_entries, verify_log
from agent.clock import SimulatedClock
from agent.disk.files import read_bounded
from agent.errors import PosternError, RefusedError
from agent.keys import load_private_key, load_public_key
from agent.protocol.program import PROGRAM_FILE, Program
from agent.protocol.record import load
from agent.protocol.token_list import read_token_list
from agent.site import delegation, joining, policies, programs, rotation, token_list, units
from agent.site.authority import Authority, public_pem, read_certificate
from agent.site.creation import create_site
from agent.site.folder import changing
from agent.site.published import unfinished
from agent.site.records import SiteFiles
from agent.site.revocation import revoke
from agent.unit.joining import install, new_unit_request
from tests.simulators.power import Crash, crashes, mark, record
from tests.simulators.signing_unit import START
from tests.unit.test_match_policy import policy

EXHAUSTIVE = os.environ.get("POSTERN_EXHAUSTIVE") == "1"
ROOT_KEYS = ("ca.key", "site.key", "master.key")
TOKEN = "ab" * 12

LIFE = """
import sys
from pathlib import Path
from tests.fault.test_acts_power_cut import Owner

Owner(Path(sys.argv[1])).live()
"""


class Owner:
    """Whoever does the acts, at the site's folder in ``folder`` and with a stick beside it."""

    def __init__(self, folder: Path) -> None:
        self.clock = SimulatedClock(START)
        self.site, self.stick, self._folder = folder / "site", folder / "stick" / "safe", folder
        self.files = SiteFiles(self.site)
        self.how = {"clock": self.clock}

    def live(self) -> None:
        mark("begin create")
        ACTS["create"](self)
        mark("end create")
        token = units.new_token(self.site, "door-1", **self.how)
        request = new_unit_request(self._folder / "unit", "hq", "door-1", token)
        install(self._folder / "unit", units.add_unit(self.site, request, **self.how), clock=self.clock)
        self.broker()
        delegation.delegate(self.site, **self.how)
        joining.invite(self.site, "door-2", **self.how)
        for name in list(ACTS)[1:]:
            mark(f"begin {name}")
            ACTS[name](self)
            mark(f"end {name}")

    def create(self) -> None:
        if self.files.acl.exists():  # the last that it writes
            with pytest.raises(RefusedError, match="is site hq already, and whole: go on with it"):
                create_site(self.site, "hq", **self.how)
        else:
            create_site(self.site, "hq", **self.how)

    def token(self) -> None:
        """One that a unit can join by."""
        token = units.new_token(self.site, "door-3", **self.how)
        waits = self._folder / "door-3" / os.urandom(4).hex()
        units.add_unit(self.site, new_unit_request(waits, "hq", "door-3", token), replace=True, **self.how)

    def renew_unit(self) -> None:
        assert units.renew_unit(self.site, "door-1", **self.how)

    def issue_keys(self) -> None:
        assert units.issue_epoch_keys(self.site, "door-1", **self.how)

    def add_program(self) -> None:
        self._program("auditor", ("access",), {"ask.key", "grant.jws", "resolve.key"})

    def change_role(self) -> None:
        self._program("operator", None, set())

    def _program(self, role: programs.Role, resolves: tuple[str, ...] | None, further: set[str]) -> None:
        made = programs.issue_client(self.site, "guard", role, resolves=resolves, **self.how)
        assert load(made / PROGRAM_FILE, Program).role == role
        names = {"tls.key", "tls.crt", PROGRAM_FILE, "ca.crt", "site.jwk", "trust.jws", *further}
        assert {path.name for path in made.iterdir()} - {"brokers.crl"} == names
        known = self.files.all_clients()[0]
        assert known.tls_key == public_pem(load_private_key(made / "tls.key").public_key())
        assert f"{read_certificate(made / 'tls.crt').serial_number:x}" == known.certificates[-1].serial

    def broker(self) -> None:
        programs.issue_broker(self.site, ["localhost"], **self.how)
        Authority.load(self.files.broker / "broker.key", self.files.broker_crt, None)

    def revoke_broker(self) -> None:
        programs.revoke_broker(self.site, **self.how)

    def take_back(self) -> None:
        revoke(self.site, "door-2", **self.how)
        assert not joining.is_invited(self.site, "door-2")

    def sign_policy(self) -> None:
        policies.issue_policy(self.site, policy(), **self.how)

    def list_tokens(self) -> None:
        token_list.issue_token_list(self.site, issuers=["door-1"], tokens=[TOKEN], **self.how)
        key = load_public_key(self.files.site_jwk)
        listed = read_token_list(self.files.token_list.read_text(), key, site="hq")
        assert listed.tokens == (TOKEN,)

    def begin_change(self) -> None:
        rotation.begin_site_key_change(self.site, policy(), **self.how)

    def finish_change(self) -> None:
        try:
            rotation.finish_site_key_change(self.site, **self.how)
        except RefusedError as error:  # of the last moment
            if "it has ended" not in str(error):
                raise
        assert not self.files.next_site_key.exists()

    def rotate(self) -> None:
        rotation.rotate_epoch_keys(self.site, **self.how)

    def root_away(self) -> None:
        delegation.take_root_away(self.site, self.stick, clock=self.clock)
        assert not [name for name in ROOT_KEYS if (self.site / name).exists()]

    def something_else(self) -> None:
        """What a person does who does not know that anything was cut off; it may be told what to do first."""
        with suppress(PosternError):  # what the keys are asked for first
            units.renew_unit(self.site, "door-1", **self.how)

    def check(self, where: str) -> None:
        """Everything says the same, and the root as well as the service can act."""
        assert not unfinished(self.files).files, where
        with changing(self.site, **self.how):
            assert not unfinished(self.files).files, where
        if self.files.delegated:
            with changing(self.site, needs_root=False, **self.how) as site:
                assert site.signs, where
        verify_log(self.files.audit)
        assert "site_created" in {entry.facts.get("step") for entry in read_entries(self.files.audit)}, where
        if self.files.policy.exists():
            assert policies.newest_policy(self.files) is not None, where
        broker = self.files.known_broker
        revoked = {int(one.serial, 16) for one in broker.certificates if one.revoked_at} if broker else set()
        if revoked:
            listed = x509.load_pem_x509_crl(read_bounded(self.files.brokers_crl))
            assert revoked <= {entry.serial_number for entry in listed}, where
        for name in ("door-1", "door-3"):
            unit = self.files.unit(name)
            assert not unit.exists() or len(load(unit, units.UnitRecord).certificates) > 0, where


Act = Callable[[Owner], None]
ACTS: dict[str, Act] = {
    "create": Owner.create,
    "broker": Owner.broker,
    "token": Owner.token,
    "renew-unit": Owner.renew_unit,
    "issue-keys": Owner.issue_keys,
    "add-program": Owner.add_program,
    "change-role": Owner.change_role,
    "take-back": Owner.take_back,
    "policy": Owner.sign_policy,
    "token-list": Owner.list_tokens,
    "change-key": Owner.begin_change,
    "finish-change": Owner.finish_change,
    "rotate-epoch-keys": Owner.rotate,
    "revoke-broker": Owner.revoke_broker,
    "root-away": Owner.root_away,
}


@pytest.mark.timeout(1800 if EXHAUSTIVE else 240)
def test_an_act_of_a_sites_owner_that_a_power_cut_interrupted_is_completed_by_repeating_it(work: Path) -> None:
    living = work / "living"
    (living / "stick").mkdir(parents=True)
    steps = record(["-c", LIFE, str(living)], living, work)
    keys = {name: (living / "stick" / "safe" / name).read_bytes() for name in ROOT_KEYS}
    cut: dict[str, int] = dict.fromkeys(ACTS, 0)
    disks = crashes(
        steps, seed=11, every=1 if EXHAUSTIVE else 7, torn=1, machines=("site", "stick"), unordered=("stick",)
    )
    for number, crash in enumerate(disks):
        word, _, name = crash.marks[-1].partition(" ") if crash.marks else ("", "", "")
        if word != "begin":
            continue
        cut[name] += 1
        where = f"{name}, step {crash.step}, {crash.kind}"
        crash.restore(living)
        repeat(Owner(living), crash, name, where, otherwise=number % 2 == 1)
        if name == "root-away":
            assert {one: (living / "stick" / "safe" / one).read_bytes() for one in ROOT_KEYS} == keys, where
    print(cut)
    assert not [name for name, times in cut.items() if not times], "an act was never cut"


def repeat(owner: Owner, crash: Crash, name: str, where: str, *, otherwise: bool) -> None:
    """Do once more what was under way when the power failed, after something else if ``otherwise``."""
    if otherwise and name != "create":
        owner.something_else()
    try:
        ACTS[name](owner)
    except PosternError as error:
        raise AssertionError(f"{where}: {error}") from error
    owner.check(where)
