"""A real server goes back to its backup in place."""

import os
import re
from pathlib import Path

import pytest

from tests.cli.program import run, succeed
from tests.fix_cluster import ClusterFactory

RELATIONS = "SELECT count(*) FROM pg_class WHERE relname IN ('later', 'spaced')"


@pytest.mark.parametrize("major", [13, 18], ids=lambda major: f"pg{major}")
def test_a_stopped_server_starts_with_the_data_of_the_backup(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    server = cluster_factory(major, as_caller=True)
    for name in ("space", "later"):
        (tmp_path / name).mkdir()
    with server.connect() as connection:
        connection.execute(f"CREATE TABLESPACE space LOCATION '{tmp_path / 'space'}'")
        for name, where in (("changed", "pg_default"), ("dropped", "space"), ("same", "space")):
            connection.execute(
                f"CREATE TABLE {name} TABLESPACE {where}"
                " AS SELECT n, repeat('x', 100) AS t FROM generate_series(1, 20000) n"
            )
    repo = tmp_path / "repo"
    succeed(tmp_path, "backup", "-d", server.conninfo(), "-c", "fast", "-B", repo)
    same = server.sql("SELECT pg_relation_filepath('same')")[0][0]
    inode = (server.pgdata / same).stat().st_ino
    with server.connect() as connection:
        connection.execute(f"CREATE TABLESPACE later LOCATION '{tmp_path / 'later'}'")
        connection.execute("CREATE TABLE spaced TABLESPACE later AS SELECT 1 AS n")
        connection.execute("UPDATE changed SET n = -n WHERE n % 2 = 0")
        connection.execute("DROP TABLE dropped")
        connection.execute("CREATE TABLE later AS SELECT 1 AS n")
        connection.execute("VACUUM FULL pg_class")
        connection.execute("CHECKPOINT")
    words = ("restore", "--delta", "-B", repo, "-D", server.pgdata)
    refused = run(tmp_path, *words)
    assert refused.status == 8
    assert "is running there" in refused.error()[0]
    assert server.sql(RELATIONS) == [(2,)]
    server.stop()
    answer = succeed(tmp_path, *words)
    found = re.search(r"kept (\d+) files .*rewrote (\d+) files .*removed (\d+) files", answer.err)
    assert found is not None, answer.err
    assert all(int(number) > 0 for number in found.groups())
    assert (server.pgdata / same).stat().st_ino == inode
    assert os.listdir(tmp_path / "later") != []  # noqa: PTH208 - beyond a link
    server.start()
    assert server.sql("SELECT count(*), sum(n) FROM changed") == [(20000, 200010000)]
    assert server.sql("SELECT count(*) FROM dropped") == [(20000,)]
    assert server.sql("SELECT count(*) FROM same") == [(20000,)]
    assert server.sql(RELATIONS) == [(0,)]
    server.stop()
    document = succeed(tmp_path, *words, "--json").document["restore"]
    assert document["kept_files"] + document["rewritten_files"] == document["files"]
    assert document["kept_bytes"] > document["rewritten_bytes"] > 0


def test_a_plan_says_that_files_will_be_compared(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    server = cluster_factory(18, as_caller=True)
    repo = tmp_path / "repo"
    succeed(tmp_path, "backup", "-d", server.conninfo(), "-c", "fast", "-B", repo)
    words = ("restore", "--plan", "--delta", "-B", repo, "-D", server.pgdata)
    assert b"file by file" in succeed(tmp_path, *words).out
    assert succeed(tmp_path, *words, "--json").document["plan"]["delta"] is True
    assert server.sql("SELECT 1") == [(1,)]
