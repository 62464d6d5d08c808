"""backup -D -: one tar on standard output, complete in itself."""

import subprocess
from pathlib import Path

import pytest

from tests.cli.program import command, environment, run
from tests.cluster import Cluster, client_bin
from tests.fix_cluster import ClusterFactory
from tests.waiting import PATIENCE


def stream(server: Cluster, *options: str) -> list[str]:
    return command("backup", "-d", server.conninfo(), "-c", "fast", "-D", "-", *options)


def extract(server: Cluster, target: Path, *options: str) -> None:
    """Pipe a backup into stock programs."""
    target.mkdir(mode=0o700)
    with (
        open(target.with_suffix(".err"), "w+b") as err,
        subprocess.Popen(
            stream(server, *options), env=environment(), stdout=subprocess.PIPE, stderr=err
        ) as backup,
    ):
        source = backup.stdout
        if "-Z" in options:
            with subprocess.Popen(["zstd", "-dc"], stdin=source, stdout=subprocess.PIPE) as zstd:
                subprocess.run(["tar", "x", "-C", target], stdin=zstd.stdout, check=True)
            assert zstd.returncode == 0
        else:
            subprocess.run(["tar", "x", "-C", target], stdin=source, check=True)
    assert backup.returncode == 0
    assert target.with_suffix(".err").read_bytes() == b""


@pytest.mark.interop
@pytest.mark.parametrize(
    ("major", "options"),
    [(13, ()), (15, ()), (18, ()), (17, ("-Z", "zstd:level=1"))],
    ids=["pg13", "pg15", "pg18", "pg17-zstd"],
)
def test_what_tar_extracts_can_be_started(
    cluster_factory: ClusterFactory, major: int, options: tuple[str, ...], tmp_path: Path
) -> None:
    server = cluster_factory(major)
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
    target = tmp_path / "data"
    extract(server, target, *options)
    if major != 13:
        verified = subprocess.run(
            [client_bin("pg_verifybackup", major), target], capture_output=True, check=False
        )
        assert (verified.returncode, verified.stderr) == (0, b"")
    assert (target / "backup_manifest").exists()
    with Cluster.open_existing(target, major) as restored:
        restored.start()
        assert restored.sql("SELECT sum(n) FROM t") == [(500500,)]
    assert not (tmp_path / "pgbackup-repo").exists()


def test_a_server_with_tablespaces_is_refused(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    server = cluster_factory(18)
    place = server.account.make_directory(server.pgdata.parent / "space")
    server.sql(f"CREATE TABLESPACE apart LOCATION '{place}'")
    answer = run(tmp_path, "backup", "-d", server.conninfo(), "-c", "fast", "-D", "-")
    message, hint = answer.error()
    assert (answer.status, answer.out) == (8, b"")
    assert "tablespaces" in message
    assert "pgbackup backup -B REPO" in hint


def test_a_reader_that_goes_ends_the_backup_quietly(cluster_factory: ClusterFactory) -> None:
    server = cluster_factory(16)
    with subprocess.Popen(
        stream(server), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as backup:
        assert backup.stdout is not None
        assert backup.stderr is not None
        backup.stdout.read(512)
        backup.stdout.close()
        err = backup.stderr.read()
        assert backup.wait(PATIENCE) == 1
    assert err == b""
