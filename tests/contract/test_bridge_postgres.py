# SPDX-License-Identifier: Apache-2.0
"""The archive in a real PostgreSQL: each record once, whatever happens to the database meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from agent.bridge.outputs import Item
from agent.bridge.sql import Sql
from agent.disk.files import write_atomic
from agent.errors import RetryError
from tests.simulators.pki import Authority
from tests.simulators.postgres import Postgres, programs
from tests.unit.test_bridge_outputs import Bench

pytestmark = pytest.mark.skipif(programs() is None, reason="needs PostgreSQL")


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[Postgres]:
    postgres = Postgres(tmp_path)
    postgres.start()
    yield postgres
    postgres.close()


def test_each_record_is_one_row_over_an_outage_of_the_database(tmp_path: Path, postgres: Postgres) -> None:
    bench = Bench(tmp_path)
    try:
        bench.hear()
        stranger = Sql(postgres.url, postgres.password, Authority(tmp_path / "foreign").ca)
        told = stranger.send([Item(one, None) for one in bench.store.upcoming("hook", 1)], bench.now_s).problem
        stranger.close()
        assert told is not None
        assert "certificate verify failed" in told
        assert "\n" not in told
        write_atomic(tmp_path / "wrong", b"another")
        wrong = Sql(postgres.url, tmp_path / "wrong", postgres.ca)
        with pytest.raises(RetryError, match="correct user or password and restart the bridge"):
            wrong.idle(bench.now_s)  # told before there is any record
        wrong.close()
        archive = bench.pump("archive", Sql(postgres.url, postgres.password, postgres.ca))
        bench.hear()
        assert archive.step() == 0, bench.notices
        postgres.stop()
        bench.hear()
        assert archive.step() > 0
        assert len(bench.notices) == 1
        assert "\n" not in bench.notices[0]
        postgres.start()
        assert archive.step() == 0, bench.notices
        again = [Item(record, None) for record in bench.store.upcoming("hook", 10)]
        output = Sql(postgres.url, postgres.password, held_s=0.2)
        assert output.send(again, bench.now_s).problem is None
        with psycopg.connect(
            host="127.0.0.1",
            port=postgres.port,
            user="postern",
            password=postgres.password.read_text(),
            dbname="postgres",
        ) as database:
            database.execute("LOCK TABLE postern_record IN ACCESS EXCLUSIVE MODE")
            held = output.send(again, bench.now_s).problem
            assert held is not None
            assert "lock timeout" in held
            database.rollback()
            output.close()
            rows = database.execute("SELECT seq, kind, fresh FROM postern_record ORDER BY number").fetchall()
        assert rows == [(1, "match", True), (2, "match", True), (3, "match", True)]
    finally:
        for pump in bench.pumps:
            pump.stop()
        bench.store.close()
