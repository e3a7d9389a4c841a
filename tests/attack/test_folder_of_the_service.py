# SPDX-License-Identifier: Apache-2.0
"""A service that was taken over owns its folder: what root does there must not reach beyond it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from agent.cli import main
from agent.config.load import load_config
from agent.disk.files import destroy, make_private_folder, overwrite, read_secret, write_atomic
from agent.errors import ConfigError, KeyStoreError, StorageError
from agent.unit.joining import new_unit_request

DEPLOY = Path(__file__).parents[2] / "deploy"
AS_ROOT = ("postinst", "prerm", "postrm")  # of the package
STATE = "/var/lib/postern"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user as well")
NOBODY = 65534


@pytest.mark.parametrize("script", AS_ROOT)
def test_package_scripts_change_nothing_in_what_the_service_owns(script: str) -> None:
    """By systemd-tmpfiles alone, which follows no link there; removal at the end does not follow links either."""
    for line in (DEPLOY / "debian" / script).read_text().splitlines():
        command = line.partition("#")[0]
        if re.search(rf"{STATE}(?![\w-])", command):  # beside it lies what is root's own, of the upgrades
            assert "rm -rf" in command, f"{script}: {line}"


def test_folder_is_made_by_systemd_alone() -> None:
    rules = [line.split() for line in (DEPLOY / "tmpfiles.conf").read_text().splitlines() if not line.startswith("#")]
    modes = {STATE: "0700", "/run/postern": "0755", "/run/postern-console": "0700"}
    owned = [["d", folder, mode, "postern", "postern", "-"] for folder, mode in modes.items()]
    assert rules == owned, "no other type: z, Z and R follow what is there"
    assert "StateDirectory=postern\n" in (DEPLOY / "postern.service").read_text()
    assert "tmpfiles.conf" in (DEPLOY / "debian" / "build").read_text()


def test_no_document_has_root_write_into_the_folder() -> None:
    for document in (DEPLOY.parent / "README.md", *DEPLOY.rglob("*.md"), *DEPLOY.rglob("*.example")):
        for line in document.read_text().splitlines():
            if re.search(r"\bsudo (?!-u postern)", line) and re.search(r"\b(install|cp|mv|tee|chown|chmod)\b", line):
                assert STATE not in line, f"{document.name}: {line}"


def test_service_runs_nothing_as_root() -> None:
    service = (DEPLOY / "postern.service").read_text()
    assert not re.search(r"^Exec\w+=[+!]", service, re.MULTILINE)
    assert not re.search(r"^ExecStartPre|^PermissionsStartOnly", service, re.MULTILINE)


def test_linked_file_is_not_emptied(tmp_path: Path) -> None:
    victim, link = tmp_path / "shadow", tmp_path / "epoch-keys.json"
    victim.write_text("root:x")
    link.symlink_to(victim)
    for act in (overwrite, destroy):
        with pytest.raises(StorageError):
            act(link)
        assert victim.read_text() == "root:x"


@needs_root
def test_file_of_another_user_is_neither_read_as_a_secret_nor_emptied(tmp_path: Path) -> None:
    file = tmp_path / "unit.key"
    write_atomic(file, b"key of somebody else")
    os.chown(file, NOBODY, NOBODY)
    with pytest.raises(KeyStoreError, match="belongs to another user"):
        read_secret(file)
    with pytest.raises(StorageError):
        overwrite(file)
    assert file.read_bytes() == b"key of somebody else"


def test_folder_of_keys_is_nobody_elses(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        make_private_folder(tmp_path / "state" / "keys" / "waiting")
        by_hand = tmp_path / "by-hand"
        by_hand.mkdir()
        new_unit_request(by_hand, "hq", "door-1", "aaaa-" * 6 + "aa")
    finally:
        os.umask(old)
    for folder in (tmp_path / "state", tmp_path / "state" / "keys", tmp_path / "state" / "keys" / "waiting", by_hand):
        assert folder.stat().st_mode & 0o077 == 0, folder


def example(tmp_path: Path, **changes: object) -> Path:
    data = yaml.safe_load((DEPLOY / "config.example.yaml").read_text()) | changes
    data["keys"]["folder"] = str(tmp_path / "state" / "keys")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


@needs_root
@pytest.mark.parametrize("words", [["run"], ["unit", "show"], ["doctor", "keys"]])
@pytest.mark.parametrize("how", ["a link", "a parent of another user"])
def test_root_does_nothing_in_a_folder_that_is_not_its_own(
    tmp_path: Path, words: list[str], how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
    elsewhere.mkdir()
    state.mkdir()
    if how == "a link":
        (state / "keys").symlink_to(elsewhere)
    else:
        (state / "keys").mkdir()
        os.chown(state, NOBODY, NOBODY)
    assert main([*words, "-c", str(example(tmp_path))]) == 2
    told = capsys.readouterr().err
    assert "is a link" in told or "belong to" in told
    assert not list(elsewhere.iterdir())


def test_password_in_a_configuration_that_everybody_can_read_is_not_passed_silently(tmp_path: Path) -> None:
    file = example(tmp_path, camera={"source": "rtsp", "url": "rtsp://user:word@192.0.2.20/live"})
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by everybody") as refusal:
        load_config(file)
    assert "word@" not in str(refusal.value)
    file.chmod(0o640)
    assert load_config(file)


def test_memory_of_a_unit_that_runs_outside_of_systemd_is_for_nobody_else(tmp_path: Path) -> None:
    """``postern run`` itself, in production: it ends at once, for its files are not there, and is asked what it may."""
    code = """
