"""Stock clients clone from a data directory that is served, while its server runs and after."""

import subprocess
from pathlib import Path

import pytest

from pgbackup.cli.options import DEFAULT_REPO
from tests.account import program_environment
from tests.binaries import client_bin
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.interop.servers import check_balances, check_structure, make_loaded
from tests.interop.serving import Serving
from tests.waiting import PATIENCE

pytestmark = pytest.mark.interop


def serving(directory: Path, server: Cluster, repo: str = "repo") -> Serving:
    words = ("--pgdata", server.pgdata, "-d", server.conninfo("postgres"))
    return Serving(directory, repo, server.major, *words)


def mapped(spaces: tuple[Path, ...], target: Path) -> list[str]:
    words = []
    for space in spaces:
        words += ["-T", f"{str(space).replace('=', chr(92) + '=')}={target}-{space.name[0]}"]
    return words


def verify(target: Path, major: int) -> None:
    done = subprocess.run(
        [client_bin("pg_verifybackup", major), target],
        env=program_environment(), capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("major", [13, 18])
def test_a_running_server_is_cloned_with_its_wal(
    cluster_factory: ClusterFactory, tmp_path: Path, major: int
) -> None:
    server = cluster_factory(major, as_caller=True)
    spaces = make_loaded(server)
    with serving(tmp_path, server) as served:
        for wal in ("fetch", "stream"):
            target = tmp_path / wal
            words = ("-c", "fast", "-X", wal, "-P", *mapped(spaces, target))
            load = server.pgbench()
            served.succeed("pg_basebackup", "-D", target, *words)
            load.terminate()
            load.wait()
            if major >= 15:
                verify(target, major)
            with Cluster.open_existing(target, major, as_caller=True) as clone:
                clone.start()
                check_balances(clone)
                check_structure(clone)


def test_options_that_a_stored_backup_cannot_fulfil_are(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    server = cluster_factory(15, as_caller=True)
    spaces = make_loaded(server)
    taken, target = tmp_path / "taken", tmp_path / "data"
    with serving(tmp_path, server) as served:
        words = ("-Ft", "-c", "fast", "-X", "fetch", "--compress=server-zstd:level=1,workers=2")
        checks = ("--manifest-checksums=SHA256", "--manifest-force-encode")
        served.succeed("pg_basebackup", "-D", taken, *words, *checks, "-l", "a label")
        manifest = (taken / "backup_manifest").read_text()
        assert '"Encoded-Path"' in manifest
        assert '"Path"' not in manifest
        assert '"Checksum-Algorithm": "SHA256"' in manifest
        names = sorted(path.name for path in taken.glob("*.tar.zst"))
        assert len(names) == 1 + len(spaces)
        listed = subprocess.run(
            ["tar", "-I", "zstd", "-tf", taken / "base.tar.zst"],
            capture_output=True, text=True, check=True, timeout=PATIENCE,
        ).stdout.splitlines()  # fmt: skip
        assert listed[:2] == ["backup_label", "tablespace_map"]
        assert not [name for name in listed if name.startswith("pg_tblspc/1")]
        served.succeed("pg_basebackup", "-D", target, "--no-manifest", *mapped(spaces, target))
        assert not (target / "backup_manifest").exists()
        refused = served.client("pg_basebackup", "-D", target, settings="-c pgbackup.label=latest")
        assert "a data directory is served" in refused.stderr


def test_a_stopped_server_is_cloned(cluster_factory: ClusterFactory, tmp_path: Path) -> None:
    server = cluster_factory(15, as_caller=True)
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
    with serving(tmp_path, server, DEFAULT_REPO) as served:
        server.stop()
        for wal in ("fetch", "stream"):
            target = tmp_path / wal
            served.succeed("pg_basebackup", "-D", target, "-X", wal)
            verify(target, 15)
            with Cluster.open_existing(target, 15, as_caller=True) as clone:
                clone.start()
                assert clone.sql("SELECT count(*) FROM t") == [(1000,)]
    assert not (tmp_path / DEFAULT_REPO).exists()


def test_damaged_pages_are_told_at_the_end(cluster_factory: ClusterFactory, tmp_path: Path) -> None:
    server = cluster_factory(15, as_caller=True)
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
    ((name,),) = server.sql("SELECT pg_relation_filepath('t')")
    server.stop()
    with open(server.pgdata / name, "r+b") as file:
        file.seek(8192 + 100)
        file.write(b"damage")
    server.start()
    with serving(tmp_path, server) as served:
        words = ("-c", "fast", "-X", "none")
        done = served.client("pg_basebackup", "-D", tmp_path / "a", *words)
        assert done.returncode == 1
        assert "WARNING:  checksum verification failed in file" in done.stderr
        assert "checksum error occurred" in done.stderr
        assert (tmp_path / "a" / name).exists()
        served.succeed("pg_basebackup", "-D", tmp_path / "b", *words, "--no-verify-checksums")
        server.stop("immediate")
        gone = served.client("pg_basebackup", "-D", tmp_path / "c", *words)
        assert gone.returncode == 1
        assert "could not ask the server of the data directory" in gone.stderr
