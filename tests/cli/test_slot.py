"""`pgbackup slot` on one host and on several, and what it tells of a slot that runs into danger."""

from pathlib import Path
from typing import Any

import pytest

from pgbackup.pg.lsn import Lsn, Timeline, WalPosition
from pgbackup.repo.slots import read_slots
from pgbackup.serve.slots import Slots
from pgbackup.storage.local import LocalStorage
from tests.cli.program import Answer, run, succeed
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.repo.retention.expiring import make_cluster

SLOTS = "SELECT slot_name::text, slot_type, restart_lsn IS NOT NULL FROM pg_replication_slots"


def hosts(*servers: Cluster) -> tuple[str, str]:
    """A connection string that names several servers."""
    return "-d", f"host={','.join(str(each.run_directory) for each in servers)} user=postgres"


def show(tmp_path: Path, server: Cluster) -> dict[str, Any]:
    """What is told of the slot "own" on a server."""
    (found,) = succeed(tmp_path, "slot", "show", "own", "--json", *hosts(server)).document["hosts"]
    assert isinstance(found, dict)
    return found


def write_segments(server: Cluster, count: int) -> None:
    for _ in range(count):
        server.sql("SELECT pg_logical_emit_message(false, 'test', repeat(md5('x'), 9000))")
        server.sql("SELECT pg_switch_wal()")


def test_slots_are_created_shown_and_dropped(cluster: Cluster, tmp_path: Path) -> None:
    to = hosts(cluster)
    succeed(tmp_path, "slot", "create", "own", *to)
    assert cluster.sql(SLOTS) == [("own", "physical", False)]
    assert run(tmp_path, "slot", "create", "own", *to).status == 6
    succeed(tmp_path, "slot", "create", "own", "--if-not-exists", *to)
    found = show(tmp_path, cluster)
    assert (found["type"], found["active"], found["restart_lsn"]) == ("physical", False, None)
    assert b"physical" in succeed(tmp_path, "slot", "show", "own", *to).out
    succeed(tmp_path, "slot", "drop", "own", *to)
    assert cluster.sql(SLOTS) == []
    for action, hint in (("drop", ""), ("show", "Create it with: pgbackup slot create own")):
        answer = run(tmp_path, "slot", action, "own", *to)
        assert answer.status == 5
        assert answer.error()[1] == hint


def test_a_slot_is_seen_on_its_way_from_reserved_to_lost(cluster: Cluster, tmp_path: Path) -> None:
    cluster.configure({"max_wal_size": "2MB", "min_wal_size": "2MB", "checkpoint_timeout": "1d"})
    cluster.reload()
    succeed(tmp_path, "slot", "create", "own", "--reserve-wal", *hosts(cluster))
    found = show(tmp_path, cluster)
    assert (found["wal_status"], found["safe_wal_size"]) == ("reserved", None)
    write_segments(cluster, 5)
    cluster.poll_until("SELECT wal_status FROM pg_replication_slots", "extended")
    found = show(tmp_path, cluster)
    assert found["wal_status"] == "extended"
    assert found["retained_bytes"] > 4 << 20
    cluster.configure({"max_wal_size": "1GB", "max_slot_wal_keep_size": "3MB"})
    cluster.reload()
    cluster.poll_until("SELECT wal_status FROM pg_replication_slots", "unreserved")
    found = show(tmp_path, cluster)
    assert found["wal_status"] == "unreserved"
    assert found["safe_wal_size"] <= 0
    cluster.sql("CHECKPOINT")
    cluster.poll_until("SELECT wal_status FROM pg_replication_slots", "lost")
    found = show(tmp_path, cluster)
    assert (found["wal_status"], found["retained_bytes"]) == ("lost", 0)
    assert b"lost" in succeed(tmp_path, "slot", "show", "own", *hosts(cluster)).out


