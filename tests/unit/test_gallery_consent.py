# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.errors import ConfigError, ConsentError
from agent.gallery.consent import CLOCK_TOLERANCE, MAX_CONSENT_DAYS, Terms, check, check_notice, parse_consent
from agent.gallery.retention import Deadline, Retention, due
from agent.protocol.names import NoticeId
from tests.simulators.gallery_life import EVIDENCE, PURPOSE, SITE, UNIT, consent

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HERE = Terms(SITE, UNIT, PURPOSE)


def test_a_complete_consent_holds_and_survives_json() -> None:
    record = consent(NOW)
    check(record, HERE, now=NOW)
    assert parse_consent(msgspec.json.encode(record)) == record


@pytest.mark.parametrize(
    ("changes", "reason", "sentence"),
    [
        (
            {"site": "branch"},
            "consent_wrong_site",
            "the consent was given for another site: ask the person for this one",
        ),
        (
            {"units": ("door-4",)},
            "consent_wrong_unit",
            "the consent does not name unit door-3: ask the person for this unit",
        ),
        (
            {"purpose": "count how many hours each of them spends inside the building"},
            "consent_wrong_purpose",
            "the consent was given for another purpose than this unit's: ask the person for this one",
        ),
        *(
            (
                {"age_class": age},
                "consent_no_guardian",
                "under 16 a guardian must agree: add the digest of the guardian's evidence",
            )
            for age in ("under_14", "under_16")
        ),
        (
            {"given_at": NOW + timedelta(hours=1)},
            "consent_in_future",
            "the consent begins in the future: check this unit's clock, then the record",
        ),
        (
            {"given_at": NOW - timedelta(days=9), "expires_at": NOW},
            "consent_expired",
            "the consent has expired: ask the person again",
        ),
        *(
            (
                {"given_at": NOW, "expires_at": NOW + timedelta(days=days)},
                "consent_bad_times",
                "the consent ends before it begins: correct its times",
            )
            for days in (-1, 0)
        ),
        (
            {"expires_at": NOW + timedelta(days=MAX_CONSENT_DAYS, seconds=1)},
            "consent_too_long",
            "a consent may last 1095 days at most: shorten it",
        ),
    ],
)
def test_a_consent_that_does_not_hold_here_and_now_is_refused_and_why_and_what_to_do_is_said(
    changes, reason, sentence
) -> None:
    with pytest.raises(ConsentError) as caught:
        check(consent(NOW, **changes), HERE, now=NOW)
    assert (caught.value.reason, str(caught.value)) == (reason, sentence)


def test_another_notice_is_refused_and_why_and_what_to_do_is_said() -> None:
    with pytest.raises(ConsentError) as caught:
        check(consent(NOW), replace(HERE, notice=NoticeId("2026-2", EVIDENCE)), now=NOW)
    assert caught.value.reason == "consent_wrong_notice"
    assert str(caught.value) == (
        "the consent names another notice than hangs at this unit: let the person read that one, and ask again"
    )
    check(consent(NOW), replace(HERE, notice=NoticeId("2026-1", EVIDENCE)), now=NOW)
    check_notice(consent(NOW), "2026-1")
    with pytest.raises(ConsentError) as caught:
        check_notice(consent(NOW), "2026-2")
    assert caught.value.reason == "consent_wrong_notice"
    assert str(caught.value) == (
        "the consent names another version of the notice than hangs at this unit: ask the person again"
    )


def test_at_its_bounds_a_consent_holds() -> None:
    for changes in (
        {"expires_at": NOW + timedelta(days=MAX_CONSENT_DAYS)},
        {"given_at": NOW + CLOCK_TOLERANCE},
        {"given_at": NOW - timedelta(days=9), "expires_at": NOW + timedelta(microseconds=1)},
    ):
        check(consent(NOW, **changes), HERE, now=NOW)
    with pytest.raises(ConsentError, match="future"):
        check(consent(NOW, given_at=NOW + CLOCK_TOLERANCE + timedelta(microseconds=1)), HERE, now=NOW)


