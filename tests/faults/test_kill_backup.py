"""Whatever moment a backup ends at: what is listed is whole, and the next run succeeds."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.program import ROOT, environment
from tests.faults.moments import duration, ends_within, moments
from tests.faults.scene import Scene
from tests.fix_cluster import ClusterFactory

MAX_CALLS = 200
STOPPING = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])


@pytest.fixture(params=[False, True], ids=["server", "pgdata"])
def scene(cluster_factory: ClusterFactory, tmp_path: Path, request: pytest.FixtureRequest) -> Scene:
    """Backups of a server, and backups of its data directory."""
    return Scene.set_up(cluster_factory(18), tmp_path, is_local=request.param)


def test_random_kills_leave_whole_backups_only(scene: Scene) -> None:
    whole = duration(scene.begin_backup("-r", "32M"))
    verified: set[str] = set()
    for part in moments():
        under_way = scene.begin_backup("-r", "32M")
        ended = ends_within(under_way, whole * part)
        under_way.send(signal.SIGKILL)
        status = under_way.wait().status
        assert status == 0 or (status == -signal.SIGKILL and not ended)
        for label in set(scene.labels()) - verified:
            scene.verify(label)
            verified.add(label)
    assert_rerun_cleans(scene)


def assert_rerun_cleans(scene: Scene) -> None:
    before = scene.labels()
    answer = scene.backup()
    assert answer.status == 0, answer.err
    after = scene.labels()
    assert after[:-1] == before
    assert scene.unfinished() == []
    for label in after:
        scene.verify(label)


@pytest.mark.parametrize("call", ["link", "unlink"])
def test_a_kill_at_each_step_of_a_backup_leaves_whole_backups_only(scene: Scene, call: str) -> None:
    """The steps that make objects visible; each run finds what the one before left."""
    killed = 0
    local = [scene.server.pgdata] if scene.is_local else []
    for number in range(1, MAX_CALLS):
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults.killed", scene.repository,
             scene.server.conninfo(), call, str(number), *local],
            cwd=ROOT, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        killed += 1
        for label in scene.labels():
            scene.verify(label)
            shutil.rmtree(scene.repository)
    assert 5 < killed < MAX_CALLS - 1
    assert_rerun_cleans(scene)


@STOPPING
def test_a_backup_that_is_asked_to_stop_leaves_nothing_but_wal(
    scene: Scene, number: signal.Signals
) -> None:
    under_way = scene.begin_slow_backup()
    under_way.send(number)
    answer = under_way.wait()
    assert answer.status == 130, answer.err
    message, _ = answer.error()
    assert message == f"the command was interrupted by {number.name}"
    assert scene.labels() == []
    assert scene.unfinished() == []
    scene.server.poll_until("SELECT count(*) FROM pg_replication_slots", 0)


def test_a_backup_can_be_asked_to_stop_at_any_moment(scene: Scene) -> None:
    whole = duration(scene.begin_backup("-r", "32M"))
    for step, part in enumerate(moments()):
        number = (signal.SIGINT, signal.SIGTERM)[step % 2]
        known = scene.labels()
        under_way = scene.begin_backup("-r", "32M")
        ended = ends_within(under_way, whole * part)
        under_way.send(number)
        answer = under_way.wait()
        # A process that does not run our code any more ends as the system says.
        assert answer.status in {0, 130, -number}, answer.err
        assert not ended or answer.status == 0
        assert (len(scene.labels()) > len(known)) >= (answer.status == 0)
        if answer.status == 130:
            assert scene.unfinished() == []
    assert_rerun_cleans(scene)
