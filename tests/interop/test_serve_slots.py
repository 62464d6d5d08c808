"""Slots that stock clients make in a repository hold WAL back from expire until they are gone."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgbackup.pg.lsn import Lsn, Segment, Timeline
from tests.archiving.test_servers import backed_up, insert, wait_until_archived
from tests.cli.program import succeed
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.interop.serving import Serving
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.interop
MIB = 1 << 20


@pytest.fixture
def server(cluster_factory: ClusterFactory, tmp_path: Path) -> Cluster:
    return backed_up(cluster_factory, 15, tmp_path / "repo", 3)


@pytest.fixture
def serving(server: Cluster, tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path, tmp_path / "repo", 15) as running:
        yield running


def stored_segments(tmp_path: Path) -> list[str]:
    (timeline,) = succeed(tmp_path, "wal", "list", "-B", "repo", "--json").document["timelines"]
    (stretch,) = timeline["stretches"]
    first, last = (Segment.parse(stretch[which], MIB) for which in ("first", "last"))
    return [
        Segment(first.timeline, number, MIB).name for number in range(first.number, last.number + 1)
    ]


def slots(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """What is stored, by name."""
    shown = succeed(tmp_path, "slot", "show", "-B", "repo", "--json").document
    return {each["slot_name"]: each for each in shown["slots"]}


def receive(serving: Serving, target: Path, end: Lsn) -> None:
    """Let pg_receivewal get WAL beyond a position."""
    words = ("-D", target, "-S", "far", "--synchronous", "-n", "--endpos", end)
    done = serving.client("pg_receivewal", *words)
    assert done.returncode == 0, done.stderr


def test_expire_keeps_what_a_slot_that_lags_needs(
    serving: Serving, server: Cluster, tmp_path: Path
) -> None:
    target = tmp_path / "copy"
    target.mkdir()
    first, second, *_ = stored_segments(tmp_path)
    assert serving.command("CREATE_REPLICATION_SLOT far PHYSICAL RESERVE_WAL").returncode == 0
    (target / f"{first}.partial").write_bytes(bytes(MIB))
    receive(serving, target, Lsn(Segment.parse(second, MIB).start + 100))
    position = Lsn.parse(slots(tmp_path)["far"]["restart_lsn"])
    lagging = Segment.containing(Timeline(1), position, MIB)
    assert lagging.name in (first, second)  # a client need not report when it ends
    wait_until_archived(server, insert(server, 3))
    succeed(tmp_path, "backup", "-d", server.conninfo(), "-c", "fast", "-B", "repo")
    wait_until_archived(server, insert(server, 1))
    out = succeed(tmp_path, "expire", "-B", "repo", "--keep-full", 1, "--dry-run").out
    assert b"slot far holds it" in out
    succeed(tmp_path, "expire", "-B", "repo", "--keep-full", 1)
    (backup,) = succeed(tmp_path, "list", "-B", "repo", "--json").document["backups"]
    names = stored_segments(tmp_path)
    assert names[0] == lagging.name
    receive(serving, target, Lsn(Segment.parse(names[-1], MIB).end - 1))
    for name in names:
        succeed(tmp_path, "wal-get", "-B", "repo", name, tmp_path / "archived")
        assert (target / name).read_bytes() == (tmp_path / "archived").read_bytes()
    assert serving.client("pg_receivewal", "--drop-slot", "-S", "far").returncode == 0
    succeed(tmp_path, "expire", "-B", "repo", "--keep-full", 1)
    start = Lsn.parse(backup["start_lsn"])
    assert stored_segments(tmp_path)[0] == Segment.containing(Timeline(1), start, MIB).name


def test_stock_clients_make_and_drop_slots(serving: Serving, tmp_path: Path) -> None:
    create = ("--create-slot", "-S", "copy")
    assert serving.client("pg_receivewal", *create).returncode == 0
    assert {name: slot["restart_lsn"] for name, slot in slots(tmp_path).items()} == {"copy": None}
    again = serving.client("pg_receivewal", *create)
    assert again.returncode == 1
    assert 'replication slot "copy" already exists' in again.stderr
    assert serving.client("pg_receivewal", *create, "--if-not-exists").returncode == 0
    assert serving.client("pg_receivewal", "--drop-slot", "-S", "copy").returncode == 0
    assert slots(tmp_path) == {}
    gone = serving.client("pg_receivewal", "--drop-slot", "-S", "copy")
    assert gone.returncode == 1
    assert 'replication slot "copy" does not exist' in gone.stderr
    unknown = serving.client("pg_receivewal", "-D", tmp_path, "-S", "copy", "-n")
    assert unknown.returncode == 1
    assert 'replication slot "copy" does not exist' in unknown.stderr


def test_a_slot_in_use_is_not_dropped_but_with_wait(serving: Serving, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    target.mkdir()
    assert serving.client("pg_receivewal", "--create-slot", "-S", "used").returncode == 0
    receiver = serving.begin_client("pg_receivewal", "-D", target, "-S", "used", "-n")
    try:
        wait_for(lambda: slots(tmp_path)["used"]["active"])
        refused = serving.command("DROP_REPLICATION_SLOT used")
        assert refused.returncode == 1
        assert 'ERROR:  55006: replication slot "used" is active for PID' in refused.stderr
        waiting = serving.begin_client(
            "psql", "-d", "replication=true", "-c", "DROP_REPLICATION_SLOT used WAIT"
        )
        assert "used" in slots(tmp_path)
        assert waiting.poll() is None
        receiver.send_signal(signal.SIGINT)
        _, err = receiver.communicate(timeout=PATIENCE)
        assert receiver.returncode == 0, err
        _, err = waiting.communicate(timeout=PATIENCE)
        assert waiting.returncode == 0, err
    finally:
        receiver.kill()
    assert slots(tmp_path) == {}
