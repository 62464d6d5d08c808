"""The end of a walsender, as its clients see it: by libpq, within this process."""

from contextlib import suppress

import pytest

from pgbackup.errors import ConnectionFailed, PgbackupError, ServerError
from pgbackup.pg.lsn import Lsn, Segment
from pgbackup.replication import client
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.replication.transport import CommandComplete, Ready
from pgbackup.repo.repository import ClusterRepository
from pgbackup.serve import connections
from pgbackup.wire.basebackup import BaseBackup
from pgbackup.wire.messages import standby_status
from tests.backup.sample import Sample
from tests.serve.basebackup.test_storedbackup import with_map
from tests.serve.running import Running
from tests.serve.test_server import begin_stream, receive_wal, stored

ENDED = "terminating connection due to administrator command"


@pytest.fixture
def made() -> Sample:
    return with_map()


@pytest.fixture
def cluster(made: Sample) -> ClusterRepository:
    return stored(made)


def last_words(transport: LibpqTransport) -> list[object]:
    """All that still comes, data left out, up to the loss of the connection."""
    events: list[object] = []
    while not events or not isinstance(events[-1], PgbackupError):
        try:
            event = client.expect_event(transport, 60)
        except PgbackupError as error:
            event = error
        if not isinstance(event, memoryview):
            events.append(event)
    return events


def take_backup(transport: LibpqTransport) -> None:
    """Have one, whatever becomes of its page checks."""
    transport.send(BaseBackup("ours"))
    with suppress(ServerError):
        while not isinstance(client.expect_event(transport, 60), Ready):
            pass


def wait_for_the_end(idle: LibpqTransport) -> None:
    """Ask until it is over, which an idle client is told."""
    error: PgbackupError | None = None
    while error is None:
        try:
            client.identify_system(idle)
        except PgbackupError as ended:
            error = ended
    assert ENDED in str(error)


def test_all_that_is_archived_is_sent_and_acknowledged_before_the_end(
    made: Sample, cluster: ClusterRepository
) -> None:
    first, *_, last = made.segments
    more = Segment(last.timeline, last.number + 1, last.size)
    with Running(cluster) as running, running.connected() as transport:
        begin_stream(transport, first.start)
        receive_wal(transport, first.start, last.end)
        with cluster.archive.segment_writer(more, None) as writer:
            writer.write(bytes(more.size))
            writer.commit()
        running.begin_stop()
        assert receive_wal(transport, last.end, more.end) == bytes(more.size)
        transport.send(standby_status(more.end, last.end, Lsn(0)))
        assert isinstance(client.expect_event(transport, 60), memoryview), "it is asked again"
        transport.send(standby_status(more.end, more.end, Lsn(0)))
        ended, lost = last_words(transport)
        assert ended == CommandComplete("COPY 0")
        assert isinstance(lost, ConnectionFailed)


def test_a_client_that_does_not_acknowledge_is_told_why_it_ends(
    made: Sample, cluster: ClusterRepository
) -> None:
    first, *_, last = made.segments
    with Running(cluster, grace=0.2) as running, running.connected() as transport:
        begin_stream(transport, first.start)
        receive_wal(transport, first.start, last.end)
        running.stop()
        (error,) = last_words(transport)
        assert ENDED in str(error)
    assert running.cut_off == 1


def test_a_client_that_takes_nothing_is_cut_off(
    made: Sample, cluster: ClusterRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LAST_WORDS", 0.2)
    first, *_ = made.segments
    with Running(cluster, grace=0.1) as running, running.connected() as transport:
        begin_stream(transport, first.start)
        running.stop()
        (error,) = last_words(transport)
        assert isinstance(error, ConnectionFailed)
    assert running.cut_off == 1


def test_streams_wait_for_clients_that_take_a_base_backup(
    made: Sample, cluster: ClusterRepository
) -> None:
    """pg_basebackup learns over one connection up to where it needs WAL over the other."""
    first, *_, last = made.segments
    with (
        Running(cluster) as running,
        running.connected() as stream,
        running.connected() as backup,
        running.connected() as idle,
    ):
        begin_stream(stream, first.start)
        receive_wal(stream, first.start, last.end)
        stream.send(standby_status(last.end, last.end, Lsn(0)))
        take_backup(backup)
        running.begin_stop()
        wait_for_the_end(idle)
        stream.send(standby_status(last.end, last.end, Lsn(0), reply=True))
        assert isinstance(client.expect_event(stream, 60), memoryview)
        backup.disconnect()
        assert last_words(stream)[0] == CommandComplete("COPY 0")


def test_no_command_begins_any_more(cluster: ClusterRepository) -> None:
    with (
        Running(cluster) as running,
        running.connected() as backup,
        running.connected() as idle,
    ):
        take_backup(backup)
        running.begin_stop()
        wait_for_the_end(idle)
        with pytest.raises(PgbackupError, match=ENDED):
            client.identify_system(backup)
