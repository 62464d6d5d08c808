"""What cannot be read of a data directory ends the backup, clearly, and nothing is listed."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.program import Answer, checked, command, environment
from tests.faults.scene import Scene
from tests.fix_cluster import ClusterFactory
from tests.strace import failing

LARGE = "CREATE TABLE large AS SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, 30000) n"

FAILING = (
    ("getdents64", "base", "read directory", "1+"),
    ("newfstatat", "base/1/1259", "look at file", "1+"),
    ("openat", "base/1/1259", "open file", "1+"),
    ("openat", "PG_VERSION", "read file", "1"),
    ("openat", "global/pg_control", "read file", "1"),
    ("read", "global/pg_control", "read file", "3+"),
)
"""System call, file, what the error says, and which of the calls fail."""


def run_under(scene: Scene, before: Sequence[object], *options: str) -> Answer:
    """A backup by a program that is started by another."""
    done = subprocess.run(
        [*map(str, before), *command(*scene.words, *options)],
        cwd=scene.directory, env=environment(), stdin=subprocess.DEVNULL,
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    return checked(done.returncode, done.stdout, done.stderr)


def assert_nothing_is_left(scene: Scene) -> None:
    assert scene.labels() == []
    assert scene.unfinished() == []
    scene.server.poll_until("SELECT count(*) FROM pg_replication_slots", 0)
    answer = scene.backup()
    assert answer.status == 0, answer.err
    assert len(scene.labels()) == 1


@pytest.fixture
def scene(cluster_factory: ClusterFactory, tmp_path: Path) -> Scene:
    return Scene.set_up(cluster_factory(18), tmp_path, is_local=True)


@pytest.fixture
def own_scene(cluster_factory: ClusterFactory, tmp_path: Path) -> Scene:
    """A server whose files belong to the caller; who backs up under its prefix is no root."""
    return Scene.set_up(cluster_factory(17, as_caller=True), tmp_path, is_local=True)


def path_of(scene: Scene, table: str) -> Path:
    ((name,),) = scene.server.sql(f"SELECT pg_relation_filepath('{table}')")
    return scene.server.pgdata / str(name)


def test_a_file_that_may_not_be_read_ends_the_backup(own_scene: Scene) -> None:
    own_scene.server.sql(LARGE)
    own_scene.server.sql("CHECKPOINT")  # later ones must not need the files
    prefix = own_scene.server.account.prefix
    for path in (
        path_of(own_scene, "near"),
        path_of(own_scene, "large"),
        path_of(own_scene, "far"),
        own_scene.server.pgdata / "postgresql.conf",
    ):
        path.chmod(0)
        answer = run_under(own_scene, prefix)
        path.chmod(0o600)
        assert answer.status == 1, answer.err
        message, hint = answer.error()
        assert message.startswith("could not open file ")
        assert message.endswith(f'/{path.name}": permission denied')
        assert hint == "Run pgbackup as the user that runs the server."
    assert_nothing_is_left(own_scene)


def test_a_directory_that_may_not_be_read_ends_the_backup(own_scene: Scene) -> None:
    pgdata = own_scene.server.pgdata
    for path in (pgdata / "base/1", own_scene.space):
        for mode in (0, 0o600):  # 0600: its names may be listed, and no file looked at
            path.chmod(mode)
            answer = run_under(own_scene, own_scene.server.account.prefix)
            path.chmod(0o700)
            assert answer.status == 1, answer.err
            message, hint = answer.error()
            assert message.startswith(("could not read directory ", "could not look at file "))
            assert message.endswith(": permission denied")
            assert hint == "Run pgbackup as the user that runs the server."
    assert_nothing_is_left(own_scene)


def test_an_error_in_the_middle_of_a_file_ends_the_backup(scene: Scene) -> None:
    scene.server.sql(LARGE)
    path = path_of(scene, "large")
    for options in ((), ("-j", "4"), ("-Z", "none"), ("--direct-io",)):
        answer = run_under(scene, failing("/preadv", "EIO:when=2", path), *options)
        assert answer.status == 1, answer.err
        assert answer.error()[0] == f'could not read file "{path}": input/output error'
    assert_nothing_is_left(scene)


def test_a_failing_system_call_ends_the_backup(scene: Scene) -> None:
    for call, name, what, when in FAILING:
        path = scene.server.pgdata / name
        answer = run_under(scene, failing(call, f"EIO:when={when}", path))
        assert answer.status == 1, (call, name)
        assert answer.error()[0] == f'could not {what} "{path}": input/output error'
    assert_nothing_is_left(scene)
