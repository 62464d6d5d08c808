"""expire on real servers' backups: what stays is whole, and reaches what was promised."""

from pathlib import Path

import pytest

from tests.archiving.test_servers import archiving, hook, insert, wait_until_archived
from tests.cli.program import run, succeed
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory

COUNT = "SELECT count(*) FROM t"


@pytest.fixture
def server(cluster_factory: ClusterFactory, tmp_path: Path) -> Cluster:
    """A server that archives, with four backups and rows after each."""
    repo = tmp_path / "repo"
    made = cluster_factory(17, as_caller=True, settings=archiving(repo))
    made.sql("CREATE TABLE t (n int, content text)")
    for _ in range(4):
        succeed(tmp_path, "backup", "-d", made.conninfo(), "-c", "fast", "-B", repo)
        wait_until_archived(made, insert(made, 3))
    return made


def labels(directory: Path) -> list[str]:
    listed = succeed(directory, "list", "-B", "repo", "--json").document["backups"]
    return [each["label"] for each in listed]


def test_what_expire_keeps_verifies_restores_and_reaches_the_end(
    server: Cluster, tmp_path: Path
) -> None:
    repo = tmp_path / "repo"
    first, _, third, fourth = labels(tmp_path)
    rows = server.sql(COUNT)
    succeed(tmp_path, "pin", first, "-B", repo, "--reason", "the audit")
    plan = succeed(tmp_path, "expire", "-B", repo, "--keep-full", 2, "--dry-run", "--json").document
    assert len(labels(tmp_path)) == 4
    done = succeed(tmp_path, "expire", "-B", repo, "--keep-full", 2, "--json").document
    assert done["backups"] == plan["backups"]
    assert done["removed"]["size"] == plan["size_to_free"] > 0
    assert labels(tmp_path) == [first, third, fourth]
    assert [e["has_wal_after"] for e in done["backups"] if e["stays"]] == [False, True, True]
    server.stop()
    succeed(tmp_path, "verify", "--all", "-B", repo)
    assert "no WAL is missing" in succeed(tmp_path, "wal", "gaps", "-B", repo).err
    for label in (third, fourth):
        assert recovered(repo, tmp_path / label, label, 17) == rows
    alone = tmp_path / "alone"
    succeed(tmp_path, "restore", first, "-B", repo, "-D", alone)
    with Cluster.open_existing(alone, 17, as_caller=True) as restored:
        restored.start()
        assert restored.sql(COUNT) == [(0,)]


def recovered(repo: Path, target: Path, label: str, major: int) -> list[tuple[object, ...]]:
    """The rows at the end of the archive."""
    command = hook("wal-get", repo, "%f", "%p")
    succeed(repo.parent, "restore", label, "-B", repo, "-D", target, "--restore-command", command)
    settings = {"archive_mode": "off"}
    with Cluster.open_existing(target, major, as_caller=True, settings=settings) as restored:
        restored.start()
        restored.poll_until("SELECT pg_is_in_recovery()", False)
        return restored.sql(COUNT)


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ((), 2, "nothing says which"),
        (("--keep", "7x"), 2, "could not use --keep"),
        (("--keep-full", "0"), 2, "greater than or equal to 1"),
        (("--keep-days", "many"), 2, "--keep-days"),
        (("--keep-full", "1", "extra"), 2, "extra"),
        (("--keep-full", "1", "-B", "nowhere"), 5, "nowhere"),
    ],
    ids=["no-policy", "no-tier", "zero", "no-number", "extra", "no-repository"],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, words: tuple[str, ...], status: int, text: str
) -> None:
    """AC-01: nothing given, junk, an extra argument, no directory."""
    answer = run(tmp_path, "expire", *words)
    if "--keep-full" not in words and "--keep-days" not in words:
        assert answer.error()[1]
    assert answer.status == status
    assert text in answer.err
