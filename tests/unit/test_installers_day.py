# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: F811 - names of fixtures
"""Wrong moves of an installer, each answered with the sentence that says what to do."""

from __future__ import annotations

import codecs
import faulthandler
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.camera.av_input import read_credentials
from agent.cli import main
from agent.clock import SimulatedClock, SystemClock
from agent.config.load import load_config
from agent.disk.files import read_brought
from agent.disk.process_lock import ProcessLock
from agent.errors import BrokerError, ConfigError, DamagedError, InUseError, KeyStoreError, ModelError
from agent.inference.runtime import open_runtime
from agent.mqtt.credentials import load_identity
from agent.parse.strict_yaml import parse_document
from agent.protocol.joining import spell_token, token_key
from agent.site.folder import changing
from agent.unit.doctor import Finding
from agent.unit.in_child import examine_in_child
from tests.simulators.config import EXAMPLE
from tests.simulators.pki import Authority
from tests.unit.test_cli_doctor import file, findings, site  # noqa: F401 - fixtures
from tests.unit.test_cli_site import Installer

ROOT = Path(__file__).parents[2]
SERVICE = ROOT / "deploy" / "postern.service"
TOKEN = spell_token(bytes(range(16)))


@pytest.fixture
def installer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Installer:
    made = Installer(tmp_path, capsys)
    made("site", "create", "hq")
    return made


EDITORS = {
    "notepad": codecs.BOM_UTF8 + TOKEN.encode() + b"\r\n",
    "powershell": codecs.BOM_UTF16_LE + (TOKEN + "\r\n").encode("utf-16-le"),
    "big-endian": codecs.BOM_UTF16_BE + (TOKEN + "\n").encode("utf-16-be"),
    "dos": TOKEN.encode() + b"\r\n",
    "unix": TOKEN.encode() + b"\n",
    "no line end": TOKEN.encode(),
}


@pytest.mark.parametrize("editor", EDITORS)
def test_a_token_file_of_any_editor_is_taken(editor: str, installer: Installer) -> None:
    installer.file("token").write_bytes(EDITORS[editor])
    installer("unit", "request", "--token-file", installer.file("token"), "-o", installer.file("request"))
    assert read_brought(installer.file("token")).decode().strip() == TOKEN
    assert token_key(TOKEN)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\xff\xfe\x00\xd8", b"\x80\x81", "tökén".encode(), b""])
def test_a_token_file_that_is_no_text_is_one_sentence(content: bytes, installer: Installer) -> None:
    installer.file("token").write_bytes(content)
    assert main(["unit", "request", "-c", str(installer.config), "--token-file", str(installer.file("token"))]) in {
        2,
        78,
    }


@pytest.mark.parametrize("editor", ["utf-8-sig", "utf-16", "utf-8"])
def test_credentials_and_configuration_of_any_editor_are_taken(editor: str, tmp_path: Path) -> None:
    secret = tmp_path / "login"
    secret.touch(mode=0o600)
    secret.write_bytes("üser:pa#ss\r\n".encode(editor))
    assert read_credentials(secret) == ("üser", "pa#ss")
    text = EXAMPLE.read_text().replace("\n", "\r\n")
    assert parse_document(text.encode(editor), Path("config.yaml")).data["unit"]["id"] == "door-3"


@pytest.mark.parametrize("editor", ["utf-8-sig", "utf-16"])
def test_a_policy_of_any_editor_is_as_long_as_it_was(editor: str, installer: Installer) -> None:
    """UTF-16 has two bytes for each letter, and the bound is of what is said."""
    policy = ROOT / "models" / "policy.json"
    installer.file("policy.json").write_bytes(policy.read_text().encode(editor))
    assert read_brought(installer.file("policy.json"), len(policy.read_bytes())) == policy.read_bytes()
    installer("site", "policy", installer.file("policy.json"), "-o", installer.file("policy.jws"))
    with pytest.raises(KeyStoreError, match="larger than 100 bytes"):
        read_brought(installer.file("policy.json"), 100)


@pytest.mark.parametrize("editor", ["utf-8-sig", "utf-16"])
def test_what_travels_between_site_and_unit_survives_any_editor(editor: str, installer: Installer) -> None:
    def saved_again(name: str) -> Path:
        path = installer.file(name)
        path.write_bytes((path.read_text() + "\r\n").encode(editor))
        return path

    installer.file("token").write_text(installer("site", "token", "door-3"))
    installer("unit", "request", "--token-file", saved_again("token"), "-o", installer.file("request"))
    installer("site", "add-unit", saved_again("request"), "-o", installer.file("answer"))
    installer("unit", "install", saved_again("answer"))
    installer("site", "issue-keys", "door-3", "-o", installer.file("sealed"))
    installer("unit", "install-keys", saved_again("sealed"))


