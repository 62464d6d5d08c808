#!/usr/bin/env python3
"""Is receive-wal as fast as stock pg_receivewal, far behind and as a synchronous standby?

catch-up: the same WAL (pgbench's tables and transactions, and a sixth of random bytes), kept by a
slot, is received from copies of that slot by each contender in turn up to the same position; the
ratios are taken round by round. standby: `pgbench -N -c 8` on a server that syncs, with one of the
two as its only synchronous standby, in turn, and once with none. The share of time in fsync is
that of one more round under strace, which slows both down. Method: pairs.py.
"""

import argparse
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from pairs import (
    Contender,
    Run,
    machine,
    print_rows,
    ratio_row,
    run_once,
    touch_memory,
)

from pgbackup.pg.lsn import Lsn
from tests.binaries import client_bin
from tests.cluster import Cluster

MAJOR = 15
SEGMENT = 16 << 20
PAGE = 8192
CLIENTS = 8
KEPT = "kept"
"""The slot that keeps the WAL; each run gets a copy."""

SETTINGS: dict[str, str | int | bool] = {
    "autovacuum": "off",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "shared_buffers": "256MB",
    "log_replication_commands": False,
}
SYNC_LINE = re.compile(r"^\s*[\d.]+\s+([\d.]+)\s+\d+\s+(\d+).*\s(?:fsync|fdatasync)$", re.MULTILINE)


class Bench:
    """A running server, and where things are received."""

    def __init__(self, cluster: Cluster, work: Path) -> None:
        self.cluster = cluster
        self.work = work
        self.target = work / "received"

    def ours(self, *words: str) -> list[str]:
        dsn = self.cluster.conninfo()
        return [sys.executable, "-m", "pgbackup", "receive-wal", "-q", "-d", dsn, "-B",
                str(self.target), *words]  # fmt: skip

    def stock(self, *words: str) -> list[str]:
        program = str(client_bin("pg_receivewal", MAJOR))
        return [program, "-d", self.cluster.conninfo(), "-D", str(self.target), *words]

    def clear(self) -> None:
        shutil.rmtree(self.target, ignore_errors=True)
        self.target.mkdir()

    def copy_slot(self) -> None:
        """A fresh target, and a slot that holds all of the WAL again."""
        self.clear()
        self.cluster.sql(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            " WHERE slot_name = 'run'"
        )
        self.cluster.sql(f"SELECT pg_copy_physical_replication_slot('{KEPT}', 'run')")


def make_wal(cluster: Cluster, size: int) -> None:
    """Write about so many bytes of WAL behind a slot."""
    cluster.sql(f"SELECT pg_create_physical_replication_slot('{KEPT}', true)")
    cluster.pgbench_init(max(1, size >> 26))
    cluster.sql("CREATE TABLE noise (b bytea); ALTER TABLE noise ALTER b SET STORAGE EXTERNAL")
    while kept(cluster) < size:
        cluster.sql(
            "INSERT INTO noise SELECT decode(string_agg(md5((g * random())::text), ''), 'hex')"
            f" FROM generate_series(1, {size >> 11}) g GROUP BY g / 500"
        )
        cluster.sql("CHECKPOINT")
        cluster.pgbench(CLIENTS, transactions=max(1, size >> 20), options=("-N",)).wait()


def kept(cluster: Cluster) -> int:
    """Bytes of WAL behind the slot."""
    where = f"FROM pg_replication_slots WHERE slot_name = '{KEPT}'"
    return int(cluster.sql(f"SELECT (pg_current_wal_lsn() - restart_lsn)::bigint {where}")[0][0])


def last_page(cluster: Cluster, size: int) -> Lsn:
    """Where the last page of a full segment begins, at most so many bytes behind the slot."""
    cluster.sql("SELECT pg_switch_wal()")
    where = f"FROM pg_replication_slots WHERE slot_name = '{KEPT}'"
    found = cluster.sql(f"SELECT pg_current_wal_lsn(), restart_lsn {where}")[0]
    end = min(Lsn.parse(found[0]), Lsn.parse(found[1]) + size)
    return Lsn(end - end % SEGMENT - PAGE)


