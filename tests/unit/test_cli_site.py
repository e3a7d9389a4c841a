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
from agent.config.load import load_config
from agent.errors import VerificationError
from agent.match.policy import verify_policy
from agent.protocol.pseudonym import EpochKey, epochs_from
from agent.site import units
from agent.site.records import SiteFiles
from agent.unit.assemble import credentials_of
from tests.simulators.config import example
from tests.simulators.site_office import listed_units
from tests.unit.test_match_policy import policy as policy_of

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
        data = example()
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
    assert credentials_of(config).certificate.exists()
    assert [line.split()[0] for line in installer("doctor", "keys", "certificate").splitlines()] == ["ok"] * 4
    shown = json.loads(installer("unit", "show"))
    trusted = listed_units(installer.site_folder).find(shown["kid"])
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
    installer("unit", "install", installer.file("answer"), status=78)
    assert "make a request first" in installer.err


def test_the_key_for_the_next_epoch_keys_is_carried_back_where_there_is_no_network(installer: Installer) -> None:
    installer.enrol_unit()
    for _ in range(2):
        installer("site", "issue-keys", "door-3", "-o", installer.file("sealed"))
        assert "release 0.1" not in installer.err, "it joined by this release"
        installer("unit", "install-keys", installer.file("sealed"))
        assert "postern site seal-key FILE" in installer.err
        installer("unit", "seal-key", "-o", installer.file("seal"))
        assert installer("site", "seal-key", installer.file("seal")).startswith("door-3: its next epoch keys")


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
    policy = policy_of(model=MODEL)
    installer.file("policy.json").write_bytes(msgspec.json.encode(policy))
    token = installer("site", "policy", installer.file("policy.json"))
    key = units.load_site_key(installer.site_folder).public
    assert verify_policy(token, key, model=MODEL) == policy
    stricter = installer("site", "policy", installer.file("policy.json"), "--target-fpir", "0.0001")
    assert verify_policy(stricter, key, model=MODEL) == policy_of(model=MODEL, target_fpir=1e-4)
    with pytest.raises(SystemExit):
        installer("site", "policy", installer.file("policy.json"), "--target-fpir", "0.05")
    installer.file("policy.json").write_text('{"version":1}')
    installer("site", "policy", installer.file("policy.json"), status=2)
    assert "version 1" in installer.err
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
    installer("site", "broker", "localhost", status=78)
    installer("site", "broker", "localhost", "--passphrase-file", secret)
    secret.chmod(0o644)
    installer("site", "broker", "localhost", "--passphrase-file", secret, status=78)


def secret(folder: Path, content: str) -> Path:
    path = folder / "passphrase"
    path.touch(mode=0o600)
    path.write_text(content)
    return path


def test_a_revocation_without_the_passphrase_revokes_nothing_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installer = Installer(tmp_path, capsys)
    right = secret(tmp_path, "correct horse battery\n")
    installer("site", "create", "hq", "--passphrase-file", right)
    installer.enrol_unit("--passphrase-file", right)
    installer("site", "revoke", "door-3", status=78)
    assert installer.err.splitlines() == [f"postern: {installer.site_folder}/ca.key does not open: give its passphrase"]
    assert installer("site", "trust").split()[1] == "trusted"
    assert "revoked" not in installer("site", "log")
    installer("site", "revoke", "door-3", "--passphrase-file", right)
    assert installer("site", "trust").split()[1] == "revoked"
    assert "step=unit_revoked unit=door-3" in installer("site", "log")


@pytest.mark.parametrize(
    "content", ["", "\n", " \t\n", "x" * 1024], ids=["nothing", "a line end", "spaces", "too long"]
)
def test_an_empty_passphrase_protects_nothing_and_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    installer = Installer(tmp_path, capsys)
    installer("site", "create", "hq", "--passphrase-file", secret(tmp_path, content), status=2)
    assert "holds no passphrase" in installer.err
    assert not installer.site_folder.exists()
    key = tmp_path / "consumer.key"
    assert main(["consumer-key", str(key), "--passphrase-file", str(tmp_path / "passphrase")]) == 2
    assert not key.exists()


