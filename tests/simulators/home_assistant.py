# SPDX-License-Identifier: Apache-2.0
"""A real Home Assistant core from PyPI, in the system that ``tools/home-assistant`` makes, on the loopback.

Nothing of it is patched: its owner logs in as a browser does, MQTT is set up by its own steps with the files of the
site kit, and what it does is heard on its stream of events.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from tests.simulators.ports import free_port

ROOM = os.environ.get("POSTERN_HOME_ASSISTANT")  # folder of a Debian in which /opt/ha is Home Assistant's environment
START_S = 120.0  # its first start writes byte code of some hundred modules
STOP_S = 120.0
WAIT_S = 60.0  # for what it has heard to show
SETTLE_S = 3.0  # in which what should not happen would have
MATTERS = re.compile(
    r"(WARNING|ERROR|CRITICAL) .*\[homeassistant\.(components|helpers)\.(mqtt|automation|event|template)"
)
CONFIGURATION = """\
homeassistant:
  name: Test
  time_zone: UTC
http:
  server_host: 127.0.0.1
  server_port: {port}
api:
config:
logger:
  default: warning
automation: !include automations.yaml
input_boolean:
  hall:
    name: Hall switch
template:
  - light:
      - name: Hall
        state: "{{{{ is_state('input_boolean.hall', 'on') }}}}"
        turn_on: {{action: input_boolean.turn_on, target: {{entity_id: input_boolean.hall}}}}
        turn_off: {{action: input_boolean.turn_off, target: {{entity_id: input_boolean.hall}}}}
