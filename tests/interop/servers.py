"""Servers with a load on them, and the proof that a restored one holds what it must."""

import threading
from pathlib import Path

from pgbackup.pg.lsn import Lsn, Segment, Timeline
from tests.cluster import Cluster

LEDGER = """
CREATE TABLE ledger (number int PRIMARY KEY, content text);
CREATE INDEX ON ledger (content);
"""

BALANCES = """
SELECT (SELECT sum(abalance) FROM pgbench_accounts),
       (SELECT sum(tbalance) FROM pgbench_tellers),
       (SELECT sum(bbalance) FROM pgbench_branches),
       (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
"""

BTREE_CHECK = """
SELECT count(bt_index_check(index.oid, true)::text)
FROM pg_class AS index JOIN pg_am ON pg_am.oid = relam
WHERE amname = 'btree' AND relkind = 'i' AND relpersistence = 'p'
"""

HEAP_CHECK = """
SELECT relname, problem.msg
FROM pg_class, verify_heapam(pg_class.oid) AS problem
WHERE relkind IN ('r', 't', 'm') AND relam <> 0 AND relpersistence <> 't'
"""


class Ledger:
    """Commits numbered rows in a thread, and knows between which positions each commit lies.

    before, after: WAL insert positions around the commit of the row with that number, from 0.
    """

    def __init__(self, server: Cluster) -> None:
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._error: BaseException | None = None
        self.before: list[Lsn] = []
        self.after: list[Lsn] = []

    def __enter__(self) -> "Ledger":
        self._server.sql(LEDGER)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _write(self) -> None:
        try:
            with self._server.connect() as connection:
                while not self._stop.wait(0.002):
                    number = len(self.after)
                    position = "SELECT pg_current_wal_insert_lsn()::text"
                    before = connection.execute(position).fetchone()
                    connection.execute(
                        "INSERT INTO ledger VALUES (%s, md5(%s::text))", (number, number)
                    )
                    after = connection.execute(position).fetchone()
                    assert before is not None
                    assert after is not None
                    self.before.append(Lsn.parse(before[0]))
                    self.after.append(Lsn.parse(after[0]))
        except BaseException as error:  # noqa: BLE001 - raised in the owner
            self._error = error

    def check(self, restored: Cluster, stop: Lsn, segment_size: int) -> int:
        """Assert that every row committed before `stop` is there and none after its segment.

        Returns: how many rows there are.
        """
        rows = restored.sql("SELECT number, content = md5(number::text) FROM ledger ORDER BY 1")
        assert rows == [(number, True) for number in range(len(rows))]
        needed = sum(position <= stop for position in self.after)
        end = Segment.containing(Timeline(1), Lsn(stop - 1), segment_size).end
        possible = sum(position < end for position in self.before)
        assert needed <= len(rows) <= possible
        return len(rows)


def make_loaded(server: Cluster) -> tuple[Path, Path]:
    """Fill a server with pgbench's tables in two tablespaces; the places of these."""
    home = server.pgdata.parent
    spaces = home / "first space", home / "second=space"
    for name, place in zip(("first", "second"), spaces, strict=True):
        server.account.make_directory(place)
        server.sql(f"CREATE TABLESPACE {name} LOCATION '{place}'")
    server.pgbench_init()
    server.sql("ALTER TABLE pgbench_accounts SET TABLESPACE first")
    server.sql("ALTER INDEX pgbench_accounts_pkey SET TABLESPACE second")
    server.sql("ALTER TABLE pgbench_history SET TABLESPACE second")
    return spaces


def check_balances(server: Cluster) -> None:
    """No transaction of pgbench is there in part."""
    ((accounts, tellers, branches, history),) = server.sql(BALANCES)
    assert accounts == tellers == branches == history


def check_structure(server: Cluster) -> None:
    """Every index agrees with its table, and every table is sound."""
    server.sql("CREATE EXTENSION IF NOT EXISTS amcheck")
    ((count,),) = server.sql(BTREE_CHECK)
    assert count > 100
    if server.major >= 14:
        assert server.sql(HEAP_CHECK) == []