def test_an_interrupted_act_is_told_until_it_is_completed(installer: Installer) -> None:
    installer.enrol_unit()
    files = SiteFiles(installer.site_folder)
    before = files.trust.read_bytes()
    installer("site", "revoke", "door-3")
    files.trust.write_bytes(before)  # a power cut before the list of units was written
    assert "UNFINISHED" in installer("site", "trust", status=2)
    assert "an act (about door-3) was interrupted" in installer.err
    installer("site", "log", status=2)
    assert "trust.jws" in installer.err
    installer("site", "broker", "localhost")
    assert "trust.jws changed" in installer.err
    installer("site", "trust")
    assert "step=act_completed" in installer("site", "log")


def test_what_has_to_be_carried_is_told_when_it_changed(installer: Installer) -> None:
    installer.enrol_unit()
    installer("site", "renew-unit", "door-3")
    assert installer.err == ""
    installer("site", "add-program", "central")
    assert "to the broker" in installer.err
    assert "trust.jws" not in installer.err
    for _ in range(2):  # perhaps nobody carried them the first time
        installer("site", "revoke", "door-3")
        assert "to the broker" in installer.err
        assert "trust.jws" in installer.err
    installer("site", "revoke", "nobody", status=2)
    assert "nobody of that name" in installer.err
    assert "copy" not in installer.err


def test_an_added_unit_is_to_be_told_to_every_program(installer: Installer) -> None:
    installer.file("token").write_text(installer("site", "token", "door-3"))
    installer("unit", "request", "--token-file", installer.file("token"), "-o", installer.file("request"))
    installer("site", "add-unit", installer.file("request"), "-o", installer.file("answer"))
    assert "trust.jws changed: copy" in installer.err
    assert "old certificate" not in installer.err


def test_replacing_keys_says_that_the_old_certificate_is_out_and_the_old_event_key_is_not(installer: Installer) -> None:
    installer.enrol_unit()
    installer.file("token").write_text(installer("site", "token", "door-3"))
    installer("unit", "request", "--token-file", installer.file("token"), "-o", installer.file("request"))
    installer("site", "add-unit", "--replace", installer.file("request"), "-o", installer.file("answer"))
    assert "old certificate is revoked" in installer.err
    assert "30 more days" in installer.err


def test_an_output_that_cannot_be_written_is_refused_before_the_token_is_spent(installer: Installer) -> None:
    installer.file("token").write_text(installer("site", "token", "door-3"))
    installer("unit", "request", "--token-file", installer.file("token"), "-o", installer.file("request"))
    for wrong in (installer.file("missing") / "answer", installer.folder):
        installer("site", "add-unit", installer.file("request"), "-o", wrong, status=2)
        assert "cannot write" in installer.err
        installer("site", "epoch-key", "access", "2026-W47", "-o", wrong, status=2)
    assert "taken_out" not in installer("site", "log")
    installer("site", "add-unit", installer.file("request"), "-o", installer.file("answer"))
    installer("unit", "install", installer.file("answer"))


def test_a_request_that_cannot_be_written_leaves_the_keys_that_wait_for_an_answer(installer: Installer) -> None:
    installer.file("token").write_text(installer("site", "token", "door-3"))
    installer("unit", "request", "--token-file", installer.file("token"), "-o", installer.file("request"))
    installer("unit", "request", "--token-file", installer.file("token"), "-o", installer.folder, status=2)
    installer("site", "add-unit", installer.file("request"), "-o", installer.file("answer"))
    installer("unit", "install", installer.file("answer"))


def test_an_answer_that_was_lost_can_be_asked_for_again(installer: Installer) -> None:
    installer.file("token").write_text(installer("site", "token", "door-3"))
    installer("unit", "request", "--token-file", installer.file("token"), "-o", installer.file("request"))
    installer("site", "add-unit", installer.file("request"))
    installer("site", "add-unit", installer.file("request"), "-o", installer.file("answer"))
    installer("unit", "install", installer.file("answer"))


