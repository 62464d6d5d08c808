"""A server whose files come, go, grow and shrink all the time, and what must hold in a copy of it.

Every session has relations of its own and goes round in its statements. Each statement is a
transaction, after which all rows of a small table have the same round and none is missing.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.cluster import Cluster

ROWS = 8000
"""Of a small table: about 1 MB."""
LEAST = (130_600, 131_600)
MOST = 133_600
"""Rows of the large table, each on a page of its own; a file ends with page 131,072."""
PAUSE = 0.05
"""Seconds between two statements of a session."""

LARGE = f"""
CREATE TABLE large (n int PRIMARY KEY, filler text)
    WITH (fillfactor = 10, autovacuum_enabled = off);
INSERT INTO large SELECT n, repeat('x', 400) FROM generate_series(1, {LEAST[0]}) AS n;
"""

CHANGING = f"n = ANY (ARRAY(SELECT generate_series(1, {LEAST[0]}, 700)))"
"""Rows that have the same filler, which changes."""
AT_LARGE = (
    "DELETE FROM large WHERE n > {least}",
    "VACUUM large",
    "INSERT INTO large SELECT n, repeat('x', 400)"
    f" FROM generate_series({LEAST[0] + 1}, {MOST}) AS n ON CONFLICT DO NOTHING",
    f"UPDATE large SET filler = translate(filler, 'xy', 'yx') WHERE {CHANGING}",
)

AT_SMALL = (
    "DROP TABLE IF EXISTS {name};"
    " CREATE {kind} TABLE {name} (n int PRIMARY KEY, round int NOT NULL, filler text)"
    " TABLESPACE {first}; {fill}",
    "UPDATE {name} SET round = round + 1",
    "VACUUM {name}",
    "REINDEX TABLE {name}",
    "TRUNCATE {name}; {fill}",
    f"DELETE FROM {{name}} WHERE n > {ROWS // 4}",
    "VACUUM {name}",
    "TRUNCATE {name}; {fill}",
    "ALTER TABLE {name} SET TABLESPACE {second}",
    "VACUUM FULL {name}",
)
AT_LOGGED = (
    *AT_SMALL,
    "ALTER TABLE {name} SET UNLOGGED",
    "UPDATE {name} SET round = round + 1",
    "ALTER TABLE {name} SET LOGGED",
)
FILL = (
    "INSERT INTO {name} SELECT n, 0, repeat('x', 60) || md5(n::text)"
    f" FROM generate_series(1, {ROWS}) AS n"
)
AT_TEMPORARY = (
    f"CREATE TEMPORARY TABLE mine AS SELECT n FROM generate_series(1, {5 * ROWS}) AS n",
    "CREATE INDEX ON mine (n)",
    "TRUNCATE mine",
    "DROP TABLE mine",
)
AT_ALL = (
    "DROP DATABASE IF EXISTS passing",
    "CREATE DATABASE passing",
    "CHECKPOINT",
    "VACUUM FULL pg_proc",
)


def at_small(name: str, first: str, second: str, *, kind: str = "") -> tuple[str, ...]:
    """What a session does to a small table that lies in two tablespaces in turn."""
    fill = FILL.format(name=name)
    statements = AT_SMALL if kind else AT_LOGGED
    return tuple(
        each.format(name=name, kind=kind, first=first, second=second, fill=fill)
        for each in statements
    )


class Busy:
    """Sessions that do not rest until the end of the with block.

    least: rows to which the large table is cut back, from within its first file or its second.
    """

    SMALL = ("in_base", "apart")
    SESSIONS = (
        at_small("in_base", "pg_default", "space"),
        at_small("apart", "space", "pg_default"),
        at_small("unlogged", "pg_default", "space", kind="UNLOGGED"),
        AT_TEMPORARY,
        AT_ALL,
    )

    def __init__(self, server: Cluster, least: int) -> None:
        self._server = server
        large = tuple(each.format(least=least) for each in AT_LARGE)
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(number, statements))
            for number, statements in enumerate((large, *self.SESSIONS))
        ]
        self._errors: list[BaseException] = []
        self._rounds = [0] * len(self._threads)

    @staticmethod
    def prepare(server: Cluster, space: Path) -> None:
        """Make the large table and the tablespace."""
        server.account.make_directory(space)
        server.sql(f"CREATE TABLESPACE space LOCATION '{space}'")
        server.sql(LARGE)
        server.sql("VACUUM large")

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
        for error in self._errors:
            raise error

    @property
    def is_under_way(self) -> bool:
        """Whether every session has gone round once, or one has failed."""
        return all(self._rounds) or bool(self._errors)

    def _work(self, number: int, statements: Sequence[str]) -> None:
        try:
            with self._server.connect() as connection:
                while True:
                    for each in statements:
                        if self._end.wait(PAUSE):
                            return
                        connection.execute(each)
                    self._rounds[number] += 1
        except BaseException as error:  # noqa: BLE001 - raised in the owner
            self._errors.append(error)


def check_contents(restored: Cluster, least: int) -> None:
    """Every transaction is there as a whole; unlogged tables are empty."""
    ((rows,),) = restored.sql("SELECT count(filler) FROM large")
    assert rows in (least, MOST)
    assert restored.sql(f"SELECT count(DISTINCT filler) FROM large WHERE {CHANGING}") == [(1,)]
    for name in (*Busy.SMALL, "unlogged"):
        ((count, rounds, is_logged),) = restored.sql(
            f"SELECT count(*), count(DISTINCT round), (SELECT relpersistence = 'p' FROM pg_class"
            f" WHERE oid = '{name}'::regclass) FROM {name}"
        )
        if is_logged:
            assert (count, rounds) in ((ROWS, 1), (ROWS // 4, 1)), name
        else:
            assert count == 0, name
