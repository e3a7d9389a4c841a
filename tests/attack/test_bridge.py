# SPDX-License-Identifier: Apache-2.0
"""Attacks on a bridge: silent scrapers, clocks that are set, stores that come back, secrets in words."""

from __future__ import annotations

import json
import secrets
import socket
import sqlite3
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from agent.bridge.metrics import MAX_QUESTIONS, Metrics
from agent.bridge.otlp import Otlp
from agent.bridge.outputs import may_open
from agent.bridge.people import MAX_KEYS, MAX_TITLE, Resolving, read_people
from agent.bridge.pump import Pump
from agent.bridge.records import notice, records_of
from agent.bridge.service import Bridge
from agent.bridge.settings import UNCHECKED, load_settings
from agent.bridge.sql import Sql
from agent.bridge.store import MAX_BODY_BYTES, Store
from agent.bridge.webhook import Webhook
from agent.cli import main
from agent.clock import SimulatedClock, SystemClock
from agent.disk.files import write_atomic
from agent.errors import InUseError, PosternError, RefusedError, StorageError
from agent.subscribe.subscriber import Refusal
from tests.fault.test_bridge_killed import Premises
from tests.simulators.broker import PATIENCE_S
from tests.simulators.ports import free_port
from tests.simulators.receiver import Receiver
from tests.unit.test_bridge_outputs import OUTPUTS, Bench, Known, bench  # noqa: F401 - a fixture


def hook(bench: Bench, url: str) -> Pump:  # noqa: F811
    return bench.pump("hook", Webhook(url, bench.folder / "secret", UNCHECKED, bench.clock))


# -- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"s3cret-t0ken\nanother", b"s3cret t0ken", b"s3cret\x00", "s3crét".encode(), b""])
def test_a_token_that_can_be_none_is_refused_without_a_word_of_it(tmp_path: Path, content: bytes) -> None:
    write_atomic(tmp_path / "token", content)
    with pytest.raises(RefusedError, match="holds no token") as refusal:
        Otlp("https://h/v1/logs", site="hq", token=tmp_path / "token", ca=None, words=None, clock=SimulatedClock())
    assert "s3cr" not in str(refusal.value)


def test_no_token_goes_over_the_network_in_clear(tmp_path: Path) -> None:
    write_atomic(tmp_path / "token", b"s3cret-t0ken\n")
    clock = SimulatedClock()

    def made(host: str) -> Otlp:
        url = f"http://{host}:4318/v1/logs"
        return Otlp(url, site="hq", token=tmp_path / "token", ca=None, words=None, clock=clock)

    for host in ("collector.example", "192.0.2.7", "localhost.example"):
        with pytest.raises(RefusedError, match="in clear: give the URL with https"):
            made(host)
    for host in ("127.0.0.1", "localhost", "[::1]"):
        made(host)


def test_the_words_of_an_exception_are_told_to_nobody(bench: Bench) -> None:  # noqa: F811
    class Leaking(Sql):
        def send(self, *_: object) -> object:  # type: ignore[override]
            raise ValueError("Invalid header value b'Bearer s3cret'")

    bench.hear()
    bench.pump("archive", Leaking(f"sqlite:///{bench.folder}/archive.db", None)).step()
    assert "ValueError at test_bridge.py:" in bench.notices[0]
    assert "s3cret" not in bench.notices[0]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql+psycopg://u@h/db?password=s3cret", "holds no password"),
        ("postgresql+psycopg://u:s3cret@h/db", "holds no password"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///archive.db", "names archive.db, no whole path: give it four slashes"),
        ("postgresql+psycopg://u@h:many/db", "names no port that can be"),
    ],
)
def test_a_database_that_keeps_nothing_or_tells_its_password_is_refused(url: str, words: str) -> None:
    with pytest.raises(RefusedError, match=words) as refusal:
        Sql(url, None)
    assert "s3cret" not in str(refusal.value)


def test_a_table_of_another_program_is_told_and_keeps_its_rows(bench: Bench) -> None:  # noqa: F811
    foreign = sqlite3.connect(bench.folder / "archive.db")
    foreign.execute("CREATE TABLE postern_record (key TEXT PRIMARY KEY, colour INTEGER)")
    foreign.close()
    pump = bench.archive()
    bench.hear()
    assert pump.step() > 0
    assert "the table postern_record there is of another program or release: rename it" in bench.notices[0]
    assert bench.store.behind()["archive"] == 1
    foreign = sqlite3.connect(bench.folder / "archive.db")
    foreign.execute("ALTER TABLE postern_record RENAME TO theirs")
    foreign.close()
    assert pump.step() == 0
    assert len(bench.rows("SELECT * FROM postern_record")) == 1


def test_an_archive_can_be_asked_before_anything_is_in_it(bench: Bench) -> None:  # noqa: F811
    """And what is wrong with it is told at the start, not with the first person in the morning."""
    assert bench.archive().step() == 0
    assert bench.rows("SELECT * FROM postern_record") == []
    (bench.folder / "none").touch()
    pump = bench.pump("hook", Sql(f"sqlite:///{bench.folder}/none/archive.db", None))
    assert pump.step() > 0
    assert "whose folder has to be there and writable for the bridge" in bench.notices[0]


