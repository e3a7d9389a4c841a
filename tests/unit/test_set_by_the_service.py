# SPDX-License-Identifier: Apache-2.0
"""The site's service sends units what the site applied and signed: each once, and what was refused not again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from agent.errors import PolicyError, RefusedError, VerificationError
from agent.keys import SigningKey, load_public_key
from agent.match.policy import Policy, sign_policy
from agent.protocol.command import CONFIGURE, RENEW, SIGNATURE_TYPE, Command
from agent.protocol.configuration import PolicyIssue
from agent.protocol.grant import make_mandate
from agent.protocol.record import load, save
from agent.protocol.response import RESPONSE_TYPE, SignedResponse
from agent.site import policies
from agent.site.configuration import Applied, applied, apply_file, sign_for
from agent.site.delegation import delegate
from agent.site.desk import Desk
from agent.site.fleet import list_units, service_advice
from agent.site.policies import newest_policy
from agent.site.records import SERVICE, SiteRecord
from agent.site.restored import JUMP, recover
from agent.site.rotation import begin_site_key_change, finish_site_key_change
from agent.unit.key_files import KeptFiles
from agent.unit.new_policy import install_policy
from tools.lib.fuzz.target import POLICY, SITE, UNIT, Target
from tools.lib.lifetime.unit import FleetUnit

TOPIC = f"postern/{SITE}/{UNIT}"
LONGEST_S = 1_000  # between two attempts of the service


class Served:
    """The unit's assembled command side, its site's desk, and what they say to each other."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.target = Target(folder, stack)
        self.folder, self.files, self.clock = folder, self.target.site, self.target.clock
        delegate(self.files.folder, clock=self.clock)
        self.told: list[str] = []
        self.desk = Desk(self.files.folder, clock=self.clock, random=bytes, tell=self.told.append)
        self.target.configuring.attach(lambda: 0, lambda: True, lambda _: None)
        self.target.configuring.begin()
        self.say_what_it_can(RENEW, CONFIGURE)
        self.exchange()  # its certificate is the root's at first

    def say_what_it_can(self, *verbs: str) -> None:
        info = {"version": "0.2.0", "policy": POLICY.digest, "models": {}, "capabilities": verbs}
        self.desk.take(f"{TOPIC}/info", msgspec.json.encode(info))

    def health(self) -> bytes:
        unit = FleetUnit(self.target.unit.folder, SITE, UNIT, self.clock)
        try:
            return unit.health(self.target.configuring.state())
        finally:
            unit.close()

    def exchange(self, after_s: float = LONGEST_S) -> list[tuple[str, str | None]]:
        """One health message and all that follows: each verb, and what came of it."""
        self.clock.advance(after_s)
        letters = self.desk.take(f"{TOPIC}/health", self.health())
        found: list[tuple[str, str | None]] = []
        while letters:
            following = []
            for letter in letters:
                verb = letter.topic.partition("/request/")[2]
                answer = self.target.deliver(verb, letter.payload)
                assert answer is not None
                key = SigningKey.load(self.target.unit.event_key).public
                told = msgspec.json.decode(key.verify(answer.decode(), typ=RESPONSE_TYPE), type=SignedResponse)
                found.append((verb, told.error))
                following += self.desk.take(f"{TOPIC}/response/{verb}", answer)
            letters = following
        return found

    def apply(self, settings: dict[str, Any]) -> None:
        path = self.folder / "site.yaml"
        path.write_text(yaml.safe_dump({"site": SITE, "all": settings}, sort_keys=False))
        apply_file(self.files.folder, path, clock=self.clock)

    def settle(self) -> None:
        """Let a trial end well."""
        self.target.configuring.begin()
        for _ in range(30):
            self.clock.advance(1)
            self.target.configuring.look()

    @property
    def listed(self) -> dict[str, Any]:
        (unit,) = list_units(self.files.folder, clock=self.clock)
        return unit.facts()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with ExitStack() as stack:
        yield Served(tmp_path, stack)


