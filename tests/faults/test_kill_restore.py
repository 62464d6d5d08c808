"""Whatever moment a restore ends at: the directory is whole, or no server starts from it."""

import signal
from pathlib import Path

import pytest

from tests.account import ClusterError
from tests.cluster import Cluster
from tests.faults.moments import KILLS, duration, ends_within, moments
from tests.faults.scene import Scene
from tests.fix_cluster import ClusterFactory


@pytest.fixture
def scene(cluster_factory: ClusterFactory, tmp_path: Path) -> Scene:
    made = Scene.set_up(cluster_factory(17), tmp_path)
    assert made.backup().status == 0
    made.server.stop()
    return made


def test_random_kills_leave_nothing_that_looks_whole(scene: Scene) -> None:
    whole = duration(scene.begin_restore(scene.directory / "first"))
    for step, part in enumerate(moments()):
        target = scene.directory / f"killed{step}"
        under_way = scene.begin_restore(target)
        ended = ends_within(under_way, whole * part)
        under_way.send(signal.SIGKILL)
        under_way.wait()
        is_whole = (target / "global" / "pg_control").exists()
        assert is_whole >= ended
        if not is_whole:
            if target.exists() and step == KILLS // 2:
                assert_does_not_start(target, scene.server.major)
            scene.restore(target)
        if step in (0, KILLS - 1):
            scene.check_restored(target)


def assert_does_not_start(target: Path, major: int) -> None:
    with (
        Cluster.open_existing(target, major) as server,
        pytest.raises(ClusterError),
    ):
        server.start()


def test_a_restore_can_be_asked_to_stop_at_any_moment(scene: Scene) -> None:
    whole = duration(scene.begin_restore(scene.directory / "first"))
    for step, part in enumerate(moments()):
        number = (signal.SIGINT, signal.SIGTERM)[step % 2]
        target = scene.directory / f"stopped{step}"
        under_way = scene.begin_restore(target)
        ends_within(under_way, whole * part)
        under_way.send(number)
        answer = under_way.wait()
        assert answer.status in {0, 130, -number}, answer.err
        if answer.status == 130:
            assert not target.exists()
            assert not Path(f"{target}.space").exists()
        elif answer.status == 0:
            assert (target / "global" / "pg_control").exists()
