# SPDX-License-Identifier: Apache-2.0
"""The service may bind to no address (``SocketBindDeny=any``), so a unit that reaches its broker must not try to.

Where systemd has no libbpf it cannot forbid it, and nobody notices; on a full system the unit would reach no broker.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulators.pki import Authority

SERVICE = Path(__file__).parents[2] / "deploy" / "postern.service"
# What systemd's filter does: a bind is refused before it happens.
PROGRAM = """
import sys
from pathlib import Path
from agent.clock import SystemClock
from agent.errors import BrokerError
from agent.mqtt.connection import Connection
from agent.mqtt.records import BrokerSettings
from agent.mqtt.credentials import Credentials

def forbid(event, arguments):
    if event == "socket.bind":
        raise PermissionError(1, "Operation not permitted")

sys.addaudithook(forbid)
keys = Credentials(*map(Path, sys.argv[2:]))
settings = BrokerSettings("127.0.0.1", keys, port=int(sys.argv[1]), protocol="PROTOCOL")
try:
    Connection(settings, client_id="door-1", clock=SystemClock(), session_expiry_s=0).open()
except BrokerError as error:
    print(error)
"""


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_unit_reaches_its_broker_although_its_sandbox_refuses_every_bind(tmp_path: Path, protocol: str) -> None:
    assert re.search(r"^SocketBindDeny=any$", SERVICE.read_text(), re.MULTILINE)
    keys = Authority(tmp_path).issue("door-1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        port = server.getsockname()[1]
        words = [sys.executable, "-c", PROGRAM.replace("PROTOCOL", protocol), str(port)]
        files = [str(keys.ca), str(keys.certificate), str(keys.key)]
        with subprocess.Popen([*words, *files], stdout=subprocess.PIPE, text=True) as unit:
            came, _ = server.accept()
            came.close()
            said, _ = unit.communicate(timeout=60)
    assert "not permitted" not in said
    assert "127.0.0.1" in said, "it hung up, which is another matter"
