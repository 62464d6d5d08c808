#!/usr/bin/env python3
"""Is `pgbackup backup` from a server as fast as pg_basebackup, and at what cost?

Side by side on one cluster of PostgreSQL 15 over a Unix socket, WAL streamed, everything fsynced:
`backup -Z zstd:level=1,workers=2` against pg_basebackup -Ft -X stream plain, with client-side zstd
level 1 on one and on two threads, and with its fastest mode, server-side zstd on two threads; then
`-Z none` against plain. Method: pairs.py.
"""

import sys
from pathlib import Path

from data import data_size, make_cluster
from pairs import (
    Contender,
    machine,
    print_rows,
    ratio_row,
    read_everything,
    run_pairs,
    touch_memory,
)
from workplace import clear, make_parser, parse_options, workplace

from tests.cluster import Cluster, client_bin


def main() -> None:
    """Build the cluster, time the pairs, print one table."""
    options = parse_options(make_parser(__doc__, 2.2))
    with (
        workplace(options.directory) as work,
        make_cluster(work / "cluster", options.gigabytes) as cluster,
    ):
        _compare(cluster, work, options.rounds)


def _compare(cluster: Cluster, work: Path, rounds: int) -> None:
    size = data_size(cluster)
    print(machine())
    version = cluster.sql("SHOW server_version")[0][0]
    print(f"PostgreSQL {version}, {size / 1e9:.2f} GB, {rounds} pairs each\n")

    def warm() -> None:
        read_everything(cluster.pgdata / "base")
        touch_memory(work, size)

    zstd = _ours(cluster, work, "zstd:level=1,workers=2")
    pairs = [
        (zstd, _peer(cluster, work, "client-zstd:level=1")),
        (zstd, _peer(cluster, work, "client-zstd:level=1,workers=2")),
        (zstd, _peer(cluster, work, "none")),
        (zstd, _peer(cluster, work, "server-zstd:level=1,workers=2")),
        (_ours(cluster, work, "none"), _peer(cluster, work, "none")),
    ]
    rows = [ratio_row(ours, peer, run_pairs(ours, peer, rounds, warm)) for ours, peer in pairs]
    print_rows(rows)


def _ours(cluster: Cluster, work: Path, compression: str) -> Contender:
    target = work / "repository"
    command = [sys.executable, "-m", "pgbackup", "backup", "-q", "-c", "fast"]
    command += ["-d", cluster.conninfo(), "-B", str(target), "-Z", compression]
    return Contender(f"backup -Z {compression}", command, lambda: clear(target))


def _peer(cluster: Cluster, work: Path, compression: str) -> Contender:
    target = work / "pg_basebackup"
    command = [str(client_bin("pg_basebackup", 15)), "-Ft", "-X", "stream", "-c", "fast"]
    command += ["-d", cluster.conninfo(), "-D", str(target)]
    if compression != "none":
        command.append(f"--compress={compression}")
    return Contender(f"pg_basebackup {compression}", command, lambda: clear(target))


if __name__ == "__main__":
    main()
