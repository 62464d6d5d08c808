#!/usr/bin/env python3
"""Are wal-push and wal-get as fast as pgBackRest's archive-push and archive-get?

Segments of 16 MB, compressible and not, zstd level 1 on both sides, everything synced, a repository
on the same file system; pgBackRest with and without archive-async. A round pushes, then gets, each
segment once with each program, in turn; quoted are medians of wall time per call, and of the ratios
pair by pair with their quartiles. Ours is installed as users have it. With a backlog, 30 files are
ready and asked for one after the other. A file that was got is removed before the next is asked
for, as the server does. Needs Debian's pgbackrest.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from installed import install, plain_environment
from pairs import machine, print_rows

from tests.cluster import Cluster

BACKLOG = 30


class Bench:
    """A stopped cluster whose pg_wal holds the segments, and both repositories."""

    def __init__(self, cluster: Cluster, work: Path) -> None:
        self.cluster = cluster
        self.work = work
        self.wal = cluster.pgdata / "pg_wal"
        self.program = install(work / "program")
        for name, mode in (("sync", "n"), ("async", "y")):
            (work / f"{name}.conf").write_text(
                f"[global]\nrepo1-path={work}/{name}\ncompress-type=zst\ncompress-level=1\n"
                f"lock-path={work}/lock\nspool-path={work}/spool\nlog-path={work}\n"
                f"log-level-file=off\nlog-level-console=warn\narchive-async={mode}\n"
                f"process-max=2\n[s]\npg1-path={cluster.pgdata}\n"
                f"pg1-socket-path={cluster.run_directory}\npg1-port={cluster.port}\n"
                "pg1-user=postgres\n"
            )

    def pgbackrest(self, mode: str, *words: str) -> list[str]:
        return ["pgbackrest", f"--config={self.work}/{mode}.conf", "--stanza=s", *words]

    def ours(self, verb: str, *words: str) -> list[str]:
        return [str(self.program), verb, "-B", str(self.work / "ours"), *words]

    def time(self, command: list[str]) -> float:
        """Seconds of a run in the data directory, as the server starts it."""
        began = time.monotonic()
        done = subprocess.run(
            command,
            cwd=self.cluster.pgdata,
            env=plain_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        wall = time.monotonic() - began
        if done.returncode:
            sys.exit(f"failed: {' '.join(command)}\n{done.stdout}{done.stderr}")
        return wall

    def time_get(self, command: list[str], target: Path) -> float:
        """Seconds of a run that makes a file; it is not there before."""
        target.unlink(missing_ok=True)
        return self.time(command)

    def ready(self, names: list[str], *, ready: bool) -> None:
        status = self.wal / "archive_status"
        for path in status.glob("*.ready"):
            path.unlink()
        for name in names if ready else []:
            (status / f"{name}.ready").touch()

    def forget(self) -> None:
        """Empty the repositories and spools, stanzas kept."""
        shutil.rmtree(self.work / "ours", ignore_errors=True)
        shutil.rmtree(self.work / "spool", ignore_errors=True)
        shutil.rmtree(self.wal / "pgbackup.spool", ignore_errors=True)
        for mode in ("sync", "async"):
            for path in (self.work / mode / "archive").glob("s/*/0*"):
                shutil.rmtree(path)


def make_segments(template: bytes, wal: Path, first: int, count: int, kind: str) -> list[str]:
    """Write segments of timeline 1 that begin as a real one does; return their names."""
    names = []
    for number in range(first, first + count):
        name = f"00000001{number >> 8:08X}{number & 0xFF:08X}"
        data = bytearray(template if kind == "compressible" else os.urandom(len(template)))
        data[:40] = template[:40]
        data[8:16] = (number << 24).to_bytes(8, "little")
        (wal / name).write_bytes(data)
        os.utime(wal / name, (time.time() - 60,) * 2)
        names.append(name)
    return names


def one_by_one(bench: Bench, names: list[str], kind: str) -> list[list[str]]:
    """Push and get single segments."""
    bench.forget()
    bench.ready(names, ready=False)
    got = bench.work / "got"
    gets = str(got)
    timed: dict[str, list[float]] = {}

    def peer(*words: str) -> list[str]:
        return bench.pgbackrest("sync", *words)

    steps: list[tuple[str, Callable[[str], list[str]]]] = [
        ("push ours", lambda name: bench.ours("wal-push", f"pg_wal/{name}")),
        (
            "push pgBackRest",
            lambda name: bench.pgbackrest("sync", "archive-push", f"pg_wal/{name}"),
        ),
        ("get ours", lambda name: bench.ours("wal-get", "--spool", "", name, gets)),
        ("get pgBackRest", lambda name: peer("archive-get", name, gets)),
    ]
    for name in names:
        for label, command in steps:
            timed.setdefault(label, []).append(bench.time_get(command(name), got))
    return [row(f"{verb}, {kind}", timed[f"{verb} ours"][1:], timed[f"{verb} pgBackRest"][1:])
            for verb in ("push", "get")]  # fmt: skip


def row(what: str, ours: list[float], peer: list[float]) -> list[str]:
    one, other = statistics.median(ours), statistics.median(peer)
    low, middle, high = statistics.quantiles(
        (a / b for a, b in zip(ours, peer, strict=True)), n=4, method="inclusive"
    )
    ratio = f"{middle:.2f} ({low:.2f}-{high:.2f})"
    return [what, f"{one * 1000:.0f}", f"{other * 1000:.0f}", ratio]


def backlog(bench: Bench, names: list[str], kind: str) -> list[list[str]]:
    """All ready; asked for one after the other, as the archiver does."""
    walls: dict[str, list[float]] = {}
    for label, command in (
        ("ours", lambda name: bench.ours("wal-push", f"pg_wal/{name}")),
        ("async", lambda name: bench.pgbackrest("async", "archive-push", f"pg_wal/{name}")),
        ("sync", lambda name: bench.pgbackrest("sync", "archive-push", f"pg_wal/{name}")),
    ):
        bench.forget()
        bench.ready(names, ready=True)
        for name in names:
            walls.setdefault(label, []).append(bench.time(command(name)))
            (bench.wal / "archive_status" / f"{name}.ready").unlink()
    total, peer = sum(walls["ours"]), sum(walls["sync"])
    return [
        row(f"backlog of {BACKLOG}, a call, against async, {kind}", walls["ours"], walls["async"]),
        [f"backlog of {BACKLOG}, all, against {BACKLOG} sync, {kind}", f"{total * 1000:.0f}",
         f"{peer * 1000:.0f}", f"{total / peer:.2f}"],
    ]  # fmt: skip


def fetched_ahead(bench: Bench, names: list[str], kind: str) -> list[list[str]]:
    """Recovery: segments wanted in order, with a pause in which the server would replay."""
    got = bench.wal / "RECOVERYXLOG"
    walls: dict[str, list[float]] = {}
    bench.forget()
    bench.ready(names, ready=False)
    for name in names:
        bench.time(bench.ours("wal-push", f"pg_wal/{name}"))
        bench.time(bench.pgbackrest("sync", "archive-push", f"pg_wal/{name}"))
    shutil.copytree(bench.work / "sync", bench.work / "async", dirs_exist_ok=True)
    for name in names:
        wall = bench.time_get(bench.ours("wal-get", name, "pg_wal/RECOVERYXLOG"), got)
        walls.setdefault("ours", []).append(wall)
        time.sleep(0.2)
    for name in names:
        command = bench.pgbackrest("async", "archive-get", name, "pg_wal/RECOVERYXLOG")
        walls.setdefault("async", []).append(bench.time_get(command, got))
        time.sleep(0.2)
    return [
        row(f"get, fetched ahead, against async, {kind}", walls["ours"][1:], walls["async"][1:])
    ]


def main() -> None:
    """Make the cluster, time the calls, print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"))
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="pgbackup-bench-", dir=options.directory))
    try:
        with Cluster.create(
            work / "cluster", 15, wal_segsize_mb=16, as_caller=True,
            settings={"archive_mode": "on", "archive_command": "true"},
        ) as cluster:  # fmt: skip
            cluster.start()
            bench = Bench(cluster, work)
            for mode in ("sync", "async"):
                bench.time(bench.pgbackrest(mode, "stanza-create"))
            cluster.pgbench_init(3)
            name = cluster.sql("SELECT pg_walfile_name(pg_current_wal_lsn() - 20000000)")[0][0]
            template = (bench.wal / name).read_bytes()
            cluster.stop()
            print(machine(), "\n")
            rows = []
            for kind, first in (("compressible", 0x1000), ("incompressible", 0x2000)):
                names = make_segments(template, bench.wal, first, BACKLOG, kind)
                rows += one_by_one(bench, names[: options.rounds + 1], kind)
                rows += backlog(bench, names, kind)
                rows += fetched_ahead(bench, names[: options.rounds + 1], kind)
            print_rows(rows, ("what", "ours ms", "pgBackRest ms", "ratio"))
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
