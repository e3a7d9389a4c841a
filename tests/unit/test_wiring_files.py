# SPDX-License-Identifier: Apache-2.0
"""What a unit keeps and says beside its pipeline: the names of its files, its settings, what it asks its site."""

from __future__ import annotations

import json
import platform
import resource
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from agent import __version__
from agent.camera.base import CameraInfo
from agent.clock import SimulatedClock
from agent.config.load import CONFIG_SCHEMA_ID
from agent.errors import KeyStoreError, RefusedError, StorageError
from agent.keys import UnitKey
from agent.protocol.command import Command
from agent.unit.cards import read_panel_key
from agent.unit.confirm import Confirming
from agent.unit.consenting import make_record
from agent.unit.facts import make_info, public_facts
from agent.unit.generation import MAX_REASON
from agent.unit.key_files import KeptFiles, UnitFiles
from agent.unit.memory import bounded_data
from agent.unit.models import Models
from agent.unit.pause import Pause
from agent.unit.start_log import tell_asked
from agent.unit.stores import Stores
from agent.unit.world import board, read_went_back
from tests.simulators.config import configured, example
from tests.unit.test_match_policy import policy

DIGEST = "sha256:" + "a" * 64
RULES = msgspec.structs.replace(policy(), formerly="sha256:" + "f" * 64)
TASKS = ("detector", "embedder", "landmarks", "pad")
NAMES = {
    "event_key": "unit.key",
    "tls_key": "tls.key",
    "seal_key": "seal.key",
    "next_seal_key": "seal.key.next",
    "seal_state": "seal.json",
    "tls_crt": "tls.crt",
    "ca_crt": "ca.crt",
    "revoked_brokers": "brokers.crl",
    "site_jwk": "site.jwk",
    "epoch_keys": "epoch-keys.json",
    "token_key": "token.key",
    "card_secret": "card.key",
    "token_list": "token-list.jws",
    "pending": "pending.json",
    "site_change": "site-change.json",
    "mandate": "mandate.json",
    "request": "request.jws",
    "joined": "joined.json",
}
KEPT = {
    "commands": "commands.json",
    "time": "time.json",
    "generation": "generation.json",
    "pause": "paused",
    "policy": "policy.json",
    "console_opened": "console-opened",
}


def test_a_unit_of_any_release_finds_its_files_by_the_same_names(tmp_path: Path) -> None:
    files = UnitFiles(tmp_path)
    assert {name: path for name, path in vars(files).items() if name != "folder"} == {
        name: tmp_path / file for name, file in NAMES.items()
    }
    assert vars(files.waiting) == vars(UnitFiles(tmp_path / "waiting"))
    kept = vars(KeptFiles(tmp_path / "outbox.db"))
    assert kept == {name: tmp_path / file for name, file in KEPT.items()}


def test_what_others_send_may_take_so_much_memory_and_later_all_that_it_might_before() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    headroom = 4 << 30
    with bounded_data(headroom):
        within = resource.getrlimit(resource.RLIMIT_DATA)
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData:"))
        assert 0 <= int(line.split()[1]) * 1024 + headroom - within[0] < 64 << 20
        assert within[1] == before[1]
        with bounded_data(2 * headroom):
            assert resource.getrlimit(resource.RLIMIT_DATA)[0] == within[0], "never more than it is held to already"
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_pause_is_a_mark_with_a_sentence_in_it(tmp_path: Path) -> None:
    path = tmp_path / "paused"
    pause = Pause(path)
    assert not pause.is_set()
    pause.set()
    assert path.read_bytes() == b"recognition pauses until the command recognition/resume\n"
    assert pause.is_set()
    assert Pause(path).is_set()
    pause.clear()
    assert not pause.is_set()
    assert not path.exists()
    lost = Pause(tmp_path / "nowhere" / "paused")
    with pytest.raises(StorageError):
        lost.set()
    assert lost.is_set(), "at once, though not durably"


