#!/usr/bin/env python3
"""How much longer does a server recover 200 segments through wal-get than through cp?

PostgreSQL 15 recovers a copy of its data directory with 3.4 GB of WAL: full-page images and updates
of a table. cp takes the segments from a plain directory; wal-get, installed as users have it and
with all defaults, from a repository that wal-push filled. In turn; quoted is the time between the
first record and the last ("redo done" in the server's log). What a run reads was read just before.

Preparing takes minutes: --keep DIR does it once, and uses what is there the next time.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from installed import install, plain_environment
from pairs import machine, print_rows, read_everything

from tests.cluster import Cluster

SEGMENTS = 200
MAJOR = 15
SETTINGS = {
    "autovacuum": False,
    "checkpoint_timeout": "1h",
    "max_wal_size": "2GB",
    "shared_buffers": "256MB",
    "wal_keep_size": "8GB",
}
ELAPSED = re.compile(r"redo done at .* elapsed: ([0-9.]+) s")
RESTORED = re.compile(r'restored log file "[0-9A-F]{24}" from archive')


def prepare(work: Path) -> None:
    """Make the base, the plain directory and the repository."""
    with Cluster.create(
        work / "cluster", MAJOR, wal_segsize_mb=16, as_caller=True, settings=SETTINGS
    ) as cluster:
        cluster.start()
        cluster.pgbench_init(10)
        cluster.stop()
        shutil.copytree(cluster.pgdata, work / "base", symlinks=True)
        cluster.start()
        (first,) = cluster.sql("SELECT pg_walfile_name(pg_switch_wal())")[0]
        names: list[str] = []
        while len(names) < SEGMENTS:
            cluster.sql("UPDATE pgbench_accounts SET abalance = abalance + 1")
            cluster.sql("VACUUM pgbench_accounts")
            cluster.sql("CHECKPOINT")
            (current,) = cluster.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")[0]
            wal = cluster.pgdata / "pg_wal"
            names = sorted(path.name for path in wal.glob("0000*") if first <= path.name < current)
        cluster.stop()
        (work / "plain").mkdir()
        for name in names[:SEGMENTS]:
            shutil.copyfile(wal / name, work / "plain" / name)
            subprocess.run(
                [work / "program/bin/pgbackup", "wal-push", "-B", work / "repo", f"pg_wal/{name}"],
                cwd=cluster.pgdata,
                env=plain_environment(),
                check=True,
            )
    (work / "ready").touch()


def recover(work: Path, command: str, number: int) -> float:
    """Seconds that a server takes to recover all segments."""
    pgdata = work / f"run-{number}"
    shutil.copytree(work / "base", pgdata, symlinks=True)
    (pgdata / "recovery.signal").touch()
    settings = {**SETTINGS, "restore_command": command, "fsync": True}
    try:
        with Cluster.open_existing(pgdata, MAJOR, settings=settings, as_caller=True) as cluster:
            cluster.start()
            cluster.poll_until("SELECT pg_is_in_recovery()", False, timeout=300)
            cluster.stop("immediate")
            log = cluster.log
    finally:
        shutil.rmtree(pgdata)
    elapsed, count = ELAPSED.search(log), len(RESTORED.findall(log))
    if elapsed is None or count < SEGMENTS:
        sys.exit(f"{command} restored {count} segments:\n{log[-4000:]}")
    return float(elapsed[1])


def main() -> None:
    """Recover in turn, print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    work = options.keep or Path(tempfile.mkdtemp(prefix="pgbackup-bench-", dir=options.directory))
    try:
        shutil.rmtree(work / "program", ignore_errors=True)
        work.mkdir(exist_ok=True)
        install(work / "program")
        if not (work / "ready").exists():
            prepare(work)
        ours = f"{work}/program/bin/pgbackup wal-get -B {work}/repo %f %p"
        peer = f"cp {work}/plain/%f %p"
        walls: dict[str, list[float]] = {ours: [], peer: []}
        for number in range(options.rounds):
            for place, command in (("repo", ours), ("plain", peer)):
                read_everything(work / place)
                walls[command].append(recover(work, command, number))
        print(machine(), "\n")
        one, other = walls[ours], walls[peer]
        ratios = [a / b for a, b in zip(one, other, strict=True)]
        median = statistics.median
        row = [f"{median(one):.1f}", f"{median(other):.1f}"]
        row.append(f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
        print_rows(
            [[f"{SEGMENTS} segments, wal-get against cp", *row]],
            ("what", "ours s", "cp s", "ratio"),
        )
    finally:
        if options.keep is None:
            shutil.rmtree(work)


if __name__ == "__main__":
    os.umask(0o077)
    main()
