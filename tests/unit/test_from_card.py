# SPDX-License-Identifier: Apache-2.0
"""One configuration for all cards of a site: which unit a card makes comes with its invitation."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from agent.cli import main
from agent.config.load import load_file
from agent.protocol.invitation import read_invitation, write_invitation
from agent.site import joining
from tests.simulators.config import CARD
from tools.lib.lifetime.days import SITE, Fleet


@pytest.fixture(scope="module")
def invitation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An invitation for door-7, in a file."""
    folder = tmp_path_factory.mktemp("site")
    fleet = Fleet(folder, 1)
    file = folder / "door-7.invite"
    file.write_text(joining.invite(fleet.folder, "door-7", clock=fleet.clock))
    return file


class Card:
    """What lies on a card, and the configuration that comes of it."""

    def __init__(self, folder: Path) -> None:
        self.file, self.config = folder / "card.yaml", folder / "config.yaml"
        self.file.write_text(CARD)

    def configure(self, *words: str | Path) -> int:
        return main(["unit", "configure", str(self.file), "--config", str(self.config), *map(str, words)])


def test_one_configuration_serves_every_card_and_the_invitation_says_which_unit_it_is(
    invitation: Path, tmp_path: Path
) -> None:
    card = Card(tmp_path)
    invited = read_invitation(invitation.read_text())
    assert card.configure("--invitation", invitation) == 0
    config = load_file(card.config)
    assert (config.unit.site, config.unit.id, config.unit.name) == (SITE, "door-7", "door-7")
    assert (config.broker.host, config.broker.port) == (invited.host, invited.port)
    assert card.config.stat().st_mode & 0o777 == 0o644
    first = card.config.read_bytes()
    assert card.configure("--invitation", invitation) == 0
    assert card.config.read_bytes() == first, "a first boot may be repeated"
    assert invited.claim not in card.config.read_text()


def test_a_unit_that_joined_takes_a_correction_from_the_card_and_stays_who_it_is(
    invitation: Path, tmp_path: Path
) -> None:
    card = Card(tmp_path)
    assert card.configure("--invitation", invitation) == 0
    before = load_file(card.config)
    card.file.write_text(CARD.replace("name: door", "name: hall"))
    assert card.configure() == 0
    config = load_file(card.config)
    assert (config.unit, config.broker, config.activation.name) == (before.unit, before.broker, "hall")


def test_a_wrong_configuration_on_the_card_is_told_with_its_line_and_the_one_in_force_stays(
    invitation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = Card(tmp_path)
    assert card.configure("--invitation", invitation) == 0
    before = card.config.read_bytes()
    text = CARD.replace("purpose:", "porpoise:")
    card.file.write_text(text)
    assert card.configure("--invitation", invitation) == 2
    line = 1 + next(number for number, one in enumerate(text.splitlines()) if one.startswith("porpoise"))
    said = capsys.readouterr().err
    assert f"{card.file}:{line}" in said
    assert "Traceback" not in said
    assert card.config.read_bytes() == before


def test_the_configuration_of_another_unit_is_refused_in_one_sentence(
    invitation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = Card(tmp_path)
    card.file.write_text(CARD + f"unit: {{site: {SITE}, id: door-8, name: Hall}}\n")
    assert card.configure("--invitation", invitation) == 2
    assert "is for door-8 of site" in capsys.readouterr().err
    assert not card.config.exists()


def test_no_invitation_and_no_configuration_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = Card(tmp_path)
    (tmp_path / "empty").write_text("")
    assert card.configure() != 0
    assert card.configure("--invitation", tmp_path / "empty") != 0
    said = capsys.readouterr().err
    assert "cannot read the configuration" in said
    assert "this is no invitation" in said


def test_a_card_with_an_editors_marks_counts(invitation: Path, tmp_path: Path) -> None:
    card = Card(tmp_path)
    card.file.write_bytes(b"\xef\xbb\xbf" + CARD.replace("\n", "\r\n").encode().rstrip())
    assert card.configure("--invitation", invitation) == 0
    assert load_file(card.config).unit.id == "door-7"


def test_an_invitation_of_another_unit_changes_no_unit_that_has_a_configuration_of_its_own(
    invitation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A card that was swapped: its configuration names the unit, and the invitation another one."""
    card = Card(tmp_path)
    assert card.configure("--invitation", invitation) == 0
    before = card.config.read_bytes()
    card.file.write_bytes(before)
    other = tmp_path / "other.invite"
    other.write_text(write_invitation(msgspec.structs.replace(read_invitation(invitation.read_text()), unit="door-9")))
    assert card.configure("--invitation", other) == 2
    assert "this unit is door-9" in capsys.readouterr().err
    assert card.config.read_bytes() == before


def test_a_configuration_that_was_closed_stays_closed_and_may_hold_a_password(invitation: Path, tmp_path: Path) -> None:
    card = Card(tmp_path)
    assert card.configure("--invitation", invitation) == 0
    card.config.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(card.config, 0, 1)
    before = card.config.stat()
    camera = "camera: {source: rtsp, url: 'rtsp://cam:hunter2@192.0.2.20/live'}"
    card.file.write_text(CARD.replace("camera: {source: scene, script: /boot/firmware/scene.yaml}", camera))
    assert card.configure() == 0
    after = card.config.stat()
    assert after.st_mode & 0o777 == 0o640
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid), "the unit's user can read it as before"


def test_password_is_not_laid_open_and_the_configuration_in_force_stays(
    invitation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a unit runs on would otherwise be replaced by a file that it refuses, with the password for all to read."""
    card = Card(tmp_path)
    assert card.configure("--invitation", invitation) == 0
    before = card.config.read_bytes()
    camera = "camera: {source: rtsp, url: 'rtsp://cam:hunter2@192.0.2.20/live'}"
    card.file.write_text(CARD.replace("camera: {source: scene, script: /boot/firmware/scene.yaml}", camera))
    assert card.configure() != 0
    told = capsys.readouterr().err
    assert "camera.credentials_file" in told
    assert "hunter2" not in told
    assert card.config.read_bytes() == before
