# SPDX-License-Identifier: Apache-2.0
"""What is signed and refused is refused by its own code and in its own sentence, which a person acts on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from msgspec.structs import replace

from agent.errors import RefusedError, VerificationError
from agent.keys import SigningKey, UnitKey
from agent.protocol.configuration import (
    CONFIGURATION_TYPE,
    ISSUE_TYPE,
    MAX_CONFIGURATION_BYTES,
    Configuration,
    PolicyIssue,
    read_configuration,
    read_issue,
)
from agent.protocol.grant import (
    GRANT_DAYS,
    MAX_GRANT_BYTES,
    SIGNS_CONFIGURATION,
    MandatedKey,
    make_grant,
    make_mandate,
    verify_document,
)
from agent.protocol.response import Asked, command_digest, read_response
from agent.protocol.subject import parse_subject
from agent.protocol.token_list import MAX_LIST_BYTES, TOKEN_LIST_TYPE, read_token_list
from tests.simulators.answering import answers
from tests.simulators.desk import trusting

SITE = SigningKey.generate()
NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)
ENDS = "2026-01-06T08:00:00Z"
SETTINGS = Configuration(
    version=1,
    site="hq",
    unit="door-1",
    serial=1,
    issued_at="2026-01-05T08:00:00Z",
    expires_at=ENDS,
    file="fleet.yaml",
    settings={"activation": {"dwell_ms": 900}},
    lines={"activation.dwell_ms": 5},
)
ISSUE = PolicyIssue(
    version=1, site="hq", serial=1, issued_at="2026-01-05T08:00:00Z", expires_at=ENDS, digest="sha256:" + "0" * 64
)


def refused(act: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(VerificationError) as caught:
        act()
    return caught.value.reason, str(caught.value)


def configuration(token: str, *, site: str = "hq", unit: str = "door-1", now: datetime | None = NOW) -> Configuration:
    return read_configuration(token, SITE.public, site=site, unit=unit, now=now, on_mandate=pytest.fail)


def test_settings_are_refused_in_words() -> None:
    signed = SETTINGS.sign(SITE)
    assert configuration(signed) == SETTINGS
    assert configuration(signed, now=None) == SETTINGS
    assert configuration(signed, now=NOW + timedelta(hours=23, minutes=59, seconds=59)) == SETTINGS
    assert refused(lambda: configuration(signed, now=NOW + timedelta(days=1))) == (
        "expired",
        "this has ended: have the site sign it again",
    )
    assert refused(lambda: configuration(signed, unit="door-2")) == (
        "wrong_unit",
        "the configuration is for unit door-1: send this unit its own",
    )
    assert refused(lambda: configuration(signed, site="branch")) == (
        "wrong_site",
        "this is for site hq, and the unit is of branch: send its own",
    )
    assert refused(lambda: configuration("a" * (MAX_CONFIGURATION_BYTES + 1))) == (
        "too_large",
        "a configuration has at most 8192 bytes",
    )
    assert refused(lambda: configuration(SITE.sign(b"{}", typ=CONFIGURATION_TYPE))) == (
        "malformed",
        "the site signed what is no configuration: sign it again",
    )
    never = msgspec.structs.replace(SETTINGS, expires_at="2026-02-30T08:00:00Z").sign(SITE)
    assert refused(lambda: configuration(never)) == (
        "malformed",
        "this ends at a moment that does not exist: sign it again",
    )


def test_settings_that_no_unit_could_read_are_not_signed_and_the_longest_are() -> None:
    def of_length(count: int) -> Configuration:
        return msgspec.structs.replace(SETTINGS, settings={"notice": "x" * count})

    def signed(count: int) -> str:
        return SITE.sign(msgspec.json.encode(of_length(count)), typ=CONFIGURATION_TYPE)

    count = next(count for count in range(5000, 8192) if len(signed(count)) > MAX_CONFIGURATION_BYTES)
    assert len(of_length(count - 1).sign(SITE)) in (MAX_CONFIGURATION_BYTES - 1, MAX_CONFIGURATION_BYTES)
    with pytest.raises(RefusedError) as caught:
        of_length(count).sign(SITE)
    assert str(caught.value) == "the settings of unit door-1 have more than 8192 bytes when signed: set less"


def test_an_issue_of_a_policy_is_refused_in_words() -> None:
    signed = ISSUE.sign(SITE)
    assert read_issue(signed, SITE.public, site="hq", now=NOW) == ISSUE
    assert refused(lambda: read_issue(signed, SITE.public, site="hq", now=NOW + timedelta(days=1)))[0] == "expired"
    assert refused(lambda: read_issue(signed, SITE.public, site="branch", now=NOW))[0] == "wrong_site"
    assert refused(lambda: read_issue(SITE.sign(b"[]", typ=ISSUE_TYPE), SITE.public, site="hq", now=NOW)) == (
        "malformed",
        "the site signed what is no issue of a policy: sign it again",
    )


def test_an_answer_is_refused_in_words() -> None:
    key, other = UnitKey.generate(), UnitKey.generate()
    asked = Asked("hq", "door-1", "selftest", "t-1", command_digest(b"a.b.c"))
    said = answers(key).answer("selftest", asked.command, "t-1", {}, None, number=7)
    trusted = trusting({"door-1": key, "door-2": other})
    assert read_response(said, asked, trusted, above=6).number == 7
    for change, above, reason, sentence in (
        ({}, 7, "replayed", "the answer came before, or later ones did"),
        ({"unit": "door-2"}, 0, "wrong_unit", "the answer was signed by another unit"),
        ({"verb": "pause"}, 0, "wrong_verb", "the answer is about another verb"),
        ({"transaction": "t-2"}, 0, "another", "the answer is to another command"),
        ({"command": command_digest(b"a.b.d")}, 0, "another", "the answer is to another command"),
        (
            {"site": "branch"},
            0,
            "unknown_key",
            "the answer was signed by a key that is not in the site's list of units",
        ),
    ):
        wanted = replace(asked, **change)
        found = refused(lambda wanted=wanted, above=above: read_response(said, wanted, trusted, above=above))
        assert found == (reason, sentence)
    assert refused(lambda: read_response(said, asked, trusting({"door-2": other}))) == (
        "unknown_key",
        "the answer was signed by a key that is not in the site's list of units",
    )


def test_a_list_of_tokens_is_refused_in_words() -> None:
    for text, sentence in (
        ("a" * (MAX_LIST_BYTES + 1), "this is no list of tokens: copy it from the site again"),
        (SITE.sign(b"{}", typ=TOKEN_LIST_TYPE), "the list of tokens is not readable: copy it again"),
    ):
        assert refused(lambda text=text: read_token_list(text, SITE.public, site="hq")) == ("malformed", sentence)


def test_a_mandate_is_refused_in_words_and_holds_to_its_last_second() -> None:
    service = SigningKey.generate()
    mandate = make_mandate("service", service, SITE, site="hq", now=NOW, number=4)
    taken: list[int] = []

    def read(token: str, now: datetime | None = NOW, power: str = SIGNS_CONFIGURATION) -> bytes:
        return verify_document(
            token, SITE.public, typ=CONFIGURATION_TYPE, power=power, site="hq", now=now, on_mandate=taken.append
        )

    signed = MandatedKey(service, mandate).sign(b"{}", typ=CONFIGURATION_TYPE)
    end = NOW + timedelta(days=GRANT_DAYS)
    assert [read(signed, now) for now in (None, NOW, end)] == [b"{}"] * 3
    assert taken == [4, 4, 4]
    assert refused(lambda: read(signed, end + timedelta(seconds=1))) == (
        "grant_expired",
        "the mandate of the site's service has ended: delegate anew",
    )
    granted = make_grant("auditor", service, SITE, site="hq", now=NOW)
    for token, power in ((signed, "sign/anything"), (f"{granted}~{signed.partition('~')[2]}", SIGNS_CONFIGURATION)):
        assert refused(lambda token=token, power=power: read(token, power=power)) == (
            "not_granted",
            "the site did not let this program sign such a document",
        )
    elsewhere = make_mandate("service", service, SITE, site="branch", now=NOW, number=4)
    assert refused(lambda: read(MandatedKey(service, elsewhere).sign(b"{}", typ=CONFIGURATION_TYPE))) == (
        "wrong_site",
        "the grant is for another site",
    )
    assert refused(lambda: read("a" * (MAX_GRANT_BYTES + 1) + "~b"))[0] == "too_large"
    assert taken == [4, 4, 4], "a number of a document that was refused counts for nothing"


def test_what_is_no_subject_id_is_refused_in_words() -> None:
    assert parse_subject("0f" * 16) == bytes.fromhex("0f" * 16)
    for text in ("", "0f" * 15, "0f" * 17, "zz" * 16):
        with pytest.raises(RefusedError) as caught:
            parse_subject(text)
        assert caught.value.reason == "bad_subject"
        assert str(caught.value) == "a subject id is 32 hex digits: copy it from the enrolment"
