#!/usr/bin/env python3
"""What does it cost to note the commits of WAL, beside receiving it?

A real server writes segments of 16 MB: small transactions of pgbench, then bulk load. `receive-wal
--once` catches up with them (zstd, as by default), then `windows` notes them, in processes of their
own. Quoted is CPU per segment, with the cost of starting taken off: that of a second run, which
finds nothing to do. At last the notes of 200,000 segments are loaded, and 300 backups looked at.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from installed import install
from pairs import Contender, machine, print_rows, run_once

from pgbackup.pg.lsn import Lsn, Timeline
from pgbackup.pg.walrecord import EventKind, WalEvent
from pgbackup.repo.coverage import TimelineWal, stretches_of
from pgbackup.repo.moments.indexing import bring_up_to_date
from pgbackup.repo.moments.indexpieces import Piece, put_piece
from pgbackup.repo.moments.walindex import SegmentNotes
from pgbackup.repo.moments.windows import windows
from pgbackup.repo.repository import Repository
from pgbackup.storage.local import LocalStorage
from tests.account import cluster_space
from tests.cluster import Cluster
from tests.repo.samples import record

SIZE = 16 << 20
SEGMENTS = 200_000
BACKUPS = 300
SETTINGS = {"fsync": False, "max_wal_size": "8GB", "autovacuum": False}


def cost(
    program: str, base: Path, name: str, major: int, transactions: int, scale: int
) -> list[str]:
    """CPU per segment of receiving and of noting one kind of WAL. transactions: 0 for bulk load."""
    repo = Path(program).parents[2] / name
    with Cluster.create(base / name, major, wal_segsize_mb=16, settings=SETTINGS) as server:
        server.start()
        if transactions:
            server.pgbench_init(scale)
        server.sql("SELECT pg_create_physical_replication_slot('bench', true); CHECKPOINT")
        if transactions:
            server.pgbench(4, transactions=transactions // 4).wait()
        else:
            server.pgbench_init(scale)
        server.sql("SELECT pg_switch_wal()")
        words = ["receive-wal", "-q", "--once", "-S", "bench", "-B", str(repo)]
        receive = Contender("receive", [program, *words, "-d", server.conninfo()])
        received = run_once(receive).cpu - run_once(receive).cpu
    count = len([each for each in repo.glob("*/wal/*.zst") if "history" not in each.name])
    index = Contender("index", [program, "windows", "-q", "--json", "-B", str(repo)])
    noted = run_once(index).cpu - run_once(index).cpu
    each, other = noted / count * 1000, received / count * 1000
    return [name, str(count), f"{other:.0f} ms", f"{each:.0f} ms", f"{noted / received:.2f}"]


def large(work: Path) -> None:
    """Load much."""
    cluster = Repository.open(LocalStorage(work / "large"), create=True).cluster(5)
    timeline = Timeline(1)
    notes = (
        SegmentNotes(n, 9, 9, n, 40, n + 1, 90, n, n + 1, 1, 2, 99) for n in range(1, SEGMENTS + 1)
    )
    events = [
        WalEvent(Lsn(n * SIZE + 500), EventKind.CHECKPOINT_ONLINE, n, "", 1, 1)
        for n in range(1, SEGMENTS + 1, 4)
    ]
    put_piece(cluster, Piece.of_notes(timeline, notes, events), SIZE)
    stretches = tuple(stretches_of(timeline, range(1, SEGMENTS + 1), SIZE))
    wal = [TimelineWal(timeline, stretches, (), False, 0)]
    backups = [
        record(
            timeline=timeline,
            stop_timeline=timeline,
            start_lsn=Lsn(n * SIZE + 40),
            stop_lsn=Lsn(n * SIZE + 1000),
            wal_segment_size=SIZE,
        )
        for n in range(2, SEGMENTS, SEGMENTS // BACKUPS)
    ]
    began = time.process_time()
    index = bring_up_to_date(cluster, wal, SIZE).index
    loaded = time.process_time()
    found = windows(backups, {}, wal, index)
    ended = time.process_time()
    print(f"{SEGMENTS} segments loaded in {loaded - began:.2f} s;")
    print(f"{len(found)} backups looked at in {ended - loaded:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--major", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="less WAL")
    given = parser.parse_args()
    transactions, scale = (40_000, 5) if given.quick else (200_000, 30)
    base = Path(tempfile.mkdtemp(prefix="pgb-bench-", dir=cluster_space()))
    with tempfile.TemporaryDirectory(prefix="pgb-bench-") as directory:
        work = Path(directory)
        print(machine())
        program = str(install(work / "program"))
        rows = [
            cost(program, base, "pgbench", given.major, transactions, scale),
            cost(program, base, "bulk-load", given.major, 0, scale),
        ]
        print_rows(rows, ("WAL", "segments", "received", "noted", "ratio"))
        large(work)


if __name__ == "__main__":
    main()
