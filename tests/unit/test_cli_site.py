# SPDX-License-Identifier: Apache-2.0
"""From an empty folder to a unit with keys, and out again: the installer's day on the command line."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import msgspec
import pytest
import yaml

from agent.cli import main
from agent.clock import SystemClock
from agent.config import load_config
from agent.errors import VerificationError
from agent.match.policy import Policy, TailPoint, Votes, verify_policy
from agent.outbox.pseudonym import EpochKey, epochs_from
from agent.site import kit
from agent.site.records import SiteFiles

EXAMPLE = Path(__file__).parents[2] / "deploy/config.example.yaml"
MODEL = "sha256:" + "ab" * 32


class Installer:
    """Runs commands for one site and one unit in ``folder``; ``out`` and ``err`` are the last command's."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.site_folder = folder / "site"
        self.config = folder / "unit/config.yaml"
        self._capsys = capsys
        self.config.parent.mkdir(mode=0o700)
        data = yaml.safe_load(EXAMPLE.read_text())
        data["keys"]["folder"] = "keys"
        self.config.write_text(yaml.safe_dump(data))
        self.out = self.err = ""

    def __call__(self, *words: object, status: int = 0) -> str:
        place = ["-f", self.site_folder] if words[0] == "site" else ["-c", self.config]
        assert main([str(word) for word in (*words, *place)]) == status
        captured = self._capsys.readouterr()
        self.out, self.err = captured.out, captured.err
        assert "Traceback" not in self.err
        return self.out

    def file(self, name: str) -> Path:
        return self.folder / name

    def enrol_unit(self, *options: str) -> None:
        self.file("token").write_text(self("site", "token", "door-3"))
        self("unit", "request", "--token-file", self.file("token"), "-o", self.file("request"))
        self("site", "add-unit", self.file("request"), "-o", self.file("answer"), *options)
        self("unit", "install", self.file("answer"))


@pytest.fixture
def installer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Installer:
    made = Installer(tmp_path, capsys)
    made("site", "create", "hq")
    return made


def test_a_unit_gets_its_keys(installer: Installer) -> None:
    installer.enrol_unit()
    assert installer.out.startswith("door-3 has its keys")
    assert installer("site", "trust").split() == ["door-3", "trusted", "access"]
    config = load_config(installer.config)
    assert config.tls_files().certificate.exists()
    assert installer("doctor", "keys", "certificate").count("ok") == 4
    shown = json.loads(installer("unit", "show"))
    trusted = kit.trust(installer.site_folder).find(shown["kid"])
    assert trusted is not None
    assert trusted.unit == "door-3"


def test_the_token_can_be_typed(installer: Installer, monkeypatch: pytest.MonkeyPatch) -> None:
    token = installer("site", "token", "door-3")
    monkeypatch.setattr("sys.stdin", io.StringIO(token.upper().replace("-", " ")))
    installer.file("request").write_text(installer("unit", "request"))
    installer("site", "add-unit", installer.file("request"))
    assert installer.out.count(".") == 2


def test_a_request_without_a_valid_token_is_refused(installer: Installer) -> None:
    installer.file("token").write_text("aaaa-" * 6 + "aa")
    installer("unit", "request", "--token-file", installer.file("token"), "-o", installer.file("request"))
    installer("site", "add-unit", installer.file("request"), status=VerificationError.exit_status)
    assert "make a new token, then a new request" in installer.err


def test_an_answer_for_another_unit_is_refused(installer: Installer) -> None:
    installer.enrol_unit()
    installer.config.write_text(installer.config.read_text().replace("folder: keys", "folder: other"))
    installer("unit", "install", installer.file("answer"), status=70)
    assert "make a request first" in installer.err


def test_epoch_keys_are_brought_later(installer: Installer) -> None:
    installer.enrol_unit()
    installer("site", "issue-keys", "door-3", "--ahead", "2", "-o", installer.file("sealed"))
    assert installer("unit", "install-keys", installer.file("sealed")).count("20") >= 3


def test_a_revoked_unit_is_out(installer: Installer) -> None:
    installer.enrol_unit()
    installer("site", "revoke", "door-3")
    assert "acl" in installer.err
    assert str(SiteFiles(installer.site_folder).crl) in installer.err
    assert "trust.jws" in installer.err
    assert installer("site", "trust").split()[1] == "revoked"
    installer("site", "issue-keys", "door-3", status=2)
    installer("site", "renew-unit", "door-3", status=2)


def test_broker_and_programs_get_their_files(installer: Installer) -> None:
    installer("site", "broker", "broker.example.org", "192.0.2.10")
    assert (installer.site_folder / "broker/broker.crt").exists()
    installer("site", "add-program", "central", "--role", "operator")
    assert (installer.site_folder / "clients/central/tls.key").stat().st_mode & 0o777 == 0o600
    installer("site", "revoke", "central")
    assert "user central" not in SiteFiles(installer.site_folder).acl.read_text()


def test_a_policy_is_signed_for_its_model(installer: Installer) -> None:
    policy = Policy(1, MODEL, 1e-3, 10**6, (TailPoint(1e-2, 0.3), TailPoint(1e-4, 0.5)), 0.05, Votes(3, 5, 2000))
    installer.file("policy.json").write_bytes(msgspec.json.encode(policy))
    token = installer("site", "policy", installer.file("policy.json"))
    assert verify_policy(token, kit.load_site_key(installer.site_folder).public, model=MODEL) == policy
    installer.file("policy.json").write_text("{}")
    installer("site", "policy", installer.file("policy.json"), status=2)


def test_a_resolving_key_goes_into_a_file_alone(installer: Installer) -> None:
    (week,) = epochs_from(SystemClock().now(), ahead=0)
    installer("site", "epoch-key", "access", week, status=2)
    installer("site", "epoch-key", "access", week, "-o", installer.file("key"))
    assert installer.file("key").stat().st_mode & 0o777 == 0o600
    assert msgspec.json.decode(installer.file("key").read_bytes(), type=EpochKey).epoch == week


def test_a_site_with_a_passphrase_needs_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = tmp_path / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text("correct horse battery\n")
    installer = Installer(tmp_path, capsys)
    installer("site", "create", "hq", "--passphrase-file", secret)
    installer("site", "broker", "localhost", status=70)
    installer("site", "broker", "localhost", "--passphrase-file", secret)
    secret.chmod(0o644)
    installer("site", "broker", "localhost", "--passphrase-file", secret, status=70)


def test_a_site_is_never_overwritten(installer: Installer) -> None:
    installer("site", "create", "hq", status=2)
    assert "never overwritten" in installer.err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give a folder away")
def test_another_user_than_the_service_is_refused(installer: Installer) -> None:
    installer.enrol_unit()
    os.chown(installer.config.parent / "keys", 12345, 12345)
    for words in (["unit", "show"], ["gallery", "list"], ["doctor"]):
        installer(*words, status=2)
        assert "run this as that user (sudo -u 12345 postern …)" in installer.err
