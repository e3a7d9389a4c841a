# SPDX-License-Identifier: Apache-2.0
"""What the archive can be asked, as ``deploy/bridge/README.md`` says it: in SQLite and in a real PostgreSQL."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agent.bridge.metrics import Metrics
from agent.bridge.records import records_of
from agent.bridge.sql import Sql
from agent.subscribe.chain import Gap
from agent.subscribe.subscriber import Refusal
from agent.subscribe.verify import Loss
from tests.simulators.ports import free_port
from tests.simulators.postgres import Postgres, programs
from tests.simulators.signing_unit import SigningUnit, presence_draft, verifier_of
from tests.unit.test_bridge_outputs import Bench

PAGE = Path(__file__).parents[2] / "deploy" / "bridge" / "README.md"
MISSING, LOST, REFUSED, PRESENT = (
    query for block in re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL) for query in block.split("\n\n")
)
Ask = Callable[[str], list[tuple[Any, ...]]]


def put(bench: Bench, *outcomes: Refusal | Loss) -> None:
    for outcome in outcomes:
        bench.store.put(records_of(outcome, "hq", serial=bench.store.serial), bench.now_s)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Of a unit 2 to 4 and 6 to 7 did not come; then 3 came late, and 6 and 7 are lost. Somebody arrived."""
    bench = Bench(tmp_path)
    kept = []
    for seq in range(1, 9):
        row = bench.unit.say(presence_draft(bench.clock) if seq == 5 else None)  # type: ignore[arg-type]
        if seq in (1, 5, 8):
            verified = bench.verifier.check(bench.unit.topic(row), row.payload, bench.clock.now())
            bench.store.put(records_of(verified, "hq", serial=bench.store.serial), bench.now_s)
        kept.append(row)
    late = bench.verifier.check(bench.unit.topic(kept[2]), kept[2].payload, bench.clock.now())
    bench.store.put(records_of(late, "hq", serial=bench.store.serial), bench.now_s)
    put(bench, Loss("door-3", Gap(6, 7), 2), *[Refusal("replayed", "postern/hq/door-3/event/match", "older")] * 2)
    yield bench
    for pump in bench.pumps:
        pump.stop()
    bench.store.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def ask(request: pytest.FixtureRequest, bench: Bench, tmp_path: Path) -> Iterator[Ask]:
    if request.param == "sqlite":
        bench.archive().step()
        yield bench.rows
        return
    if programs() is None:
        pytest.skip("needs PostgreSQL")
    postgres = Postgres(tmp_path)
    postgres.start()
    try:
        assert bench.pump("archive", Sql(postgres.url, postgres.password)).step() == 0, bench.notices
        secret = postgres.password.read_text()
        place = {"host": "127.0.0.1", "port": postgres.port, "user": "postern", "password": secret}
        with psycopg.connect(**place, dbname="postgres") as database:
            yield lambda query: database.execute(query).fetchall()
    finally:
        postgres.close()


def test_the_page_answers_what_is_missing_lost_refused_and_who_is_here(ask: Ask, bench: Bench) -> None:
    assert ask(MISSING) == [("door-3", 2, 4, 2, 0)]
    assert ask(LOST) == [("door-3", 6, 7, 2, None)]
    ((unit, reason, count, taken_s),) = ask(REFUSED)
    assert (unit, reason, count, taken_s) == ("door-3", "replayed", 2, bench.now_s)
    assert [(unit, subject) for unit, subject, *_ in ask(PRESENT)] == [("door-3", "p1_" + "ab" * 16)]


def test_what_a_unit_drops_itself_is_told_with_its_numbers(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    unit = SigningUnit(tmp_path / "small.db", clock=bench.clock, max_rows=2)
    verifier = verifier_of(unit)
    rows = [unit.say()]
    unit.outbox.acked(rows[0].seq)
    for _ in range(4):
        unit.outbox.append(presence_draft(bench.clock))  # type: ignore[arg-type]
    metrics = Metrics(
        "127.0.0.1", port := free_port(), status=bench.status, store=bench.store, now_s=lambda: bench.now_s
    )
    try:
        while rows:  # what it dropped since its last word on it, it says once that has gone
            for row in rows:
                verified = verifier.check(unit.topic(row, "backlog"), row.payload, bench.clock.now())
                bench.store.put(records_of(verified, "hq", serial=bench.store.serial), bench.now_s)
            unit.outbox.acked(*(row.seq for row in rows))
            rows = unit.outbox.pending(10)
        bench.pump("hook", metrics).step()
        bench.archive().step()
        lost = bench.rows(LOST)
        assert {(unit_name, reason) for unit_name, _, _, _, reason in lost} == {("door-3", "full")}
        assert sum(count for _, _, _, count, _ in lost) == 2  # type: ignore[misc]
        assert all(row[3] <= row[4] for row in bench.rows(MISSING)), "the unit says what became of it"
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        assert 'postern_owned_up_events_total{unit="door-3"} 2.0' in text
    finally:
        for pump in bench.pumps:
            pump.stop()
        bench.store.close()
