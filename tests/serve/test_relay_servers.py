"""A relay between real servers and clients: what comes is archived and sent on at once."""

from pathlib import Path

import pytest

from pgbackup.pg.lsn import Segment, Timeline
from pgbackup.replication import client
from pgbackup.replication.transport import CopyBegin
from pgbackup.wire.commands import StartPhysicalReplication
from tests.archiving.receiving import KEEP, load
from tests.fix_cluster import ClusterFactory
from tests.repo.samples import MIB
from tests.serve.relaying import NAME, Relay, receive_up_to
from tests.serve.test_walstream_servers import in_pg_wal, write
from tests.waiting import wait_for

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
        assert isinstance(client.expect_event(transport, 30), CopyBegin)
        received = b""
        for number in range(ROUNDS):
            end = write(server)
            received += receive_up_to(transport, start + len(received), end)
            if number == ROUNDS // 2:
                server.restart()
                load(server)
        assert received == in_pg_wal(server, 1, start, start + len(received))
    assert server.sql("SELECT active FROM pg_replication_slots") == [(False,)]


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
