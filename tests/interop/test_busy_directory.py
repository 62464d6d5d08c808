"""backup --pgdata of a server that changes its files all the time: every copy is whole.

A table crosses the end of its first file, of 1 GB, both ways, or changes its length behind that;
smaller ones and a database are made, emptied, moved, rewritten and dropped; temporary and unlogged
ones are among them.

PGBACKUP_TEST_BACKUPS=33 takes that many backups, of every major.
"""

import os
import re
import shutil
from itertools import cycle, islice
from pathlib import Path

import pytest

from pgbackup.pg.lsn import Lsn
from tests.binaries import server_majors
from tests.cli.program import succeed
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.interop.busy import LEAST, Busy, check_contents
from tests.interop.servers import Ledger, check_structure
from tests.waiting import wait_for

pytestmark = [pytest.mark.interop, pytest.mark.slow]

COUNT = "PGBACKUP_TEST_BACKUPS"
BACKUPS = int(os.environ.get(COUNT, "2"))
SEGMENT_MB = 32
"""From this size on a cluster lies on disk, where there is room for its table."""
OPTIONS = ((), ("-j", "4", "-Z", "zstd:1"), ("--direct-io",), ("-j", "1", "-Z", "none"))
TEMPORARY = re.compile(r"t[0-9]+_[0-9]+")


@pytest.mark.parametrize("major", server_majors() if COUNT in os.environ else [13, 18])
def test_every_backup_of_a_busy_directory_is_whole(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    server = cluster_factory(major, wal_segsize_mb=SEGMENT_MB, settings={"max_wal_size": "512MB"})
    space = server.pgdata.parent / "space"
    Busy.prepare(server, space)
    with Ledger(server) as ledger:
        each = zip(cycle(OPTIONS), cycle(LEAST), strict=False)
        for number, (options, least) in enumerate(islice(each, BACKUPS)):
            directory = tmp_path / str(number)
            directory.mkdir()
            with Busy(server, least) as load:
                wait_for(lambda: load.is_under_way)
                document = back_up(server, directory, *options)
            check_copy(directory, major, space, document, ledger, least)
            shutil.rmtree(directory)


def back_up(server: Cluster, directory: Path, *options: str) -> dict[str, str]:
    """A backup with sound pages, and nothing to be said of it."""
    words = ("--pgdata", server.pgdata, "-d", server.conninfo(), "-c", "fast", "--json")
    answer = succeed(directory, "backup", *words, *options)
    assert answer.err == ""
    document: dict[str, str] = answer.document["backup"]
    assert not document["page_checksum_failures"]
    return document


def check_copy(
    directory: Path,
    major: int,
    space: Path,
    document: dict[str, str],
    ledger: Ledger,
    least: int,
) -> None:
    """The backup is right as it is stored; restored and started, it has what it must."""
    (report,) = succeed(directory, "verify", "--pages", "--json").document["verified"]
    assert report["pages"]["checked"] > least
    target = directory / "data"
    moved = f"{space}={directory / 'space'}"
    succeed(directory, "restore", "-D", target, "-T", moved)
    names = {path.name for path in target.rglob("*")}
    assert not [name for name in names if TEMPORARY.fullmatch(name)]
    with Cluster.open_existing(target, major) as restored:
        restored.account.give(directory / "space")
        restored.start()
        ledger.check(restored, Lsn.parse(document["stop_lsn"]), SEGMENT_MB << 20)
        check_contents(restored, least)
        check_structure(restored)
