# SPDX-License-Identifier: Apache-2.0
"""What a site issues counts for whom it names, until it ends, and each of its keys is another one."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime, timedelta
from itertools import combinations

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import to_builtins
from msgspec.structs import replace

from agent.errors import VerificationError
from agent.keys import SigningKey, encode_base64url
from agent.protocol.configuration import CONFIGURATION_TYPE, Configuration, PolicyIssue, read_configuration, read_issue
from agent.protocol.epoch_keys import derive_epoch_key
from agent.protocol.grant import MandatedKey, make_grant, make_mandate
from agent.protocol.joining import UnitRequest, is_proof, prove, unverified
from agent.protocol.names import parse_time

KEY = SigningKey.generate()
START, END = "2026-01-05T00:00:00Z", "2026-02-05T00:00:00Z"
NOW = parse_time(END)
SECOND = timedelta(seconds=1)
SETTINGS = Configuration(
    version=1, site="hq", unit="door", serial=3, issued_at=START, expires_at=END, file="units.yaml",
    settings={"outbox": {"keep_days": 3}, "share": 0.5}, lines={"outbox.keep_days": 4},
)  # fmt: skip
ISSUE = PolicyIssue(version=1, site="hq", serial=3, issued_at=START, expires_at=END, digest="sha256:" + "0" * 64)


def read(token: str, now: datetime | None = NOW - SECOND, *, numbers: list[int] | None = None) -> Configuration:
    heard = [] if numbers is None else numbers
    return read_configuration(token, KEY.public, site="hq", unit="door", now=now, on_mandate=heard.append)


def issue(token: str, now: datetime | None = NOW - SECOND) -> PolicyIssue:
    return read_issue(token, KEY.public, site="hq", now=now)


def test_settings_and_issues_are_read_as_they_were_signed() -> None:
    assert read(SETTINGS.sign(KEY)) == SETTINGS
    assert issue(ISSUE.sign(KEY)) == ISSUE


@pytest.mark.parametrize(("reader", "made"), [(read, SETTINGS), (issue, ISSUE)], ids=["settings", "issue"])
def test_what_has_ended_is_refused_from_its_last_moment_on_where_the_time_is_known(reader, made) -> None:
    token = made.sign(KEY)
    assert reader(token, NOW - SECOND) == reader(token, None) == made
    for now in (NOW, NOW + SECOND, NOW + timedelta(days=9)):
        with pytest.raises(VerificationError) as refusal:
            reader(token, now)
        assert (refusal.value.reason, str(refusal.value)) == ("expired", "this has ended: have the site sign it again")


@pytest.mark.parametrize(
    ("reader", "made", "reason", "told"),
    [
        (
            read,
            replace(SETTINGS, site="lab"),
            "wrong_site",
            "this is for site lab, and the unit is of hq: send its own",
        ),
        (issue, replace(ISSUE, site="lab"), "wrong_site", "this is for site lab, and the unit is of hq: send its own"),
        (
            read,
            replace(SETTINGS, unit="gate"),
            "wrong_unit",
            "the configuration is for unit gate: send this unit its own",
        ),
        (
            read,
            replace(SETTINGS, expires_at="2026-02-30T00:00:00Z"),
            "malformed",
            "this ends at a moment that does not exist: sign it again",
        ),
        (
            issue,
            replace(ISSUE, expires_at="2026-02-30T00:00:00Z"),
            "malformed",
            "this ends at a moment that does not exist: sign it again",
        ),
    ],
)
def test_what_is_for_another_or_ends_never_is_refused_with_what_to_do(reader, made, reason: str, told: str) -> None:
    with pytest.raises(VerificationError) as refusal:
        reader(made.sign(KEY))
    assert (refusal.value.reason, str(refusal.value)) == (reason, told)


def test_what_the_site_signed_as_something_else_is_neither() -> None:
    for reader, typ, told in (
        (read, CONFIGURATION_TYPE, "the site signed what is no configuration: sign it again"),
        (issue, "postern-policy-issue+jws", "the site signed what is no issue of a policy: sign it again"),
    ):
        with pytest.raises(VerificationError) as refusal:
            reader(KEY.sign(b"{}", typ=typ))
        assert (refusal.value.reason, str(refusal.value)) == ("malformed", told)


def test_settings_by_the_sites_service_count_with_its_mandate_alone_and_for_its_time() -> None:
    service = SigningKey.generate()
    mandate = make_mandate("service", service, KEY, site="hq", now=NOW - timedelta(days=401), number=7)
    long = replace(SETTINGS, expires_at="2030-01-01T00:00:00Z")
    token, numbers = long.sign(MandatedKey(service, mandate)), []
    ends = NOW - timedelta(days=1)
    assert read(token, ends, numbers=numbers) == long
    assert numbers == [7]
    for now, power, reason in (
        (ends + SECOND, mandate, "grant_expired"),
        (ends, make_grant("service", service, KEY, site="hq", now=NOW), "not_granted"),
        (ends, make_mandate("service", service, KEY, site="lab", now=NOW, number=7), "wrong_site"),
    ):
        with pytest.raises(VerificationError) as refusal:
            read(long.sign(MandatedKey(service, power)), now)
        assert refusal.value.reason == reason


NAMES = st.text("ab-", min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NAMES, NAMES, st.sampled_from(["2026-W01", "2026-W02"]), st.integers(0, 2)),
                min_size=2, max_size=6, unique=True))  # fmt: skip
def test_each_site_audience_epoch_and_generation_has_a_key_of_its_own(labels) -> None:
    made = [
        derive_epoch_key(KEY, site=site, audience=audience, epoch=epoch, generation=generation)
        for site, audience, epoch, generation in labels
    ]
    assert [(key.site, key.audience, key.epoch) for key in made] == [label[:3] for label in labels]
    assert all(one.key != other.key for one, other in combinations(made, 2))
    again = [derive_epoch_key(KEY, site=s, audience=a, epoch=e, generation=g) for s, a, e, g in labels]
    assert [key.key for key in again] == [key.key for key in made]
    assert derive_epoch_key(SigningKey.generate(), site="a", audience="a", epoch="2026-W01").key != made[0].key


@pytest.mark.parametrize("token", ["", "a.b", "a.b.c.d", f"a.{encode_base64url(b'{}')}.c", "a.!.c"])
def test_a_request_that_cannot_be_read_is_told_so(token: str) -> None:
    with pytest.raises(VerificationError) as refusal:
        unverified(token, UnitRequest)
    assert (refusal.value.reason, str(refusal.value)) == ("malformed", "this file is not readable: copy it again")


@pytest.mark.parametrize("text", ["2026-01-05T00:00:00", "2026-01-05T00:00:00Z\n", "2026-13-05T00:00:00Z", "", "now"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"moment|month"):
        parse_time(text)
    assert parse_time("2026-12-31T23:59:59Z") == datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)


def test_a_proof_is_over_the_kind_and_every_member_of_what_is_asked() -> None:
    asked = UnitRequest(version=1, site="hq", unit="door", jwk={"a": "b"}, seal_jwk={"c": "d"}, csr="-----BEGIN x")
    members = {name: value for name, value in to_builtins(asked).items() if name != "proof"}
    wanted = hmac.digest(b"key", b"UnitRequest" + rfc8785.dumps(members), "sha256")
    given = replace(asked, proof=encode_base64url(wanted))
    assert prove(b"key", asked) == prove(b"key", given) == given.proof
    assert is_proof(b"key", given)
    assert not is_proof(b"key", asked)
    assert not is_proof(b"kez", given)
    for change in ({"site": "lab"}, {"unit": "gate"}, {"jwk": {"a": "c"}}, {"seal_jwk": {}}, {"csr": "-----BEGIN y"}):
        assert not is_proof(b"key", replace(given, **change))