def test_settings_are_sent_once_and_shown(served: Served) -> None:
    assert served.exchange() == []
    served.apply({"broker": {"health_interval_s": 30}})
    assert served.exchange() == [(CONFIGURE, None)]
    assert served.exchange() == [], "they are on trial"
    assert served.listed["configuration"]["state"] == "trying"
    served.settle()
    assert served.exchange() == []
    assert (served.listed["configuration"]["state"], served.listed["configuration"]["serial"]) == ("applied", 1)
    served.apply({"broker": {"health_interval_s": 30}})
    assert served.exchange() == [], "the same settings with another serial change nothing"
    served.apply({})
    assert served.exchange() == [(CONFIGURE, None)], "what is set no more is as in the unit's own file"


def test_what_was_refused_or_taken_back_is_told_with_its_line_and_sent_again_only_anew(served: Served) -> None:
    served.apply({"activation": {"dwell_ms": 300}})
    assert served.exchange() == [(CONFIGURE, "bad_configuration")]
    assert served.exchange() == []
    assert "site.yaml:4: activation.dwell_ms" in served.listed["configuration"]["why"]
    assert any("site.yaml:4: activation.dwell_ms" in advice for advice in served.listed["advice"])
    served.apply({"activation": {"dwell_ms": 800}})
    assert served.exchange(LONGEST_S / 10) == [(CONFIGURE, None)], "a newer one is sent at once"
    served.target.configuring.failed("the camera does not open", state="rolled_back")
    assert served.exchange() == []
    assert "it took configuration 2 back (the camera does not open)" in " ".join(served.listed["advice"])
    assert served.exchange() == []
    assert [told for told in served.told if "back" in told] == [
        f"{UNIT}: it took configuration 2 back: the camera does not open"
    ], "in the journal, once"


def test_a_unit_of_a_release_before_and_a_mandate_of_one_are_sent_nothing_and_shown(served: Served) -> None:
    served.apply({"broker": {"health_interval_s": 30}})
    served.say_what_it_can(RENEW)
    assert served.exchange() == []
    served.say_what_it_can(RENEW, CONFIGURE)
    key, mandated = SigningKey.load(served.files.site_key), SigningKey.load(served.files.mandated_key)
    whole = make_mandate(SERVICE, mandated, key, site=SITE, now=served.clock.now(), number=1)
    content = msgspec.json.decode(key.public.verify(whole, typ="postern-grant+jws"))
    content["verbs"] = ["unit/renew", "sign/answer", "sign/epoch-keys", "sign/trust"]  # as release 0.1 wrote it
    old = key.sign(msgspec.json.encode(content), typ="postern-grant+jws")
    served.files.mandate.write_text(old)
    assert served.exchange() == []
    assert service_advice(served.files.folder, clock=served.clock) == (
        "the service's mandate is of a release before, and sets no unit: postern site delegate",
    )
    delegate(served.files.folder, clock=served.clock)
    assert served.exchange() == [(CONFIGURE, None)]


def other_policy(**changes: Any) -> Policy:
    return msgspec.structs.replace(POLICY, **{"target_fpir": 1e-2, **changes})


def test_a_newer_policy_comes_by_the_service_and_asks_for_a_reload(served: Served) -> None:
    """Signed by the root, which was here for it alone."""
    fresh = other_policy()
    policies.issue_policy(served.files.folder, fresh, clock=served.clock)
    assert served.exchange() == [(CONFIGURE, None)]
    assert served.target.configuring.asked.is_set()
    assert served.target.config.match.policy.read_text() == sign_policy(fresh, served.target.site_key)
    served.say_what_it_can(RENEW, CONFIGURE)  # info still says the old one: it is sent again, and nothing happens
    served.target.configuring.asked.clear()
    assert served.exchange() == [(CONFIGURE, None)]


