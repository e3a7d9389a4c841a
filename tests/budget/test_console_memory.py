# SPDX-License-Identifier: Apache-2.0
"""What the consoles take beside the unit and the site's service, with a browser that looks at all of it."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.protocol.names import round_down
from agent.site.fleet import UnitState
from agent.site.page import fleet_page
from agent.site.seen import UnitSeen
from tests.contract.test_commands_of_a_running_unit import PATIENCE_S, SCENE, RunningUnit
from tests.simulators.ports import free_port
from tools.lib.bench.running import MAX_RESIDENT_MIB

LOOKS = 20  # what the page asks for in ten seconds
LOOK_S = 0.25
UNITS = 500  # on the site's page
# Private memory, which is what a machine has to find: libraries are shared with the unit, or come from the disk again.
MAX_CONSOLE_MIB = 32.0  # 25.5 were seen
MAX_SITE_CONSOLE_MIB = 45.0  # 37.3 were seen
# tests/budget/test_service_resources.py holds the unit alone to its budget, and says why a fresh machine shows more.
MAX_UNIT_MIB = MAX_RESIDENT_MIB + 25.0


def memory(process: int) -> tuple[float, float, float]:
    """MiB of a process: resident, proportional, private (Linux' smaps_rollup)."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    kib = {name: int(value) for name, value in re.findall(r"(?m)^(\w+): +(\d+) kB$", text)}
    return kib["Rss"] / 1024, kib["Pss"] / 1024, (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024


class Browser:
    """One connection that stays, as a browser's."""

    def __init__(self, port: int) -> None:
        self._host, self._cookie = f"127.0.0.1:{port}", ""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._link = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 30))
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
        self._file = self._link.makefile("rb")

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> tuple[int, bytes]:
        head = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self._host}",
            f"Origin: https://{self._host}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            f"Cookie: {self._cookie}",
        ]
        self._link.sendall("\r\n".join([*head, "", ""]).encode() + body)
        status, length = int(self._file.readline().split()[1]), 0
        while (line := self._file.readline().decode().strip()) != "":
            name, _, value = line.partition(": ")
            if name.lower() == "content-length":
                length = int(value)
            if name.lower() == "set-cookie":
                self._cookie = value.partition(";")[0]
        return status, self._file.read(length)

    def close(self) -> None:
        self._file.close()
        self._link.close()


@contextlib.contextmanager
def running(*words: str | Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "agent", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.mark.broker
@pytest.mark.timeout(300)
def test_the_units_console_shows_the_live_picture_within_its_memory_and_the_unit_keeps_its_own(tmp_path: Path) -> None:
    port = free_port()
    unit = RunningUnit(
        tmp_path,
        SCENE,
        camera={"source": "scene", "script": str(tmp_path / "scene.yaml"), "loop": True},
        console={"address": "127.0.0.1", "port": port, "folder": str(tmp_path / "run")},
    )
    try:
        where = ["-c", str(unit.site.config)]
        command = [sys.executable, "-m", "agent", "console", "open", *where]
        link = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        with running("console", "serve", *where) as console:
            browser = Browser(port)
            for path in ("/", "/console.js", "/console.css"):
                assert browser.ask("GET", path)[0] == 200
            code = link.strip().partition("#")[2]
            assert browser.ask("POST", "/login", json.dumps({"code": code}).encode())[0] == 200
            pictures = 0
            for _ in range(LOOKS):
                status, said = browser.ask("POST", "/do/look", b"{}")
                pictures += status == 200 and b'"rgb"' in said
                time.sleep(LOOK_S)
            resident, proportional, private = memory(console.pid)
            beside, _, _ = memory(unit.process.pid)
            browser.close()
    finally:
        unit.process.terminate()
        unit.process.communicate(timeout=30)
        unit.broker.stop()
    print(f"console: {resident:.1f} MiB resident, {proportional:.1f} proportional, {private:.1f} private")
    print(f"the unit beside it: {beside:.1f} MiB resident; {pictures} pictures")
    assert pictures >= LOOKS / 2
    assert private <= MAX_CONSOLE_MIB
    assert beside <= MAX_UNIT_MIB


@pytest.mark.timeout(120)
def test_the_sites_console_shows_500_units_within_its_memory(tmp_path: Path) -> None:
    seen = UnitSeen(version=1, unit="door-1", at=round_down(datetime.now(UTC), 1), release="0.2.0", camera="rtsp 1x1")
    units = [UnitState(f"door-{n}", "online", seen, ("look at its power and network",) * 3) for n in range(UNITS)]
    page, port = tmp_path / "units.html", free_port()
    page.write_text(fleet_page("hq", units, (), at="now"))
    with running("site", "console", "--page", page, "--address", "127.0.0.1", "--port", str(port)) as console:
        assert console.stderr is not None
        code = console.stderr.readline().split()[1].rstrip(",")
        browser = Browser(port)
        form = "application/x-www-form-urlencoded"
        assert browser.ask("POST", "/login", f"code={code}".encode(), form)[0] == 303
        for _ in range(LOOKS):
            assert len(browser.ask("GET", "/")[1]) == page.stat().st_size
        resident, proportional, private = memory(console.pid)
        browser.close()
    print(
        f"page of {page.stat().st_size / 1024:.0f} KiB: {resident:.1f} MiB resident, {proportional:.1f}, {private:.1f}"
    )
    assert private <= MAX_SITE_CONSOLE_MIB
