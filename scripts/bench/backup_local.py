#!/usr/bin/env python3
"""Is `pgbackup backup --pgdata` faster than everything else that copies a data directory?

One cluster of PostgreSQL 15 with data checksums, thousands of small tables among its files, read
from the page cache and written to the same file system, everything synced. `backup --pgdata -j 2`
with zstd level 1, pages verified and the WAL streamed, against pg_basebackup -Ft -X none plain,
with client-side zstd and in its fastest mode (server-side zstd on two threads); against tar, zstd
and sync; against itself without page checks; and against pgBackRest (two processes, bundled small
files, page checks on) at zstd level 1 and 3. All contenders run in turn; ratios are taken round by
round. The rest of the method is that of pairs.py.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pgbackrest
from data import data_size, make_cluster
from pairs import (
    Contender,
    Run,
    machine,
    print_rows,
    ratio_row,
    read_everything,
    run_once,
    touch_memory,
)
from workplace import clear, make_parser, parse_options, workplace

from tests.cluster import Cluster, client_bin

JOBS = "2"
SMALL_TABLES = 3000

PAIRS = (
    ("ours 1", "client-zstd:level=1"),
    ("ours 1", "server-zstd:level=1,workers=2"),
    ("ours 1", "plain"),
    ("ours 1", "tar | zstd -1 -T2"),
    ("ours 1", "ours 1, no page checks"),
    ("ours 1", "pgbackrest 1"),
    ("ours 3", "pgbackrest 3"),
)


def main() -> None:
    """Build or find the cluster, time all contenders in turn, print one table."""
    parser = make_parser(__doc__, 3.0)
    parser.add_argument("--keep", type=Path, help="the cluster stays here for the next run")
    parser.add_argument("--only", action="append", metavar="PEER", help="one of the pairs' peers")
    options = parse_options(parser)
    with (
        workplace(options.directory) as work,
        running_cluster(options.keep or work / "cluster", options.gigabytes) as cluster,
    ):
        compare(cluster, work, options.rounds, options.only)
        if options.keep:
            cluster.stop()


def running_cluster(directory: Path, gigabytes: float) -> Cluster:
    """The cluster of a former run, or a new one."""
    if directory.exists():
        cluster = Cluster.attach(directory)
        cluster.start()
        return cluster
    cluster = make_cluster(directory, gigabytes)
    tables = range(max(1, round(SMALL_TABLES * gigabytes / 3)))
    for number in tables:
        cluster.sql(
            f"CREATE TABLE small_{number} (id int PRIMARY KEY, t text);"
            f" INSERT INTO small_{number} SELECT g, repeat('x', 50) FROM generate_series(1, 100) g"
        )
    cluster.sql("CHECKPOINT")
    return cluster


def compare(cluster: Cluster, work: Path, rounds: int, only: Sequence[str] | None) -> None:
    """Time everything in turn, and print what the pairs give.

    Each round begins with another contender, since one pays for what the one before has left.
    """
    contenders = all_contenders(cluster, work)
    pairs = [pair for pair in PAIRS if pair[1] in (only or contenders)]
    chosen = list(dict.fromkeys(name for pair in pairs for name in pair))
    size = data_size(cluster)
    files = sum(1 for path in cluster.pgdata.rglob("*") if path.is_file())
    print(machine())
    print(f"PostgreSQL 15, {size / 1e9:.2f} GB in {files} files, {rounds} rounds\n")
    runs: dict[str, list[Run]] = {name: [] for name in chosen}
    stored: dict[str, int] = {}
    for number in range(rounds + 1):
        for name in chosen[number % len(chosen) :] + chosen[: number % len(chosen)]:
            read_everything(cluster.pgdata / "base")
            touch_memory(work, size if name == "plain" else size // 4)
            run = run_once(contenders[name])
            print(f"{number} {name}: {run.wall:.2f} s, cpu {run.cpu:.2f} s", file=sys.stderr)
            if number:
                runs[name].append(run)
            files_made = (path for path in (work / "target").rglob("*") if path.is_file())
            stored[name] = sum(path.stat().st_size for path in files_made) // 1_000_000
            clear(work / "target")
    print_rows(
        [
            ratio_row(contenders[one], contenders[other], (runs[one], runs[other]))
            for one, other in pairs
        ]
    )
    print(f"\nstored MB: {stored}")


def all_contenders(cluster: Cluster, work: Path) -> dict[str, Contender]:
    """Every contender by its name in PAIRS. All write to the same place."""
    target = work / "target"
    found = {
        "ours 1": ours(cluster, target, "1"),
        "ours 1, no page checks": ours(cluster, target, "1", "--no-verify-checksums"),
        "ours 3": ours(cluster, target, "3"),
        "plain": pg_basebackup(cluster, target, "none"),
        "tar | zstd -1 -T2": tar(cluster, target),
    }
    for mode in ("client-zstd:level=1", "server-zstd:level=1,workers=2"):
        found[mode] = pg_basebackup(cluster, target, mode)
    if pgbackrest.is_installed():
        found |= {f"pgbackrest {level}": rest(cluster, work, level) for level in "13"}
    else:
        print("pgBackRest is not installed: left out\n")
    return found


def ours(cluster: Cluster, target: Path, level: str, *options: str) -> Contender:
    command = [sys.executable, "-m", "pgbackup", "backup", "-q", "-c", "fast", "-j", JOBS]
    command += ["--pgdata", str(cluster.pgdata), "-d", cluster.conninfo(), "-B", str(target)]
    command += ["-Z", f"zstd:level={level}", *options]
    words = " ".join([f"backup --pgdata -j {JOBS}, level {level}", *options])
    return Contender(words, command)


def pg_basebackup(cluster: Cluster, target: Path, compression: str) -> Contender:
    command = [str(client_bin("pg_basebackup", 15)), "-Ft", "-X", "none", "-c", "fast"]
    command += ["-d", cluster.conninfo(), "-D", str(target)]
    command += [] if compression == "none" else [f"--compress={compression}"]
    return Contender(f"pg_basebackup {compression}", command)


def tar(cluster: Cluster, target: Path) -> Contender:
    script = (
        'tar cf - -C "$1" --exclude=./pg_wal . | zstd -q -1 -T2 > "$2/a.zst" && sync "$2/a.zst"'
    )
    command = ["sh", "-c", script, "sh", str(cluster.pgdata), str(target)]
    return Contender("tar, zstd -1 -T2, sync", command, target.mkdir)


def rest(cluster: Cluster, work: Path, level: str) -> Contender:
    target = work / "target"
    words = pgbackrest.configure(cluster, work, target, level, "checksum-page=y")

    def prepare() -> None:
        target.mkdir()
        subprocess.run([*words, "stanza-create"], check=True)

    name = f"pgbackrest --process-max={pgbackrest.PROCESSES}, level {level}"
    return Contender(name, [*words, "--type=full", "backup"], prepare)


if __name__ == "__main__":
    main()