@pytest.mark.parametrize(
    "raised",
    [
        "ImportError('numpy.core')",
        "AttributeError('_ARRAY_API')",
        "SystemError('bad')",
        "OSError('libGLESv2.so.2: no such file')",
        "SystemExit('this processor has no AVX')",
    ],
)
def test_a_runtime_that_cannot_load_says_why(
    raised: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: Path,
) -> None:
    package = tmp_path / "path" / "ai_edge_litert"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '9'\n")
    (package / "interpreter.py").write_text(f"raise {raised}\n")
    loaded = {name for name in sys.modules if name.partition(".")[0] == "ai_edge_litert"}
    for name in loaded | {"ai_edge_litert", "ai_edge_litert.interpreter"}:  # also where none was: it stays for nobody
        monkeypatch.setitem(sys.modules, name, sys)
        del sys.modules[name]
    monkeypatch.syspath_prepend(str(package.parent))
    importlib.invalidate_caches()
    with pytest.raises(ModelError, match=r"ai-edge-litert is installed but cannot be loaded \(") as caught:
        open_runtime(("ai-edge-litert", "tflite-runtime"))
    assert raised.partition("'")[2].rstrip("')") in str(caught.value)
    assert caught.value.exit_status == 2


def test_a_check_of_the_doctor_that_is_killed_fails_or_gets_stuck_says_so(file: Path) -> None:
    def killed(*_: object) -> Iterator[tuple[str, str]]:
        yield "ok", "so far"
        faulthandler.disable()  # pytest's: what a death on purpose has on the stack is no news
        os.kill(os.getpid(), signal.SIGILL)

    def unforeseen(*_: object) -> Iterator[tuple[str, str]]:
        raise KeyError("secret")
        yield

    def stuck(*_: object) -> Iterator[tuple[str, str]]:
        time.sleep(60)
        yield "ok", "never"

    def silent(*_: object) -> Iterator[tuple[str, str]]:
        os._exit(3)
        yield

    checks = {"disk": killed, "memory": unforeseen, "clock": stuck, "keys": silent}
    config = load_config(file)
    (first, second) = examine_in_child("disk", config, SystemClock(), checks=checks)
    assert (first.text, second.state) == ("so far", "fault")
    assert "killed by SIGILL" in second.text
    (finding,) = examine_in_child("keys", config, SystemClock(), checks=checks)
    assert finding == Finding("keys", "fault", "the check ended without a word: report it")
    (finding,) = examine_in_child("memory", config, SystemClock(), checks=checks)
    assert finding.state == "fault"
    assert "a fault of this program (KeyError" in finding.text
    (finding,) = examine_in_child("clock", config, SystemClock(), within_s=0.2, checks=checks)
    assert finding.state == "fault"
    assert "did not end within 0.2 s" in finding.text


@pytest.mark.timeout(200)
def test_no_check_of_the_doctor_ends_the_others(file: Path, tmp_path: Path) -> None:
    """A runtime for another processor kills whoever loads it."""
    package = tmp_path / "path" / "ai_edge_litert"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    file.write_text(file.read_text().replace("/usr/share/postern/models", str(ROOT / "models")))
    words = ["doctor", "models", "folders", "-c", str(file)]
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from agent.cli import main; sys.exit(main(sys.argv[1:]))", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(package.parent), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 1
    told = " ".join(done.stdout.split())
    assert "killed by SIGILL" in told
    assert "is private and writable" in told


def test_another_site_in_the_configuration_is_a_fault(file: Path) -> None:
    file.write_text(file.read_text().replace("site: hq", "site: hq2"))
    assert [finding.state for finding in findings("keys", file)] == ["ok", "ok", "fault"]
    assert "is of site 'hq', this is 'hq2'" in findings("keys", file)[-1].text


def test_two_acts_at_one_site_wait_for_each_other(installer: Installer) -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with changing(installer.site_folder, clock=SystemClock(), passphrase=None):
            entered.set()
            leave.wait(10)

    other = threading.Thread(target=hold)
    other.start()
    assert entered.wait(10)
    threading.Timer(0.3, leave.set).start()
    installer("site", "token", "door-3")
    other.join()


