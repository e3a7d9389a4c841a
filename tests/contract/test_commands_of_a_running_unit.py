# SPDX-License-Identifier: Apache-2.0
"""The whole way with nothing simulated but the view: site kit, Mosquitto, a running unit, an operator's commands."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from agent.audit.chain import parse_head, read_entries, verify_log
from agent.cli import main
from agent.clock import SystemClock
from agent.config.load import load_config
from agent.errors import BrokerError
from agent.keys import SigningKey, load_public_key
from agent.match.policy import parse_policy
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import BrokerSettings
from agent.protocol.response import Response
from agent.protocol.trust import TrustedUnits
from agent.site import rotation, units
from agent.site.operator import Operator
from agent.subscribe.files import TrustFile
from agent.subscribe.subscriber import Subscriber
from agent.subscribe.verify import VerifiedEvent
from agent.uplink.commands import BURST, PER_SECOND
from tests.simulators.typed import typed
from tools.lib.demo.brokers import DemoBroker
from tools.lib.demo.site import PROGRAM, SITE, UNIT, DemoSite

pytestmark = [pytest.mark.broker, pytest.mark.timeout(600)]  # a minute on a machine that is not busy

COMMANDS_AN_ASK = 2  # the clock of a test machine may not be synchronised: a challenge comes first
PATIENCE_S = 120.0  # a busy machine

PERSON = "person-01"
OPERATOR, OTHER_OPERATOR = "office-1", "office-2"  # two, because a client may have one session at a time
POLICY = Path(__file__).parents[2] / "models" / "policy.json"
# Stands where enrolment and zone want a face, and moves a little all the time.
POSE = [{"at": n * 2.4, "yaw": (0, 7, -7, 3)[n % 4], "pitch": (0, 2, -5, 3)[n % 4]} for n in range(60)]
SCENE = {
    "size": [960, 540],
    "frames_per_second": 8,
    "duration": 150,
    "seed": 1,
    "background": {"kind": "room", "variant": 3},
    "presses": [n * 2.4 for n in range(60)],
    "people": [{"who": PERSON, "path": [{"at": 0, "x": 480, "y": 227, "face": 162}], "pose": POSE}],
}

MEASURED_TO = parse_policy(POLICY.read_bytes()).measured_references
NOBODY = {"enrolled": 0, "damaged": 0, "measured_to": MEASURED_TO, "measured": True, "subjects": []}


class RunningUnit:
    """A unit in service whose gallery is empty, and whoever may command and hear it."""

    def __init__(self, folder: Path, scene: dict[str, Any] = SCENE, **changes: Any) -> None:
        """``changes`` are sections of the configuration."""
        self.site = DemoSite(folder, typed=typed)
        self.site.create()
        for name in (OPERATOR, OTHER_OPERATOR):
            typed("site", "add-program", "-f", self.site.site.folder, name, "--role", "operator")
        self.broker = DemoBroker(self.site.site, folder / "broker")
        self.broker.start()
        script = folder / "scene.yaml"
        script.write_text(yaml.safe_dump(scene))
        self.site.add_unit(port=self.broker.port, protocol=self.broker.protocol, scene=script)
        content = yaml.safe_load(self.site.config.read_text()) | changes
        self.site.config.write_text(yaml.safe_dump({name: one for name, one in content.items() if one is not None}))
        self.broker.reload(self.site.site)
        self._left, self._asked_s = BURST / 2, time.monotonic()
        self.process = self.start()
        self.await_service()

    def await_service(self) -> None:
        """Models load within a second on a machine that has nothing else to do."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            with contextlib.suppress(BrokerError):
                self.ask("outbox/status", timeout_s=3)
                return
        raise AssertionError("the unit did not start")

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "agent", "run", "-c", str(self.site.config)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    def restart(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=30)
        self.process = self.start()
        self.await_service()

    def settings(self, program: str) -> BrokerSettings:
        keys = self.site.site.client(program)
        credentials = Credentials.in_folder(keys)
        return BrokerSettings("127.0.0.1", credentials, port=self.broker.port)

    def ask(
        self,
        verb: str,
        args: Any = None,
        *,
        key: SigningKey | None = None,
        name: str = OPERATOR,
        timeout_s: float = 30,
        **options: Any,
    ) -> Response:
        """Ask as the site's operator does."""
        self._pace()
        site_key = key or units.load_site_key(self.site.site.folder)
        files = self.site.site
        trusted = TrustedUnits.from_signed(files.trust.read_bytes(), load_public_key(files.site_jwk))
        operator = Operator(self.settings(name), site=SITE, key=site_key, trusted=trusted, clock=SystemClock())
        return operator.ask(UNIT, verb, args, timeout_s=timeout_s, **options)

    def _pace(self) -> None:
        """Wait where the unit would fall silent as under a flood; half of what it takes at once is for others."""
        now_s = time.monotonic()
        self._left = min(BURST / 2, self._left + (now_s - self._asked_s) * PER_SECOND) - COMMANDS_AN_ASK
        self._asked_s = now_s
        if self._left < 0:
            time.sleep(-self._left / PER_SECOND)

    def consent(self, **changes: Any) -> dict[str, Any]:
        evidence = self.site.folder / "signed.txt"
        evidence.write_text(f"{PERSON} agreed for the length of this test, at {time.time_ns()}\n")
        record, words = self.site.folder / "consent.json", ("--days", "1", "-c", str(self.site.config))
        assert main(["consent", str(evidence), *words, "-o", str(record)]) == 0
        content: dict[str, Any] = json.loads(record.read_text())
        return content | changes

    def subscriber(self) -> Subscriber:
        trust = TrustFile(self.site.site.trust, load_public_key(self.site.site.site_jwk))
        return Subscriber(self.settings(PROGRAM), site=SITE, trust=trust, clock=SystemClock())


