#!/usr/bin/env python3
"""Is `pgbackup restore` faster than unpacking the same archive with tar, and than pgBackRest?

One cluster of PostgreSQL 15, backed up by both tools with zstd level 1; `restore -j 2` against
`zstd -dc base.tar.zst | tar x` of the very archive that it reads, followed by `sync -f`, and
against pgBackRest's restore with --process-max=2 (bundled small files, its fastest form). All end
with everything on disk. Method: pairs.py. No run follows the removal of files, which would make
the creation of new ones slow on ext4: old targets are put aside, emptied, and removed at the end.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import count
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

from tests.cluster import Cluster

JOBS = "2"


def main() -> None:
    """Build the cluster, back it up twice, time the pairs, print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.2)
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
    print(machine())
    files = sum(1 for path in cluster.pgdata.rglob("*") if path.is_file())
    print(f"PostgreSQL 15, {size / 1e9:.2f} GB in {files} files, {rounds} pairs each\n")

    def warm_ours() -> None:
        read_everything(repo)
        touch_memory(work, size)

    pgbackup = _pgbackup(work, repo)
    rows = [_row(pgbackup, _tar(work, repo), rounds, warm_ours)]
    if configuration is None:
        print("pgBackRest is not installed: left out\n")
    else:

        def warm_both() -> None:
            read_everything(work / "pgbackrest")
            warm_ours()

        rows.append(_row(pgbackup, _pgbackrest(work, configuration), rounds, warm_both))
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


def back_up_with_pgbackrest(cluster: Cluster, work: Path) -> Path | None:
    """Its repository and configuration file; None where it is not installed."""
    if shutil.which("pgbackrest") is None:
        return None
    top = work / "pgbackrest"
    top.mkdir()
    configuration = work / "pgbackrest.conf"
    configuration.write_text(
        f"""[global]
repo1-path={top}
repo1-bundle=y
repo1-retention-full=1
lock-path={work / "lock"}
log-level-console=error
log-level-file=off
compress-type=zst
compress-level=1
process-max={JOBS}
start-fast=y
archive-check=n
[bench]
pg1-path={cluster.pgdata}
pg1-socket-path={cluster.run_directory}
pg1-port={cluster.port}
pg1-user=postgres
"""
    )
    words = ["pgbackrest", f"--config={configuration}", "--stanza=bench"]
    # archive_mode is off: it would archive into both repositories while being timed.
    subprocess.run([*words, "stanza-create"], check=True)
    subprocess.run([*words, "--type=full", "backup"], check=True)
    return configuration


def _pgbackrest(work: Path, configuration: Path) -> Contender:
    target, numbers = work / "pgbackrest-restored", count()

    def prepare() -> None:
        _aside(target, numbers)
        target.mkdir(mode=0o700)

    command = ["pgbackrest", f"--config={configuration}", "--stanza=bench"]
    command += [f"--pg1-path={target}", "restore"]
    return Contender(f"pgbackrest --process-max={JOBS}", command, prepare)


if __name__ == "__main__":
    main()
