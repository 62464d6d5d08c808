#!/usr/bin/env python3
"""How long do list and expire --dry-run take with 1,000 backups and 200,000 segments?

Makes a repository of small files, with records as backups write them, then times whole runs of the
program. Aim: under 2 seconds and 200 MB each.

Usage: catalogue.py [--quick] [--backups N] [--segments N] [--runs N] [--directory DIR]

--quick makes a hundredth of it, to keep this program alive.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pgbackup.pg.lsn import Lsn, Segment, Timeline  # noqa: E402
from pgbackup.repo import layout  # noqa: E402
from pgbackup.repo.record import ChecksumFailures, WalRange, encode_record  # noqa: E402
from pgbackup.repo.repository import Repository  # noqa: E402
from pgbackup.storage.local import LocalStorage  # noqa: E402
from tests.repo.samples import NOON, SYSTEM, record  # noqa: E402

SIZE = 16 << 20
COMMANDS = {
    "list": ["list"],
    "list --json": ["list", "--json"],
    "expire --dry-run --keep 7d,4w,12m": ["expire", "--dry-run", "--keep", "7d,4w,12m"],
    "expire --dry-run --pitr-days 30": ["expire", "--dry-run", "--pitr-days", "30"],
}


def fill(directory: Path, backups: int, segments: int) -> None:
    """Make the repository: a backup every few segments, on one timeline."""
    cluster = Repository.open(LocalStorage(directory), create=True).cluster(SYSTEM)
    cluster.bind(150000, SIZE)
    wal = directory / layout.wal_folder(SYSTEM)
    wal.mkdir(parents=True)
    for number in range(1, segments + 1):
        os.close(os.open(wal / f"{Segment(Timeline(1), number, SIZE)}.zst", os.O_CREAT, 0o600))
    step = segments // backups
    begin = NOON - timedelta(days=backups)
    for number in range(backups):
        time_ = begin + timedelta(days=number)
        label = layout.format_label("full", time_.replace(tzinfo=None))
        first = Segment(Timeline(1), number * step + 1, SIZE)
        folder = directory / layout.backup_folder(SYSTEM, label)
        folder.mkdir(parents=True)
        for name in ("base.tar.zst", "base.index", layout.MANIFEST):
            (folder / name).touch(0o600)
        stored = record(
            label,
            timeline=Timeline(1),
            stop_timeline=Timeline(1),
            start_lsn=first.start + 40,
            stop_lsn=Lsn(first.start + 400),
            start_time=time_,
            stop_time=time_ + timedelta(hours=1),
            wal_segment_size=SIZE,
            wal=(WalRange(1, first.name, first.name),),
            histories=(),
            checksum_failures=ChecksumFailures(),
        )
        (folder / layout.RECORD).write_bytes(encode_record(stored))


def measure(repo: Path, words: list[str], runs: int) -> tuple[float, float, float]:
    """Median wall and CPU seconds of whole runs, and the largest peak in MB."""
    walls, cpus, peak = [], [], 0.0
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.monotonic()
        command = [sys.executable, "-m", "pgbackup", *words, "-B", str(repo)]
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        walls.append(time.monotonic() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        peak = max(peak, after.ru_maxrss / 1024)
    return statistics.median(walls), statistics.median(cpus), peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--backups", type=int, default=1000)
    parser.add_argument("--segments", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="a repository of an earlier run, or new")
    options = parser.parse_args()
    share = 100 if options.quick else 1
    with tempfile.TemporaryDirectory(prefix="pgb-catalogue-") as temporary:
        repo = options.directory or Path(temporary) / "repo"
        if not repo.exists():
            fill(repo, options.backups // share, options.segments // share)
        print("| command | wall s | cpu s | peak MB, largest so far |\n|---|---|---|---|")
        for name, words in COMMANDS.items():
            wall, cpu, peak = measure(repo, words, 1 if options.quick else options.runs)
            print(f"| {name} | {wall:.2f} | {cpu:.2f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