def next_match(subscriber: Subscriber) -> VerifiedEvent:
    """The next match that a subscriber hears and believes."""
    timer = threading.Timer(PATIENCE_S, subscriber.stop)
    timer.start()
    try:
        for outcome in subscriber:
            if isinstance(outcome, VerifiedEvent) and outcome.kind == "match":
                return outcome
    finally:
        timer.cancel()
    raise AssertionError("nobody was matched")


@pytest.fixture(scope="module")
def unit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningUnit]:
    if shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("mosquitto is not installed")
    made = RunningUnit(tmp_path_factory.mktemp("running"))
    yield made
    made.process.terminate()
    made.process.communicate(timeout=30)
    made.broker.stop()


def test_nobody_is_enrolled_over_the_broker_without_a_consent_that_holds(unit: RunningUnit) -> None:
    later = (datetime.now(UTC) + timedelta(days=2000)).isoformat()
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "consent_missing"),
        ({"consent": {}}, "consent_malformed"),
        ({"consent": unit.consent(site="other")}, "consent_wrong_site"),
        ({"consent": unit.consent(units=["door-9"])}, "consent_wrong_unit"),
        ({"consent": unit.consent(purpose="to see who is late for work")}, "consent_wrong_purpose"),
        ({"consent": unit.consent(notice_version="0")}, "consent_wrong_notice"),
        ({"consent": unit.consent(notice_digest="sha256:" + "5a" * 32)}, "consent_wrong_notice"),
        ({"consent": unit.consent(age_class="under_14")}, "consent_no_guardian"),
        ({"consent": unit.consent(expires_at=later)}, "consent_too_long"),
        ({"consent": unit.consent(), "photo": "iVBORw0KGgo"}, "bad_args"),
    ]
    for args, code in cases:
        answer = unit.ask("enrol/begin", args)
        assert (answer.status, answer.error) == ("error", code)
        assert answer.transaction
    assert unit.ask("gallery/status").data == NOBODY


