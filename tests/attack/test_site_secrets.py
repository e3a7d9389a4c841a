# SPDX-License-Identifier: Apache-2.0
"""No act of the site kit prints a secret: everything that the command line says is searched for every key there is."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agent.cli import main
from agent.clock import SystemClock
from agent.protocol.pseudonym import epochs_from
from tests.simulators.config import example

ROOT = Path(__file__).parents[2]
PASSPHRASE = "correct horse battery"


def spellings(folder: Path) -> set[str]:
    """Every secret below ``folder`` as a program might print it: PEM lines, base64, base64url, hexadecimal, decimal."""
    found: set[str] = {PASSPHRASE}
    for path in (path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if b"PRIVATE KEY" in content:
            found |= {line for line in content.decode().splitlines() if len(line) > 40 and "-" not in line}
            password = PASSPHRASE.encode() if b"ENCRYPTED" in content else None
            number = load_pem_private_key(content, password).private_numbers().private_value  # type: ignore[union-attr]
            raw = number.to_bytes(32, "big")
            found |= {
                str(number),
                raw.hex(),
                base64.b64encode(raw).decode(),
                base64.urlsafe_b64encode(raw).decode()[:43],
            }
        elif path.name == "epoch-keys.json":
            found |= {key["key"] for key in json.loads(content)["keys"]}
        elif path.name == "tokens.json":
            found |= {token["digest"] for token in json.loads(content)["tokens"]}
    return found


def test_no_act_of_the_site_kit_prints_a_secret(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    site, unit, secret = tmp_path / "site", tmp_path / "unit", tmp_path / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text(PASSPHRASE)
    unit.mkdir(mode=0o700)
    config = example()
    config["keys"]["folder"] = "keys"
    (unit / "config.yaml").write_text(yaml.safe_dump(config))
    name = config["unit"]["id"]
    (week,) = epochs_from(SystemClock().now(), ahead=0)
    said, known = "", spellings(tmp_path)

    def run(*words: object) -> str:
        nonlocal said, known
        known |= spellings(tmp_path)  # before, because some keys are destroyed
        place = ["-c", unit / "config.yaml"]
        if words[0] == "site":
            place = ["-f", site] if words[1] in {"token", "trust", "log"} else ["-f", site, "--passphrase-file", secret]
        assert main([str(word) for word in (*words, *place)]) == 0, words
        captured = capfd.readouterr()
        said += captured.out + captured.err
        known |= spellings(tmp_path)
        return captured.out

    run("site", "create", config["unit"]["site"])
    (tmp_path / "token").write_text(run("site", "token", name))
    run("unit", "request", "--token-file", tmp_path / "token", "-o", tmp_path / "request")
    run("site", "add-unit", tmp_path / "request", "-o", tmp_path / "answer")
    run("unit", "install", tmp_path / "answer")
    run("site", "renew-unit", name, "-o", tmp_path / "renewed")
    run("site", "broker", "localhost")
    run("site", "add-program", "central", "--role", "operator")
    run("site", "issue-keys", name, "-o", tmp_path / "sealed")
    run("site", "rotate-epoch-keys")
    run("site", "epoch-key", "access", week, "-o", tmp_path / "epoch-key")
    run("site", "change-key", ROOT / "models/policy.json", "-o", tmp_path / "change")
    run("site", "change-key", "--finish")
    run("site", "revoke", "central")
    run("site", "revoke", name)
    run("site", "trust")
    listed = run("site", "log")
    assert "site_key_changed" in listed
    assert len(known) > 30, "the search must know the secrets"
    for carried in ("request", "answer", "renewed", "sealed", "change"):
        said += (tmp_path / carried).read_text()
    assert not [one for one in known if one in said]
