#!/usr/bin/env python3
"""Is `pgbackup restore --delta` faster than pgBackRest's?

One cluster of PostgreSQL 15, backed up by both tools with zstd level 1, and restored by each into a
directory of its own; then `restore --delta -j 2` against pgBackRest's `restore --delta` with
--process-max=2, over these directories: once unchanged, once with the largest file changed at every
block, its length and its times kept. All end with everything on disk. Method: pairs.py.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pgbackrest
from data import back_up, data_size, make_cluster
from pairs import Contender, machine, print_rows, ratio_row, read_everything, run_pairs
from restore import JOBS
from workplace import make_parser, parse_options, workplace

from tests.cluster import Cluster

BLOCK = 8192  # bytes


def main() -> None:
    """Build the cluster, back it up and restore it twice, time the pairs, print one table."""
    options = parse_options(make_parser(__doc__, 3.3))
    with (
        workplace(options.directory) as work,
        make_cluster(work / "cluster", options.gigabytes) as cluster,
    ):
        _compare(cluster, work, options.rounds)


def _compare(cluster: Cluster, work: Path, rounds: int) -> None:
    size = data_size(cluster)
    repo = work / "repository"
    if not pgbackrest.is_installed():
        sys.exit("pgBackRest is not installed")
    back_up(cluster, repo)
    peer = pgbackrest.back_up(cluster, work, work / "pgbackrest")
    cluster.stop()
    files = [path for path in cluster.pgdata.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size).relative_to(cluster.pgdata)
    print(machine())
    print(f"PostgreSQL 15, {size / 1e9:.2f} GB in {len(files)} files, {rounds} pairs each\n")
    shutil.rmtree(cluster.pgdata)  # make room
    ours = _Target(work / "restored", largest)
    other = _Target(work / "pgbackrest-restored", largest)
    commands = (_pgbackup(ours.path, repo), _pgbackrest(other.path, peer))
    for command in commands:
        subprocess.run(command, check=True)
    changed = f"{ours.largest.stat().st_size / 1e9:.2f} GB changed"

    def warm() -> None:
        for each in (ours.path, other.path, repo, work / "pgbackrest"):
            read_everything(each)

    rows = []
    for case in ("unchanged", changed):
        prepare = [each.change if case == changed else _nothing for each in (ours, other)]
        one = Contender(f"restore --delta -j {JOBS}, {case}", commands[0], prepare[0])
        name = f"pgbackrest --delta --process-max={pgbackrest.PROCESSES}"
        two = Contender(name, commands[1], prepare[1])
        rows.append(_row(one, two, rounds, warm))
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


def _pgbackrest(target: Path, words: Sequence[str]) -> list[str]:
    target.mkdir(mode=0o700)
    return [*words, f"--pg1-path={target}", "--delta", "restore"]


if __name__ == "__main__":
    main()