def test_live_enrolment_by_command_then_a_match_then_withdrawal(unit: RunningUnit) -> None:
    progress: list[Response] = []
    given = unit.consent()
    complete = unit.ask("enrol/begin", {"consent": given}, on_progress=progress.append)
    assert complete.data is not None
    assert (complete.data["state"], complete.data["captured"]) == ("complete", 5)
    assert {one.transaction for one in progress} == {complete.transaction}, "all answer one command"
    counts = [one.data["captured"] for one in progress if one.data]
    assert counts == sorted(counts)
    for one in (*progress, complete):
        assert "." not in json.dumps({**(one.data or {}), "advice": ""}), "no number with a fraction leaves"
    name = complete.data["enrolment"]
    with unit.subscriber() as subscriber:  # before the commit: the person still stands there and is matched at once
        committed = unit.ask("enrol/commit", {"enrolment": name})
        assert committed.data is not None
        assert committed.data["captures"] == 5
        subject = committed.data["subject"]
        event = next_match(subscriber)
    assert unit.ask("enrol/commit", {"enrolment": name}).error == "no_enrolment"
    assert subject not in json.dumps(msgspec.to_builtins(event.event))
    again = unit.ask("enrol/begin", {"consent": unit.consent()}, on_progress=progress.append)
    assert again.data is not None
    assert unit.ask("enrol/commit", {"enrolment": again.data["enrolment"]}).error == "already_enrolled"
    receipt = unit.ask("subject/revoke", {"subject": subject})
    assert receipt.data is not None
    assert receipt.data["receipt"]["reason"] == "withdrawn"
    returns = unit.ask("enrol/begin", {"consent": unit.consent(), "subject": subject})
    assert returns.error == "subject_erased"
    assert unit.ask("enrol/begin", {"consent": given}).error == "consent_withdrawn"
    written = unit.ask("subject/revoke", {"subject": subject})
    assert written.data is not None
    assert written.data["receipt"]["erased_at"] == receipt.data["receipt"]["erased_at"]
    log = load_config(unit.site.config).audit.path
    assert [entry.kind for entry in read_entries(log)].count("erased") == 1
    health = unit.ask("health")
    assert health.data is not None
    assert verify_log(log, parse_head(health.data["audit"])).personal == 0, "the head in health is the log's"
    assert unit.ask("gallery/status").data == NOBODY


def test_enrolment_that_is_aborted_keeps_nothing_and_says_so_where_it_began(unit: RunningUnit) -> None:
    heard: list[Response] = []
    aborted: list[Response] = []

    def abort(progress: Response) -> None:
        heard.append(progress)
        if len(heard) == 1:
            assert progress.data is not None
            name = progress.data["enrolment"]
            second = unit.ask("enrol/begin", {"consent": unit.consent()}, name=OTHER_OPERATOR)
            assert second.error == "enrolment_open"
            aborted.append(unit.ask("enrol/abort", {"enrolment": name}, name=OTHER_OPERATOR))

    end = unit.ask("enrol/begin", {"consent": unit.consent()}, on_progress=abort)
    while end.status == "ok":  # the captures may have been complete before the abort came
        end = unit.ask("enrol/abort", {"enrolment": heard[0].transaction})
    assert end.error in {"aborted", "no_enrolment"}
    assert aborted[0].status == "ok"
    assert unit.ask("gallery/status").data == NOBODY


def test_keys_are_rotated_by_command_and_the_old_command_key_is_obeyed_no_more(unit: RunningUnit) -> None:
    folder = unit.site.site.folder
    sealed = units.issue_epoch_keys(folder, UNIT).decode()
    epochs = unit.ask("key/rotate", {"epoch_keys": sealed})
    assert epochs.data is not None
    assert len(epochs.data["epochs"]) == 3
    assert unit.ask("key/rotate", {"references": "renew"}).status == "ok"
    old = units.load_site_key(folder)
    change = json.loads(rotation.begin_site_key_change(folder, parse_policy(POLICY.read_bytes())))
    changed = unit.ask("key/rotate", change)
    new = SigningKey.load(unit.site.site.next_site_key)
    assert changed.data == {"rotated": "site_key", "kid": new.kid}
    assert unit.ask("selftest", key=old).error == "wrong_key"
    assert unit.ask("selftest", key=new).status == "ok"
    rotation.finish_site_key_change(folder)
    unit.restart()
    assert unit.ask("selftest").status == "ok", "the unit starts with the new key and the policy signed by it"


def test_the_operator_follows_an_enrolment_on_the_command_line(unit: RunningUnit, tmp_path: Path) -> None:
    record = tmp_path / "consent.json"
    record.write_text(json.dumps(unit.consent()))
    place = ["--broker", "127.0.0.1", "--port", str(unit.broker.port), "--site", SITE]
    keys = ["--keys", str(unit.site.site.client(OPERATOR)), "--site-key", str(unit.site.site.site_key)]
    ask = [sys.executable, "-m", "agent", "ask", UNIT, "--timeout", "30", *place, *keys]
    begun = subprocess.run(
        [*ask, "enrol/begin", f"consent=@{record}"], capture_output=True, text=True, timeout=90, check=False
    )
    assert begun.returncode == 0, begun.stderr
    assert "4 of 5" in begun.stderr
    name = json.loads(begun.stdout)["enrolment"]
    committed = subprocess.run(
        [*ask, "enrol/commit", f"enrolment={name}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert committed.returncode == 0, committed.stderr
    unit.ask("subject/revoke", {"subject": json.loads(committed.stdout)["subject"]})