def test_a_lock_that_is_not_released_says_what_to_do_there(tmp_path: Path) -> None:
    held = ProcessLock(tmp_path / "audit.log")
    with pytest.raises(InUseError, match="another 'postern site' command is at work"):
        ProcessLock(tmp_path / "audit.log", wait_s=0.1, advice="another 'postern site' command is at work there")
    held.release()


def test_a_colon_in_the_purpose_is_told_with_its_mend() -> None:
    text = EXAMPLE.read_text().replace("purpose: ", "purpose: To open: ", 1)
    with pytest.raises(ConfigError, match="put text that holds ': ' in quotes"):
        parse_document(text.encode(), Path("config.yaml"))


@pytest.mark.parametrize("what", ["manifest", "detector", "embedder"])
def test_check_config_finds_models_that_are_not_there(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = Path(__file__).parents[2] / "models" / "manifest.yaml"
    text = EXAMPLE.read_text().replace("/usr/share/postern/models/manifest.yaml", str(models))
    wrong = {
        "manifest": (str(models), "/nowhere/manifest.yaml"),
        "detector": ("detector: detector-320x240", "detector: detector-3"),
        "embedder": ("embedder: embedder", "embedder: detector-320x240"),
    }[what]
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert main(["check-config", str(path)]) == 0
    path.write_text(text.replace(*wrong))
    assert main(["check-config", str(path)]) == 2
    line = next(number for number, one in enumerate(path.read_text().splitlines(), 1) if wrong[1] in one)
    assert f"{path}:{line}: models.{what}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "password", ["12345#x", "123?x", "1/2", "pa#ss", "50%", "a%zz", "x y", "a/b@c", "?#/", "1/2@3"]
)
def test_a_password_that_is_not_encoded_is_refused_with_its_mend(password: str, tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    begin, end = text.index("camera:\n  source: picamera2"), text.index("#camera:\n#  source: v4l2")
    url = f"rtsp://admin:{password}@192.0.2.20/live"
    path = tmp_path / "config.yaml"
    path.write_text(f'{text[:begin]}camera: {{source: rtsp, url: "{url}"}}\n\n{text[end:]}')
    with pytest.raises(ConfigError, match=r"percent-encoded|camera's address"):
        load_config(path)


@pytest.mark.parametrize("ahead", [timedelta(days=3650), timedelta(days=-3650)])
def test_a_clock_that_was_never_synchronised_is_waited_for_in_both_directions(ahead: timedelta, tmp_path: Path) -> None:
    identity = Authority(tmp_path).issue("door-3")
    wrong = SimulatedClock(datetime.now(UTC) + ahead, state="unsynced")
    with pytest.raises(BrokerError, match="never synchronised: wait for the time server") as caught:
        load_identity(identity, wrong)
    assert caught.value.exit_status == 75
    with pytest.raises(KeyStoreError):
        load_identity(identity, SimulatedClock(datetime.now(UTC) + ahead, state="synced"))


def test_what_waiting_cannot_mend_is_not_started_again() -> None:
    (line,) = [line for line in SERVICE.read_text().splitlines() if line.startswith("RestartPreventExitStatus=")]
    left = set(line.partition("=")[2].split())
    assert {str(error.exit_status) for error in (KeyStoreError, DamagedError, ConfigError)} <= left
    assert "SIGILL" in left, "a runtime for another processor"
    assert not {"70", "75", "SIGSEGV", "SIGKILL"} & left


def test_a_terminal_without_our_letters_ends_no_command(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io  # noqa: PLC0415

    for encoding in ("ascii", "iso-8859-1", "cp1252"):
        shown = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding))
        file.write_text(file.read_text().replace("name: Staff entrance", "name: 门 … Tür"))
        assert main(["doctor", "keys", "-c", str(file)]) == 0
        assert main(["notice", "-c", str(file)]) == 0
        assert main(["check-config", str(file)]) in {0, 2}
        sys.stdout.flush()
        assert b"keys" in shown.getvalue()


@pytest.mark.parametrize("folder", ["Tür 门 🚪", os.fsdecode(b"t\xfcr")], ids=["letters of any script", "no UTF-8"])
def test_a_folder_of_any_name_is_fine_where_the_locale_knows_ascii_alone(folder: str, file: Path) -> None:
    file.write_text(file.read_text().replace("name: Staff entrance", "name: 门 … Tür"))
    moved = file.parent.rename(file.parent.with_name(folder)) / file.name
    told = subprocess.run(
        [sys.executable, "-m", "agent", "doctor", "keys", "-c", moved],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert "signing key" in told.stdout
    assert "Traceback" not in told.stderr
