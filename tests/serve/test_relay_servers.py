"""A relay between real servers and clients: what comes is archived and sent on at once."""

from pathlib import Path

import pytest

from pgbackup.pg.lsn import Lsn, Segment, Timeline
from pgbackup.replication import client
from pgbackup.replication.transport import CopyBegin
from pgbackup.serve.entry.listener import user_name
from pgbackup.wire.commands import StartPhysicalReplication
from pgbackup.wire.messages import standby_status
from tests.archiving.receiver.receiving import KEEP, load
from tests.cli import program
from tests.fix_cluster import ClusterFactory
from tests.repo.samples import MIB
from tests.serve.relaying import NAME, Relay, receive_up_to
from tests.serve.wal.test_walstream_servers import in_pg_wal, write
from tests.waiting import PATIENCE, wait_for

ROUNDS = 5
ATTACHED = f"SELECT count(*)::int FROM pg_stat_replication WHERE application_name = '{NAME}'"


@pytest.mark.parametrize("major", [13, 18])
def test_a_relay_begins_with_nothing_and_sends_on_what_it_receives(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    server = cluster_factory(major, settings=KEEP | {"autovacuum": False})
    words = ("--synchronous", "-S", "kept", "-C", "--if-not-exists")
    with Relay(tmp_path, server.conninfo(), *words) as relay, relay.connected() as transport:
        wait_for(lambda: client.identify_system(transport).flushed.lsn)
        found = client.identify_system(transport).flushed
        start = Segment.containing(Timeline(1), found.lsn, MIB).start
        transport.send(StartPhysicalReplication(start, Timeline(1)))
        assert isinstance(client.expect_event(transport, PATIENCE), CopyBegin)
        received = b""
        for number in range(ROUNDS):
            end = write(server)
            received += receive_up_to(transport, start + len(received), end)
            if number == ROUNDS // 2:
                server.restart()
                load(server)
        assert received == in_pg_wal(server, 1, start, start + len(received))
    server.poll_until("SELECT active FROM pg_replication_slots", False)


def test_what_is_archived_is_served_while_the_server_is_down(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    server = cluster_factory(17, settings=KEEP)
    with Relay(tmp_path, server.conninfo()) as relay:
        with relay.connected() as transport:
            before = client.identify_system(transport)
        relay.stop()
        server.stop()
        relay.start()
        with relay.connected() as transport:
            after = client.identify_system(transport)
        assert after.system_identifier == before.system_identifier
        server.start()
        server.poll_until(ATTACHED, 1)


def test_status_shows_the_clients_of_a_relay(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    server = cluster_factory(17)

    def clients() -> list[dict[str, object]]:
        answer = program.succeed(tmp_path, "status", "-B", tmp_path / "repo", "--json")
        (found,) = answer.document["systems"]
        return list(found["clients"])

    words = ("--synchronous-standby-names", "FIRST 1 (s1)")
    with Relay(tmp_path, server.conninfo(), *words) as relay:
        with relay.connected("s1") as transport:
            wait_for(lambda: client.identify_system(transport).flushed.lsn)
            end = client.identify_system(transport).flushed.lsn
            transport.send(StartPhysicalReplication(end, Timeline(1)))
            assert isinstance(client.expect_event(transport, PATIENCE), CopyBegin)
            transport.send(standby_status(end, end, Lsn(0)))
            wait_for(lambda: [each["sync_state"] for each in clients()] == ["sync"])
            (row,) = clients()
            assert Lsn.parse(str(row["sent_lsn"])) >= end
            changing = {"pid": 0, "backend_start": "", "reply_time": "", "sent_lsn": ""}
            assert row | changing == {
                "pid": 0, "usename": user_name(), "application_name": "s1", "client_addr": None,
                "client_port": None, "backend_start": "", "state": "streaming",
                "sent_lsn": "", "write_lsn": str(end), "flush_lsn": str(end),
                "replay_lsn": None, "write_lag": None, "flush_lag": None, "replay_lag": None,
                "sync_priority": 1, "sync_state": "sync", "reply_time": "",
            }  # fmt: skip
            text = program.succeed(tmp_path, "status", "-B", tmp_path / "repo").out.decode()
            assert "APPLICATION_NAME" in text
        relay.kill9()
        assert clients() == []
        assert list(relay.repo.glob("*/.serve.*.clients"))
        relay.start()
        relay.wait_until_serving()
    assert list(relay.repo.glob("*/.serve.*")) == []


def test_what_ends_a_receiver_ends_the_relay(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    server, other = cluster_factory(16), cluster_factory(16)
    with Relay(tmp_path, server.conninfo()) as relay:
        relay.wait_until_serving()
    with Relay(tmp_path, other.conninfo()) as relay:
        answer = relay.wait()
        assert answer.status == 8
        assert "system" in answer.error()[0]
