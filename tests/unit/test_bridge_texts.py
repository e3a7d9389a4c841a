# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: F811 - names of fixtures
"""What people write for a bridge is taken from any editor, or refused with what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.bridge.people import read_people
from agent.bridge.sql import Sql
from agent.disk.files import write_atomic
from agent.errors import RefusedError
from tests.simulators.receiver import SECRET, Receiver
from tests.unit.test_bridge_outputs import Bench, bench, receiver  # noqa: F401 - fixtures


@pytest.mark.parametrize("editor", ["utf-8-sig", "utf-16", "utf-8"])
def test_secrets_and_people_of_any_editor_are_taken(bench: Bench, receiver: Receiver, editor: str) -> None:
    for name, text in (("secret", SECRET.decode()), ("people", f"{'00' * 16} anna Anna Bäuer")):
        write_atomic(bench.folder / name, f"{text}\r\n".encode(editor))
    bench.hear()
    assert bench.hook(receiver).step() == 0
    assert (len(receiver.taken), receiver.forged) == (1, 0), "signed with what both sides know as the secret"
    assert [(one.name, one.title) for one in read_people(bench.folder / "people").values()] == [("anna", "Anna Bäuer")]


def test_a_password_that_is_no_text_is_told_as_that(tmp_path: Path) -> None:
    write_atomic(tmp_path / "password", "Schlüssel".encode("latin-1"))
    with pytest.raises(RefusedError, match="password is no text in UTF-8"):
        Sql("postgresql+psycopg://postern@db.example/postern", tmp_path / "password")
