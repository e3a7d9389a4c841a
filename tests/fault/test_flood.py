# SPDX-License-Identifier: Apache-2.0
"""A unit that floods the broker while others speak: theirs are heard at once.

The bound for each unit is nginx in front of the broker (``deploy/mosquitto/nginx.conf``), which passes TLS through.
``POSTERN_NGINX`` names the program where it is not installed, ``POSTERN_NGINX_MODULES`` the folder of its modules.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.simulators.broker import RealBroker, connect, wait_until
from tests.simulators.pki import Authority
from tests.simulators.ports import free_port

PROGRAM = os.environ.get("POSTERN_NGINX") or shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
MODULES = Path(os.environ.get("POSTERN_NGINX_MODULES", "/usr/lib/nginx/modules"))
CONF = Path(__file__).parents[2] / "deploy" / "mosquitto" / "nginx.conf"
pytestmark = [
    pytest.mark.broker,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        PROGRAM is None or not (MODULES / "ngx_stream_module.so").exists(),
        reason="nginx with its stream module is not here: apt-get install nginx libnginx-mod-stream",
    ),
]
UNITS, FLOOD = 20, 2000  # messages of 1 kB
FLOOD_S, BURST_S = 8.0, 8.0  # what nginx has read ahead, and the start of a busy machine
RATE = 16 * 1024  # bytes a second, as deployed


class Guarded(RealBroker):
    """Mosquitto behind nginx, both as deployed; clients come by ``port``."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        super().__init__(folder, authority)
        self.inside, self.port = self.port, free_port()
        self._nginx: subprocess.Popen[bytes] | None = None
        text = CONF.read_text()
        for told, here in (
            ("/usr/lib/nginx/modules", str(MODULES)),
            ("user www-data;\n", ""),
            ("/run/nginx.pid", f"{folder}/nginx.pid"),
            ("/var/log/nginx/error.log", f"{folder}/nginx.log"),
            ("listen 8883;", f"listen 127.0.0.1:{self.port};"),
            ("server 127.0.0.1:8884;", f"server 127.0.0.1:{self.inside};"),
        ):
            assert told in text, told
            text = text.replace(told, here)
        self._conf = folder / "nginx.conf"
        self._conf.write_text(f"daemon off;\n{text}")

    def start(self) -> None:
        super().start()
        assert PROGRAM is not None
        words = [PROGRAM, "-c", str(self._conf), "-e", str(self._conf.with_suffix(".log"))]
        self._nginx = subprocess.Popen(words, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        if self._nginx is not None:
            self._nginx.terminate()
            self._nginx.wait(10)
        super().stop()


def test_a_unit_that_floods_is_read_no_faster_than_it_may_speak_and_delays_nobody(tmp_path: Path) -> None:
    """Each of the others is heard at once while the flood lasts, and the broker takes little of that."""
    broker = Guarded(tmp_path, Authority(tmp_path / "pki"))
    broker.start()
    try:
        wait_until(lambda: connects(broker))
        auditor = connect(broker, broker.authority.issue("auditor"), "auditor", "postern/hq/+/event/+")
        flood = connect(broker, broker.authority.issue("flood"), "flood").connection
        for _ in range(FLOOD):
            flood.publish("postern/hq/flood/event/match", bytes(1000))
        names = [f"door-{number}" for number in range(1, UNITS + 1)]
        units = [connect(broker, broker.authority.issue(name), name).connection for name in names]
        began, said = time.monotonic(), False
        while time.monotonic() - began < FLOOD_S:
            for name, unit in zip(names, units, strict=True):
                if not said:
                    unit.publish(f"postern/hq/{name}/event/match", b"{}")
                unit.poll(0)
            said = True
            flood.poll(0)
            while more := auditor.connection.poll(0.02).messages:
                auditor.messages += more
        heard = auditor.topics()
        assert all(f"postern/hq/{name}/event/match" in heard for name in names)
        flooded = heard.count("postern/hq/flood/event/match")
        assert 0 < flooded <= (FLOOD_S + BURST_S) * RATE / 1000 < FLOOD / 2
    finally:
        broker.stop()


def connects(broker: Guarded) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", broker.port)) == 0
