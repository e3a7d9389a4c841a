# SPDX-License-Identifier: Apache-2.0
"""What a unit that takes tokens says where it can take none, or none of these."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.disk.files import write_atomic
from agent.errors import VerificationError
from agent.protocol.token import look_at, make_token, open_content
from agent.unit.doctor import check_tokens
from agent.unit.tokens import GET_KEY, GET_LIST, load_token_key, load_token_list, shortcomings
from tests.simulators.token_desk import DESK, GATE, TokenDesk


@pytest.fixture
def desk(tmp_path: Path) -> TokenDesk:
    return TokenDesk(tmp_path)


def reason(desk: TokenDesk, data: bytes) -> tuple[str, str]:
    with pytest.raises(VerificationError) as caught:
        desk.gate(data)
    return caught.value.reason, str(caught.value)


def test_a_token_that_holds_no_direction_is_refused(desk: TokenDesk) -> None:
    key, issued = load_token_key(desk.office.keys(GATE)), desk.issue()
    content = replace(open_content(look_at(issued.token), key, site="hq"), template=bytes(128))
    empty = make_token(content, token_id=b"t" * 12, key=key, issuer=desk.office.event_key(DESK), site="hq")
    assert reason(desk, empty) == ("damaged", "the token holds no reference: ask the desk for a new one")


def test_a_unit_without_key_or_list_says_what_to_do(desk: TokenDesk) -> None:
    token = desk.issue().token
    files = desk.office.keys(GATE)
    no_list = f"this unit has no list of tokens: {GET_LIST}"
    no_key = f"this unit has no key of tokens: {GET_KEY}"
    assert shortcomings(desk.config(GATE), desk.clock) == []
    ends = load_token_list(files, site="hq").expires_at
    taken = f"tokens are taken; the list of void ones counts until {ends}, renew it before"
    assert list(check_tokens(desk.config(GATE), desk.clock)) == [("ok", taken)]
    files.token_list.unlink()
    assert reason(desk, token) == ("not_ready", no_list)
    assert shortcomings(desk.config(GATE), desk.clock) == [no_list]
    files.token_key.unlink()
    assert reason(desk, token) == ("not_ready", no_list), "the first that is missing"
    assert shortcomings(desk.config(GATE), desk.clock) == [no_key, no_list]
    assert list(check_tokens(desk.config(GATE), desk.clock)) == [("fault", no_key), ("fault", no_list)]
    for damaged in (b"k" * 31, b"k" * 33, bytes(32)):
        write_atomic(files.token_key, damaged)
        assert shortcomings(desk.config(GATE), desk.clock)[0] == f"{files.token_key} is damaged: {GET_KEY}"