def test_slots_of_the_repository_are_shown_and_dropped(tmp_path: Path) -> None:
    cluster = make_cluster(LocalStorage(tmp_path / "pgbackup-repo"))
    slots = Slots(cluster, 4711)
    slots.create("idle")
    slots.create("used", is_temporary=True, reserve=WalPosition(Timeline(2), Lsn(0x3000028)))
    here = ("-B", "pgbackup-repo")
    idle, used = succeed(tmp_path, "slot", "show", "--json", *here).document["slots"]
    assert (idle["slot_name"], idle["active"], idle["restart_lsn"]) == ("idle", False, None)
    assert used == {
        "slot_name": "used", "slot_type": "physical", "temporary": True, "active": True,
        "active_pid": 4711, "restart_lsn": "0/3000028", "restart_tli": 2,
    }  # fmt: skip
    (found,) = succeed(tmp_path, "status", "--json").document["systems"]
    assert found["slots"] == [idle, used]
    assert b"4711" in succeed(tmp_path, "status").out
    (only,) = succeed(tmp_path, "slot", "show", "used", "--json", *here).document["slots"]
    assert only == used
    assert b"idle" not in succeed(tmp_path, "slot", "show", "used", *here).out
    refused = run(tmp_path, "slot", "drop", "used", *here)
    assert refused.status == 6
    assert "active for PID 4711" in refused.error()[0]
    succeed(tmp_path, "slot", "drop", "idle", *here)
    assert [slot.name for slot, _ in read_slots(cluster)] == ["used"]
    for action in ("drop", "show"):
        answer = run(tmp_path, "slot", action, "idle", *here)
        assert answer.status == 5
        assert "pgbackup slot show -B" in answer.error()[1]


@pytest.mark.parametrize("words", [("create", "a", "-B", "r"), ("drop", "-B", "r"), ("show",)])
def test_what_slot_cannot_do_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert run(tmp_path, "slot", *words).status == 2


@pytest.mark.parametrize("major", [14, 18])
def test_every_host_gets_its_turn(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    servers = [cluster_factory(major), cluster_factory(major)]
    to = hosts(*servers)
    succeed(tmp_path, "slot", "create", "own", "--reserve-wal", *to)
    assert [each.sql(SLOTS) for each in servers] == [[("own", "physical", True)]] * 2
    servers[0].sql("SELECT pg_drop_replication_slot('own')")
    answer = run(tmp_path, "slot", "create", "own", "--json", *to)
    assert answer.status == 6
    first, second = answer.document["hosts"]
    assert first == {"host": str(servers[0].run_directory), "done": "created"}
    assert second["error"]["code"] == 6
    servers[0].stop("immediate")
    answer = run(tmp_path, "slot", "show", "own", *to)
    assert answer.status == 3
    assert [line.split()[1] for line in lines(answer)[1:]] == ["FAILED", "physical"]
    message, _ = answer.error()
    assert message.startswith(f"{servers[0].run_directory}: could not connect")
    assert run(tmp_path, "slot", "drop", "own", *to).status == 3
    assert servers[1].sql(SLOTS) == []


def lines(answer: Answer) -> list[str]:
    return answer.out.decode().splitlines()


@pytest.mark.parametrize("major", [13, 17])
def test_without_sql_the_position_is_told_where_the_server_can(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    server = cluster_factory(major)
    succeed(tmp_path, "slot", "create", "own", "--reserve-wal", *hosts(server))
    server.sql("CREATE ROLE reader LOGIN REPLICATION")
    (server.pgdata / "pg_hba.conf").write_text("local replication,postgres postgres trust\n"
                                               "local replication reader trust\n")  # fmt: skip
    server.reload()
    server.poll_until("SELECT count(*)::int FROM pg_hba_file_rules WHERE error IS NULL", 2)
    answer = run(tmp_path, "slot", "show", "own", "--json", "-d", server.conninfo(), "-U", "reader")
    if major < 15:
        assert answer.status == 3
        assert "needs SQL" in answer.err
    else:
        (found,) = answer.document["hosts"]
        assert found["restart_lsn"] is not None
        assert found["wal_status"] is None
