# SPDX-License-Identifier: Apache-2.0
"""What a unit does when a signed command asks, on a real gallery and a real outbox."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import rfc8785
from msgspec.structs import replace

from agent.audit.chain import read_entries
from agent.door.acts import Request
from agent.errors import ConsentError, RefusedError
from agent.outbox.epoch_keys import EpochKeys
from agent.protocol.command import Command
from agent.unit.assemble import command_side, load_key, make_answers, make_enrolment, make_registrar, make_verification
from agent.unit.at_the_door import make_gate
from agent.unit.configuring import Configuring
from agent.unit.forget import Forgetting
from agent.unit.key_files import KeptFiles
from agent.unit.pause import Pause
from agent.unit.verbs import MAX_LISTED, Parts, make_handlers
from agent.uplink.mailbox import Mailbox
from tests.simulators.gallery_life import MODEL
from tests.simulators.site_office import SiteOffice
from tests.simulators.unit_life import agreed, enrol, opened, write_unit
from tests.unit.test_match_policy import DECISION, SINGLE, policy, tail
from tools.lib.no_camera import NoCamera

ENROLLED = ("consent_given", "enrolled")
OTHER_PARTS = ("outbox", "enrolment", "facts", "request", "confirm", "configure")


class Unit:
    """A unit's stores with one subject and one event about them, and its command side as the product assembles it."""

    def __init__(self, folder: Path, stack: ExitStack, *, put_back: bool = False, **rules: object) -> None:
        """With ``put_back`` it has lived, and a file of it is from before that."""
        self.folder = folder
        office = SiteOffice(folder)
        self.clock = clock = office.clock
        keys = office.enrol("door-1")
        config = write_unit(folder / "config.yaml", keys.folder, "door-1")
        if put_back:
            with opened(config, clock):
                before = KeptFiles(config.outbox.path).commands.read_bytes()
            with opened(config, clock):
                pass
            KeptFiles(config.outbox.path).commands.write_bytes(before)
        self.stores = stack.enter_context(opened(config, clock))
        self.gallery, self.outbox, self.log = self.stores.gallery, self.stores.outbox, config.audit.path
        self.subject = enrol(self.stores, config, clock, np.random.default_rng(1))
        self.consent = agreed(config, clock)
        self.paused = Pause(folder / "paused")
        measured = policy(model=MODEL, **rules)
        registrar = make_registrar(config, NoCamera(), measured, self.stores, clock=clock, random=secrets.token_bytes)
        answers = make_answers(config, load_key(config))
        self.enrolment = make_enrolment(
            config,
            registrar,
            make_gate(config),
            Mailbox(),
            answers,
            clock=clock,
            random=secrets.token_bytes,
        )
        self.verification = make_verification(Mailbox(), clock, answers)
        self.request = Request()
        self.side = command_side(
            config,
            self.stores,
            Forgetting(self.gallery, self.outbox, self.stores.audit, self.stores.rights),
            policy=measured,
            detector=measured.detectors[0],
            configuring=Configuring(config, clock),
            epoch_keys=EpochKeys.load(keys.epoch_keys),
            enrolment=self.enrolment,
            verification=self.verification,
            request=self.request,
            paused=self.paused,
            health=lambda: b'{"fps_milli":1}',
            log=self.stores.audit.append,
            answers=answers,
            clock=clock,
            random=secrets.token_bytes,
        )

    def do(self, verb: str, args: dict[str, Any] | None = None) -> Mapping[str, Any]:
        """What the handler of ``verb`` answers to a command that was verified."""
        return self.side.handlers[verb](self.command(verb, args))

    def command(self, verb: str, args: dict[str, Any] | None = None) -> Command:
        return Command(
            site="hq",
            unit="door-1",
            verb=verb,
            cmd_seq=1,
            issued_at=0,
            expires_at=60,
            transaction="t-1",
            args=args or {},
        )


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Unit]:
    with ExitStack() as stack:
        yield Unit(tmp_path, stack)


def test_revoked_subject_matches_nobody_and_leaves_no_unsent_event(unit: Unit) -> None:
    answer = unit.do("subject/revoke", {"subject": unit.subject.hex()})
    assert unit.gallery.references(MODEL).subjects == ()
    assert all(row.kind == "unit" and b"loss" in row.payload for row in unit.outbox.pending(10))
    assert answer["receipt"]["reason"] == "withdrawn"