import ctypes, resource, sys
from agent.cli import main
try:
    main(["run", "--config", sys.argv[1]])
except SystemExit:
    pass
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))
"""
    file = example(tmp_path, camera={"source": "rtsp", "url": "rtsp://192.0.2.20/live"})
    command = [sys.executable, "-c", code, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["0", "0", "0"], done.stderr


EXAMPLES = {  # what people copy, and the test that runs or parses it
    "site/fleet.example.yaml": "unit/test_set_from_afar.py",
    "bridge/bridge.example.yaml": "contract/test_bridge_deploy.py",
    "config.example.yaml": "unit/test_config_rules.py",
    "cloud-init/user-data.example": "contract/test_deploy.py",
    "home-assistant/automation.yaml": "contract/test_home_assistant_examples.py",
    "home-assistant/README.md": "contract/test_readme.py",
    "mosquitto/mosquitto.conf": "attack/test_broker_acl.py",
    "mosquitto/acl": "attack/test_broker_acl.py",
    "grafana/postern.json": "contract/test_bridge_deploy.py",
    "node-red/event.schema.json": "contract/test_vectors.py",
    "node-red/flow.json": "contract/test_node_red.py",
    "node-red/trust.schema.json": "contract/test_vectors.py",
    "network.conf.example": "contract/test_deploy.py",
}


def test_every_example_is_run_or_parsed_by_a_test() -> None:
    tests = DEPLOY.parent / "tests"
    for example_, test in EXAMPLES.items():
        assert (DEPLOY / example_).is_file(), example_
        assert (tests / test).is_file(), test
    known = {path for path in DEPLOY.rglob("*") if "example" in path.name or path.suffix in (".yaml", ".json")}
    listed = (
        {DEPLOY / name for name in EXAMPLES}
        | {DEPLOY / "examples", *(DEPLOY / "examples").iterdir()}
        | {  # contract/test_examples.py
            DEPLOY / "node-red" / n for n in ("package.json", "package-lock.json")
        }
    )
    assert {path for path in known - listed if "node_modules" not in path.parts} == set()


def test_example_of_a_lock_can_start() -> None:
    text = (DEPLOY / "home-assistant" / "README.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("postern subscribe")]
    assert {"--broker", "--keys", "--site", "--state", "--json"} <= set(line.split())
