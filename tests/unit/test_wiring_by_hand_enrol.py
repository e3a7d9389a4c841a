# SPDX-License-Identifier: Apache-2.0
"""Somebody enrols at the unit's own command line, and takes a token along: with real models, on a simulated clock."""

from __future__ import annotations

import re
import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from agent.audit.chain import read_entries
from agent.clock import SimulatedClock
from agent.config.load import load_config
from agent.config.schema import Config
from agent.errors import CaptureRefusedError, RefusedError, VerificationError
from agent.protocol.subject import SubjectId
from agent.site import units
from agent.site.token_list import issue_token_list
from agent.unit.aim import lines
from agent.unit.by_hand import check_token, enrol, erase, held, issue_token, listing
from agent.unit.joining import install_epoch_keys
from agent.unit.key_files import UnitFiles
from agent.unit.seal_key import statement
from agent.unit.tokens import Issued, install_token_list
from tests.simulators.quiet_unit import Premises
from tests.simulators.signing_unit import START
from tests.simulators.unit_life import agreed
from tools.lib.enrolment_scene import enrolment_script
from tools.lib.rig.enrolment import FRAMES_PER_SECOND, PICTURE


class Here:
    """A unit whose service is stopped, before whose camera somebody stands who presses the button."""

    def __init__(self, folder: Path) -> None:
        self.premises, self.clock = Premises(folder), SimulatedClock(START)
        self.show(duration=6.5)
        self.config = self.configured(enrolment={"button": {"kind": "scene"}})

    def configured(self, **sections: Any) -> Config:
        content = yaml.safe_load(self.premises.config.read_text()) | sections
        self.premises.config.write_text(yaml.safe_dump(content))
        return load_config(self.premises.config)

    def show(self, *, duration: float) -> None:
        script = enrolment_script("person-03", size=PICTURE, frames_per_second=FRAMES_PER_SECOND, duration=duration)
        self.premises.config.with_name("scene.yaml").write_text(yaml.safe_dump(msgspec.to_builtins(script)))

    def enrol(self, subject: SubjectId | None = None, **more: Any) -> tuple[SubjectId, list[str]]:
        told: list[str] = []
        consent = agreed(self.config, self.clock)
        options = {"tell": told.append} | more
        return enrol(self.config, self.clock, secrets.token_bytes, consent, subject, **options), told


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Here:
    return Here(tmp_path_factory.mktemp("here"))


@pytest.fixture
def here(place: Here) -> Here:
    place.premises.restore()
    place.clock = SimulatedClock(START)
    return place


def kinds(here: Here) -> list[str]:
    return [entry.kind for entry in read_entries(here.config.audit.path)]


def test_who_stands_there_is_told_what_to_do_and_is_enrolled(here: Here) -> None:
    before = kinds(here)
    subject, told = here.enrol()
    assert subject in [one.subject for one in listing(here.config, here.clock)[0]]
    assert told[:3] == [
        "0 of 5: press the button at the unit",
        "0 of 5: stand before the camera, alone, and look into it",
        "1 of 5",
    ]
    assert told[-1] == "5 of 5"
    assert [one for one in kinds(here)[len(before) :] if one != "generation"] == ["consent_given", "enrolled"]
    kept = held(here.config, here.clock, subject)
    assert (kept.captures, kept.purpose, kept.units) == (5, here.config.purpose, ("door-1",))
    assert here.enrol(subject)[0] == subject, "the same face renews the reference"


def test_who_leaves_too_early_is_not_enrolled_and_leaves_nothing(here: Here) -> None:
    before, known = kinds(here), listing(here.config, here.clock)
    here.show(duration=1.0)
    with pytest.raises(CaptureRefusedError) as refusal:
        here.enrol()
    here.show(duration=6.5)
    assert str(refusal.value) == "1 of 5 captures were taken, nothing was stored: start again, follow the advice"
    assert listing(here.config, here.clock) == known
    assert set(kinds(here)) - set(before) <= {"generation"}


