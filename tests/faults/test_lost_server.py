"""The server goes away in the middle of a backup: an error, no backup, and nothing in the way."""

import os
import signal
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.faults.scene import Scene
from tests.fix_cluster import ClusterFactory

SESSION = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'pgbackup' AND backend_type = 'client backend'
"""
"""Ends the session that a backup of a data directory belongs to."""

EDGES = pytest.mark.parametrize("major", [13, 18], ids=["pg13", "pg18"])


@pytest.fixture
def scene(cluster_factory: ClusterFactory, major: int, tmp_path: Path) -> Scene:
    return Scene.set_up(cluster_factory(major), tmp_path)


def terminate(server: Cluster, state: str) -> None:
    """End the walsender of ours that is in this state."""
    ended = server.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_replication"
        f" WHERE application_name = 'pgbackup' AND state = '{state}'"
    )
    assert ended == [(True,)]


def assert_nothing_is_left_but_wal(scene: Scene) -> None:
    assert scene.labels() == []
    assert scene.unfinished() == []
    assert not list(scene.repository.glob("*/backups/*"))


def assert_next_run_succeeds(scene: Scene) -> None:
    answer = scene.backup()
    assert answer.status == 0, answer.err
    (label,) = scene.labels()
    scene.verify(label)
    assert scene.unfinished() == []


@EDGES
@pytest.mark.parametrize("state", ["streaming", "backup"])
def test_a_walsender_that_is_terminated_fails_the_backup(scene: Scene, state: str) -> None:
    under_way = scene.begin_slow_backup()
    terminate(scene.server, state)
    answer = under_way.wait()
    message, _ = answer.error()
    assert answer.status == 3, message
    assert message.startswith("the connection to the server was lost: ")
    assert_nothing_is_left_but_wal(scene)
    assert_next_run_succeeds(scene)


@EDGES
@pytest.mark.parametrize("end", ["immediate stop", "kill"])
def test_a_server_that_ends_fails_the_backup(scene: Scene, end: str) -> None:
    under_way = scene.begin_slow_backup()
    if end == "kill":
        scene.server.kill9()
    else:
        scene.server.stop("immediate")
    answer = under_way.wait()
    message, _ = answer.error()
    assert answer.status == 3, message
    assert_nothing_is_left_but_wal(scene)
    scene.server.start()
    assert_next_run_succeeds(scene)


@pytest.mark.parametrize(
    ("end", "major"), [("of the WAL", 18), ("of the session", 13), ("of the server", 15)]
)
def test_a_lost_connection_fails_a_backup_of_the_data_directory(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path, end: str
) -> None:
    scene = Scene.set_up(cluster_factory(major), tmp_path, is_local=True)
    under_way = scene.begin_slow_backup()
    match end:
        case "of the WAL":
            terminate(scene.server, "streaming")
        case "of the session":
            ended = scene.server.sql(SESSION)
            assert ended == [(True,)]
        case _:
            scene.server.kill9()
    answer = under_way.wait()
    message, _ = answer.error()
    assert answer.status == 3, message
    assert_nothing_is_left_but_wal(scene)
    if end == "of the server":
        scene.server.start()
    assert_next_run_succeeds(scene)


@pytest.mark.parametrize("major", [15], ids=["pg15"])
def test_a_backup_that_exists_is_not_touched_by_one_that_fails(scene: Scene) -> None:
    assert scene.backup().status == 0
    before = scene.labels()
    under_way = scene.begin_slow_backup()
    scene.server.stop("immediate")
    assert under_way.wait().status == 3
    assert scene.labels() == before
    scene.verify(before[0])
    assert scene.unfinished() == []


@pytest.mark.parametrize("major", [16], ids=["pg16"])
def test_a_server_that_hangs_does_not_keep_a_backup_from_being_stopped(scene: Scene) -> None:
    under_way = scene.begin_slow_backup()
    found = scene.server.sql(
        "SELECT pid FROM pg_stat_replication WHERE application_name = 'pgbackup'"
    )
    for (pid,) in found:
        os.kill(pid, signal.SIGSTOP)
    try:
        under_way.send(signal.SIGINT)
        assert under_way.wait().status == 130
    finally:
        for (pid,) in found:
            os.kill(pid, signal.SIGCONT)
    assert_nothing_is_left_but_wal(scene)
