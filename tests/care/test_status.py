"""What status says of receivers and backups that run, or ran, in other processes."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli import program
from tests.cli.program import Running
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.waiting import PATIENCE, wait_for

COLUMNS = {
    "pid", "status", "receive_start_lsn", "receive_start_tli", "written_lsn", "flushed_lsn",
    "received_tli", "latest_end_lsn", "latest_end_time", "lag_bytes", "rate_bytes_per_second",
}  # fmt: skip
"""As in pg_stat_wal_receiver, and ours."""


@pytest.fixture(scope="module")
def server(module_cluster_factory: ClusterFactory) -> Cluster:
    return module_cluster_factory(17)


@pytest.fixture
def started() -> Iterator[list[Running]]:
    """Runs that are killed at the end."""
    found: list[Running] = []
    yield found
    for each in found:
        each.process.kill()
        each.process.wait()


def status(tmp_path: Path) -> Any:
    (found,) = program.succeed(tmp_path, "status", "--json").document["systems"]
    return found


def receive(tmp_path: Path, server: Cluster, started: list[Running]) -> Running:
    running = program.begin(tmp_path, "receive-wal", "-d", server.conninfo(), "--synchronous")
    started.append(running)
    wait_for(lambda: list(tmp_path.glob("*/*/wal/*.partial")))
    return running


def caught_up(tmp_path: Path, server: Cluster) -> None:
    """Wait until the receiver says that it has what the server has now."""
    now = server.sql("SELECT pg_current_wal_flush_lsn()::text")[0][0]

    def is_there() -> bool:
        receivers = status(tmp_path)["receivers"]
        reached = receivers[0].get("flushed_lsn", "0/0")
        return bool(server.sql(f"SELECT '{reached}'::pg_lsn >= '{now}'::pg_lsn")[0][0])

    wait_for(is_there)


def test_a_running_receiver_is_shown_as_the_server_would_show_one(
    server: Cluster, tmp_path: Path, started: list[Running]
) -> None:
    running = receive(tmp_path, server, started)
    server.sql("SELECT pg_logical_emit_message(false, 'test', repeat('x', 300000))")
    caught_up(tmp_path, server)
    found = status(tmp_path)
    (receiver,) = found["receivers"]
    assert receiver.keys() >= COLUMNS
    assert receiver["pid"] == running.process.pid
    assert (receiver["status"], receiver["received_tli"]) == ("streaming", 1)
    assert receiver["lag_bytes"] >= 0
    assert receiver["rate_bytes_per_second"] > 0
    assert found["newest_wal"]["is_partial"]
    table = program.succeed(tmp_path, "status").out.decode()
    assert str(running.process.pid) in table
    assert "LATEST_END_LSN" in table


def test_a_killed_receiver_is_not_shown_though_its_file_is_there(
    server: Cluster, tmp_path: Path, started: list[Running]
) -> None:
    running = receive(tmp_path, server, started)
    caught_up(tmp_path, server)
    running.process.kill()
    running.process.wait()
    assert list(tmp_path.glob("*/*/.receive-wal.positions"))
    assert status(tmp_path)["receivers"] == []
    assert "none is running" in program.succeed(tmp_path, "status").out.decode()


def test_a_receiver_without_server_is_waiting(
    cluster_factory: ClusterFactory, tmp_path: Path, started: list[Running]
) -> None:
    server = cluster_factory(15)
    receive(tmp_path, server, started)
    caught_up(tmp_path, server)
    server.kill9()
    wait_for(lambda: status(tmp_path)["receivers"][0]["status"] == "waiting")


def test_a_running_backup_is_shown_until_it_is_one(
    server: Cluster, tmp_path: Path, started: list[Running]
) -> None:
    words = ("-d", server.conninfo(), "-c", "fast", "-r", "1M", "-Z", "none")
    running = program.begin(tmp_path, "backup", *words)
    started.append(running)
    wait_for(lambda: list(tmp_path.glob("*/*/backups/*/.base.tar.tmp-*")))
    wait_for(lambda: status(tmp_path)["backups"][0]["stored_size"] > 0)
    found = status(tmp_path)
    (backup,) = found["backups"]
    assert (backup["pid"], backup["command"]) == (running.process.pid, "backup")
    assert found["last_backup"] is None
    assert backup["label"] in program.succeed(tmp_path, "status").out.decode()
    running.send(signal.SIGKILL)
    running.process.wait()
    assert status(tmp_path)["backups"] == []
    program.succeed(tmp_path, "backup", "-d", server.conninfo(), "-c", "fast")
    found = status(tmp_path)
    assert found["backups"] == []
    assert found["last_backup"]["kind"] == "full"
    assert not found["newest_wal"]["is_partial"]


def test_watching_looks_again_until_interrupted(server: Cluster, tmp_path: Path) -> None:
    program.succeed(tmp_path, "receive-wal", "-d", server.conninfo(), "--once")
    words = program.command("status", "--watch", "0.1")
    with subprocess.Popen(
        words, cwd=tmp_path, env=program.environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        looks = 0
        for line in process.stdout:
            looks += line.startswith("system identifier")
            if looks == 3:
                break
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE) == 130