def test_a_word_of_an_operator_is_asked_for_before_anybody_stands_there(here: Here) -> None:
    other = SubjectId(bytes(16))
    with pytest.raises(RefusedError) as refusal:
        here.enrol(replace=other)
    assert refusal.value.reason


def fit_for_tokens(here: Here) -> None:
    """The site lets this unit issue tokens, and take them."""
    keys, clock = here.config.keys.folder, here.clock
    listed = issue_token_list(here.premises.site, clock=clock, issuers=["door-1"])
    install_token_list(keys, listed.encode(), site="hq")
    sealed = units.issue_epoch_keys(here.premises.site, "door-1", clock=clock)
    install_epoch_keys(keys, sealed, site="hq", unit="door-1", now=clock.now(), clock=clock.state())
    units.take_seal_key(here.premises.site, statement(UnitFiles(keys), site="hq", unit="door-1"), clock=clock)


def test_a_token_is_made_of_who_is_enrolled_written_down_and_taken_while_it_counts(here: Here) -> None:
    subject, _ = here.enrol()
    fit_for_tokens(here)
    clock = here.clock
    until = clock.now() + timedelta(days=3)

    def issue(whom: SubjectId, **more: Any) -> Issued:
        return issue_token(here.config, clock, secrets.token_bytes, whom, **{"units": None, "until": None} | more)

    issued = issue(subject, until=until)
    assert issued.units == ("door-1",)
    assert issued.expires_at == until.replace(microsecond=0)
    assert check_token(here.config, clock, issued.token) == issued.expires_at
    entry = list(read_entries(here.config.audit.path))[-2:]
    assert [one.kind for one in entry if one.kind == "token_issued"] == ["token_issued"]
    for whom, sentence in (
        (
            SubjectId(bytes(16)),
            "nobody is enrolled here under this subject: check the id, or enrol the person first",
        ),
    ):
        with pytest.raises(RefusedError) as refusal:
            issue(whom)
        assert str(refusal.value) == sentence
    with pytest.raises(RefusedError, match="the consent does not name door-9: it names door-1"):
        issue(subject, units=["door-9"])
    clock.advance(3 * 86_400)
    with pytest.raises(VerificationError) as over:
        check_token(here.config, clock, issued.token)
    assert over.value.reason == "expired"
    with pytest.raises(VerificationError) as other:
        check_token(here.config, clock, b"something else")
    assert other.value.reason == "no_token"


def test_while_files_are_in_doubt_nobody_is_enrolled_and_no_token_is_issued(here: Here) -> None:
    (first,), _ = listing(here.config, here.clock)
    assert erase(here.config, here.clock, secrets.token_bytes, []) == []  # the stores are made
    outbox = here.config.outbox.path
    kept = outbox.read_bytes()
    here.enrol()
    outbox.write_bytes(kept)
    doubt = (
        "the unit's outbox was put back or replaced: nobody is matched until the site has looked at the unit and says"
        " so (postern ask UNIT unit/confirm what=files reason=…, or here postern unit confirm files)"
    )
    for act in (
        lambda: issue_token(here.config, here.clock, secrets.token_bytes, first.subject, units=None, until=None),
        lambda: here.enrol(first.subject),
    ):
        with pytest.raises(RefusedError) as refusal:
            act()
        assert str(refusal.value) == doubt


def test_who_aims_is_told_twice_a_second_what_the_camera_sees_until_the_time_is_over(here: Here) -> None:
    assert FRAMES_PER_SECOND == 5
    told = list(lines(here.config, here.clock, seconds=2))
    assert len(told) == 3, "every third frame is half a second after the one before, and two seconds are ten"
    for line in told:
        assert re.fullmatch(
            r"  5\.0 frames/s  detection 0 ms  face 12\d px, turned 1\d degrees: accepted here", line
        ), line
