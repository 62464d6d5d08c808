"""Damaged pages are told as the stock server tells them, about the same data directory."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from pgbackup.backup.pgdata.basebackup import DirectoryBackup, ReadOptions
from pgbackup.backup.pgdata.datadir import DataDirectory
from pgbackup.backup.receive import BackupOutcome
from pgbackup.pg.lsn import Lsn, Timeline, WalPosition
from pgbackup.stream.compress import Compress, ZstdSettings
from tests.account import program_environment
from tests.binaries import nearest_client
from tests.cli.program import succeed
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.pg.pages import PAGE_SIZE, damaged, good_page, header
from tests.stream.checked_sink import CheckedSink

pytestmark = pytest.mark.interop

LOADED_BACKUPS = int(os.environ.get("PGBACKUP_LOADED_BACKUPS", "3"))
"""How many backups are taken of a server under load."""

SEGMENT = 131072  # blocks
FAR = 2**63
"""An LSN that no start of a backup reaches."""

ONE = {"70001": [good_page(0), good_page(1), damaged(good_page(2)), good_page(3)]}
MANY = {
    "70002": [damaged(good_page(block)) for block in range(7)],
    "70003": [good_page(0), *(damaged(good_page(block)) for block in range(1, 6))],
    "70004": [damaged(good_page(block)) if block % 2 else good_page(block) for block in range(300)],
}
PLACES = {
    "70005_fsm": [good_page(0), damaged(good_page(1))],
    "70005_vm": [damaged(good_page(0))],
    "70006_init": [damaged(good_page(0))],
    "70007.1": [good_page(SEGMENT), damaged(good_page(SEGMENT + 1)), good_page(1)],
    "70008.2": [damaged(good_page(2 * SEGMENT))],
}
SPARED = {
    "70009": [
        bytes(PAGE_SIZE),
        header(1, upper=0) + b"x" * (PAGE_SIZE - 24),
        damaged(good_page(2)),
    ],
    "70010": [damaged(good_page(0, FAR)), damaged(good_page(1))],
}
ODD = {"70011": [good_page(0), damaged(good_page(1)), good_page(2)[:5000]]}

SCENES: dict[str, dict[str, list[bytes]]] = {
    "one": ONE,
    "many": MANY,
    "places": PLACES,
    "spared": SPARED,
    "good": {"70012": [good_page(0)]},
}


class Session:
    """Begins and ends where the server is."""

    label = b"START WAL LOCATION: 0/0\n"

    def __init__(self, server: Cluster) -> None:
        ((lsn,),) = server.sql("SELECT pg_current_wal_lsn()::text")
        self.start = WalPosition(Timeline(1), Lsn.parse(lsn))

    def begin(self) -> None:
        pass

    def check(self) -> None:
        pass

    def end(self) -> WalPosition:
        return self.start


def ours(server: Cluster, **options: bool) -> BackupOutcome:
    """What our own BASE_BACKUP finds, on two threads."""
    sink = Compress(CheckedSink([100_000]), ZstdSettings(1, 2), frame_size=256 * 1024)
    data = DataDirectory.open(str(server.pgdata))
    backup = DirectoryBackup(data, Session(server), ReadOptions(**options))
    try:
        return backup.run(sink)
    finally:
        sink.cleanup()
        backup.close()


def stock(server: Cluster, target: Path) -> tuple[int, list[str]]:
    """The exit status of pg_basebackup, and the server's warnings."""
    done = subprocess.run(
        [nearest_client("pg_basebackup", server.major), "-D", target, "-X", "none", "-c", "fast",
         "-d", server.conninfo()],
        capture_output=True, text=True, check=False, env=program_environment(),
    )  # fmt: skip
    lines = done.stderr.splitlines()
    return done.returncode, [line for line in lines if line.startswith("WARNING:")]


def as_newest(line: str) -> str:
    """A warning as servers from 17 on word it; before, blocks were counted within a file."""
    line = line.replace("WARNING:  ", "WARNING: ")
    found = re.search(r'\.(\d+)", block (\d+)', line)
    if found is None:
        return line
    segment, block = int(found[1]), int(found[2])
    if block < SEGMENT:
        block += segment * SEGMENT
    return line.replace(found[0], f'.{segment}", block {block}')


def damage(server: Cluster, files: dict[str, list[bytes]]) -> list[Path]:
    """Put files into two directories of relations; return them."""
    folders = [server.pgdata / "base/1", server.pgdata / "global"]
    for folder in folders:
        for name, pages in files.items():
            (folder / name).write_bytes(b"".join(pages))
    return [folder / name for folder in folders for name in files]


def test_the_words_are_those_of_the_server(cluster: Cluster, tmp_path: Path) -> None:
    for scene, files in SCENES.items():
        damaged_files = damage(cluster, files)
        status, expected = stock(cluster, tmp_path / scene)
        outcome = ours(cluster)
        assert list(outcome.warnings) == [as_newest(line) for line in expected], scene
        assert outcome.is_damaged == (status != 0) == (scene != "good")
        unchecked = ours(cluster, verify_checksums=False)
        assert (unchecked.warnings, unchecked.is_damaged) == ((), False)
        for file in damaged_files:
            file.unlink()


def test_part_of_a_page_at_the_end_keeps_no_other_page_from_being_checked(
    newest_cluster: Cluster, tmp_path: Path
) -> None:
    """The server gives up such a file, with all pages that it has read together with the part."""
    damage(newest_cluster, ODD)
    status, theirs = stock(newest_cluster, tmp_path / "stock")
    assert (status, len(theirs)) == (0, 2)
    assert 'could not verify checksum in file "./base/1/70011", block 0: read buffer' in theirs[0]
    outcome = ours(newest_cluster)
    assert outcome.is_damaged
    assert outcome.warnings[0] == (
        'WARNING: could not verify checksum in file "./base/1/70011", block 2: read buffer size'
        " 5000 and page size 8192 differ"
    )
    assert 'failed in file "./base/1/70011", block 1: ' in outcome.warnings[1]


@pytest.mark.slow
@pytest.mark.parametrize("major", [14, 18], ids=lambda major: f"pg{major}")
def test_pages_that_the_server_is_writing_are_not_reported(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    """Few shared buffers make the server write, and read again, with each transaction."""
    server = cluster_factory(major, settings={"shared_buffers": "1MB", "fsync": False})
    server.pgbench_init(5)
    load = server.pgbench(4)
    words = ("backup", "--pgdata", server.pgdata, "-d", server.conninfo(), "-c", "fast")
    for _ in range(LOADED_BACKUPS):
        answer = succeed(tmp_path, *words, "-q")
        assert answer.err == ""
    assert load.poll() is None
    (report,) = succeed(tmp_path, "verify", "--pages", "--json").document["verified"]
    assert report["pages"]["checked"] > 10_000
    assert report["pages"]["failed"] == 0
    load.terminate()
    load.communicate()