def test_what_may_be_told_of_the_settings_names_no_place() -> None:
    data = example()
    wired = {"kind": "button", "name": "door", "inputs": [{"kind": "gpio", "chip": "gpiochip0", "line": 17}]}
    told = public_facts(configured())
    assert told == {
        "profile": "production",
        "purpose": data["purpose"],
        "notice_version": data["notice"]["version"],
        "liveness": "not_checked",
        "liveness_parts": ["challenge"],
        "activation": told["activation"],
        "retention_days": data["gallery"]["retention_days"],
        "events": {"presence": False, "audience": "access", "subject": "pseudonym"},
        "models": {"detector": "detector-320x240", "embedder": "embedder"},
    }
    assert told["activation"]["kind"] == "zone"
    shown = public_facts(configured(activation=wired))["activation"]
    assert shown["inputs"] == ["gpio"]
    assert shown["name"] == "door"


def test_a_consent_that_is_given_now_says_all_that_was_agreed() -> None:
    clock, config = SimulatedClock(datetime(2026, 11, 28, 12, 0, 0, 654321, tzinfo=UTC)), configured()
    now = clock.now().replace(microsecond=0)
    record = make_record(config, clock, evidence=DIGEST)
    assert (record.purpose, record.site, record.units) == (config.purpose, config.unit.site, (config.unit.id,))
    assert (record.evidence_digest, record.guardian_evidence_digest, record.age_class) == (DIGEST, None, "of_age")
    assert (record.given_at, record.expires_at) == (now, now + timedelta(days=365))
    assert record.notice_version == config.notice.version
    other = DIGEST.replace("a", "b")
    named = [f"door-{number}" for number in range(1, 1000)]
    minor = make_record(config, clock, evidence=DIGEST, guardian=other, units=named[:2], days=1, age_class="under_14")
    assert (minor.guardian_evidence_digest, minor.units, minor.age_class) == (
        other,
        ("door-1", "door-2"),
        "under_14",
    )
    assert minor.expires_at == now + timedelta(days=1)


@pytest.mark.parametrize("days", [0, -1, 100_000])
def test_a_consent_of_no_time_or_of_too_long_is_refused(days: int) -> None:
    with pytest.raises(RefusedError, match=r"a consent holds 1 to \d+ days: choose a number in that range"):
        make_record(configured(), SimulatedClock(), evidence=DIGEST, days=days)


