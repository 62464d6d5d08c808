#!/usr/bin/env python3
"""Is `pgbackup restore` faster than unpacking the same archive with tar, and than pgBackRest?

One cluster of PostgreSQL 15, backed up by both tools with zstd level 1; `restore -j 2` against
`zstd -dc base.tar.zst | tar x` of the very archive that it reads, followed by `sync -f`, and
against pgBackRest's restore with --process-max=2 (bundled small files, its fastest form). All end
with everything on disk. Method: pairs.py. No run follows the removal of files, which would make
the creation of new ones slow on ext4: old targets are put aside, emptied, and removed at the end.
"""

import sys
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import pgbackrest
from data import back_up, data_size, make_cluster
from pairs import (
    Contender,
    machine,
    print_rows,
    ratio_row,
    read_everything,
    run_pairs,
    touch_memory,
)
from workplace import make_parser, parse_options, workplace

from tests.cluster import Cluster

JOBS = "2"
"""As many as processes of pgBackRest."""


def main() -> None:
    """Build the cluster, back it up twice, time the pairs, print one table."""
    options = parse_options(make_parser(__doc__, 2.2))
    with (
        workplace(options.directory) as work,
        make_cluster(work / "cluster", options.gigabytes) as cluster,
    ):
        _compare(cluster, work, options.rounds)


def _compare(cluster: Cluster, work: Path, rounds: int) -> None:
    size = data_size(cluster)
    repo = work / "repository"
    back_up(cluster, repo)
    peer = None
    if pgbackrest.is_installed():
        peer = pgbackrest.back_up(cluster, work, work / "pgbackrest")
    cluster.stop()
    print(machine())
    files = sum(1 for path in cluster.pgdata.rglob("*") if path.is_file())
    print(f"PostgreSQL 15, {size / 1e9:.2f} GB in {files} files, {rounds} pairs each\n")

    def warm_ours() -> None:
        read_everything(repo)
        touch_memory(work, size)

    pgbackup = _pgbackup(work, repo)
    rows = [_row(pgbackup, _tar(work, repo), rounds, warm_ours)]
    if peer is None:
        print("pgBackRest is not installed: left out\n")
    else:

        def warm_both() -> None:
            read_everything(work / "pgbackrest")
            warm_ours()

        rows.append(_row(pgbackup, _pgbackrest(work, peer), rounds, warm_both))
    print_rows(rows)


def _row(ours: Contender, peer: Contender, rounds: int, warm: Callable[[], object]) -> list[str]:
    return ratio_row(ours, peer, run_pairs(ours, peer, rounds, warm))


def _aside(target: Path, numbers: "count[int]") -> None:
    """Make way for a new target, and give its space back without removing a name."""
    if not target.exists():
        return
    old = target.with_name(f"{target.name}-{next(numbers)}")
    target.rename(old)
    for path in old.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.write_bytes(b"")


def _pgbackup(work: Path, repo: Path) -> Contender:
    target, numbers = work / "restored", count()
    command = [sys.executable, "-m", "pgbackup", "restore", "-q", "-j", JOBS]
    command += ["-B", str(repo), "-D", str(target)]
    return Contender(f"restore -j {JOBS}", command, lambda: _aside(target, numbers))


def _tar(work: Path, repo: Path) -> Contender:
    target, numbers = work / "unpacked", count()
    (archive,) = repo.glob("*/backups/*/base.tar.zst")

    def prepare() -> None:
        _aside(target, numbers)
        target.mkdir()

    script = 'zstd -dcq "$1" | tar x -C "$2" && sync -f "$2"'
    command = ["sh", "-c", script, "sh", str(archive), str(target)]
    return Contender("zstd -dc, tar x, sync -f", command, prepare)


def _pgbackrest(work: Path, words: Sequence[str]) -> Contender:
    target, numbers = work / "pgbackrest-restored", count()

    def prepare() -> None:
        _aside(target, numbers)
        target.mkdir(mode=0o700)

    command = [*words, f"--pg1-path={target}", "restore"]
    return Contender(f"pgbackrest --process-max={pgbackrest.PROCESSES}", command, prepare)


if __name__ == "__main__":
    main()
