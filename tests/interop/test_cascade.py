"""Cascaded synchronous commit: a primary waits for a relay, and that for one of two receivers."""

import shutil
import subprocess
from pathlib import Path
from typing import Self

import pytest

from tests.account import program_environment
from tests.archiving.acknowledged import TABLE
from tests.archiving.receiver.receiving import KEEP
from tests.binaries import nearest_client
from tests.cli import program
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.interop.cascading import (
    PATIENCE,
    committing,
    expect_standstill,
    go_on,
    majors,
    relaying,
    wait_for_the_relay,
)
from tests.serve.relaying import Relay

pytestmark = pytest.mark.interop


class Receivers:
    """pg_receivewal --synchronous by name, each with a directory; they can be killed."""

    def __init__(self, directory: Path, relay: Relay, major: int) -> None:
        self._directory = directory
        self._major = major
        self._relay = relay
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        self.place(name).mkdir(exist_ok=True)
        self._running[name] = subprocess.Popen(
            [
                nearest_client("pg_receivewal", self._major), "-D", self.place(name),
                "--synchronous", "--no-loop", "-d", self._relay.conninfo(name),
            ],
            env=program_environment(), stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill9()

    def kill9(self, *names: str) -> None:
        for name in names or tuple(self._running):
            process = self._running.pop(name)
            process.kill()
            process.wait()

    def place(self, name: str) -> Path:
        return self._directory / name


def held(places: list[Path], target: Path) -> Path:
    """Every segment as the one of several receivers has it that has more of it."""
    target.mkdir()
    names = {path.name.removesuffix(".partial") for place in places for path in place.iterdir()}
    for name in names:
        paths = [place / name for place in places] + [place / f"{name}.partial" for place in places]
        contents = [path.read_bytes() for path in paths if path.exists()]
        (target / name).write_bytes(max(contents, key=lambda data: len(data.rstrip(b"\0"))))
    return target


def expect_rows(tmp_path: Path, primary: Cluster, wal: Path, numbers: list[int]) -> None:
    """A backup and the WAL in a directory, of which nothing is ours, have every row."""
    place = primary.pgdata.parents[1] / "restored"
    words = ("-B", tmp_path / "base", "-D", place, "--restore-command", f"cp {wal}/%f %p", "-q")
    program.succeed(tmp_path, "restore", *words)
    with Cluster.open_existing(place, primary.major, as_caller=True) as restored:
        restored.start()
        restored.poll_until("SELECT pg_is_in_recovery()", False, timeout=PATIENCE)
        there = {row[0] for row in restored.sql("SELECT number FROM seen")}
    shutil.rmtree(place)
    assert not set(numbers) - there


@pytest.mark.parametrize("major", majors(17))
def test_no_acknowledged_commit_is_lost_on_the_quorum(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    primary = cluster_factory(major, settings=KEEP)
    primary.sql(TABLE)
    words = ("-B", tmp_path / "base", "-d", primary.conninfo(), "-c", "fast", "-q")
    program.succeed(tmp_path, "backup", *words)
    with (
        relaying(tmp_path, primary, primary.conninfo(), "ANY 1 (s1, s2)") as relay,
        Receivers(tmp_path, relay, major) as receivers,
    ):
        receivers.start("s1")
        receivers.start("s2")
        wait_for_the_relay(primary)
        with committing(primary) as commits:
            go_on(commits)
            receivers.kill9("s1")
            go_on(commits)
            receivers.kill9("s2")
            expect_standstill(tmp_path, primary, commits, clients=0)
            receivers.start("s1")
            go_on(commits)
            receivers.start("s2")
            go_on(commits)
            relay.kill9()
            receivers.kill9()
            primary.kill9()
        wal = held([receivers.place("s1"), receivers.place("s2")], tmp_path / "held")
        expect_rows(tmp_path, primary, wal, commits.numbers)