@pytest.mark.parametrize("hours", [14, -8])
def test_a_consent_may_be_dated_by_the_clock_on_any_wall(hours: int) -> None:
    there = timezone(timedelta(hours=hours))
    given, ends = NOW - timedelta(minutes=1), NOW + timedelta(days=9)
    record = parse_consent(
        msgspec.json.encode(consent(NOW, given_at=given.astimezone(there), expires_at=ends.astimezone(there)))
    )
    assert (record.given_at, record.expires_at) == (given, ends)
    check(record, HERE, now=NOW)
    check(record, HERE, now=ends - timedelta(seconds=1))
    with pytest.raises(ConsentError, match="expired"):
        check(record, HERE, now=ends)


def test_a_guardian_may_agree_for_a_child() -> None:
    check(consent(NOW, age_class="under_14", guardian_evidence_digest=EVIDENCE), HERE, now=NOW)


def test_a_unit_whose_clock_was_never_set_refuses() -> None:
    with pytest.raises(ConsentError, match="clock"):
        check(consent(NOW), HERE, now=datetime(1970, 1, 1, tzinfo=UTC))


def test_line_breaks_in_the_purpose_do_not_make_another_purpose() -> None:
    check(consent(NOW), replace(HERE, purpose=PURPOSE.replace(" ", "\n  ")), now=NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"given_at": "2026-03-01T12:00:00"},  # no offset: whose noon?
        {"given_at": "yesterday"},
        {"evidence_digest": "sha256:12"},
        {"evidence_digest": None},
        {"units": []},
        {"units": ["door-3\n"]},
        {"units": ["#"]},
        {"age_class": "adult"},
        {"purpose": "access"},
        {"name": "Anna"},  # a consent record has no place for a name
    ],
)
def test_an_incomplete_or_padded_record_is_refused(change) -> None:
    content = msgspec.json.encode({**msgspec.to_builtins(consent(NOW)), **change})
    with pytest.raises(ConsentError):
        parse_consent(content)


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_a_refusal(content) -> None:
    with pytest.raises(ConsentError):
        parse_consent(content)


times = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@settings(max_examples=120, deadline=None)
@given(times, times, times, st.sampled_from(["under_14", "under_16", "of_age"]), st.booleans())
def test_only_a_consent_in_force_of_somebody_who_may_give_it_passes(given_at, expires_at, now, age, guardian) -> None:
    record = consent(
        now,
        given_at=given_at,
        expires_at=expires_at,
        age_class=age,
        guardian_evidence_digest=EVIDENCE if guardian else None,
    )
    try:
        check(record, HERE, now=now)
    except ConsentError:
        return
    assert given_at <= now + timedelta(minutes=5)
    assert now < expires_at <= given_at + timedelta(days=1095)
    assert age == "of_age" or guardian


def test_a_reference_goes_when_its_consent_ends_or_it_lies_unused() -> None:
    deadline = Deadline(NOW + timedelta(days=300), date(2026, 3, 1))
    within = Retention(90)
    assert due(deadline, now=NOW, retention=within) is None
    assert due(deadline, now=NOW + timedelta(days=89), retention=within) is None
    assert due(deadline, now=NOW + timedelta(days=90), retention=within) == "unused"
    assert due(deadline, now=NOW + timedelta(days=300), retention=Retention(1000)) == "expired"
    elsewhere = (NOW + timedelta(days=300)).astimezone(timezone(timedelta(hours=8)))
    assert due(Deadline(elsewhere, deadline.last_used_on), now=NOW + timedelta(days=300), retention=within) == "expired"


@pytest.mark.parametrize("days", [0, -1, 1096])
def test_no_retention_beyond_three_years_can_be_set(days) -> None:
    with pytest.raises(ConfigError):
        Retention(days)
