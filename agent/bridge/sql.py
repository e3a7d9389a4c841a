# SPDX-License-Identifier: Apache-2.0
"""Each record as a row of a table that an auditor can query; SQLite and PostgreSQL, by SQLAlchemy.

The key is the primary key and a row that is there stays: what comes again changes nothing. A person who is withdrawn is
taken out of every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from agent.bridge.outputs import Item, Sent
from agent.bridge.post import is_here, trusting
from agent.disk.files import read_brought
from agent.errors import RefusedError, RetryError, printable
from agent.parse.strict_json import dumps

WAIT_S = 10  # for a connection, and for a table that somebody holds
POSTGRES = {  # libpq's own names: a server that vanished is noticed, also in the middle of a statement
    "connect_timeout": WAIT_S,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # ms
}
TABLE = sa.Table(
    "postern_record",
    sa.MetaData(),
    sa.Column("key", sa.String(400), primary_key=True),
    sa.Column("number", sa.BigInteger(), nullable=False),  # the bridge's own, rising: the order of arrival
    sa.Column("taken_s", sa.BigInteger(), nullable=False, index=True),  # when the bridge took it, seconds since 1970
    sa.Column("kind", sa.String(16), nullable=False, index=True),
    sa.Column("unit", sa.String(64), index=True),
    sa.Column("time", sa.String(32)),  # what the unit says, UTC
    sa.Column("clock", sa.String(16)),  # whether it knew
    sa.Column("seq", sa.BigInteger()),
    sa.Column("condition", sa.String(32)),
    sa.Column("zone", sa.String(64)),
    sa.Column("subject", sa.Text()),
    sa.Column("person", sa.String(64), index=True),
    sa.Column("liveness", sa.String(16)),
    sa.Column("fresh", sa.Boolean(), nullable=False),
    sa.Column("late", sa.Boolean(), nullable=False),
    sa.Column("first", sa.BigInteger()),  # of a gap or a loss
    sa.Column("last", sa.BigInteger()),
    sa.Column("count", sa.BigInteger()),
    sa.Column("reason", sa.String(64)),  # of a refusal
    sa.Column("text", sa.Text()),
    sa.Column("event", sa.Text()),  # as it was signed, JSON
)


class Sql:
    """See the module."""

    batch = 256

    def __init__(self, url: str, password: Path | None, ca: Path | None = None, *, held_s: float = WAIT_S) -> None:
        """Connect to nothing yet; RefusedError or KeyStoreError says what cannot be used."""
        try:
            parsed = sa.make_url(url)
            if parsed.password is not None or "password" in parsed.query:
                raise RefusedError("the URL of a database holds no password: name a file of mode 0600 with 'password'")
            on_disk = parsed.get_backend_name() == "sqlite"
            if on_disk and (password or ca):  # whoever wrote it may believe that the file is encrypted
                raise RefusedError("SQLite is a file and asks for no password and no 'ca': leave them out")
            if password is not None:
                parsed = parsed.set(password=_read_password(password))
            if on_disk and parsed.database in (None, "", ":memory:"):
                raise RefusedError("the URL of SQLite names no file: sqlite:////var/lib/postern-bridge/archive.db")
            if on_disk and not Path(str(parsed.database)).is_absolute():  # it would lie wherever the bridge was started
                raise RefusedError(
                    f"the URL of SQLite names {printable(str(parsed.database))}, no whole path: give it four slashes,"
                    " as in sqlite:////var/lib/postern-bridge/archive.db"
                )
            connecting = {"timeout": WAIT_S} if on_disk else POSTGRES | _verifying(parsed, ca)
            self.private = "require_auth" not in connecting
            self._engine = sa.create_engine(parsed, connect_args=connecting, hide_parameters=True, pool_pre_ping=True)
        except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ImportError, UnicodeDecodeError) as error:
            raise RefusedError(f"the URL of a database cannot be used: {printable(str(error))}") from error
        except ValueError as error:
            raise RefusedError("the URL of a database names no port that can be: correct it") from error
        self._insert: sqlite.Insert | postgresql.Insert = (
            postgresql.insert(TABLE) if self._engine.dialect.name == "postgresql" else sqlite.insert(TABLE)
        )
        self._insert = self._insert.on_conflict_do_nothing(index_elements=["key"])
        self._made, self._held_ms = False, int(held_s * 1000)

    def send(self, items: Sequence[Item], now_s: int) -> Sent:  # noqa: ARG002 - history has no now
        try:
            self._write(items)
        except sa.exc.SQLAlchemyError as error:
            return Sent(problem=_told(error))
        return Sent(through=items[-1].record.number)

    def idle(self, now_s: int) -> None:  # noqa: ARG002
        """Make the table before there is a record: it can be asked, and what is wrong is told, from the start."""
        if self._made:
            return
        try:
            self._write(())
        except sa.exc.SQLAlchemyError as error:
            raise RetryError(_told(error)) from error

    def close(self) -> None:
        self._engine.dispose()

    def _write(self, items: Sequence[Item]) -> None:
        """All or nothing, into a table that is made where it is not there; SQLAlchemyError."""
        with self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":  # SQLite's own "timeout" is for this, too
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {self._held_ms}")
            if not self._made:
                TABLE.metadata.create_all(connection)
            for run in _runs(items):
                gone = [item.record.body.person for item in run if item.record.body.kind == "withdrawn"]
                connection.execute(self._insert, [_row(item) for item in run])
                if gone:
                    connection.execute(sa.update(TABLE).where(TABLE.c.person.in_(gone)).values(person=None))
        self._made = True


FOREIGN = "the table postern_record there is of another program or release: rename it"
ADVICE = {  # what a person has to do, by words of a cause that comes from elsewhere
    "unable to open database file": ", whose folder has to be there and writable for the bridge",
    "authentication failed": "; correct user or password and restart the bridge, until then everything waits",
    "no password supplied": "; name its file with 'password' and restart the bridge, until then everything waits",
    "permission denied for schema": "; let the bridge's user own the database",
    "of relation": f"; {FOREIGN}",
    "has no column": f"; {FOREIGN}",
}


def _read_password(file: Path) -> str:
    try:
        return read_brought(file, secret=True).decode().strip()
    except UnicodeDecodeError:
        raise RefusedError(f"{file} is no text in UTF-8: save the password again as that") from None


def _told(error: sa.exc.SQLAlchemyError) -> str:
    cause = printable(str(getattr(error, "orig", None) or type(error).__name__).partition("\n")[0])
    advice = next((advice for words, advice in ADVICE.items() if words in cause), "")
    return f"the database does not take records ({cause}{advice}): it is tried again"


def _verifying(url: sa.URL, ca: Path | None) -> dict[str, str]:
    """What libpq is to know so that it believes ``ca`` alone, or tells a stranger no password. KeyStoreError."""
    if ca is not None:
        trusting(ca)  # says what is wrong with the file now; libpq would each time that it connects
        return {"sslmode": "verify-full", "sslrootcert": str(ca)}
    if not url.host or is_here(url.host) or url.query.get("sslmode") == "verify-full":
        return {}
    return {"require_auth": "!password"}  # whoever answers may ask for it in clear


def _runs(items: Sequence[Item]) -> list[list[Item]]:
    """Split behind each withdrawal: it is for what was before it."""
    runs: list[list[Item]] = [[]]
    for item in items:
        runs[-1].append(item)
        if item.record.body.kind == "withdrawn":
            runs.append([])
    return [run for run in runs if run]


def _row(item: Item) -> dict[str, Any]:
    record, body = item.record, item.record.body
    row = {name: getattr(body, name) for name in TABLE.c.keys() if hasattr(body, name)}  # noqa: SIM118
    row |= {"key": record.key, "number": record.number, "taken_s": record.taken_s}
    row["person"] = None if item.person is None else item.person.name
    row["event"] = None if body.event is None else dumps(body.event)
    return row
