#!/usr/bin/env python3
"""Is `pgbackup restore --delta` faster than pgBackRest's?

One cluster of PostgreSQL 15, backed up by both tools with zstd level 1, and restored by each into a
directory of its own; then `restore --delta -j 2` against pgBackRest's `restore --delta` with
--process-max=2, over these directories: once unchanged, once with the largest file changed at every
block, its length and its times kept. All end with everything on disk. Method: pairs.py.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from data import data_size, make_cluster
from pairs import Contender, machine, print_rows, ratio_row, read_everything, run_pairs
from restore import JOBS, back_up_with_pgbackrest

from tests.cluster import Cluster

BLOCK = 8192  # bytes


def main() -> None:
    """Build the cluster, back it up and restore it twice, time the pairs, print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=3.3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--quick", action="store_true", help="a small run that keeps this alive")
    options = parser.parse_args()
    if options.quick:
        options.gigabytes, options.rounds = 0.05, 1
    work = Path(tempfile.mkdtemp(prefix="pgbackup-bench-", dir=options.directory))
    work.chmod(0o755)
    try:
        with make_cluster(work / "cluster", options.gigabytes) as cluster:
            _compare(cluster, work, options.rounds)
    finally:
        shutil.rmtree(work)


def _compare(cluster: Cluster, work: Path, rounds: int) -> None:
    size = data_size(cluster)
    repo = work / "repository"
    ours = [sys.executable, "-m", "pgbackup", "backup", "-q", "-c", "fast"]
    ours += ["-d", cluster.conninfo(), "-B", str(repo), "-Z", f"zstd:level=1,workers={JOBS}"]
    subprocess.run(ours, check=True)
    configuration = back_up_with_pgbackrest(cluster, work)
    cluster.stop()
    if configuration is None:
        sys.exit("pgBackRest is not installed")
    files = [path for path in cluster.pgdata.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size).relative_to(cluster.pgdata)
    print(machine())
    print(f"PostgreSQL 15, {size / 1e9:.2f} GB in {len(files)} files, {rounds} pairs each\n")
    shutil.rmtree(cluster.pgdata)  # make room
    pgbackup = _Target(work / "restored", largest)
    pgbackrest = _Target(work / "pgbackrest-restored", largest)
    commands = (_pgbackup(pgbackup.path, repo), _pgbackrest(pgbackrest.path, configuration))
    for command in commands:
        subprocess.run(command, check=True)
    changed = f"{pgbackup.largest.stat().st_size / 1e9:.2f} GB changed"

    def warm() -> None:
        for each in (pgbackup.path, pgbackrest.path, repo, work / "pgbackrest"):
            read_everything(each)

    rows = []
    for case in ("unchanged", changed):
        prepare = [each.change if case == changed else _nothing for each in (pgbackup, pgbackrest)]
        one = Contender(f"restore --delta -j {JOBS}, {case}", commands[0], prepare[0])
        other = Contender(f"pgbackrest --delta --process-max={JOBS}", commands[1], prepare[1])
        rows.append(_row(one, other, rounds, warm))
    print_rows(rows)


class _Target:
    """A directory that one of the two restores into, again and again."""

    def __init__(self, path: Path, largest: Path) -> None:
        self.path = path
        self.largest = path / largest

    def change(self) -> None:
        """Change the largest file in a way that neither size nor times show."""
        times = self.largest.stat()
        with self.largest.open("r+b") as file:
            for offset in range(0, times.st_size, BLOCK):
                file.seek(offset)
                file.write(b"changed!")
            file.flush()
            os.fsync(file.fileno())
        os.utime(self.largest, ns=(times.st_atime_ns, times.st_mtime_ns))


def _nothing() -> None:
    pass


def _row(one: Contender, other: Contender, rounds: int, warm: Callable[[], object]) -> list[str]:
    return ratio_row(one, other, run_pairs(one, other, rounds, warm))


def _pgbackup(target: Path, repo: Path) -> list[str]:
    command = [sys.executable, "-m", "pgbackup", "restore", "-q", "--delta", "-j", JOBS]
    return [*command, "-B", str(repo), "-D", str(target)]


def _pgbackrest(target: Path, configuration: Path) -> list[str]:
    target.mkdir(mode=0o700)
    command = ["pgbackrest", f"--config={configuration}", "--stanza=bench", f"--pg1-path={target}"]
    return [*command, "--delta", "restore"]


if __name__ == "__main__":
    main()
