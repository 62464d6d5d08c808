"""What stock clients of a repository that is served get beside clones, and what it costs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import succeed
from tests.fix_cluster import ClusterFactory
from tests.interop.serving import Serving

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def served(
    module_cluster_factory: ClusterFactory, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    directory = tmp_path_factory.mktemp("served")
    primary = module_cluster_factory(15)
    primary.pgbench_init()
    repo = directory / "repo"
    succeed(directory, "backup", "-B", repo, "-d", primary.conninfo(), "-c", "fast", "-q")
    with Serving(directory, repo, 15) as serving:
        yield serving


def test_the_memory_that_base_backups_took_goes_back(served: Serving, tmp_path: Path) -> None:
    sizes = []
    for number in range(6):
        served.succeed("pg_basebackup", "-D", tmp_path / str(number), "-Ft", "-X", "none")
        status = Path(f"/proc/{served.pid}/status").read_text()
        sizes += [int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line]
    assert sizes[-1] - sizes[0] < 8 << 10, "kB, for five backups; the pages of one are 8 MiB"


def test_a_black_hole_gets_everything_and_keeps_nothing(served: Serving) -> None:
    served.succeed("pg_basebackup", "-t", "blackhole", "-X", "none")


def test_what_is_not_served_is_an_error_of_the_client(served: Serving, tmp_path: Path) -> None:
    target = tmp_path / "data"
    done = served.client("pg_basebackup", "-t", f"server:{target}", "-X", "none")
    assert done.returncode == 1
    assert "permission denied to create backup stored on server" in done.stderr
    assert not target.exists()
