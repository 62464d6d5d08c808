"""A restore removes no repository, and writes into none."""

from pathlib import Path

import pytest

from pgbackup.errors import Refused
from pgbackup.repo.repository import ClusterRepository
from pgbackup.restore.apart import check_apart
from pgbackup.restore.plan import plan_restore
from pgbackup.storage.local import LocalStorage
from tests.backup.sample import LABEL, SYSTEM, Sample, sample
from tests.restore.test_delta import VERSION, delta, everything
from tests.restore.test_run import expected, restore, tree


@pytest.fixture
def made(tmp_path: Path) -> Sample:
    return sample(tablespace=str(tmp_path / "space"))


def restored(made: Sample, tmp_path: Path, inside: str) -> ClusterRepository:
    """A cluster restored into "data" and "space", its repository moved to somewhere inside."""
    restore(made.put(LocalStorage(tmp_path / "elsewhere")), tmp_path / "data")
    (tmp_path / inside).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "elsewhere").rename(tmp_path / inside)
    return ClusterRepository(LocalStorage(tmp_path / inside), SYSTEM)


@pytest.mark.parametrize(
    "inside", ["data/repo", "data/base/repo", f"space/{VERSION}/repo"], ids=["top", "deep", "space"]
)
@pytest.mark.parametrize("by_link", [False, True], ids=["direct", "by-link"])
def test_a_repository_in_the_way_is_not_removed(
    made: Sample, tmp_path: Path, inside: str, by_link: bool
) -> None:
    cluster = restored(made, tmp_path, inside)
    if by_link:
        (tmp_path / "link").symlink_to(tmp_path / inside)
        cluster = ClusterRepository(LocalStorage(tmp_path / "link"), SYSTEM)
    before = everything(tmp_path)
    with pytest.raises(Refused, match="it holds the repository"):
        delta(cluster, tmp_path / "data")
    assert everything(tmp_path) == before


def test_a_repository_beside_a_tablespace_is_in_nobody_s_way(made: Sample, tmp_path: Path) -> None:
    cluster = restored(made, tmp_path, "space/repo")
    before = everything(tmp_path / "space/repo")
    delta(cluster, tmp_path / "data")
    assert everything(tmp_path / "space/repo") == before
    assert tree(tmp_path / "data") == {
        name: content for name, content in expected(made).items() if "pg_tblspc" not in name
    }


@pytest.mark.parametrize("target", ["repo", "repo/new", "repo/7/../backups", "link/new"])
def test_nothing_is_restored_into_a_repository(made: Sample, tmp_path: Path, target: str) -> None:
    cluster = made.put(LocalStorage(tmp_path / "repo"))
    (tmp_path / "link").symlink_to(tmp_path / "repo")
    before = everything(tmp_path)
    with pytest.raises(Refused, match="it lies in the repository"):
        restore(cluster, tmp_path / target)
    with pytest.raises(Refused, match="it lies in the repository"):
        restore(cluster, tmp_path / "new", mappings=(f"{tmp_path}/space={tmp_path / target}",))
    assert everything(tmp_path) == before


def test_a_repository_without_a_directory_is_apart_from_all(made: Sample, tmp_path: Path) -> None:
    cluster = made.put(LocalStorage(tmp_path / "repo"))
    check_apart(plan_restore(cluster.catalog.get(LABEL), str(tmp_path / "repo")), None)
