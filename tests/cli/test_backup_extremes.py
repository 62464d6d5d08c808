"""backup --pgdata of data directories with much of one thing: tablespaces, files, bytes in a file.

The numbers are small where the whole suite runs; PGBACKUP_TABLESPACES, PGBACKUP_TINY_FILES and
PGBACKUP_LARGE_FILE (bytes) make them what they should withstand: 200, 100000 and 9 GB.
"""

import os
import random
from pathlib import Path

import pytest

from tests.cli.program import Answer, run
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory

TABLESPACES = int(os.environ.get("PGBACKUP_TABLESPACES", "12"))
TINY_FILES = int(os.environ.get("PGBACKUP_TINY_FILES", "1000"))
LARGE_FILE = int(os.environ.get("PGBACKUP_LARGE_FILE", str((8 << 30) + 5 * (1 << 20) + 123)))
"""Bytes. More than tar can say in octal."""

ODD_NAMES = (b"line\nbreak", b"caf\xe9", b"\xff\xfe", b"back\\slash", b"*?[a]", b"-n", b" ")


def back_up(server: Cluster, tmp_path: Path, *options: str) -> Answer:
    words = ("--pgdata", str(server.pgdata), "-d", server.conninfo(), "-c", "fast", "-j", "2")
    said = run(tmp_path, "backup", *words, "-B", "repo", *options)
    assert said.status == 0, said.err
    verified = run(tmp_path, "verify", "-B", "repo")
    assert verified.status == 0, verified.out
    return said


def test_every_one_of_many_tablespaces_comes_back(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    server = cluster_factory(18)
    spaces = server.account.make_directory(server.pgdata.parent / "spaces")
    with server.connect() as connection:
        for number in range(TABLESPACES):
            place = server.account.make_directory(spaces / str(number))
            connection.execute(f"CREATE TABLESPACE s{number} LOCATION '{place}'")
            connection.execute(
                f"CREATE TABLE t{number} TABLESPACE s{number} AS SELECT {number} AS n"
            )
    document = back_up(server, tmp_path, "--json").document["backup"]
    assert len(document["tablespaces"]) == TABLESPACES
    target, moved = tmp_path / "data", tmp_path / "moved"
    maps = [f"-T{spaces / str(number)}={moved / str(number)}" for number in range(TABLESPACES)]
    restored = run(tmp_path, "restore", "-B", "repo", "-D", str(target), *maps)
    assert restored.status == 0, restored.err
    with Cluster.open_existing(target, 18) as copy:
        copy.account.give(moved)
        copy.start()
        for number in range(TABLESPACES):
            assert copy.sql(f"SELECT n FROM t{number}") == [(number,)]


def test_many_files_of_any_name_come_back(cluster_factory: ClusterFactory, tmp_path: Path) -> None:
    server = cluster_factory(18)
    chance = random.Random(5)
    log = os.fsencode(server.pgdata) + b"/log"
    contents = {b"/odd/" + name: name * 3 for name in ODD_NAMES}
    for number in range(TINY_FILES):
        contents[b"/%d/%d" % (number % 20, number)] = chance.randbytes(chance.randrange(300))
    for name, content in contents.items():
        path = Path(os.fsdecode(log + name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    server.account.give(server.pgdata)
    back_up(server, tmp_path)
    restored = run(tmp_path, "restore", "-B", "repo", "-D", str(tmp_path / "data"))
    assert restored.status == 0, restored.err
    found = {
        os.fsencode(path)[len(os.fsencode(tmp_path / "data" / "log")) :]: path.read_bytes()
        for path in (tmp_path / "data" / "log").rglob("*")
        if path.is_file()
    }
    assert found == contents


@pytest.mark.slow
def test_a_file_larger_than_octal_sizes_is_stored_whole(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    """It is sparse: holes are read as zeros, and take next to nothing when compressed."""
    server = cluster_factory(18)
    large = server.pgdata / "large"
    with large.open("wb") as file:
        file.write(b"begin")
        file.truncate(LARGE_FILE)
        file.seek(-3, os.SEEK_END)
        file.write(b"end")
    server.account.give(large)
    back_up(server, tmp_path, "-Z", "zstd:level=1")
    (folder,) = (tmp_path / "repo").glob("*/backups/*")
    assert f"\t{LARGE_FILE}\t0\tlarge\n" in (folder / "base.index").read_text()
    assert (folder / "base.tar.zst").stat().st_size < 64 << 20
