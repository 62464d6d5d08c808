"""Our own clients copy a repository that our own `serve` serves: nothing gets lost on the way.

PGBACKUP_CLONE_FORMS=all takes all majors.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.binaries import server_majors
from tests.cli.program import succeed
from tests.fix_cluster import ClusterFactory
from tests.interop.serving import Serving
from tests.interop.twotimelines import make_two_timelines, read_two_timelines

pytestmark = pytest.mark.interop
IS_LONG = os.environ.get("PGBACKUP_CLONE_FORMS") == "all"


@pytest.mark.parametrize("major", server_majors() if IS_LONG else [13, 18])
def test_a_copy_made_by_streaming_equals_the_original(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    made = make_two_timelines(cluster_factory, major, tmp_path)
    copy = tmp_path / "copy"
    with Serving(tmp_path, made.repo, major) as serving:
        place = ("-q", "-B", copy, "-d", serving.conninfo())
        succeed(tmp_path, "backup", *place)
        succeed(tmp_path, "receive-wal", *place, "--synchronous", "--once")
    copied = read_two_timelines(copy)
    assert (copied.old, copied.new, copied.history) == (made.old, made.new, made.history)
    for segment in (*made.old, *made.new):
        assert copied.read(segment) == made.read(segment), segment
    assert archives(copy) == archives(made.repo)
    succeed(tmp_path, "verify", "-q", "-B", copy)


def archives(repo: Path) -> dict[str, bytes]:
    """The plain contents of the archives of the only backup, and its manifest."""
    (folder,) = repo.glob("*/backups/*")
    found = {"manifest": (folder / "backup_manifest").read_bytes()}
    for archive in folder.glob("*.tar.zst"):
        done = subprocess.run(["zstd", "-dcq", archive], capture_output=True, check=True)
        found[archive.name] = done.stdout
    return found
