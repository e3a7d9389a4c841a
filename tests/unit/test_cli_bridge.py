# SPDX-License-Identifier: Apache-2.0
"""``postern bridge``: a first look without anything, and mistakes that are named with their line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.bridge.records import notice
from agent.bridge.settings import load_settings
from agent.bridge.store import Store
from agent.cli import main
from agent.clock import SimulatedClock
from agent.disk.files import write_atomic
from tests.fault.test_bridge_killed import Premises
from tests.simulators.receiver import SECRET

ROOT = Path(__file__).parents[2]
GOOD = """\
site: hq
broker: {host: broker.example}
keys: keys
state: .
outputs:
  - {kind: webhook, name: hook, url: "https://example.org/x", secret: secret}
"""


def refused(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> str:
    file = folder / "bridge.yaml"
    file.write_text(text)
    assert main(["bridge", str(file)]) != 0
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return told


def test_demo_shows_a_resolved_person_and_what_does_not_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bridge", "--demo"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "Anna Bauer (anna)" in shown[0]
    assert [line.split()[0] for line in shown] == ["MATCH", "REFUSED", "REFUSED", "GAP", "MATCH", "MATCH", "MATCH"]
    assert all("opens no door" in line for line in shown if line.startswith("MATCH"))


def test_demo_needs_nothing_of_an_output() -> None:
    """``tools/bridge --demo`` installs none of it: somebody waits."""
    setup = (ROOT / "tools" / "lib" / "setup.sh").read_text()
    left_out = next(line for line in setup.splitlines() if line.startswith("OUTPUTS=")).partition("'")[2].strip("'")
    modules = {
        "opentelemetry-proto": "opentelemetry",
        "protobuf": "google.protobuf",
        "psycopg-binary": "psycopg_binary",
    }
    away = [modules.get(name, name.replace("-", "_")) for name in left_out.split("|")]
    assert "sqlalchemy" in away
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({away!r}));"
        " from agent.cli import main; sys.exit(main(['bridge', '--demo']))"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "Anna Bauer (anna)" in shown.stdout


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("kind: webhook", "kind: pigeon", "bridge.yaml"),
        ("site: hq", "sight: hq", "sight"),
        ("https:", "ftp:", "is not of this form (the whole address, such as https://siem.example.org/postern)"),
        ("name: hook", "name: Hook_1", "is not of this form (1 to 64 of the letters a-z, the digits 0-9 and '-')"),
        ("name: hook,", 'name: hook, liveness_not_checked: "yes",', "bridge.yaml"),
        ("name: hook,", "name: hook, people: true,", "name the file of people"),
        ("broker.example}", "mqtts://broker.example}", "host: is not of this form (a name or an address alone"),
        ("broker.example}", "'broker.example:8883'}", "the port has a key of its own)"),
        ("broker.example}", "'[::1]'}", "the port has a key of its own)"),
        ("broker.example}", "broker.example, port: '8883'}", "(a whole number from 1 to 65535, without quotes)"),
        ("name: hook,", "name: hook, liveness_not_checked: yes,", "only these very words: a photograph of a face may"),
        ("secret: secret}", "secret: secret}\n  - {kind: syslog, name: s, host: 'a.example:6514'}", "outputs[1].host"),
        (
            "secret: secret}",
            "secret: secret}\n  - {kind: home-assistant, name: h, keys: k, presence_s: '600,5'}",
            "whole seconds from 10 to 86400",
        ),
        ("secret: secret}", "secret: secret}\n  - {kind: metrics, name: hook}", "two outputs have the name hook"),
    ],
)
def test_mistake_in_the_configuration_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, words: str
) -> None:
    told = refused(tmp_path, GOOD.replace(old, new), capsys)
    assert words in told
    assert len(told.splitlines()) <= 2


@pytest.mark.parametrize("host", ["broker", "192.0.2.7", "::1", "fe80::1%eth0", "bröker.example"])
def test_every_host_that_can_be_reached_is_taken(tmp_path: Path, host: str) -> None:
    file = tmp_path / "bridge.yaml"
    file.write_text(GOOD.replace("broker.example", f'"{host}"'))
    assert load_settings(file).broker.host == host


def test_missing_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "tls.crt" in refused(tmp_path, GOOD, capsys)


@pytest.mark.broker
def test_files_that_fit_pass_the_check_and_a_short_secret_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    premises = Premises(tmp_path)
    try:
        file = premises.folder / "bridge.yaml"
        assert main(["bridge", str(file), "--check"]) == 0
        capsys.readouterr()
        good = file.read_text()
        file.write_text(good.replace("site: hq", "site: hx"))
        assert main(["bridge", str(file), "--check"]) != 0
        assert "list of units is of site hq, not hx" in capsys.readouterr().err
        file.write_text(good)
        trust = (premises.folder / "keys" / "trust.jws").read_bytes()
        (premises.folder / "keys" / "trust.jws").unlink()
        assert main(["bridge", str(file), "--check"]) != 0
        assert "trust.jws" in capsys.readouterr().err
        write_atomic(premises.folder / "keys" / "trust.jws", trust)
        (premises.folder / "secret").write_bytes(b"short")
        assert main(["bridge", str(file), "--check"]) == 2
        told = capsys.readouterr().err
        assert "openssl rand" in told
        assert "output " in told, "which of them"
        write_atomic(premises.folder / "secret", SECRET)
        write_atomic(premises.folder / "people", f"{bytes(16).hex()} anna Anna Bauer\n".encode())
        for url in (
            "kind: webhook, name: hook, url: 'http://192.0.2.1/x', secret: secret",
            "kind: otlp, name: logs, url: 'http://192.0.2.1:4318/v1/logs'",
            "kind: sql, name: rows, url: 'postgresql+psycopg://postern@192.0.2.1/postern'",
        ):
            file.write_text(f"{good.partition('outputs:')[0]}people: people\nepoch_keys: .\noutputs:\n  - {{{url}}}\n")
            assert main(["bridge", str(file), "--check"]) == 0, "pseudonyms may go in clear"
            file.write_text(file.read_text().replace("kind:", "people: true, kind:"))
            assert main(["bridge", str(file), "--check"]) == 2
            assert "whoever listens on the way would read who it was" in capsys.readouterr().err
        file.write_text(good.replace("state: state", "state: nowhere"))
        assert main(["bridge", str(file), "--check"]) == 2
        assert "nowhere of the bridge's own files is not there: make it" in capsys.readouterr().err
        file.write_text(good)
        assert main(["bridge", str(file), "--dead"]) == 0
    finally:
        premises.close()


def test_dead_letters_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bridge.yaml").write_text(GOOD)
    store = Store(tmp_path / "bridge.db", outputs=["hook"], clock=SimulatedClock())
    store.put([notice("hello", serial="1")], 0)
    (record,) = store.upcoming("hook", 1)
    store.passed("hook", 1, [(record, "the receiver answered 400")], 7)
    store.close()
    assert main(["bridge", str(tmp_path / "bridge.yaml"), "--dead"]) == 0
    assert '"reason":"the receiver answered 400"' in capsys.readouterr().out.replace('": "', '":"')