def test_a_consent_names_no_more_units_than_a_building_has_and_none_by_a_name_that_is_none() -> None:
    clock, config = SimulatedClock(), configured()
    with pytest.raises(RefusedError, match=r"^a consent names \d+ units at most: ask per building$"):
        make_record(config, clock, evidence=DIGEST, units=[f"door-{number}" for number in range(1000)])
    with pytest.raises(RefusedError):
        make_record(config, clock, evidence=DIGEST, units=["door/1"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"12", "holds no key: write the controller's 32 hex digits for this reader into it"),
        (b"z" * 32, "holds no key: write the controller's 32 hex digits for this reader into it"),
        (b"12" * 17, "holds no key: write the controller's 32 hex digits for this reader into it"),
        (b"00" * 16, "holds a key that everybody knows: have one drawn by chance, there and here"),
        (
            bytes(range(0x30, 0x40)).hex().encode(),
            "holds a key that everybody knows: have one drawn by chance, there and here",
        ),
    ],
)
def test_a_controllers_key_that_is_none_is_refused_with_what_to_do(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "panel.key"
    path.touch(mode=0o600)
    path.write_bytes(text)
    with pytest.raises(KeyStoreError) as refused:
        read_panel_key(path)
    assert str(refused.value) == f"{path} {said}"


@pytest.mark.parametrize("editor", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_controllers_key_is_read_as_it_is_written_down(tmp_path: Path, editor: str) -> None:
    path = tmp_path / "panel.key"
    path.touch(mode=0o600)
    path.write_bytes("00112233445566778899AABBCCDDEEFF\r\n".encode(editor))
    assert read_panel_key(path) == bytes.fromhex("00112233445566778899aabbccddeeff")


class Asking:
    """Stores of a unit that has something to ask its site, or nothing; ``people`` enrolled, some of them in vain."""

    def __init__(
        self, doubt: str | None = None, *, ahead_days: int = 0, people: int = 0, damaged: int = 0, others: int = 0
    ) -> None:
        self.generation, self.ageing, self.gallery = self, self, self
        self._people, self._damaged, self._others = people, damaged, others
        self.doubt, self._ahead_days = doubt, ahead_days
        self.accepted: list[str] = []
        self.confirmed: list[datetime] = []

    def __len__(self) -> int:
        return self._people

    def unreadable(self) -> int:
        return self._damaged

    def of_other_models(self, model: str, formerly: str | None) -> int:
        assert (model, formerly) == (RULES.model, RULES.formerly)
        return self._others

    def asks(self) -> bool:
        return bool(self._ahead_days)

    def lead(self) -> timedelta:
        return timedelta(days=self._ahead_days, hours=5)

    def doubted(self) -> bool:
        return self.doubt is not None

    def accept(self, reason: str) -> None:
        self.accepted.append(reason)

    def confirm(self, at: datetime) -> None:
        self.confirmed.append(at)

    def append(self, kind: str, facts: dict[str, str]) -> None:
        assert (kind, facts) == ("confirmed", {"what": "time"})


def test_a_start_tells_what_the_site_has_to_say_and_what_nobody_could_be_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[str] = []
    refused = SimpleNamespace(refusal=lambda: "EPERM")
    fine = SimpleNamespace(refusal=lambda: None)
    for clock, stores in (
        (fine, Asking()),
        (refused, Asking("outbox.db is older than the audit log")),
        (fine, Asking(ahead_days=40)),
        (fine, Asking(people=7, damaged=2, others=3)),
    ):
        tell_asked(cast("Stores", stores), RULES, cast("Any", clock), asked.append)
    assert asked == ["tamper", "clock_step"]
    unasked = (
        "nobody could be asked whether the clock is right (EPERM), so events say 'unsynced': allow adjtimex, as the"
        " shipped postern.service does"
    )
    ageing = (
        "the clock went 40 days ahead of what this unit knows: nothing is destroyed for its age until it has stood for"
        " 30 days of running; if the time is right, say so (postern ask UNIT unit/confirm what=time, or here postern"
        " unit confirm time)"
    )
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("WARNING", unasked),
        ("ERROR", "outbox.db is older than the audit log"),
        ("WARNING", ageing),
        (
            "ERROR",
            "2 of 7 references are damaged and match nobody: restore them, or enrol these people again",
        ),
        (
            "WARNING",
            "3 references are of another model than this unit's and match nobody: enrol these people again",
        ),
    ]


def confirming(asking: Asking, clock: SimulatedClock) -> Confirming:
    return Confirming(*(cast("Any", asking),) * 3, clock)


def said(issued_at: int, **args: object) -> Command:
    about = {"site": "hq", "unit": "door-1", "verb": "unit/confirm", "transaction": "t"}
    return Command(**about, cmd_seq=1, issued_at=issued_at, expires_at=issued_at + 60, args=args)


def test_the_earlier_of_both_clocks_is_taken_where_the_unit_knows_the_time_and_else_the_operators() -> None:
    clock, asking = SimulatedClock(), Asking(ahead_days=40)
    now = clock.now().replace(microsecond=0)
    for state, ahead_s, taken_s in (("synced", 30, 0), ("synced", -30, -30), ("unsynced", 30, 30)):
        clock.step_wall(0, cast("Any", state))
        answer = confirming(asking, clock).command(said(int(now.timestamp()) + ahead_s, what="time"))
        assert answer == {"confirmed": "time"}
        assert asking.confirmed[-1].replace(microsecond=0) == now + timedelta(seconds=taken_s), state
        assert asking.confirmed[-1].utcoffset() == timedelta(0)


def test_what_waits_for_a_word_of_the_site_is_told_in_one_order() -> None:
    clock = SimulatedClock()
    assert confirming(Asking(), clock).asks() == ()
    assert confirming(Asking("doubt", ahead_days=1), clock).asks() == ("time", "files")
    assert confirming(Asking("doubt"), clock).asks() == ("files",)


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"what": "time", "reason": "x"},
        {"what": "files"},
        {"what": "files", "reason": 3},
        {"what": "files", "reason": "x", "more": 1},
        {"what": "all"},
    ],
)
def test_any_other_word_of_the_site_is_refused_and_changes_nothing(args: dict[str, object]) -> None:
    asking = Asking("doubt", ahead_days=40)
    with pytest.raises(RefusedError) as refused:
        confirming(asking, SimulatedClock()).command(said(0, **args))
    assert (str(refused.value), refused.value.reason) == (
        "say what=time, or what=files with a reason in words",
        "bad_args",
    )
    assert asking.accepted == []
    assert asking.confirmed == []