# -- clocks -----------------------------------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_makes_nothing_of_this_moment_again(bench: Bench) -> None:  # noqa: F811
    bench.hear()
    (record,) = bench.store.upcoming("hook", 1)
    assert may_open(record, bench.now_s, UNCHECKED)
    bench.clock.advance(3600)
    bench.clock.step_wall(-3600)
    (record,) = bench.store.upcoming("hook", 1)
    assert not may_open(record, bench.now_s, UNCHECKED), "a door opens an hour later"


def test_what_was_taken_at_a_later_time_than_now_moves_nothing(bench: Bench) -> None:  # noqa: F811
    """Of two clocks that disagree neither is believed."""
    bench.hear()
    bench.clock.advance(2)
    bench.clock.step_wall(-3600)
    (record,) = bench.store.upcoming("hook", 1)
    assert record.age_s == 2
    assert not may_open(record, bench.now_s, UNCHECKED)


def test_what_waited_over_a_restart_moves_nothing(bench: Bench) -> None:  # noqa: F811
    bench.hear()
    bench.store.close()
    bench.store = Store(bench.folder / "bridge.db", outputs=OUTPUTS, clock=bench.clock)
    (record,) = bench.store.upcoming("hook", 1)
    assert not may_open(record, bench.now_s, UNCHECKED)
    bench.hear()
    (_, record) = bench.store.upcoming("hook", 2)
    assert may_open(record, bench.now_s, UNCHECKED), "and what comes now does"


# -- the store --------------------------------------------------------------------------------------------------------


def refusals(store: Store, count: int) -> set[str]:
    outcome = Refusal("replayed", "postern/hq/door-3/event/match", "older")
    for _ in range(count):
        store.put(records_of(outcome, "hq", serial=store.serial), 0)
    return {record.key for record in store.upcoming("hook", 100)}


def test_a_store_that_was_moved_away_gives_no_key_again(tmp_path: Path) -> None:
    """Whoever was told of a refusal or a withdrawal drops what comes with a key that they know."""
    known: set[str] = set()
    for number in range(3):
        store = Store(tmp_path / "bridge.db", outputs=OUTPUTS, clock=SimulatedClock())
        keys = refusals(store, 5)
        store.close()
        assert not known & keys
        known |= keys
        for path in tmp_path.glob("bridge.db*"):
            path.rename(tmp_path / f"{number}-{path.name}")


def test_a_store_of_the_version_before_goes_on_where_it_stood(tmp_path: Path) -> None:
    store = Store(tmp_path / "bridge.db", outputs=OUTPUTS, clock=SimulatedClock())
    refusals(store, 2)
    store.connection.executescript(
        "CREATE TABLE serial (id INTEGER PRIMARY KEY CHECK (id = 0), number INTEGER NOT NULL) STRICT;"
        "INSERT INTO serial VALUES (0, 2); PRAGMA user_version = 1;"
    )
    store.close()
    store = Store(tmp_path / "bridge.db", outputs=OUTPUTS, clock=SimulatedClock())
    assert store.behind() == {"hook": 2, "archive": 2}
    assert len(refusals(store, 1)) == 3
    store.close()