def install(served: Served, policy: Policy, *, serial: int = 0, issue: str | None = None, **options: Any) -> None:
    made = PolicyIssue(
        version=1,
        site=options.pop("site", SITE),
        serial=serial,
        issued_at="2026-01-01T00:00:00Z",
        expires_at="2027-01-01T00:00:00Z",
        digest=options.pop("digest", policy.digest),
    )
    key = options.pop("key", served.target.site_key)
    config = served.target.config
    install_policy(
        sign_policy(policy, key),
        issue or made.sign(key),
        path=config.match.policy,
        record=KeptFiles(config.outbox.path).policy,
        site_key=load_public_key(served.target.unit.site_jwk),
        site=SITE,
        now=options.pop("now", served.clock.now()),
        model=POLICY.model,
        detector=POLICY.detectors[0],
    )


def test_a_unit_that_has_the_policy_by_joining_hears_its_number_once_and_takes_no_older_one(served: Served) -> None:
    """The service has all that the site ever signed and numbered, and so has its thief."""
    policies.issue_policy(served.files.folder, other_policy(), clock=served.clock)
    older = newest_policy(served.files)
    assert older is not None
    policies.issue_policy(served.files.folder, POLICY, clock=served.clock)
    assert served.exchange() == [(CONFIGURE, None)]
    assert not served.target.configuring.asked.is_set(), "nothing changes"
    assert served.exchange() == []
    before = served.target.config.match.policy.read_bytes()
    with pytest.raises(VerificationError) as refused:
        install(served, other_policy(), issue=older.issue)
    assert refused.value.reason == "replayed"
    assert served.target.config.match.policy.read_bytes() == before


def test_an_older_policy_one_for_other_models_and_one_by_another_key_change_nothing(served: Served) -> None:
    install(served, other_policy(), serial=5)
    before = served.target.config.match.policy.read_bytes()
    digest = "sha256:" + "2" * 64
    newer = "this unit has policy 5, which is newer: send the newest"
    other = "the number is of another policy: send both as the site signed them"
    refused: list[tuple[type[Exception], str | None, dict[str, Any]]] = [
        (VerificationError, newer, {"policy": POLICY, "serial": 4}),
        (VerificationError, newer, {"policy": POLICY, "serial": 5}),
        (VerificationError, other, {"policy": POLICY, "serial": 6, "digest": digest}),
        (VerificationError, None, {"policy": POLICY, "serial": 6, "site": "annex"}),
        (VerificationError, None, {"policy": POLICY, "serial": 6, "key": SigningKey.generate()}),
        (VerificationError, None, {"policy": POLICY, "serial": 6, "issue": "a.b.c"}),
        (PolicyError, None, {"policy": other_policy(model=digest), "serial": 6}),
        (PolicyError, None, {"policy": other_policy(detectors=(digest,)), "serial": 6}),
    ]
    for kind, sentence, options in refused:
        with pytest.raises(kind) as refusal:
            install(served, **options)
        assert sentence in (None, str(refusal.value))
        assert served.target.config.match.policy.read_bytes() == before
    install(served, other_policy(), serial=5)  # the same once more
    install(served, POLICY, serial=6)


def test_the_service_signs_no_policy_and_a_stolen_mandate_numbers_none(served: Served) -> None:
    key = SigningKey.load(served.files.mandated_key)
    mandate = served.files.mandate.read_text().strip()
    args = {"policy": f"{mandate}~{sign_policy(other_policy(), key)}", "issue": f"{mandate}~{mandate}"}
    now = int(served.clock.now().timestamp())
    command = Command(
        site=SITE, unit=UNIT, verb=CONFIGURE, cmd_seq=1, issued_at=now, expires_at=now + 60, transaction="t", args=args
    )
    before = served.target.config.match.policy.read_bytes()
    payload = f"{mandate}~{key.sign(msgspec.json.encode(command), typ=SIGNATURE_TYPE)}"
    served.target.deliver(CONFIGURE, payload.encode())
    assert served.target.outcomes["done"] == 1, "the certificate at the beginning; nothing since"
    assert served.target.config.match.policy.read_bytes() == before