def test_a_repeated_withdrawal_gets_its_receipt_again_and_is_noted_once(unit: Unit) -> None:
    first = unit.do("subject/revoke", {"subject": unit.subject.hex()})
    assert [entry.kind for entry in read_entries(unit.log) if entry.kind != "generation"] == [
        *ENROLLED,
        "consent_withdrawn",
        "erased",
    ]
    for _ in range(3):
        again = unit.do("subject/revoke", {"subject": unit.subject.hex()})
        assert {**again["receipt"], "signature": ""} == {**first["receipt"], "signature": ""}
    assert [entry.kind for entry in read_entries(unit.log) if entry.kind != "generation"] == [
        *ENROLLED,
        "consent_withdrawn",
        "erased",
    ]


@pytest.mark.parametrize("subject", [None, 7, "", "zz" * 16, "00" * 15, "00" * 16])
def test_subject_that_is_none_is_refused_and_nothing_changes(unit: Unit, subject: object) -> None:
    with pytest.raises(RefusedError):
        unit.do("subject/revoke", {"subject": subject})
    assert unit.gallery.references(MODEL).subjects == (unit.subject,)
    assert unit.outbox.depth() == 1


def test_status_tells_ids_and_no_biometric_value(unit: Unit) -> None:
    answer = unit.do("gallery/status", {})
    counts = {"enrolled": 1, "damaged": 0, "measured_to": 100, "measured": True}
    assert answer == {**counts, "subjects": [unit.subject.hex()]}


def test_status_says_when_the_gallery_is_larger_than_the_policy_was_measured_for(tmp_path: Path) -> None:
    with ExitStack() as stack:
        barely = replace(DECISION, impostors=tail(measured_to=5e-3))
        assert Unit(tmp_path, stack, decisions=(SINGLE, barely)).do("gallery/status", {})["measured"] is False


def test_recognition_pauses_and_resumes(unit: Unit) -> None:
    assert unit.do("recognition/pause", {}) == {"recognition": "paused"}
    assert unit.paused.is_set()
    assert unit.do("recognition/resume", {}) == {"recognition": "running"}
    assert not unit.paused.is_set()


def test_the_others_answer_what_they_are_asked(unit: Unit) -> None:
    head = unit.outbox.head()
    told = {"depth": 1, "head": {"seq": head.seq, "digest": head.digest}, "parked": {}}
    assert unit.do("outbox/status", {}) == told
    assert unit.do("config/get", {})["events"]["audience"] == "access"
    assert unit.do("config/get", {})["activation"]["polygon"][0] == ["0.25", "0.2"], "no fraction in any answer"
    assert unit.do("selftest", {}) == {"models": "ok"}
    assert unit.do("health", {}) == {"fps_milli": 1}


def test_enrolment_is_begun_with_a_consent_and_named_by_its_transaction(unit: Unit) -> None:
    consent = msgspec.to_builtins(unit.consent)
    another = {**consent, "evidence_digest": "sha256:" + "3" * 64}
    assert unit.do("enrol/begin", {"consent": another})["enrolment"] == "t-1"
    assert unit.do("enrol/abort", {"enrolment": "t-1"}) == {"enrolment": "t-1"}
    unit.do("enrol/begin", {"consent": consent, "subject": unit.subject.hex()})
    with pytest.raises(RefusedError) as refusal:
        unit.do("enrol/commit", {"enrolment": "t-1"})
    assert refusal.value.reason == "too_few_captures"


