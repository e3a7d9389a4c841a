# SPDX-License-Identifier: Apache-2.0
"""A program that was given another's files says so in one sentence, before it listens in vain."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.cli import main
from agent.site import programs
from agent.site.creation import create_site
from agent.site.folder import SYSTEM_CLOCK

BRIDGE = """\
site: {site}
broker: {{host: broker.example}}
keys: {keys}
state: state
people: people
epoch_keys: epoch-keys
outputs:
  - {{kind: home-assistant, name: home, keys: {announcer}}}
"""
ROLES = {"ears": "auditor", "voice": "announcer", "hand": "operator", "house": "home-assistant"}
NOWHERE = ["--broker", "127.0.0.1", "--port", "9"]  # what it would wait for, if it got so far


@pytest.fixture(scope="module")
def premises(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("premises")
    site = create_site(folder / "site", "hq", clock=SYSTEM_CLOCK)
    for name, role in ROLES.items():
        programs.issue_client(folder / "site", name, role).rename(folder / name)  # type: ignore[arg-type]
    for one in ("state", "epoch-keys"):
        (folder / one).mkdir(mode=0o700)
    (folder / "people").touch(mode=0o600)
    assert site.trust.exists()
    return folder


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = main(words)
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    return status, shown


def check(premises: Path, capsys: pytest.CaptureFixture[str], **files: str) -> tuple[int, str]:
    file = premises / "bridge.yaml"
    file.write_text(BRIDGE.format(**{"site": "hq", "keys": "ears", "announcer": "voice"} | files))
    return told(["bridge", str(file), "--check"], capsys)


def test_bridge_with_its_own_files_passes(premises: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(premises, capsys) == (0, "")


@pytest.mark.parametrize("name", ["voice", "hand", "house"])
def test_bridge_that_was_given_anothers_files_hears_nothing_and_says_so(
    premises: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    status, shown = check(premises, capsys, keys=name)
    assert (status, len(shown.splitlines())) == (2, 1)
    assert f"whose role is {ROLES[name]}" in shown
    assert "add-program NAME --role auditor" in shown


@pytest.mark.parametrize("name", ["ears", "hand", "house"])
def test_output_for_home_assistant_takes_an_announcers_files_alone(
    premises: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    status, shown = check(premises, capsys, announcer=name)
    assert (status, len(shown.splitlines())) == (2, 1)
    assert f"whose role is {ROLES[name]}" in shown
    assert "add-program NAME --role announcer" in shown


def test_files_of_another_site_are_told_by_its_name(premises: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, shown = check(premises, capsys, site="annex")
    assert status == 2
    assert "of site hq, not annex" in shown


def test_two_sessions_of_one_name_are_told_also_of_files_that_a_release_before_made(
    premises: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = premises / "ears" / "program.json"
    content = file.read_bytes()
    file.unlink()
    try:
        status, shown = check(premises, capsys, announcer="ears")
    finally:
        file.write_bytes(content)
    assert status == 2
    assert "the bridge's own keys (ears)" in shown


def test_bridge_that_may_not_ask_for_what_it_missed_is_told(premises: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = {name: (premises / "ears" / name).read_bytes() for name in ("program.json", "grant.jws")}
    for name in kept:
        (premises / "ears" / name).unlink()
    try:
        status, shown = check(premises, capsys)
    finally:
        for name, content in kept.items():
            (premises / "ears" / name).write_bytes(content)
    assert status == 2
    assert "holds no grant.jws" in shown


@pytest.mark.parametrize("name", ["voice", "hand", "house"])
def test_subscriber_with_anothers_files_does_not_listen_in_vain(
    premises: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    status, shown = told(["subscribe", *NOWHERE, "--site", "hq", "--keys", str(premises / name)], capsys)
    assert (status, len(shown.splitlines())) == (2, 1)
    assert f"whose role is {ROLES[name]}" in shown


@pytest.mark.parametrize("name", ["ears", "voice", "house"])
def test_command_is_not_sent_by_a_program_that_may_send_none(
    premises: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    key = ["--site-key", str(premises / "site" / "site.key")]
    words = ["ask", *NOWHERE, "--site", "hq", "--keys", str(premises / name), *key, "door-1", "health"]
    status, shown = told(words, capsys)
    assert status == 2
    assert f"whose role is {ROLES[name]}" in shown
    assert "--role operator" in shown


def test_damaged_note_of_the_role_is_one_sentence(premises: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = premises / "ears" / "program.json"
    content = file.read_bytes()
    file.write_bytes(content[:-4])
    try:
        status, shown = check(premises, capsys)
    finally:
        file.write_bytes(content)
    assert status != 0
    assert "program.json" in shown
