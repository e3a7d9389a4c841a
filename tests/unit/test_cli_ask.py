# SPDX-License-Identifier: Apache-2.0
"""``postern ask``: a signed command through a real broker, and the unit's answer or refusal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli import main
from agent.clock import SystemClock
from agent.errors import RefusedError
from agent.keys import SigningKey, UnitKey
from agent.uplink.commands import CommandCounter, Commands
from tests.simulators.answering import answers
from tests.simulators.broker import RealBroker
from tests.simulators.desk import site_list, write_trust
from tests.simulators.pki import Authority
from tests.simulators.unit_on_broker import UnitOnBroker

pytestmark = pytest.mark.broker


def refuse(_: object) -> dict[str, str]:
    raise RefusedError("there is no such subject at this unit: check the id")


@pytest.fixture
def words(tmp_path: Path) -> Iterator[list[str]]:
    """The options of an operator on the broker of a unit that answers."""
    authority = Authority(tmp_path / "pki")
    broker = RealBroker(tmp_path, authority)
    broker.start()
    keys = tmp_path / "operator"
    keys.mkdir()
    files = authority.issue("operator")
    for source, name in ((files.ca, "ca.crt"), (files.certificate, "tls.crt"), (files.key, "tls.key")):
        shutil.copy(source, keys / name)
    site_key = SigningKey.generate()
    site_key.save(tmp_path / "site.key")
    unit_key = UnitKey.generate()
    write_trust(keys, site_key, site_list({"door-1": unit_key, "door-9": UnitKey.generate()}))
    handlers = {"outbox/status": lambda command: {"depth": 0, "asked": dict(command.args)}, "subject/revoke": refuse}
    commands = Commands(
        site="hq",
        unit="door-1",
        key=site_key.public,
        counter=CommandCounter(tmp_path / "commands.json"),
        answers=answers(unit_key),
        clock=SystemClock(),
        random=lambda n: b"\x07" * n,
        on_outcome=lambda _: None,
    )
    commands.bind(handlers)
    unit = UnitOnBroker(tmp_path, broker.settings(authority.issue("door-1")), on_request=commands.handle)
    unit.start()
    place = ["--broker", "127.0.0.1", "--port", str(broker.port), "--site", "hq", "--keys", str(keys)]
    yield [*place, "--site-key", str(tmp_path / "site.key")]
    unit.uplink.stop()
    broker.stop()


def test_the_answer_is_json(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "door-1", "outbox/status", "page=2", *words]) == 0
    assert json.loads(capsys.readouterr().out) == {"depth": 0, "asked": {"page": "2"}}


def test_a_refusal_is_told_with_its_code(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "door-1", "subject/revoke", "subject=00", *words]) == 2
    assert capsys.readouterr().err == (
        "postern: the unit refuses (refused): there is no such subject at this unit: check the id\n"
    )


def test_a_unit_that_is_not_there_can_be_asked_later(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "door-9", "selftest", "--timeout", "0.5", *words]) == 75
    assert "unit door-9 does not answer" in capsys.readouterr().err


def test_an_unclear_value_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ask", "door-1", "subject/revoke", "subject", *words])
    assert "write NAME=VALUE" in capsys.readouterr().err
