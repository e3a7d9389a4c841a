# SPDX-License-Identifier: Apache-2.0
"""What is signed or foreign may be as long as is said: the longest is judged by what it holds, one more by length."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent import keys
from agent.errors import PosternError
from agent.gallery import consent
from agent.keys import SigningKey
from agent.match import policy
from agent.protocol import configuration, epoch_keys, grant, response, token_list, trust
from agent.protocol.response import Asked

SITE_KEY = SigningKey.generate().public
NOW = datetime(2026, 1, 5, tzinfo=UTC)
START, END = "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"


TRUSTED = trust.TrustedUnits(
    trust.TrustList(version=2, site="site", serial=1, issued_at=START, expires_at=END, units={})
)


def refuse(number: int) -> None:
    raise AssertionError(number)


def document(text: str) -> object:
    return grant.verify_document(
        text, SITE_KEY, typ="postern-x+jws", power="units/sign", site="site", now=NOW, on_mandate=refuse
    )


def settings(text: str) -> object:
    return configuration.read_configuration(text, SITE_KEY, site="site", unit="unit", now=NOW, on_mandate=refuse)


def sealed(text: str) -> object:
    return epoch_keys.open_epoch_keys(
        text, seal_key=Path("none"), site_key=SITE_KEY, site="site", unit="unit", above=0, now=NOW, clock="synced",
        on_mandate=refuse,
    )  # fmt: skip


def answer(text: str) -> object:
    asked = Asked(site="site", unit="unit", verb="info", transaction="t", command="sha256:" + "0" * 64)
    return response.read_response(text.encode(), asked, TRUSTED)


READERS: dict[str, tuple[int, Callable[[str], object], str]] = {
    "policy": (
        policy.MAX_POLICY_BYTES,
        lambda text: policy.parse_policy(text.encode()),
        "the policy is longer than 8192 bytes: this is not a matching policy",
    ),
    "consent": (
        consent.MAX_CONSENT_BYTES,
        lambda text: consent.parse_consent(text.encode()),
        f"the consent record is longer than {consent.MAX_CONSENT_BYTES} bytes: this is not one",
    ),
    "signed object": (
        keys.MAX_TOKEN_BYTES,
        lambda text: SITE_KEY.verify(text, typ="postern-x+jws"),
        "the signed object is longer than 1048576 bytes",
    ),
    "document": (keys.MAX_TOKEN_BYTES, document, "the signed object is longer than 1048576 bytes"),
    "configuration": (
        configuration.MAX_CONFIGURATION_BYTES,
        settings,
        f"a configuration has at most {configuration.MAX_CONFIGURATION_BYTES} bytes",
    ),
    "grant": (
        grant.MAX_GRANT_BYTES,
        lambda text: grant.read_grant(text, SITE_KEY, site="site"),
        f"a grant has at most {grant.MAX_GRANT_BYTES} bytes",
    ),
    "list of tokens": (
        token_list.MAX_LIST_BYTES,
        lambda text: token_list.read_token_list(text, SITE_KEY, site="site"),
        "this is no list of tokens: copy it from the site again",
    ),
    "epoch keys": (
        epoch_keys.MAX_SEALED_BYTES,
        sealed,
        f"sealed epoch keys have at most {epoch_keys.MAX_SEALED_BYTES} bytes",
    ),
    "answer": (response.MAX_RESPONSE_BYTES, answer, f"an answer has at most {response.MAX_RESPONSE_BYTES} bytes"),
}


@pytest.mark.parametrize("name", READERS)
def test_the_longest_is_judged_by_what_it_holds_and_one_more_by_its_length(name: str) -> None:
    most, read, told = READERS[name]
    for length, is_told in ((most, False), (most + 1, True)):
        with pytest.raises(PosternError) as refusal:
            read("A" * length)
        assert (str(refusal.value) == told) == is_told, refusal.value
