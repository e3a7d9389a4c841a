# SPDX-License-Identifier: Apache-2.0
"""The broker of a demo, and of tests and rigs that borrow it, takes each signal from the moment it is said to run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tools.lib.demo.brokers import DemoBroker
from tools.lib.demo.site import DemoSite

# As Mosquitto starts: it listens, then sets its signal handlers, then says that it runs.
SLOW_TO_START = """\
#!/usr/bin/python3
import re, signal, socket, sys, time
port = int(re.search(r"^listener (\\d+)", open(sys.argv[2]).read(), re.MULTILINE)[1])
listening = socket.create_server(("127.0.0.1", port))
time.sleep(0.5)
signal.signal(signal.SIGHUP, lambda *_: None)
print("mosquitto version 2.0.11 running", flush=True)
while True:
    signal.pause()
"""


def test_a_broker_that_was_just_started_survives_being_told_of_new_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "mosquitto"
    program.parent.mkdir()
    program.write_text(SLOW_TO_START)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    site = DemoSite(tmp_path / "site")
    site.create()
    with DemoBroker(site.site, tmp_path / "broker") as broker:
        broker.reload(site.site)
        time.sleep(0.1)  # a signal that nobody handles ends a program at once
        assert broker.running