def catch_up(bench: Bench, size: int, rounds: int, contenders: Sequence[str]) -> None:
    """Run all contenders in turn, and print what each pair gives."""
    words = ("-S", "run", "--endpos", str(last_page(bench.cluster, size)))
    every = {
        "-Z zstd": bench.ours(*words),
        "-Z none": bench.ours("-Z", "none", *words),
        "plain": bench.stock("--no-loop", *words),
        "lz4": bench.stock("--no-loop", "--compress=lz4", *words),
        "gzip:1": bench.stock("--no-loop", "--compress=gzip:1", *words),
    }
    wal = sorted((bench.cluster.pgdata / "pg_wal").glob("0*"))
    chosen = [Contender(name, every[name], bench.copy_slot) for name in contenders]
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    stored: dict[str, int] = {}
    for number in range(rounds + 1):
        for each in chosen:
            for path in wal[: size // SEGMENT + 1]:
                path.read_bytes()
            touch_memory(bench.work, size)
            run = run_once(each)
            if number:
                runs[each.name].append(run)
            files = (path for path in bench.target.rglob("*") if path.is_file())
            stored[each.name] = sum(path.stat().st_size for path in files) >> 20
    print(f"catch-up of about {size / 1e9:.2f} GB; stored MB: {stored}\n")
    print_rows(
        [
            ratio_row(Contender(one, ()), Contender(other, ()), (runs[one], runs[other]))
            for one in contenders
            for other in contenders
            if one.startswith("-Z") and not other.startswith("-Z")
        ]
    )


def standby(bench: Bench, rounds: int, seconds: int) -> None:
    """Run pgbench with each of the two as synchronous standby in turn."""
    cluster = bench.cluster
    cluster.pgbench_init(50)
    commands = {
        "receive-wal --synchronous": bench.ours("--synchronous"),
        "pg_receivewal --synchronous": bench.stock("--no-loop", "--synchronous"),
    }
    alone = transactions(cluster, seconds)
    cluster.configure({"synchronous_standby_names": "*"})
    cluster.reload()
    tps: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            found = beside(bench, command, seconds)
            if number:
                tps[name].append(found)
    ratios = [one / other for one, other in zip(*tps.values(), strict=True)]
    print(f"\npgbench -N -c {CLIENTS}, {seconds} s each; nothing attached: {alone:.0f} TPS\n")
    rows = []
    for name, command in commands.items():
        share, calls = fsync_share(bench, command, seconds)
        rows.append([name, f"{statistics.median(tps[name]):.0f}", f"{share:.0%}", str(calls)])
    rows[0].append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
    rows[1].append("")
    print_rows(rows, ("standby", "TPS", "time in fsync", "fsyncs", "ratio"))
    cluster.configure({"synchronous_standby_names": ""})
    cluster.reload()


def beside(bench: Bench, command: Sequence[str], seconds: int) -> float:
    """TPS while a receiver runs."""
    bench.clear()
    receiver = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        bench.cluster.poll_until(
            "SELECT count(*) FROM pg_stat_replication WHERE sync_priority > 0", 1
        )
        return transactions(bench.cluster, seconds)
    finally:
        os.killpg(receiver.pid, signal.SIGTERM)  # strace itself ignores it
        receiver.wait()


def fsync_share(bench: Bench, command: Sequence[str], seconds: int) -> tuple[float, int]:
    """Part of the time spent in fsync and fdatasync by all threads together, and the calls."""
    counts = bench.work / "strace"
    only = ("-e", "trace=fsync,fdatasync")
    beside(
        bench,
        ["strace", "-f", "--seccomp-bpf", "-c", "-w", *only, "-o", str(counts), *command],
        seconds,
    )
    found = SYNC_LINE.findall(counts.read_text())
    return sum(float(time) for time, _ in found) / seconds, sum(int(calls) for _, calls in found)


def transactions(cluster: Cluster, seconds: int) -> float:
    """TPS of pgbench -N; every run begins behind a checkpoint."""
    cluster.sql("SET synchronous_commit = local; CHECKPOINT")
    bench = cluster.pgbench(CLIENTS, seconds=seconds, options=("-N", "-j", "2"))
    said, _ = bench.communicate()
    found = re.search(r"tps = ([\d.]+)", said)
    if bench.returncode or found is None:
        sys.exit(f"pgbench failed: {said}")
    return float(found[1])


def make_cluster(directory: Path, size: int) -> Cluster:
    """The server of a former run, or a new one; it syncs what it writes."""
    if directory.exists():
        cluster = Cluster.attach(directory)
        cluster.settings["fsync"] = True
        cluster.start()
        return cluster
    cluster = Cluster.create(directory, MAJOR, wal_segsize_mb=16, settings=SETTINGS)
    cluster.start()
    make_wal(cluster, size)
    cluster.sql("CHECKPOINT")
    cluster.stop()
    return make_cluster(directory, size)


def main() -> None:
    """Make the server, time what was asked for, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", help="make, catch-up, standby; all if none")
    parser.add_argument("--gigabytes", type=float, default=2.2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--only", default="-Z zstd,-Z none,plain,lz4,gzip:1")
    parser.add_argument("--keep", type=Path, help="the server stays here for the next run")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"))
    options = parser.parse_args()
    size = int(options.gigabytes * 1e9)
    work = Path(tempfile.mkdtemp(prefix="pgbackup-bench-", dir=options.directory))
    try:
        place = options.keep or work / "cluster"
        with make_cluster(place, size) as cluster:
            bench = Bench(cluster, work)
            print(machine(), f"rounds: {options.rounds}\n")
            if "standby" not in options.what and "make" not in options.what:
                catch_up(bench, size, options.rounds, options.only.split(","))
            if "catch-up" not in options.what and "make" not in options.what:
                standby(bench, options.rounds, options.seconds)
            if options.keep:
                cluster.stop()
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
