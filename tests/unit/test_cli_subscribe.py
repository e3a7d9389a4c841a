# SPDX-License-Identifier: Apache-2.0
"""``postern subscribe`` as its own process: verified events on standard output, talk on standard error."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.disk.files import write_atomic
from agent.keys import SigningKey
from agent.subscribe.files import StateFile
from tests.simulators.broker import PATIENCE_S, RealBroker
from tests.simulators.pki import Authority
from tests.simulators.signing_unit import START, SigningUnit, refused, trust_list, verifier_of
from tests.simulators.unit_on_broker import UnitOnBroker

ROOT = Path(__file__).parents[2]


class Site:
    """A broker, a unit on it, and the folder of a program that may listen."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder / "pki")
        self.broker = RealBroker(folder, authority)
        self.broker.start()
        self.authority = authority
        self.unit = UnitOnBroker(folder, self.broker.settings(authority.issue("door-1")))
        self.keys = folder / "auditor"
        self.keys.mkdir()
        files = authority.issue("auditor")
        for source, name in ((files.ca, "ca.crt"), (files.certificate, "tls.crt"), (files.key, "tls.key")):
            shutil.copy(source, self.keys / name)
        self.site_key = SigningKey.generate()
        (self.keys / "site.jwk").write_text(json.dumps(self.site_key.public_jwk()))
        self.trust(self.unit)

    def trust(self, *units: UnitOnBroker) -> None:
        content = trust_list(*(one.unit for one in units), serial=len(units)).sign(self.site_key)
        write_atomic(self.keys / "trust.jws", content.encode())

    @contextmanager
    def subscribe(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """Run the command; it listens when this yields, and is gone afterwards, whatever happened."""
        place = ["--broker", "127.0.0.1", "--port", str(self.broker.port), "--site", "hq", "--keys", str(self.keys)]
        command = [sys.executable, "-m", "agent", "subscribe", *place, *options]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        try:
            assert child.stderr
            assert child.stderr.readline().startswith("listening to site hq at 127.0.0.1:")
            yield child
        finally:
            child.kill()
            child.communicate()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.unit.uplink.stop()
    made.broker.stop()


@pytest.mark.broker
def test_events_come_as_json_lines_and_a_restart_does_not_repeat_them(site: Site, tmp_path: Path) -> None:
    state = ["--state", str(tmp_path / "seen.json"), "--durable"]
    with site.subscribe("--count", "2", *state) as child:
        site.unit.start()
        site.unit.say(2)
        out, err = child.communicate(timeout=2 * PATIENCE_S)
    assert child.returncode == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["outcome"] for row in rows] == ["accepted"] * 2
    assert [row["event"]["data"]["seq"] for row in rows] == [1, 2]
    site.unit.say(1)
    with site.subscribe("--count", "1", *state) as child:
        out, _ = child.communicate(timeout=2 * PATIENCE_S)
    assert json.loads(out)["event"]["data"]["seq"] == 3


@pytest.mark.broker
def test_who_comes_past_two_units_in_order_is_told(site: Site, tmp_path: Path) -> None:
    ridge = UnitOnBroker(tmp_path, site.broker.settings(site.authority.issue("ridge")), "ridge")
    site.trust(site.unit, ridge)
    ridge.clock.skipped_s = 5  # so that a test need not wait between two checkpoints
    try:
        with site.subscribe("--count", "2", "--sequence", "door-1,ridge", "--within", "60") as child:
            site.unit.start()
            ridge.start()
            site.unit.say(1)
            ridge.say(1)
            out, err = child.communicate(timeout=2 * PATIENCE_S)
    finally:
        ridge.uplink.stop()
    assert child.returncode == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert sorted(row["outcome"] for row in rows) == ["accepted", "accepted", "sequence"]
    assert rows[-1]["units"] == ["door-1", "ridge"]
    assert 0 < rows[-1]["seconds"] <= 60


@pytest.mark.broker
def test_a_signal_ends_it_clean(site: Site) -> None:
    with site.subscribe() as child:
        site.unit.start()
        site.unit.say(1)
        assert child.stdout
        assert json.loads(child.stdout.readline())["kind"] == "match"
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in err


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", "subscribe", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)


def test_what_is_missing_and_quarantined_is_said_on_demand_and_a_person_releases(tmp_path: Path) -> None:
    unit, state = SigningUnit(tmp_path / "o.db"), StateFile(tmp_path / "seen.db")
    verifier, rows = verifier_of(unit), [unit.say() for _ in range(5)]
    for row in (rows[0], rows[4]):
        verifier.check(unit.topic(row), row.payload, START)
    forged = json.loads(rows[4].payload)
    forged["data"]["zone"] = "vault"
    assert refused(verifier, unit.topic(rows[4]), unit.sign(forged)) == "fork"
    state.load()
    state.commit(chains=verifier.take_changed())
    memory = ["--state", str(tmp_path / "seen.db")]
    done = run("--missing", *memory)  # also while a subscriber runs
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"outcome": "missing", "unit": "door-3", "count": 3, "gaps": [[2, 4]]},
        {"outcome": "quarantined", "unit": "door-3", "reason": "fork"},
    ]
    busy = run("--release", "door-3", *memory)
    assert "in use" in busy.stderr
    state.close()
    assert "may speak again" in run("--release", "door-3", *memory).stderr
    again = run("--release", "door-3", *memory)
    assert (again.returncode != 0, again.stdout) == (True, "")
    assert "no key of unit door-3 is quarantined" in again.stderr
    assert run("--missing", *memory).stdout == ""
    unit.outbox.close()


@pytest.mark.parametrize("words", [["--missing"], ["--release", "door-3"], ["--json"]])
def test_what_was_not_said_is_asked_for(words: list[str]) -> None:
    done = run(*words)
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1
    assert "--state" in done.stderr or "--broker" in done.stderr


def test_a_broker_that_is_not_there_is_one_line_and_try_again_later(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    words = ["subscribe", "--broker", "127.0.0.1", "--port", "9", "--site", "hq", "--keys", str(keys)]
    done = subprocess.run([sys.executable, "-m", "agent", *words], capture_output=True, text=True, cwd=ROOT, timeout=30)
    assert done.returncode == 78
    assert done.stderr.startswith("postern: cannot read")
    assert len(done.stderr.splitlines()) == 1
