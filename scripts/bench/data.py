"""The cluster that benchmarks run on: compressible and less compressible tables.

pgbench's tables compress 10 to 20 times; a quarter of the size is random text and random bytea.
"""

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.cluster import Cluster

ROWS_PER_GIGABYTE = 1_130_000
"""Of the two random tables together, for a quarter of a gigabyte."""

SCALES_PER_GIGABYTE = 50
"""pgbench scale for three quarters of a gigabyte, its index included."""


def make_cluster(directory: Path, gigabytes: float, major: int = 15) -> Cluster:
    """A running server with about so much data, quiet and checkpointed.

    directory: on the file system under test; must not exist.
    """
    settings: dict[str, str | int | float | bool] = {
        "autovacuum": "off",
        "max_wal_size": "2GB",
        "shared_buffers": "128MB",
        "max_wal_senders": 10,
    }
    cluster = Cluster.create(directory, major, wal_segsize_mb=16, settings=settings)
    cluster.start()
    cluster.pgbench_init(max(1, round(gigabytes * SCALES_PER_GIGABYTE)))
    rows = round(gigabytes * ROWS_PER_GIGABYTE / 2)
    cluster.sql(
        "CREATE TABLE random_text AS SELECT g AS id, md5(random()::text) || md5(random()::text)"
        f" || md5(random()::text) AS t FROM generate_series(1, {rows}) g"
    )
    cluster.sql(
        "CREATE TABLE random_bytes AS SELECT g AS id, decode(md5(random()::text)"
        f" || md5(random()::text) || md5(random()::text), 'hex') AS b"
        f" FROM generate_series(1, {rows}) g"
    )
    cluster.sql("CHECKPOINT")
    cluster.sql("SELECT pg_switch_wal()")
    cluster.sql("CHECKPOINT")
    return cluster


def back_up(cluster: Cluster, repository: Path) -> None:
    """Take a backup of ours at zstd level 1."""
    command = [sys.executable, "-m", "pgbackup", "backup", "-q", "-c", "fast", "-Z"]
    command += ["zstd:level=1,workers=2", "-d", cluster.conninfo(), "-B", str(repository)]
    subprocess.run(command, check=True)


def data_size(cluster: Cluster) -> int:
    """Bytes of the data directory without its WAL, as a base backup carries it."""
    total = 0
    for folder, folders, files in os.walk(cluster.pgdata):
        if "pg_wal" in folders:
            folders.remove("pg_wal")
        total += sum(os.lstat(Path(folder) / name).st_size for name in files)
    return total
