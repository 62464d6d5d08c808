"""From a running server to a restored one, by the real program: the main job, end to end.

The restored server is started without anything of pgbackup, and stock tools read what is stored.
"""

import json
import stat
import subprocess
from pathlib import Path

import pytest

from pgbackup.pg.lsn import Lsn
from tests.cli.program import succeed
from tests.cluster import Cluster, client_bin
from tests.fix_cluster import ClusterFactory
from tests.interop.servers import Ledger, check_balances, check_structure, make_loaded
from tests.waiting import wait_for

pytestmark = pytest.mark.interop

MIB = 1 << 20
VERIFYBACKUP_MAJORS = (15, 17, 18)


def mapping(old: Path, new: Path) -> str:
    """An argument of -T."""
    return "=".join(str(path).replace("=", "\\=") for path in (old, new))


def check_archives(folder: Path) -> None:
    """Stock tar lists every archive, decompressed by stock zstd if need be."""
    archives = [path for path in folder.iterdir() if ".tar" in path.name]
    assert "base.tar" in {path.name.removesuffix(".zst") for path in archives}
    for archive in archives:
        read = ["zstd", "-dc", archive] if archive.suffix == ".zst" else ["cat", archive]
        with subprocess.Popen(read, stdout=subprocess.PIPE) as reader:
            listing = subprocess.run(
                ["tar", "tv"], stdin=reader.stdout, capture_output=True, text=True, check=False
            )
        assert (reader.returncode, listing.returncode, listing.stderr) == (0, 0, "")
        assert listing.stdout


def stock_verify(directory: Path, major: int, *options: str) -> None:
    """pg_verifybackup of its own major accepts the directory, WAL included."""
    done = subprocess.run(
        [client_bin("pg_verifybackup", major), *options, directory],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


@pytest.mark.parametrize("local", [False, True], ids=["server", "pgdata"])
def test_a_loaded_server_comes_back_whole(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path, local: bool
) -> None:
    server = cluster_factory(major)
    source = ("--pgdata", server.pgdata) if local else ()
    first, second = make_loaded(server)
    server.pgbench(clients=2)
    with Ledger(server) as ledger:
        wait_for(lambda: len(ledger.after) > 100)
        answer = succeed(
            tmp_path,
            "backup",
            "-d",
            server.conninfo(),
            "-c",
            "fast",
            *source,
            "-r",
            "15M",
            "--json",
        )
        rows_at_end = len(ledger.after)
        server.poll_until(f"SELECT count(*) > {rows_at_end} FROM ledger")
    server.stop("immediate")
    document = answer.document["backup"]
    system = tmp_path / "pgbackup-repo" / document["system_identifier"]
    folder = system / "backups" / document["label"]
    check_archives(folder)
    named = {tablespace["archive"] for tablespace in document["tablespaces"]}
    assert len(named) == 2
    assert named < {path.name for path in folder.iterdir()}
    succeed(tmp_path, "verify")

    target = tmp_path / "data"
    new_first, new_second = tmp_path / "new first", tmp_path / "new=second"
    succeed(
        tmp_path, "restore", "-D", target,
        "-T", mapping(first, new_first), "-T", mapping(second, new_second),
    )  # fmt: skip
    if major in VERIFYBACKUP_MAJORS:
        stock_verify(target, major)
    with Cluster.open_existing(target, major) as restored:
        restored.start()
        assert restored.sql("SELECT pg_is_in_recovery()") == [(False,)]
        places = restored.sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace ORDER BY oid")
        assert places[2:] == [(str(new_first),), (str(new_second),)]
        assert ledger.check(restored, Lsn.parse(document["stop_lsn"]), MIB) > 100
        check_balances(restored)
        check_structure(restored)


@pytest.mark.parametrize("major", [15, 18], ids=["pg15", "pg18"])
@pytest.mark.parametrize(
    ("segment_mb", "options"),
    [
        pytest.param(16, ("-Z", "none"), id="16MB-plain"),
        pytest.param(64, ("-Z", "zstd:level=1,workers=2"), id="64MB-fast-zstd"),
        pytest.param(1, ("--manifest-checksums", "SHA256"), id="sha256"),
        pytest.param(1, ("--manifest-checksums", "none", "-Z", "zstd:9"), id="no-checksums"),
    ],
)
def test_every_form_of_a_backup_can_be_restored(
    cluster_factory: ClusterFactory,
    major: int,
    tmp_path: Path,
    segment_mb: int,
    options: tuple[str, ...],
) -> None:
    server = cluster_factory(major, wal_segsize_mb=segment_mb)
    server.sql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 20000) AS n")
    connection = ("-d", server.conninfo())
    label = succeed(tmp_path, "backup", *connection, "-c", "fast", *options, "--json").document[
        "backup"
    ]["label"]
    server.sql("DROP TABLE t")
    target = tmp_path / "data"
    succeed(tmp_path, "restore", label, "-D", target, "-j", "3")
    check_archives(next(tmp_path.glob(f"pgbackup-repo/*/backups/{label}")))
    stock_verify(target, major)
    with Cluster.open_existing(target, major) as restored:
        restored.start()
        assert restored.sql("SELECT count(*), sum(n) FROM t") == [(20000, 200010000)]
        check_structure(restored)


def test_group_access_is_kept(cluster_factory: ClusterFactory, tmp_path: Path) -> None:
    server = cluster_factory(15, allow_group_access=True)
    succeed(tmp_path, "backup", "-d", server.conninfo(), "-c", "fast")
    target = tmp_path / "data"
    succeed(tmp_path, "restore", "-D", target)
    modes = {
        (path.is_dir(), stat.S_IMODE(path.lstat().st_mode))
        for path in [target, *target.rglob("*")]
        if not path.is_symlink()
    }
    assert modes == {(True, 0o750), (False, 0o640)}
    repository = tmp_path / "pgbackup-repo"
    kept = {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in repository.rglob("*")}
    assert kept == {0}, "the repository is its owner's alone"
    with Cluster.open_existing(target, 15) as restored:
        restored.start()
        assert restored.sql("SHOW data_directory_mode") == [("0750",)]


def test_the_stored_manifest_is_the_servers_own(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    server = cluster_factory(18)
    succeed(tmp_path, "backup", "-d", server.conninfo(), "-c", "fast")
    (manifest,) = tmp_path.glob("pgbackup-repo/*/backups/*/backup_manifest")
    assert json.loads(manifest.read_bytes())["PostgreSQL-Backup-Manifest-Version"] == 2
    target = tmp_path / "data"
    succeed(tmp_path, "restore", "-D", target)
    assert (target / "backup_manifest").read_bytes() == manifest.read_bytes()