def test_a_store_that_was_cut_off_is_one_sentence_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "bridge.db"
    store = Store(path, outputs=OUTPUTS, clock=SimulatedClock())
    for number in range(200):
        store.put([notice("x" * 500, serial=str(number))], 0)
    store.close()
    size = path.stat().st_size
    for kept in (size // 2, 5000, 100):
        with path.open("r+b") as file:
            file.truncate(kept)
        with pytest.raises(StorageError, match=r"move it away|give the bridge its own") as refusal:
            Store(path, outputs=OUTPUTS, clock=SimulatedClock())
        assert "\n" not in str(refusal.value)


def test_two_bridges_on_one_store_are_one_too_many(bench: Bench) -> None:  # noqa: F811
    with pytest.raises(InUseError, match="stop the bridge"):
        Store(bench.folder / "bridge.db", outputs=OUTPUTS, clock=bench.clock)


@pytest.mark.parametrize("signs", [100_000, 16_000])
def test_what_others_send_makes_no_record_that_stops_every_output(bench: Bench, signs: int) -> None:  # noqa: F811
    for text in ("x" * signs, "\x01" * signs, "\U0001f600" * signs):
        outcome = Refusal("malformed", f"postern/hq/{text}/event/match", text)
        bench.store.put(records_of(outcome, "hq", serial=bench.store.serial), bench.now_s)
        bench.store.put([notice(text, serial=bench.store.serial())], bench.now_s)
    bench.hear()
    receiver = Receiver()
    try:
        assert hook(bench, receiver.url).step() == 0
        assert [seq for _, seq in receiver.events()] == [1]
        assert all(len(json.dumps(one)) < 2 * MAX_BODY_BYTES for one in receiver.taken)
    finally:
        receiver.stop()


@pytest.mark.broker
@pytest.mark.parametrize("asked", ["--check", "--dead"])
def test_a_look_at_a_draft_costs_no_output_its_place(
    tmp_path: Path, asked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    premises = Premises(tmp_path)
    try:
        path = premises.folder / "state" / "bridge.db"
        store = Store(path, outputs=OUTPUTS, clock=SimulatedClock())
        refusals(store, 7)
        store.close()
        draft = premises.folder / "draft.yaml"
        draft.write_text((premises.folder / "bridge.yaml").read_text().replace("name: hook", "name: hok"))
        assert main(["bridge", str(draft), asked]) == 0, capsys.readouterr().err
        store = Store(path, outputs=OUTPUTS, clock=SimulatedClock())
        assert store.behind()["hook"] == 7, "what waited for it is lost"
        store.close()
    finally:
        premises.close()


# -- people and keys --------------------------------------------------------------------------------------------------


def test_one_key_too_many_laid_down_later_changes_nothing(bench: Bench) -> None:  # noqa: F811
    known = Known(bench)
    resolving = Resolving(known.people, known.keys, None)
    for number in range(MAX_KEYS):
        write_atomic(known.keys / f"{number}.json", b"{}")
    assert not resolving.refresh()
    assert resolving.refusal is not None
    assert "destroy the old ones" in resolving.refusal
    resolving.refusal = None
    assert not resolving.refresh()
    assert resolving.refusal is None, "it is told once"
    assert resolving.epochs() == 1
    assert set(resolving.everybody()) == {"anna"}


@pytest.mark.parametrize("trap", ["folder", "empty", "broken link", "bytes"])
def test_what_is_no_key_is_refused_and_changes_nothing(bench: Bench, trap: str) -> None:  # noqa: F811
    known = Known(bench)
    resolving = Resolving(known.people, known.keys, None)
    place = known.keys / "zz.json"
    if trap == "folder":
        place.mkdir()
    elif trap == "broken link":
        place.symlink_to(bench.folder / "nowhere")
    else:
        write_atomic(place, b"" if trap == "empty" else b"\xff\x00" * 9)
    for _ in range(2):
        assert not resolving.refresh()
    assert set(resolving.everybody()) == {"anna"}


@pytest.mark.parametrize("title", ["x" * (MAX_TITLE + 1), "Anna\x1b[2J", "Anna\u202ereuaB"])
def test_a_name_that_no_screen_shows_as_it_is_is_refused(tmp_path: Path, title: str) -> None:
    write_atomic(tmp_path / "people", f"{'00' * 16} anna {title}\n".encode())
    with pytest.raises(PosternError, match="line 1"):
        read_people(tmp_path / "people")


class Relay:
    """Carries what goes to ``port``; ``on_open`` is called before the first byte of each connection."""

    def __init__(self, port: int, on_open: Callable[[], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port, self._to, self._on_open = self._listener.getsockname()[1], port, on_open
        self.opened = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.opened += 1
                self._on_open()
                broker = socket.create_connection(("127.0.0.1", self._to))
                for one, other in ((client, broker), (broker, client)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError), target:
            while content := source.recv(65536):
                target.sendall(content)


# -- the process ------------------------------------------------------------------------------------------------------


@pytest.mark.broker
def test_a_stop_that_comes_while_the_broker_is_being_reached_ends_the_bridge(tmp_path: Path) -> None:
    premises = Premises(tmp_path)
    file = premises.folder / "bridge.yaml"
    try:
        relay = Relay(premises.broker.port, on_open=lambda: bridge.stop())
        file.write_text(file.read_text().replace(str(premises.broker.port), str(relay.port)))
        settings = load_settings(file)
        bridge = Bridge(settings, clock=SystemClock(), random=secrets.token_bytes, on_notice=lambda _: None)
        thread = threading.Thread(target=bridge.run, daemon=True)
        thread.start()
        thread.join(PATIENCE_S)
        ended = not thread.is_alive()
        bridge.stop()
        thread.join(PATIENCE_S)
        assert relay.opened, "nobody came"
        assert ended, "the service manager has to kill it"
    finally:
        relay.close()
        premises.close()


def test_scrapers_that_say_nothing_hold_up_neither_the_next_nor_an_output(
    bench: Bench,  # noqa: F811
) -> None:
    port, before = free_port(), threading.active_count()
    metrics = Metrics(
        "127.0.0.1", port, status=bench.status, store=bench.store, now_s=lambda: bench.now_s, deadline_s=1.0
    )
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(10 * MAX_QUESTIONS)]
    try:
        time.sleep(0.3)
        assert threading.active_count() - before <= 2 * MAX_QUESTIONS + 2
        time.sleep(1.5)  # the deadline of those that have a place
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read()
        assert b"postern_output_behind_records" in page
    finally:
        for one in silent:
            one.close()
        metrics.close()
