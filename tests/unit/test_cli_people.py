# SPDX-License-Identifier: Apache-2.0
"""What a person may ask of a unit on the command line: what is held, erase it, show that it is gone."""

from __future__ import annotations

import json
import secrets
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from agent.audit.log import AuditLog
from agent.cli import main
from agent.clock import SystemClock
from agent.config.load import load_config
from agent.config.schema import Config
from agent.gallery.consent import ConsentRecord
from agent.keys import UnitKey
from agent.protocol.receipt import ErasureReceipt, verify_receipt
from agent.protocol.subject import SubjectId
from agent.unit.stores import open_gallery, open_outbox
from tests.simulators import unit_life
from tests.simulators.gallery_life import MODEL, captures


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A unit's configuration with its signing key; gallery, outbox and log are empty."""
    path = tmp_path / "config.yaml"
    unit_life.write_unit(path, tmp_path)
    return path


def agreed(config: Config) -> ConsentRecord:
    return unit_life.agreed(config, SystemClock())


@pytest.fixture
def people(file: Path) -> list[SubjectId]:
    """Two enrolled people."""
    config, clock, rng = load_config(file), SystemClock(), np.random.default_rng(3)
    with (
        open_gallery(config, UnitKey.load(config.keys.folder / "unit.key"), clock) as gallery,
        closing(AuditLog(config.audit.path, clock=clock, random=secrets.token_bytes)) as log,
    ):
        subjects = [gallery.enrol(captures(rng), consent=agreed(config), model=MODEL) for _ in range(2)]
        for subject in subjects:
            log.append("enrolled", {"model": MODEL}, subject=subject)
    return subjects


def receipts(text: str) -> list[ErasureReceipt]:
    rows = [json.loads(line) for line in text.splitlines()]
    names = ("subject", "site", "unit", "reason", "erased_at", "signature")
    return [ErasureReceipt(**{name: row[name] for name in names}) for row in rows]


def test_list_shows_every_reference_and_no_biometric_value(
    file: Path, people: list[SubjectId], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gallery", "list", "-c", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines[1:]) == sorted(subject.hex() for subject in people)
    assert main(["gallery", "list", "--json", "-c", str(file)]) == 0
    held = json.loads(capsys.readouterr().out)
    assert {entry["subject"] for entry in held} == {subject.hex() for subject in people}
    assert not any(isinstance(value, float | list) and key != "units" for entry in held for key, value in entry.items())


def test_a_person_is_told_what_is_held(file: Path, people: list[SubjectId], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rights", "show", people[0].hex(), "-c", str(file)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["subject"] == people[0].hex()
    assert told["captures"] == 4
    assert told["purpose"] == load_config(file).purpose


def test_withdrawal_erases_everywhere_and_gives_a_signed_receipt(
    file: Path, people: list[SubjectId], capsys: pytest.CaptureFixture[str]
) -> None:
    def left() -> list[str]:
        """Files that hold the id, as bytes or spelt out."""
        files = [path for path in file.parent.rglob("*") if path.is_file()]
        return [one.name for one in files for name in (people[0], people[0].hex().encode()) if name in one.read_bytes()]

    assert left()
    assert main(["rights", "withdraw", people[0].hex(), "-c", str(file)]) == 0
    (receipt,) = receipts(capsys.readouterr().out)
    verify_receipt(receipt, UnitKey.load(file.parent / "unit.key").public)
    assert receipt.reason == "withdrawn"
    assert main(["rights", "show", people[0].hex(), "-c", str(file)]) == 2
    assert "nothing is held about this subject" in capsys.readouterr().err
    assert left() == []
    assert main(["audit", "verify", "-c", str(file)]) == 0
    assert "1 with personal parts, 1 whose personal part was erased" in capsys.readouterr().out


def test_events_that_wait_are_erased_with_their_subject(file: Path, people: list[SubjectId]) -> None:
    config, clock = load_config(file), SystemClock()
    key = UnitKey.load(config.keys.folder / "unit.key")
    assert main(["gallery", "erase", people[0].hex(), people[1].hex(), "-c", str(file)]) == 0
    with open_outbox(config, key, clock) as outbox:
        assert outbox.depth() == 0
    with open_gallery(config, key, clock) as gallery:
        assert len(gallery) == 0


def test_everything_can_be_erased_at_once(
    file: Path, people: list[SubjectId], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gallery", "erase", "--all", "-c", str(file)]) == 0
    found = receipts(capsys.readouterr().out)
    assert [receipt.reason for receipt in found] == ["wiped"] * len(people)


@pytest.mark.parametrize("words", [["erase"], ["erase", "00" * 16, "--all"], ["erase", "00" * 15], ["erase", "name"]])
def test_an_unclear_erasure_is_refused(
    file: Path, people: list[SubjectId], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gallery", *words, "-c", str(file)]) == 2
    assert capsys.readouterr().err.startswith("postern: ")
    assert main(["gallery", "list", "-c", str(file)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(people)


@pytest.mark.parametrize(
    "words",
    ["gallery list", "gallery erase --all", "gallery erase S", "rights show S", "rights withdraw S", "unit retire"],
)
def test_a_running_unit_keeps_its_gallery(words: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(file)
    asked = ["0" * 32 if word == "S" else word for word in words.split()]
    with open_gallery(config, UnitKey.load(config.keys.folder / "unit.key"), SystemClock()):
        assert main([*asked, "-c", str(file)]) == 70
    said = capsys.readouterr().err
    assert "in use by another process: stop the service" in said
    assert ("or ask the running unit (postern ask)" in said) == (words != "unit retire"), "what the unit itself can do"


def test_a_tampered_log_is_refused(file: Path, people: list[SubjectId], capsys: pytest.CaptureFixture[str]) -> None:
    log = load_config(file).audit.path
    log.write_bytes(log.read_bytes().replace(b'"seq":1', b'"seq":7'))
    assert main(["audit", "verify", "-c", str(file)]) == 2
    assert "the log was changed" in capsys.readouterr().err


def test_a_log_whose_end_was_cut_off_is_noticed(
    file: Path, people: list[SubjectId], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "list", "-c", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.count("enrolled") == 2
    head = out.split("; head ")[1].split()[0]
    log = load_config(file).audit.path
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:1]))
    assert main(["audit", "verify", "-c", str(file)]) == 0
    assert "without --head a missing end is not noticed" in capsys.readouterr().out
    assert main(["audit", "verify", "--log", str(log), "--head", head]) == 2
    assert "its end was removed" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["emptied", "removed"])
def test_a_log_that_is_gone_while_the_gallery_knows_people_is_noticed(
    file: Path, people: list[SubjectId], capsys: pytest.CaptureFixture[str], how: str
) -> None:
    config = load_config(file)
    config.audit.path.write_bytes(b"") if how == "emptied" else config.audit.path.unlink()
    with open_gallery(config, UnitKey.load(config.keys.folder / "unit.key"), SystemClock()) as running:
        assert main(["audit", "verify", "-c", str(file)]) == 2
        running.erase_all()
    assert main(["audit", "verify", "-c", str(file)]) == 2
    assert capsys.readouterr().err.count("it was removed") == 2


def test_a_log_of_a_unit_that_never_ran_is_empty_and_holds(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_config(file).audit.path.write_bytes(b"")
    assert main(["audit", "verify", "-c", str(file)]) == 0
    assert "without --head a missing end is not noticed" in capsys.readouterr().out


def test_a_log_that_is_not_there_is_not_a_log_that_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "verify", "--log", str(tmp_path / "none.log")]) == 2
    assert "there is no audit log" in capsys.readouterr().err