@pytest.mark.parametrize(
    ("verb", "args", "code"),
    [
        ("enrol/begin", {}, "consent_missing"),
        ("enrol/begin", {"consent": "\ud800"}, "consent_malformed"),
        ("enrol/begin", {"consent": None}, "consent_malformed"),
        ("enrol/begin", {"consent": "yes"}, "consent_malformed"),
        ("enrol/begin", {"consent": {"purpose": "x" * 40}}, "consent_malformed"),
        ("enrol/begin", {"consent": {"x" * 5000: 1}}, "consent_malformed"),
        ("enrol/begin", {"consent": "x" * 20_000}, "consent_malformed"),
        ("enrol/commit", {}, "bad_args"),
        ("enrol/commit", {"enrolment": 1}, "bad_args"),
        ("enrol/commit", {"enrolment": "t-1", "subject": "00"}, "bad_args"),
        ("enrol/commit", {"enrolment": "t-1"}, "no_enrolment"),
        ("enrol/abort", {"enrolment": "t-1"}, "no_enrolment"),
        ("subject/revoke", {"subject": "00" * 16}, "unknown_subject"),
        ("subject/revoke", {"subject": "00"}, "bad_subject"),
    ],
)
def test_each_refusal_has_its_own_code(unit: Unit, verb: str, args: dict[str, Any], code: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        unit.do(verb, args)
    assert refusal.value.reason == code
    assert len(str(refusal.value)) < 500
    assert unit.gallery.subjects() == (unit.subject,)


@pytest.mark.parametrize("extra", [{"photo": "x"}, {"subject": "00"}, {"subject": None}])
def test_an_enrolment_takes_nothing_but_consent_and_subject(unit: Unit, extra: dict[str, Any]) -> None:
    with pytest.raises(RefusedError):
        unit.do("enrol/begin", {"consent": msgspec.to_builtins(unit.consent), **extra})
    assert not unit.enrolment.capturing


SENTENCES = {
    "consent_missing": "nobody is enrolled without a consent: send the person's record",
    "paused": "recognition is paused: resume it first",
    "enrolment_open": "an enrolment is under way: wait for its end",
    "unknown_subject": "nobody is enrolled here under this subject: check the id",
    "verify": "verify takes subject and window_s, and nothing else",
    "subject/revoke": "a revocation takes subject alone",
    "recognition/request": "this takes no arguments: leave them out",
    "outbox/replay": "name the first and the last number, and nothing else",
    "enrol/begin": "an enrolment takes consent and subject alone",
    "enrol/commit": "name the enrolment by the transaction of its begin, and nothing else",
}


def refused(unit: Unit, verb: str, args: dict[str, Any]) -> str:
    """The reason, after its sentence was compared."""
    with pytest.raises((RefusedError, ConsentError)) as refusal:
        unit.do(verb, args)
    reason = refusal.value.reason
    assert str(refusal.value) == SENTENCES[verb if reason == "bad_args" else reason]
    return reason


BARE = (
    "health",
    "gallery/status",
    "recognition/pause",
    "recognition/resume",
    "recognition/request",
    "outbox/status",
    "config/get",
    "selftest",
)


@pytest.mark.parametrize("verb", BARE)
def test_a_word_too_many_is_no_command_that_does_something_else(unit: Unit, verb: str) -> None:
    """Who pauses for an hour, or revokes on trial, would have paused for ever, and erased."""
    if verb in unit.side.handlers:
        with pytest.raises(RefusedError) as refusal:
            unit.do(verb, {"seconds": "3600"})
        assert (refusal.value.reason, str(refusal.value)) == ("bad_args", "this takes no arguments: leave them out")
    assert not unit.paused.is_set()
    assert refused(unit, "subject/revoke", {"subject": unit.subject.hex(), "dry_run": 1}) == "bad_args"
    assert unit.gallery.subjects() == (unit.subject,)


def test_each_refusal_says_what_the_operator_is_to_do(unit: Unit) -> None:
    asked = {"subject": unit.subject.hex(), "window_s": 5}
    stranger = {"subject": "ab" * 16, "window_s": 5}
    assert refused(unit, "enrol/begin", {"subject": unit.subject.hex()}) == "consent_missing"
    assert refused(unit, "verify", stranger) == "unknown_subject"
    for wrong in ({}, {"subject": unit.subject.hex()}, {"window_s": 5}, {**asked, "more": 1}):
        assert refused(unit, "verify", wrong) == "bad_args"
    assert refused(unit, "outbox/replay", {"first": 2, "last": 1}) == "bad_args"
    assert refused(unit, "enrol/begin", {"consent": msgspec.to_builtins(unit.consent), "photo": "x"}) == "bad_args"
    assert refused(unit, "enrol/commit", {"enrolment": "t-1", "more": 1}) == "bad_args"
    assert unit.verification.subject is None
    unit.paused.set()
    assert refused(unit, "verify", asked) == "paused"
    unit.paused.clear()
    unit.do("enrol/begin", {"consent": {**msgspec.to_builtins(unit.consent), "evidence_digest": "sha256:" + "3" * 64}})
    assert refused(unit, "verify", asked) == "enrolment_open"
    unit.do("enrol/abort", {"enrolment": "t-1"})
    assert unit.do("verify", asked) is not None


@pytest.mark.parametrize(
    ("doubt", "paused", "capturing", "args", "reason"),
    [
        ("put back", True, True, {}, "files_in_doubt"),
        (None, True, True, {}, "paused"),
        (None, False, True, {}, "enrolment_open"),
        (None, False, False, {"zone": "door"}, "bad_args"),
        (None, False, False, {}, None),
    ],
)
def test_a_request_opens_nothing_where_nobody_is_recognised(
    unit: Unit, doubt: str | None, paused: bool, capturing: bool, args: dict[str, Any], reason: str | None
) -> None:
    state = {"doubt": lambda: doubt, "paused": SimpleNamespace(is_set=lambda: paused), "request": unit.request}
    others = {"gallery": None, "verification": None, "enrolment": SimpleNamespace(capturing=capturing)}
    parts = SimpleNamespace(**{**dict.fromkeys(OTHER_PARTS), **others, **state})
    ask = make_handlers(cast("Parts", parts))["recognition/request"]
    if reason is None:
        assert ask(unit.command("recognition/request", args)) == {"recognition": "requested"}
    else:
        with pytest.raises(RefusedError) as refusal:
            ask(unit.command("recognition/request", args))
        assert refusal.value.reason == reason
        assert str(refusal.value) == (doubt or SENTENCES["recognition/request" if args else reason])
    assert unit.request.pressed() == (reason is None)


@pytest.mark.parametrize(("count", "measured"), [(MAX_LISTED, True), (MAX_LISTED + 1, False)])
def test_no_more_subjects_are_told_than_an_answer_holds(unit: Unit, count: int, measured: bool) -> None:
    ids = [n.to_bytes(16, "big") for n in range(count)]
    gallery = SimpleNamespace(list=lambda: [SimpleNamespace(subject=one) for one in ids], damaged={b"d": "unreadable"})
    parts = SimpleNamespace(gallery=gallery, measured_to=MAX_LISTED, **dict.fromkeys(OTHER_PARTS))
    answer = make_handlers(cast("Parts", parts))["gallery/status"](unit.command("gallery/status"))
    counts = {"enrolled": count, "damaged": 1, "measured_to": MAX_LISTED, "measured": measured}
    assert answer == {**counts, "subjects": [one.hex() for one in ids[:MAX_LISTED]]}


def test_rotation_gets_what_was_asked(unit: Unit) -> None:
    assert unit.do("key/rotate", {"references": "renew"}) == {"rotated": "references", "count": 1}


def test_what_was_delivered_is_said_again_until_the_person_in_it_is_erased(unit: Unit) -> None:
    rows = unit.outbox.pending(10)
    unit.outbox.acked(*(row.seq for row in rows))
    told = unit.do("outbox/replay", {"first": "1", "last": 5})
    assert [rfc8785.dumps(event) for event in told["events"]] == [row.payload for row in rows]
    assert (told["first"], told["through"]) == (1, rows[-1].seq)
    unit.do("subject/revoke", {"subject": unit.subject.hex()})
    again = unit.do("outbox/replay", {"first": 1, "last": rows[-1].seq})
    assert not any(event["data"]["event_type"] == "match" for event in again["events"])
    assert again["gone"], "told as gone, without the reason"
    marker = rows[0].payload[60:120]
    assert not [file for file in unit.folder.rglob("outbox.db*") if marker in file.read_bytes()]


@pytest.mark.parametrize("args", [{}, {"first": 1}, {"first": 2, "last": 1}, {"first": 0, "last": 1}, {"all": "yes"}])
def test_question_without_two_numbers_is_refused(unit: Unit, args: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="first and the last"):
        unit.do("outbox/replay", args)


def test_nobody_is_verified_while_files_are_doubted(tmp_path: Path) -> None:
    with ExitStack() as stack:
        unit = Unit(tmp_path, stack, put_back=True)
        with pytest.raises(RefusedError, match="command counter was put back") as refusal:
            unit.do("verify", {"subject": unit.subject.hex(), "window_s": 5})
        assert refusal.value.reason == "files_in_doubt"
        assert unit.verification.subject is None
