"""Stock clients see serve end as they see a server end, but for base backups, which may finish."""

import subprocess
from pathlib import Path

import pytest

from pgbackup.repo.repository import Repository
from pgbackup.storage.local import LocalStorage
from tests.account import program_environment
from tests.binaries import client_bin
from tests.cli.program import succeed
from tests.fix_cluster import ClusterFactory
from tests.interop.serving import Serving
from tests.repo.samples import MIB
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.interop
MAJOR = 17
SLOWLY = "4M"
"""A second; a backup of about 25 MB takes six."""
VERY_SLOWLY = "1M"


@pytest.fixture
def repo(cluster_factory: ClusterFactory, tmp_path: Path) -> Path:
    server = cluster_factory(MAJOR)
    words = ("-B", tmp_path / "repo", "-d", server.conninfo(), "-c", "fast", "-q")
    succeed(tmp_path, "backup", *words)
    return tmp_path / "repo"


def begin_backup(serving: Serving, target: Path, rate: str) -> subprocess.Popen[str]:
    """A slow base backup, of which something has come."""
    words = ("-D", target, "-X", "stream", "--max-rate", rate)
    process = serving.begin_client("pg_basebackup", *words)
    wait_for(lambda: (target / "base").exists())
    return process


def test_a_base_backup_may_finish(repo: Path, tmp_path: Path) -> None:
    target = tmp_path / "data"
    with Serving(tmp_path, repo, MAJOR, "--grace", "100") as serving:
        process = begin_backup(serving, target, SLOWLY)
        serving.stop()
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, said
    done = subprocess.run(
        [client_bin("pg_verifybackup", MAJOR), target],
        env=program_environment(), capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_base_backup_that_takes_too_long_ends_with_an_error(repo: Path, tmp_path: Path) -> None:
    with Serving(tmp_path, repo, MAJOR, "--grace", "0") as serving:
        process = begin_backup(serving, tmp_path / "data", VERY_SLOWLY)
        serving.stop(cuts_off=True)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "COPY stream ended before last file was finished" in said, "its words for any error"


def test_a_receiver_is_let_go_when_it_has_all_wal(repo: Path, tmp_path: Path) -> None:
    archive = Repository.open(LocalStorage(repo)).only_cluster().archive
    first, *_ = names = [each.name.text for each in archive.segments()]
    target = tmp_path / "wal"
    target.mkdir()
    (target / f"{first}.partial").write_bytes(bytes(MIB))
    with Serving(tmp_path, repo, MAJOR, "--grace", "100") as serving:
        process = serving.begin_client("pg_receivewal", "-D", target, "--synchronous", "-n")
        wait_for((target / first).exists)
        serving.stop()
        _, said = process.communicate(timeout=PATIENCE)
        assert "terminating connection" not in said
    for name in names:
        assert (target / name).read_bytes() == b"".join(archive.chunks(name, MIB))