def test_a_key_is_not_logged_as_taken_out_when_it_was_refused(installer: Installer) -> None:
    installer("site", "epoch-key", "access", "2026-W47", status=2)
    installer("site", "epoch-key", "access", "2026-W99", "-o", installer.file("key"), status=2)
    assert "ISO week" in installer.err
    assert "taken_out" not in installer("site", "log")


def test_every_signed_policy_is_logged_with_its_digest(installer: Installer) -> None:
    installer("site", "policy", EXAMPLE.parents[1] / "models/policy.json", "-o", installer.file("policy"))
    digest = installer.err.split()[1]
    assert "policy_signed" in installer("site", "log")
    assert digest in installer.out


def test_the_log_of_no_site_and_a_log_that_was_removed_are_refused(installer: Installer) -> None:
    assert main(["site", "log", "-f", str(installer.file("nonexistent"))]) == 2
    assert main(["site", "trust", "-f", str(installer.file("nonexistent"))]) == 2
    SiteFiles(installer.site_folder).audit.unlink()
    installer("site", "log", status=2)
    assert "was removed" in installer.err
    installer("site", "broker", "localhost")  # a stolen unit can still be revoked without it
    installer("site", "log", status=2)
    assert "an earlier log was removed" in installer.err


@pytest.mark.parametrize("name", ["../units/door-3", "door-3/", ".", "Door-3"])
def test_a_name_that_is_a_path_is_refused(installer: Installer, name: str) -> None:
    installer.enrol_unit()
    for act in ("revoke", "renew-unit", "issue-keys", "token", "add-program"):
        installer("site", act, name, status=2)
        assert "is not usable" in installer.err


def test_a_site_is_never_overwritten(installer: Installer) -> None:
    installer("site", "create", "hq", status=2)
    assert "is site hq already, and whole: go on with it" in installer.err
    installer("site", "create", "other", status=2)
    assert "never overwritten" in installer.err


@pytest.mark.parametrize("which", [("-o",), ("-o", "fits", "--png")])
def test_an_invitation_that_could_not_be_written_does_not_stand_open(
    installer: Installer, monkeypatch: pytest.MonkeyPatch, which: tuple[str, ...]
) -> None:
    monkeypatch.chdir(installer.folder)
    installer("site", "broker", "broker.example")
    too_long = "x" * 250  # for the temporary file beside it
    installer("site", "invite", "door-9", *which, too_long, status=2 if which == ("-o",) else 70)
    assert "no invitation of door-9 is to count now" in installer.err
    assert "door-9" not in installer("site", "units")


@pytest.mark.parametrize("folder", ["units", "programs"])
def test_a_folder_that_cannot_be_looked_into_signs_no_list_without_those_in_it(
    installer: Installer, folder: str
) -> None:
    installer("site", "broker", "broker.example")
    files = SiteFiles(installer.site_folder)
    (files.folder / folder).rename(installer.folder / "elsewhere")
    before = {path: path.read_bytes() for path in (files.trust, files.acl)}
    for act in (("invite", "door-9", "-o", installer.file("invitation")), ("add-program", "auditor")):
        installer("site", *act, status=78)
        assert f"cannot read {installer.site_folder / folder}" in installer.err
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user as well")
def test_root_writes_nothing_into_the_folder_of_the_sites_user(installer: Installer) -> None:
    os.chown(installer.site_folder, 65534, 65534)
    for words in (("invite", "door-9"), ("revoke", "door-7"), ("units",), ("broker", "broker.example.org")):
        installer("site", *words, status=2)
        assert "sudo -u nobody postern" in installer.err


def test_a_revocation_of_an_invitation_may_be_repeated(installer: Installer) -> None:
    installer("site", "broker", "localhost")
    installer("site", "invite", "door-9", "-o", installer.file("door-9.invite"))
    for _ in range(2):
        installer("site", "revoke", "door-9")
        assert "the invitation of door-9 is worth nothing now" in installer.err
    installer("site", "revoke", "door-8", status=2)
    assert "nobody of that name" in installer.err