"""


class HomeAssistant:
    """Start, stop and ask it; ``heard`` are its events since the start, in order."""

    def __init__(self, automations: Path) -> None:
        assert ROOM is not None
        self._room = Path(ROOM)
        self.folder = Path(tempfile.mkdtemp(prefix="config-", dir=self._room / "srv"))
        self._inside = Path("/") / self.folder.relative_to(self._room)
        self.port = free_port()
        (self.folder / "configuration.yaml").write_text(CONFIGURATION.format(port=self.port))
        shutil.copy(automations, self.folder / "automations.yaml")
        self.heard: list[dict[str, Any]] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._token = ""
        self.version = ""

    def start(self) -> None:
        """Until it runs and its stream of events is heard."""
        command = [*self._command("-c", str(self._inside), "--skip-pip"), "--log-file", str(self._inside / "log")]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._until(self._answers, START_S, "Home Assistant does not start")
        if not self._token:
            self._log_in()
        self._until(lambda: self.get("/api/config")["state"] == "RUNNING", START_S, "it does not come to run")
        self.version = self.get("/api/config")["version"]
        listening = threading.Event()
        threading.Thread(target=self._listen, args=(listening,), daemon=True).start()
        assert listening.wait(WAIT_S)

    def stop(self) -> None:
        """As its service manager does: it writes what it knows to its folder."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def log(self) -> str:
        file = self.folder / "log"
        return file.read_text() if file.exists() else ""

    def complaints(self) -> str:
        """What its log says of the parts that matter here; others are not installed, and say so."""
        return "\n".join(line for line in self.log().splitlines() if MATTERS.search(line))

    def add_broker(self, port: int, keys: Path) -> None:
        """Set MQTT up by its steps in the browser: a broker with TLS, its authority, our certificate, MQTT 5."""
        files = {name: self._upload(keys / name) for name in ("ca.crt", "tls.crt", "tls.key")}
        step = self.post("/api/config/config_entries/flow", {"handler": "mqtt"})
        answers: dict[str, Any] = {"broker": "127.0.0.1", "port": port, "protocol": "5", "transport": "tcp"}
        answers |= {"set_client_cert": True, "set_ca_cert": "custom", "tls_insecure": False}
        answers |= {"certificate": files["ca.crt"], "client_cert": files["tls.crt"], "client_key": files["tls.key"]}
        flow = f"/api/config/config_entries/flow/{step['flow_id']}"
        if step["type"] == "menu":  # where an add-on could be installed instead
            step = self.post(flow, {"next_step_id": "broker"})
        step = self.post(flow, _filled(step["data_schema"], answers))
        assert step["type"] == "create_entry", step

    def automate(self, **automation: object) -> None:
        """Add one automation to those that run, as its editor does."""
        file = self.folder / "automations.yaml"
        file.write_text(f"{file.read_text()}\n{yaml.safe_dump([automation], sort_keys=False)}")
        self.post("/api/services/automation/reload", {})

    def state(self, entity: str) -> dict[str, Any] | None:
        """State and attributes of an entity; None where there is none."""
        try:
            found: dict[str, Any] = self.get(f"/api/states/{entity}")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return None
        return found

    def states(self) -> list[str]:
        return sorted(one["entity_id"] for one in self.get("/api/states"))

    def ask(self, template: str) -> str:
        """What a template gives in it."""
        return self._request("/api/template", {"template": template}).decode()

    def wait(self, condition: Callable[[], object], what: str) -> None:
        self._until(condition, WAIT_S, what)

    def fired(self, name: str = "Hall light for enrolled people") -> int:
        """How often an automation did something."""
        triggered = [one["data"] for one in self.heard if one["event_type"] == "automation_triggered"]
        return sum(one["name"] == name for one in triggered)

    def lit(self) -> int:
        """How often the light in the hall was turned on."""
        calls = [one["data"] for one in self.heard if one["event_type"] == "call_service"]
        return sum((one["domain"], one["service"]) == ("light", "turn_on") for one in calls)

    def changes(self, entity: str) -> list[tuple[str | None, str | None]]:
        """From which state to which an entity went, in order."""
        found = [one["data"] for one in self.heard if one["event_type"] == "state_changed"]
        return [
            tuple(None if one[key] is None else one[key]["state"] for key in ("old_state", "new_state"))  # type: ignore[misc]
            for one in found
            if one["entity_id"] == entity
        ]

    def get(self, path: str) -> Any:
        return json.loads(self._request(path))

    def post(self, path: str, content: object) -> Any:
        return json.loads(self._request(path, content))

    def _command(self, *words: str) -> list[str]:
        """In its own Debian, in a mount namespace of its own: what is mounted for it goes when it ends."""
        room = str(self._room)
        enter = f'mount -t proc proc "{room}/proc" && exec chroot "{room}" "$@"'
        environment = ["/usr/bin/env", "-i", "HOME=/root", "LANG=C.UTF-8", "PATH=/opt/ha/bin:/usr/bin:/bin"]
        return ["unshare", "--mount", "sh", "-c", enter, "sh", *environment, "/opt/ha/bin/hass", *words]

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        with suppress(OSError):
            return bool(self._request("/manifest.json"))
        return False

    def _log_in(self) -> None:
        """As whoever starts it for the first time: make the owner, and let the browser's page in."""
        client = f"http://127.0.0.1:{self.port}/"
        owner = {
            "client_id": client,
            "name": "Owner",
            "username": "owner",
            "password": secrets.token_hex(),
            "language": "en",
        }
        code = self.post("/api/onboarding/users", owner)["auth_code"]
        form = f"grant_type=authorization_code&code={code}&client_id={client}".encode()
        kind = "application/x-www-form-urlencoded"
        self._token = json.loads(self._request("/auth/token", form, kind=kind))["access_token"]

    def _listen(self, listening: threading.Event) -> None:
        """Keep what its stream of events says until it ends."""
        request = urllib.request.Request(self._url("/api/stream"), headers={"Authorization": f"Bearer {self._token}"})
        with suppress(OSError, ValueError), urllib.request.urlopen(request, timeout=START_S) as stream:
            listening.set()
            for line in stream:
                if line.startswith(b"data: {"):
                    self.heard.append(json.loads(line.removeprefix(b"data: ")))

    def _upload(self, file: Path) -> str:
        edge = "an-edge-that-is-in-no-certificate"
        head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{file.name}"\r\n\r\n'
        body = head.encode() + file.read_bytes() + f"\r\n--{edge}--\r\n".encode()
        kind = f"multipart/form-data; boundary={edge}"
        found = json.loads(self._request("/api/file_upload", body, kind=kind))["file_id"]
        return str(found)

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def _request(self, path: str, content: object = None, *, kind: str = "application/json") -> bytes:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        if content is not None:
            headers["Content-Type"] = kind
        data = content if content is None or isinstance(content, bytes) else json.dumps(content).encode()
        request = urllib.request.Request(self._url(path), data=data, headers=headers)
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            return bytes(answer.read())

    def _until(self, condition: Callable[[], object], patience_s: float, what: str) -> None:
        end = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < end, f"waited in vain: {what}\n{self.complaints()}"
            time.sleep(0.1)


def _filled(form: list[dict[str, Any]], answers: dict[str, Any]) -> dict[str, Any]:
    """The answers that a form asks for, and those of its sections."""
    given: dict[str, Any] = {}
    for field in form:
        if field.get("type") == "expandable":
            given[field["name"]] = _filled(field["schema"], answers)
        elif field["name"] in answers:
            given[field["name"]] = answers[field["name"]]
    return given
