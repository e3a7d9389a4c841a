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

from agent.files import write_atomic
from agent.keys import SigningKey
from tests.simulators.broker import PATIENCE_S, RealBroker
from tests.simulators.pki import Authority
from tests.simulators.signing_unit import trust_list
from tests.simulators.unit_on_broker import UnitOnBroker

ROOT = Path(__file__).parents[2]


class Site:
    """A broker, a unit on it, and the folder of a program that may listen."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder / "pki")
        self.broker = RealBroker(folder, authority)
        self.broker.start()
        self.unit = UnitOnBroker(folder, self.broker.settings(authority.issue("door-1")))
        self.keys = folder / "auditor"
        self.keys.mkdir()
        files = authority.issue("auditor")
        for source, name in ((files.ca, "ca.crt"), (files.certificate, "tls.crt"), (files.key, "tls.key")):
            shutil.copy(source, self.keys / name)
        site_key = SigningKey.generate()
        (self.keys / "site.jwk").write_text(json.dumps(site_key.public_jwk()))
        write_atomic(self.keys / "trust.jws", trust_list(self.unit.unit, serial=1).sign(site_key).encode())

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


def test_a_broker_that_is_not_there_is_one_line_and_try_again_later(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    words = ["subscribe", "--broker", "127.0.0.1", "--port", "9", "--site", "hq", "--keys", str(keys)]
    done = subprocess.run([sys.executable, "-m", "agent", *words], capture_output=True, text=True, cwd=ROOT, timeout=30)
    assert done.returncode == 70
    assert done.stderr.startswith("postern: cannot read")
    assert len(done.stderr.splitlines()) == 1
