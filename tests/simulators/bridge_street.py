# SPDX-License-Identifier: Apache-2.0
"""A street of units, their broker, and the bridge as a program of its own with every kind of output, each received."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import msgspec

from agent.disk.files import write_atomic
from agent.keys import SigningKey, encode_base64url
from agent.mqtt.credentials import Credentials
from agent.protocol.grant import make_grant
from agent.protocol.pseudonym import EpochKey, epoch_of
from tests.simulators.broker import PATIENCE_S, Listener, RealBroker, connect, wait_until
from tests.simulators.log_receivers import Collector, SyslogReceiver
from tests.simulators.pki import Authority
from tests.simulators.ports import free_port
from tests.simulators.receiver import SECRET, Receiver
from tests.simulators.replaying import AskedUnit
from tests.simulators.signing_unit import trust_list

ROOT = Path(__file__).parents[2]
RECORDS = ("webhook", "sql", "otlp", "syslog")  # outputs that hand on every record
CONFIG = """\
site: hq
broker: {{host: 127.0.0.1, port: {broker}}}
keys: keys
state: state
people: people
epoch_keys: epoch-keys
outputs:
  - {{kind: webhook, name: webhook, url: "{hook}", secret: secret}}
  - {{kind: sql, name: sql, url: "sqlite:///{archive}"}}
  - {{kind: otlp, name: otlp, url: "{otlp}"}}
  - {{kind: syslog, name: syslog, host: 127.0.0.1, port: {syslog}, ca: keys/ca.crt}}
  - {{kind: home-assistant, name: home, keys: announcer}}
  - {{kind: metrics, name: metrics, port: {metrics}}}
"""


class Street:
    """``units`` by name; ``records`` is what each output was handed, ``home`` what Home Assistant was told.

    ``limits`` are the bounds of each unit's outbox, ``broker`` changes of its configuration.
    """

    def __init__(self, folder: Path, limits: dict[str, dict[str, int]], **broker: str) -> None:
        self.folder, self._stack = folder / "bridge", ExitStack()
        self.authority = Authority(folder / "pki")
        self.broker = RealBroker(folder, self.authority)
        if broker:
            self.broker.write_config(**broker)
        self.broker.start()
        self._stack.callback(self.broker.stop)
        self.key = SigningKey.generate()
        self.units = {name: AskedUnit(folder, self.broker, self.key, name, **most) for name, most in limits.items()}
        self.webhook, self._collector = Receiver(), Collector()
        self._syslog = SyslogReceiver(self.authority.issue("logs", server=True))
        self.archive, self._metrics = self.folder / "archive.db", free_port()
        for close in (self.webhook.stop, self._collector.close, self._syslog.close):
            self._stack.callback(close)
        self._lay_down()
        self._bridge: subprocess.Popen[bytes] | None = None
        self.home = _Home(self.broker)
        self._stack.callback(self.home.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_bridge()
        for unit in self.units.values():
            unit.uplink.stop()
        self._stack.close()

    def start_bridge(self) -> None:
        before = self.bridge_log().count("listening to site")
        command = [sys.executable, "-m", "agent", "bridge", str(self.folder / "bridge.yaml")]
        with (self.folder / "log").open("ab") as log:
            self._bridge = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        # What waited at the broker may come before its answer to the subscription.
        wait_until(lambda: self.bridge_log().count("listening to site") > before, 20 * PATIENCE_S)

    def stop_bridge(self) -> None:
        if self._bridge is not None:
            self._bridge.send_signal(signal.SIGTERM)
            self._bridge.wait(2 * PATIENCE_S)
            self._bridge = None

    def bridge_log(self) -> str:
        file = self.folder / "log"
        return file.read_text() if file.exists() else ""

    def records(self, output: str) -> list[dict[str, Any]]:
        """What an output of ``RECORDS`` was handed, in order, as the members of the record."""
        return list(getattr(self, f"_of_{output}")())

    def metric(self, line: str) -> float:
        """A figure that ``/metrics`` tells; 0 where it tells none."""
        text = urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics", timeout=10).read().decode()
        return next((float(one.rpartition(" ")[2]) for one in text.splitlines() if one.startswith(f"{line} ")), 0.0)

    def _of_webhook(self) -> list[dict[str, Any]]:
        return self.webhook.taken.copy()

    def _of_sql(self) -> list[dict[str, Any]]:
        connection = sqlite3.connect(self.archive, timeout=10)
        connection.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in connection.execute("SELECT * FROM postern_record ORDER BY number")]
        finally:
            connection.close()

    def _of_otlp(self) -> Iterator[dict[str, Any]]:
        for one in self._collector.taken.copy():
            values = {each.key.removeprefix("postern."): each.value for each in one.attributes}
            yield {name: getattr(value, value.WhichOneof("value")) for name, value in values.items()}

    def _of_syslog(self) -> Iterator[dict[str, Any]]:
        return (json.loads(one["message"]) for one in self._syslog.taken.copy())

    def _lay_down(self) -> None:
        for one in (self.folder, *(self.folder / name for name in ("keys", "announcer", "state", "epoch-keys"))):
            one.mkdir(mode=0o700)
        ask, clock = SigningKey.generate(), next(iter(self.units.values())).clock
        for name, program in (("keys", "auditor"), ("announcer", "announcer")):
            _copy(self.authority.issue(program), self.folder / name)
        keys = self.folder / "keys"
        write_atomic(keys / "site.jwk", json.dumps(self.key.public_jwk()).encode())
        ask.save(keys / "ask.key")
        write_atomic(keys / "grant.jws", make_grant("auditor", ask, self.key, site="hq", now=clock.now()).encode())
        token = trust_list(*(unit.unit for unit in self.units.values())).sign(self.key)
        write_atomic(keys / "trust.jws", token.encode())
        write_atomic(self.folder / "secret", SECRET)
        write_atomic(self.folder / "people", f"{bytes(16).hex()} anna Anna Bauer\n".encode())
        key = EpochKey(site="hq", audience="access", epoch=epoch_of(clock.now()), key=encode_base64url(bytes(32)))
        write_atomic(self.folder / "epoch-keys" / "week.json", msgspec.json.encode(key))
        text = CONFIG.format(
            broker=self.broker.port,
            hook=self.webhook.url,
            archive=self.archive,
            otlp=self._collector.url,
            syslog=self._syslog.port,
            metrics=self._metrics,
        )
        (self.folder / "bridge.yaml").write_text(text)


class _Home:
    """What stands where Home Assistant does: it hears what the bridge tells it."""

    def __init__(self, broker: RealBroker) -> None:
        files = broker.authority.issue("home-assistant")
        self._listener: Listener = connect(broker, files, "home-assistant", "postern-people/hq/#", "homeassistant/#")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        self._listener.connection.close()

    def told(self, leaf: str) -> list[dict[str, Any]]:
        """The JSON of every message on a topic below ``postern-people/hq``."""
        topic = f"postern-people/hq/{leaf}"
        return [json.loads(one.payload) for one in self._listener.messages.copy() if one.topic == topic]

    def _listen(self) -> None:
        while not self._ending.is_set():
            self._listener.messages += self._listener.connection.poll(0.1).messages


def _copy(files: Credentials, folder: Path) -> None:
    for source, name in ((files.ca, "ca.crt"), (files.certificate, "tls.crt"), (files.key, "tls.key")):
        shutil.copy(source, folder / name)
