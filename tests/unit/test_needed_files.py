# SPDX-License-Identifier: Apache-2.0
"""Nothing is written in the place of what a command reads, or of what a site or a unit keeps."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest
import yaml

from agent.cli import main
from tests.simulators.config import CARD
from tests.simulators.typed import typed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site and a card; no command changes them."""
    folder = tmp_path_factory.mktemp("made")
    typed("site", "create", "-f", folder / "hq", "hq")
    typed("site", "broker", "-f", folder / "hq", "127.0.0.1")
    (folder / "card.yaml").write_text(CARD)
    (folder / "k").mkdir()
    return folder


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


@pytest.mark.parametrize(
    "words",
    [
        *(("site", "invite", "-f", "hq", "door-8", "-o", file) for file in ("hq/site.json", "hq/units/door-8.json")),
        ("site", "invite", "-f", "hq", "door-8", "-o", "hq/../hq/broker/acl"),
        ("site", "invite", "-f", "hq", "door-8", "--png", "hq/trust.jws"),
        ("site", "invite", "-f", "hq", "door-8", "-o", "a.png", "--png", "./a.png"),
        ("site", "units", "-f", "hq", "--page", "hq/audit.log"),
        ("site", "serve", "-f", "hq", "--page", "hq/site.key"),
        ("site", "epoch-key", "-f", "hq", "access", "2026-W47", "-o", "hq/master.key"),
        ("site", "policy", "-f", "hq", "card.yaml", "-o", "link.yaml"),
        ("consent", "-c", "unit.yaml", "card.yaml", "-o", "card.yaml"),
        ("consumer-key", "new.key", "-o", "new.key"),
        ("unit", "request", "-c", "unit.yaml", "-o", "unit.yaml"),
        ("unit", "request", "-c", "unit.yaml", "-o", "k/unit.key"),
        ("unit", "seal-key", "-c", "unit.yaml", "-o", "gallery.db"),
    ],
    ids=" ".join,
)
def test_nothing_is_written_over_what_a_command_reads_or_keeps(
    folder: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """An output by the name of the site's record ended the site; one by that of a form lost what was signed."""
    (folder / "link.yaml").unlink(missing_ok=True)
    (folder / "link.yaml").symlink_to("card.yaml")
    kept = {"keys": {"folder": "k"}, "gallery": {"path": "gallery.db"}, "broker": {"host": "127.0.0.1"}}
    kept["unit"] = {"site": "hq", "id": "door-7", "name": "Door"}
    (folder / "unit.yaml").write_text(CARD + yaml.safe_dump(kept))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(list(words)) == 2
    assert capsys.readouterr().err.endswith("is needed as it is: name another file to write to\n")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_an_output_beside_a_link_that_leads_to_itself_is_refused_as_any_other(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "loop").symlink_to("loop")
    words = ["site", "policy", "-f", str(folder / "hq"), str(folder / "loop"), "-o", str(folder / "policy.jws")]
    assert main(words) != 0
    assert "cannot read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["version"], ["schema", "event"], ["site", "policy", "-f", "hq", "p.json"]], ids=" ".join
)
def test_a_full_disk_behind_what_is_printed_is_no_fault_of_the_program(
    folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(Path(__file__).parents[2] / "models" / "policy.json", folder / "p.json")
    with open("/dev/full", "w") as full, contextlib.redirect_stdout(full):  # noqa: PTH123
        assert main(words) == 70
    told = "postern: what this prints cannot be written (No space left on device): make room, or send it elsewhere"
    assert capsys.readouterr().err.splitlines()[0] == told


@pytest.mark.parametrize(
    "words",
    [
        ["version"],
        ["site", "token", "-f", "hq", "door-1"],
        ["site", "units", "-f", "hq"],
        ["consumer-key", "new.key"],
        ["console", "code"],
    ],
    ids=" ".join,
)
def test_with_standard_output_closed_a_command_does_nothing_and_says_so(
    folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with contextlib.redirect_stdout(None):
        assert main(words) == 2
    told = "postern: standard output is closed: send what this prints to a terminal, a file or /dev/null\n"
    assert capsys.readouterr().err == told
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_token_that_nobody_saw_is_told_to_be_worth_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open("/dev/full", "w") as full, contextlib.redirect_stdout(full):  # noqa: PTH123
        assert main(["site", "token", "-f", "hq", "door-1"]) == 70
    assert "nobody has seen the token" in capsys.readouterr().err


def test_a_key_whose_public_half_nobody_saw_is_not_left(folder: Path) -> None:
    with open("/dev/full", "w") as full, contextlib.redirect_stdout(full):  # noqa: PTH123
        assert main(["consumer-key", "new.key"]) == 70
    assert not (folder / "new.key").exists()


@pytest.mark.parametrize("closed", [True, False])
def test_a_code_that_is_told_on_standard_error_is_told_or_the_command_fails(
    folder: Path, closed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(OSError), open("/dev/full", "w") as full:  # noqa: PTH123, SIM117
        with contextlib.redirect_stderr(None if closed else full):
            status = main(["console", "code"])
    assert status == 70
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("closed", [True, False])
def test_what_nobody_can_be_told_ends_no_act_and_stands_in_no_output(
    folder: Path, closed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """With standard error shut, sentences for a person stood in what a command prints for a file."""
    with contextlib.suppress(OSError), open("/dev/full", "w") as full:  # noqa: PTH123, SIM117
        with contextlib.redirect_stderr(None if closed else full):
            status = main(["site", "invite", "-f", str(folder / "hq"), "door-9", "-o", "9.invite"])
    assert status == 0
    assert capsys.readouterr().out == ""