def test_files_are_confirmed_with_a_reason_of_a_length() -> None:
    asking = Asking("doubt")
    confirm = confirming(asking, SimulatedClock())
    assert confirm.command(said(0, what="files", reason=" a new card ")) == {"confirmed": "files"}
    confirm.files("x" * MAX_REASON)
    assert asking.accepted == ["a new card", "x" * MAX_REASON]
    for reason in ("", "   ", "x" * (MAX_REASON + 1)):
        with pytest.raises(RefusedError) as refused:
            confirm.files(reason)
        assert str(refused.value) == f"give a reason of 1 to {MAX_REASON} characters"
        assert refused.value.reason == "bad_args"
    asking.doubt = None
    with pytest.raises(RefusedError) as refused:
        confirm.files("x")
    assert str(refused.value) == "no file of this unit was put back: there is nothing to confirm"
    assert refused.value.reason == "not_asked"


def test_a_unit_says_of_itself_what_a_subscriber_may_know(tmp_path: Path) -> None:
    def engine(letter: str) -> SimpleNamespace:
        return SimpleNamespace(digest="sha256:" + letter * 64, runtime="ai-edge-litert 2.0")

    def models(second: object, pad: object) -> Models:
        detector = SimpleNamespace(engine=engine("a"), landmarker=second)
        made = SimpleNamespace(detector=detector, embedder=SimpleNamespace(model="sha256:" + "b" * 64), pad=pad)
        return cast("Models", made)

    config, key, rules = configured(), UnitKey.generate(), policy()
    camera = CameraInfo("v4l2", 1280, 720, 15.0, live=True)
    verbs = ("config/get", "verify")
    all_of_it = models(SimpleNamespace(engine=engine("c")), engine("d"))
    told = json.loads(
        make_info(config, key, all_of_it, rules, camera=camera, enrolled=8, verbs=verbs, update="1.0: no")
    )
    range_ = told.pop("expected")
    assert (range_["gallery"], range_["threshold"]) == (10, "measured")
    assert told == {
        "type": "io.postern.info.v1",
        "source": f"/postern/{config.unit.site}/{config.unit.id}",
        "name": config.unit.name,
        "version": __version__,
        "board": board(),
        "runtime": "ai-edge-litert 2.0",
        "profile": "production",
        "camera": {"kind": "v4l2", "width": 1280, "height": 720},
        "models": {name: "sha256:" + letter * 64 for name, letter in zip(TASKS, "abcd", strict=True)},
        "policy": rules.digest,
        "detection": {"view": "picture", "look": "changes"},
        "config_schema": CONFIG_SCHEMA_ID,
        "public_key": key.public_jwk(),
        "kid": key.kid,
        "enrolled": 8,
        "activation": "zone",
        "liveness": "not_checked",
        "capabilities": list(verbs),
        "update": "1.0: no",
    }
    other = configured(
        activation={"kind": "button", "name": "door", "window_s": 30},
        liveness="require",
        detection={"look": "every_frame"},
        profile="demo",
    )
    told = json.loads(make_info(other, key, models(None, None), rules, camera=None, enrolled=0, verbs=(), update=None))
    assert (told["camera"], told["update"], told["enrolled"], told["capabilities"]) == (None, None, 0, [])
    assert sorted(told["models"]) == ["detector", "embedder"]
    assert (told["activation"], told["liveness"], told["profile"]) == ("button", "checked", "demo")
    assert told["detection"]["look"] == "every_frame"


def test_where_no_upgrade_was_taken_back_nothing_is_told_and_a_board_without_a_name_is_its_processor() -> None:
    assert read_went_back() is None
    assert board() == platform.machine()
