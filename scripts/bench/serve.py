#!/usr/bin/env python3
"""Is `pgbackup serve` as fast as the walsender of the server that its repository came from?

backup: stock pg_basebackup writes to /dev/null from both in turn, uncompressed and with
server-side zstd, once alone and once eight of them together. The repository is zstd level 1.
wal: stock pg_receivewal --no-sync catches up with the same WAL from both, from a repository with
plain segments and from one with compressed ones. Memory for each client is what the serving process
takes at most for eight clients, without what it takes for none, divided by eight. Clients come by
Unix sockets, or with --tls by TCP and TLS, to both with the same certificate. Method: pairs.py.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import receive
from data import back_up, data_size, make_cluster
from encryption import Encryption
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

from tests.binaries import client_bin
from tests.cluster import Cluster

MAJOR = 15
CLIENTS = 8
SEGMENT = 16 << 20  # bytes
HEADINGS = ("client", "peer", "wall s", "peer s", "ratio")


def main() -> None:
    """Make the clusters and their repositories, time the pairs, print the tables."""
    parser = make_parser(__doc__, 2.2)
    parser.add_argument("what", nargs="*", help="backup, wal; both if none")
    parser.add_argument("--tls", action="store_true", help="by TCP and TLS, not by Unix sockets")
    parser.add_argument("--keep", type=Path, help="clusters and repositories stay here")
    options = parse_options(parser)
    chosen = options.what or ["backup", "wal"]
    print(machine())
    with workplace(options.directory) as work:
        place = options.keep or work
        place.mkdir(exist_ok=True)
        encryption = Encryption(work / "authority") if options.tls else None
        if "backup" in chosen:
            with backup_cluster(place / "cluster", options.gigabytes) as cluster:
                compare_backups(cluster, place, options.rounds, encryption)
        if "wal" in chosen:
            size = int(options.gigabytes * 1e9)
            with receive.make_cluster(place / "walcluster", size) as cluster:
                compare_wal(cluster, place, size, options.rounds, encryption)


def backup_cluster(directory: Path, gigabytes: float) -> Cluster:
    """The server of a former run, or a new one."""
    if directory.exists():
        cluster = Cluster.attach(directory)
        cluster.start()
        return cluster
    return make_cluster(directory, gigabytes, MAJOR)


@contextmanager
def serving(repository: Path, encryption: Encryption | None) -> Iterator[tuple[str, int]]:
    """Serve a repository; gives what clients connect to, and the process."""
    directory = repository.with_suffix(".socket")
    words, conninfo = [], f"host={directory} port=5432"
    if encryption is not None:
        words, conninfo = encryption.serve(repository)
    command = [sys.executable, "-m", "pgbackup", "serve", "-q", "-B", str(repository), *words]
    process = subprocess.Popen([*command, "--listen", str(directory)])
    socket = directory / ".s.PGSQL.5432"
    while not socket.exists():
        if process.poll() is not None:
            sys.exit("could not serve")
        time.sleep(0.05)
    try:
        yield conninfo, process.pid
    finally:
        process.terminate()
        process.wait()


def compare_backups(
    cluster: Cluster, work: Path, rounds: int, encryption: Encryption | None
) -> None:
    repository = work / "repository"
    if not repository.exists():
        back_up(cluster, repository)
    size = data_size(cluster)
    version = cluster.sql("SHOW server_version")[0][0]
    print(f"PostgreSQL {version}, {size / 1e9:.2f} GB, {rounds} pairs each\n")

    def warm() -> None:
        read_everything(cluster.pgdata / "base")
        read_everything(repository)

    theirs = cluster.conninfo() if encryption is None else encryption.begin(cluster)
    rows = []
    with serving(repository, encryption) as (conninfo, pid):
        for words in ((), ("--compress=server-zstd:level=1", "--no-manifest")):
            for clients in (1, CLIENTS):
                ours = base_backup(conninfo, clients, *words)
                peer = base_backup(theirs, clients, *words)
                before = forget_peak(pid)
                runs = run_pairs(ours, peer, rounds, warm)
                each = (peak(pid) - before) / clients
                rows.append([*ratio_row(ours, peer, runs)[:5], f"{each / 2**20:.0f}"])
    print_rows(rows, (*HEADINGS, "MB for each client"))


def base_backup(conninfo: str, clients: int, *words: str) -> Contender:
    command = [str(client_bin("pg_basebackup", MAJOR)), "-Ft", "-X", "none", "-c", "fast"]
    command += ["-D", "-", "-d", conninfo, *words]
    name = " ".join(["pg_basebackup", *words, f"x {clients}"])
    return Contender(name, together(command, clients))


def together(command: Sequence[str], count: int) -> list[str]:
    """A command that runs another one so many times at once, and fails when one fails."""
    if count == 1:
        return list(command)
    script = 'seq "$1" | { shift; xargs -P 0 -I + "$@"; }'
    return ["sh", "-c", script, "sh", str(count), *command]


def compare_wal(
    cluster: Cluster, work: Path, size: int, rounds: int, encryption: Encryption | None
) -> None:
    end = receive.last_page(cluster, size)
    wal = sorted((cluster.pgdata / "pg_wal").glob("0*"))
    first = wal[0]
    version = cluster.sql("SHOW server_version")[0][0]
    print(f"\nPostgreSQL {version}, {size / 1e9:.2f} GB of WAL, {rounds} pairs each\n")
    rows = []
    theirs = cluster.conninfo() if encryption is None else encryption.begin(cluster)
    for name in ("none", "zstd"):
        repository = work / f"wal-{name}"
        if not repository.exists():
            archive(cluster, repository, name)
        target = work / "received"

        def prepare(target: Path = target) -> None:
            clear(target)
            target.mkdir()
            shutil.copy(first, target)  # where to go on behind
            touch_memory(work, size)

        def warm(repository: Path = repository) -> None:
            read_everything(repository)
            for path in wal[: size // SEGMENT + 1]:
                path.read_bytes()

        command = [str(client_bin("pg_receivewal", MAJOR)), "--no-sync", "--no-loop"]
        command += ["-D", str(target), "--endpos", str(end)]
        with serving(repository, encryption) as (conninfo, _):
            ours = Contender(f"pg_receivewal, -Z {name}", [*command, "-d", conninfo], prepare)
            peer = Contender("the server", [*command, "-d", theirs], prepare)
            rows.append(ratio_row(ours, peer, run_pairs(ours, peer, rounds, warm))[:5])
    print_rows(rows, HEADINGS)


def archive(cluster: Cluster, repository: Path, compression: str) -> None:
    """Receive all WAL that the server keeps into a repository."""
    cluster.sql(f"SELECT pg_copy_physical_replication_slot('{receive.KEPT}', 'run')")
    command = [sys.executable, "-m", "pgbackup", "receive-wal", "-q", "-S", "run", "--once"]
    command += ["-Z", compression, "-d", cluster.conninfo(), "-B", str(repository)]
    subprocess.run(command, check=True)
    cluster.sql("SELECT pg_drop_replication_slot('run')")


def forget_peak(pid: int) -> int:
    """Let the process's peak of memory begin anew; return what it takes now, in bytes."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak(pid)


def peak(pid: int) -> int:
    """The most memory that a process has taken, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise LookupError("VmHWM")


if __name__ == "__main__":
    main()