def test_a_change_of_the_sites_key_signs_and_numbers_the_policy_anew(served: Served) -> None:
    policies.issue_policy(served.files.folder, POLICY, clock=served.clock)
    begin_site_key_change(served.files.folder, POLICY, clock=served.clock)
    finish_site_key_change(served.files.folder, clock=served.clock)
    newest = newest_policy(served.files)
    assert newest is not None
    assert (newest.digest, newest.serial) == (POLICY.digest, 2)


def test_a_bad_command_and_a_wrong_act_are_answered_in_one_sentence(served: Served) -> None:
    handlers = served.target.configuring
    assert handlers.state() is None
    with pytest.raises(RefusedError, match="no configuration was applied yet"):
        sign_for(served.files.folder, UNIT, clock=served.clock)
    served.apply({"broker": {"health_interval_s": 30}})
    with pytest.raises(RefusedError, match="no unit of that name"):
        sign_for(served.files.folder, "door-9", clock=served.clock)
    served.files.configuration.write_bytes(b"{")
    with pytest.raises(RefusedError, match="apply the site's file again"):
        sign_for(served.files.folder, UNIT, clock=served.clock)


def test_a_folder_from_a_backup_numbers_policies_and_settings_above_all_that_units_have_seen(served: Served) -> None:
    served.apply({"broker": {"health_interval_s": 30}})
    policies.issue_policy(served.files.folder, POLICY, clock=served.clock)
    recover(served.files.folder, clock=served.clock)
    newest = newest_policy(served.files)
    assert newest is not None
    assert newest.serial > JUMP
    assert applied(served.files).serial > JUMP
    assert served.exchange() != []


def forge(served: Served, settings: dict[str, Any], serial: int) -> None:
    """What a thief of the service signs goes to the unit past the site's folder, which stays as it is."""
    kept = served.files.configuration.read_bytes()
    served.files.configuration.write_bytes(msgspec.json.encode(Applied(serial=serial, all=settings)))
    served.target.configuring.take(sign_for(served.files.folder, UNIT, clock=served.clock))
    served.files.configuration.write_bytes(kept)
    served.settle()


@pytest.mark.parametrize("serial", [1, 2, 2**53 - 1])
def test_what_a_thief_set_is_set_back_once_the_mandate_was_replaced(served: Served, serial: int) -> None:
    served.apply({"broker": {"health_interval_s": 30}})
    if serial == 1:
        served.target.configuring.begin()  # it never came; the thief's has its number
    else:
        served.exchange()
        served.settle()
    forge(served, {"activation": {"dwell_ms": 9_000}}, serial)
    assert served.exchange() == [(CONFIGURE, "replayed")], "until then the unit says that something is wrong"
    delegate(served.files.folder, replace=True, clock=served.clock)
    assert (CONFIGURE, None) in [*served.exchange(), *served.exchange(), *served.exchange()]
    served.settle()
    assert served.exchange() == []
    force = served.target.configuring.begin()
    assert force.broker.health_interval_s == 30
    assert force.activation.dwell_ms < 9_000  # type: ignore[union-attr]
    assert served.exchange() == []


def test_no_number_of_settings_is_given_twice_though_their_file_is_lost_or_older_than_the_first(
    served: Served,
) -> None:
    served.apply({"broker": {"health_interval_s": 30}})
    served.exchange()
    served.settle()
    served.files.configuration.write_bytes(b"{")
    with pytest.raises(RefusedError, match="remove it, then apply"):
        applied(served.files)
    served.files.configuration.unlink()
    served.apply({"broker": {"health_interval_s": 40}})
    assert served.exchange() == [(CONFIGURE, None)]
    served.settle()
    served.files.configuration.unlink()  # as of a backup from before the first file was applied
    record = load(served.files.record, SiteRecord)
    save(served.files.record, msgspec.structs.replace(record, configurations=0))
    recover(served.files.folder, clock=served.clock)
    assert (CONFIGURE, None) not in served.exchange(), "nothing is set that nobody applied"
    served.apply({"broker": {"health_interval_s": 50}})
    assert (CONFIGURE, None) in [*served.exchange(), *served.exchange()]
