"""A whole walsender in this process, asked by libpq: answers, errors, streams, and its end."""

import os
import stat
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pgbackup.backup.receive import receive_backup
from pgbackup.backup.stored import StoredBackup
from pgbackup.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    Locked,
    NotFound,
    PgbackupError,
    ServerError,
)
from pgbackup.pg.lsn import Lsn, Timeline
from pgbackup.pg.tar import END_OF_ARCHIVE
from pgbackup.replication import client
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.replication.transport import (
    CommandComplete,
    CopyBegin,
    CopyDone,
    CopyEnd,
    Ready,
    ResultSet,
)
from pgbackup.repo import layout
from pgbackup.repo.record import ChecksumFailures
from pgbackup.repo.repository import ClusterRepository
from pgbackup.serve import walsender
from pgbackup.serve.entry.listener import UnixListener, user_name
from pgbackup.serve.entry.users import Right, User
from pgbackup.serve.offer import Offer
from pgbackup.storage.memory import MemoryStorage
from pgbackup.wire.basebackup import BaseBackup
from pgbackup.wire.commands import (
    CreateLogicalSlot,
    CreatePhysicalSlot,
    ReadSlot,
    StartPhysicalReplication,
    UploadManifest,
)
from pgbackup.wire.messages import Keepalive, XLogData, parse_stream_message, standby_status
from tests.backup.sample import LABEL, MIB, OID, Sample, sample
from tests.repo.samples import SYSTEM
from tests.serve.basebackup.test_storedbackup import with_map
from tests.serve.running import PORT, Running
from tests.stream.checked_sink import CheckedSink
from tests.waiting import wait_for

HISTORY = b"1\t0/350000\tno recovery target specified\n"


class Raw:
    """A command whose text is anything."""

    def __init__(self, text: str) -> None:
        self._text = text

    def text(self, major: int) -> str:
        return self._text


def stored(made: Sample) -> ClusterRepository:
    return made.put(MemoryStorage())


@pytest.fixture(scope="module")
def shared() -> Iterator[Running]:
    """A server for tests that change nothing."""
    with Running(stored(with_map())) as server:
        yield server


@pytest.fixture
def made() -> Sample:
    return with_map()


@pytest.fixture
def running(made: Sample) -> Iterator[Running]:
    with Running(stored(made)) as server:
        yield server


@pytest.fixture
def transport(running: Running) -> Iterator[LibpqTransport]:
    with running.connected() as connected:
        yield connected


def refused(transport: LibpqTransport, text: str) -> ServerError:
    """Send a command that fails, and see that the connection can be used afterwards."""
    with pytest.raises(ServerError) as caught:
        client.query(transport, Raw(text), 1)
    assert client.identify_system(transport).system_identifier == SYSTEM
    return caught.value


def test_a_client_gets_to_know_the_cluster(transport: LibpqTransport, made: Sample) -> None:
    assert transport.server_version == 150000
    found = client.identify_system(transport)
    last = max(made.segments, key=lambda segment: segment.number)
    assert found.system_identifier == SYSTEM
    assert (found.flushed.timeline, found.flushed.lsn) == (1, last.end)
    assert client.wal_segment_size(transport) == MIB
    assert client.show(transport, "data_directory_mode") == "0700"
    assert client.show(transport, "server_version") == "15.0"


@pytest.mark.parametrize(
    ("text", "sqlstate", "words"),
    [
        ("SELECT 1", "0A000", "cannot execute SQL commands in WAL sender for physical replication"),
        ("", "0A000", "cannot execute SQL commands in WAL sender for physical replication"),
        ("IDENTIFY_SYSTEM x", "42601", "syntax error"),
        ("SHOW no_such_thing", "42704", 'unrecognized configuration parameter "no_such_thing"'),
        ("TIMELINE_HISTORY 7", "58P01", 'could not open file "pg_wal/00000007.history"'),
        ("DROP_REPLICATION_SLOT none", "42704", 'replication slot "none" does not exist'),
        ('CREATE_REPLICATION_SLOT "A" PHYSICAL', "42602", "contains invalid character"),
        (CreateLogicalSlot("s", "p").text(15), "55000", "logical decoding requires a database"),
        ("BASE_BACKUP (TARGET 'server', TARGET_DETAIL '/x')", "42501", "permission denied"),
        ("BASE_BACKUP (FOO)", "42601", 'unrecognized base backup option: "foo"'),
        ("BASE_BACKUP (MAX_RATE 1)", "22003", "outside the valid range"),
        ("START_REPLICATION 0/200000 TIMELINE 9", "XX000", "is not in this server's history"),
        ("START_REPLICATION SLOT none 0/200000", "42704", "does not exist"),
    ],
)
def test_an_error_is_that_of_a_server_and_leaves_the_connection_usable(
    shared: Running, text: str, sqlstate: str, words: str
) -> None:
    with shared.connected() as transport:
        error = refused(transport, text)
    assert error.sqlstate == sqlstate
    assert words in error.message


@pytest.mark.parametrize(
    ("start", "sqlstate", "words"),
    [
        (0x100000, "58P01", "has already been removed"),
        (0x900000, "XX000", "is ahead of the WAL flush position"),
    ],
    ids=["removed", "ahead"],
)
def test_wal_that_is_not_there_is_an_error_within_the_copy(
    shared: Running, start: int, sqlstate: str, words: str
) -> None:
    with shared.connected() as transport:
        begin_stream(transport, Lsn(start))
        with pytest.raises(ServerError, match=words) as caught:
            client.expect_event(transport, 30)
        assert caught.value.sqlstate == sqlstate
        assert client.identify_system(transport).system_identifier == SYSTEM


def test_a_client_that_is_ahead_can_come_again(made: Sample) -> None:
    """RC-19: it got WAL elsewhere, as from an archive of its own."""
    cluster = stored(made)
    last = max(made.segments, key=lambda segment: segment.number)
    following = type(last)(last.timeline, last.number + 1, last.size)
    start = Lsn(following.start + 100)
    with Running(cluster) as running, running.connected() as transport:
        begin_stream(transport, start)
        with pytest.raises(ServerError, match="is ahead of the WAL flush position"):
            client.expect_event(transport, 30)
        with cluster.archive.segment_writer(following, 1) as writer:
            writer.write(bytes(following.size))
            writer.commit()
        begin_stream(transport, start)
        assert receive_wal(transport, start, following.end) == bytes(following.end - start)


def test_incremental_backups_are_refused_from_17_on(made: Sample) -> None:
    with Running(stored(replace(made, major=17))) as running, running.connected() as transport:
        assert refused(transport, UploadManifest().text(17)).sqlstate == "0A000"


@pytest.mark.parametrize("major", [14, 15, 18])
def test_a_base_backup_is_what_is_stored(made: Sample, major: int) -> None:
    cluster = stored(replace(made, major=major))
    with Running(cluster) as running, running.connected() as transport:
        sink = CheckedSink((8192,))
        command = BaseBackup("ours", manifest_checksums="CRC32C")
        outcome = receive_backup(transport, command, sink)
        sink.cleanup()
        backup = StoredBackup(cluster.storage, cluster.catalog.get(LABEL))
        assert sink.manifest == backup.read(layout.MANIFEST)
        for oid, name in ((OID, f"{OID}.tar"), (None, "base.tar")):
            members = b"".join(member.encode() for member in made.archives[oid])
            assert sink.archives[name] == members + END_OF_ARCHIVE
        assert (outcome.start.lsn, outcome.stop.lsn) == (made.start, made.stop)
        assert client.identify_system(transport).system_identifier == SYSTEM


def test_damage_that_a_backup_was_taken_with_is_told_to_its_clients(made: Sample) -> None:
    warning = 'WARNING: checksum verification failed in file "./base/1/2", block 1'
    made.changes["checksum_failures"] = ChecksumFailures(True, (warning,))
    with Running(stored(made)) as running, running.connected() as transport:
        for is_asked in (True, False):
            sink = CheckedSink((8192,))
            command = BaseBackup("ours", tablespace_map=True, verify_checksums=is_asked)
            outcome = receive_backup(transport, command, sink)
            sink.cleanup()
            assert sink.is_complete
            assert outcome.is_damaged is is_asked
            assert bool(outcome.warnings) is is_asked
        assert client.identify_system(transport).system_identifier == SYSTEM


def test_a_repository_without_a_backup_says_so() -> None:
    made = sample()
    cluster = stored(made)
    cluster.catalog.remove(LABEL)
    with Running(cluster) as running, running.connected() as transport:
        error = refused(transport, "BASE_BACKUP")
        assert "there is no base backup in this repository" in error.message


def test_a_damaged_backup_keeps_nobody_from_having_wal(made: Sample) -> None:
    cluster = stored(made)
    with cluster.storage.writer(layout.record_object(SYSTEM, LABEL)) as writer:
        writer.write(b"{")
        writer.commit(replace=True)
    first, *_ = made.segments
    with Running(cluster) as running, running.connected() as transport:
        assert "could not read" in refused(transport, "BASE_BACKUP").message
        assert client.show(transport, "server_version") == "15.0"
        client.create_slot(transport, "s", reserve_wal=True)
        begin_stream(transport, first.start, slot="s")
        assert receive_wal(transport, first.start, first.end) == made.segments[first]


def test_a_backup_that_is_gone_keeps_nobody_from_having_wal(made: Sample) -> None:
    cluster = stored(made)
    first, *_ = made.segments
    with pytest.raises(NotFound):
        Offer(cluster, "20991231T235959F")
    with Running(cluster, offer=Offer(cluster, LABEL)) as running:
        cluster.catalog.remove(LABEL)
        with running.connected() as transport:
            begin_stream(transport, first.start)
            assert receive_wal(transport, first.start, first.end) == made.segments[first]


def test_slots_live_as_those_of_a_server(running: Running, transport: LibpqTransport) -> None:
    client.create_slot(transport, "kept", reserve_wal=True)
    with running.connected() as other:
        client.query(other, CreatePhysicalSlot("gone", temporary=True), 4)
        assert client.read_slot(transport, "gone") is not None
        assert "active" in refused(transport, "DROP_REPLICATION_SLOT gone").message
    wait_for(lambda: client.query(transport, ReadSlot("gone"), 3)[0] is None)
    slot = client.read_slot(transport, "kept")
    assert slot is not None
    assert slot.restart is not None
    client.drop_slot(transport, "kept")
    assert client.query(transport, ReadSlot("kept"), 3) == (None, None, None)


def test_a_temporary_slot_ends_with_an_error(transport: LibpqTransport) -> None:
    client.query(transport, CreatePhysicalSlot("gone", temporary=True), 4)
    refused(transport, "SHOW nothing")
    assert client.query(transport, ReadSlot("gone"), 3)[0] is None


def begin_stream(transport: LibpqTransport, start: Lsn, timeline: int = 1, **more: str) -> None:
    transport.send(StartPhysicalReplication(start, Timeline(timeline), **more))
    assert isinstance(client.expect_event(transport, 30), CopyBegin)


def receive_wal(transport: LibpqTransport, start: int, end: int) -> bytes:
    """The bytes up to a position; they join."""
    found = b""
    while start + len(found) < end:
        event = client.expect_event(transport, 30)
        assert isinstance(event, memoryview)
        message = parse_stream_message(event)
        if isinstance(message, XLogData):
            assert message.start == start + len(found)
            assert message.server_end >= message.start + len(message.data)
            found += message.data
    return found


def the_end(transport: LibpqTransport) -> list[object]:
    """What comes behind the data; keepalives are left out."""
    events: list[object] = []
    while not events or not isinstance(events[-1], Ready):
        event = client.expect_event(transport, 30)
        if not isinstance(event, memoryview):
            events.append(event)
    return events


def test_wal_is_streamed_and_the_client_ends_it(
    running: Running, transport: LibpqTransport, made: Sample
) -> None:
    first, *_ = made.segments
    whole = b"".join(made.segments.values())
    client.create_slot(transport, "s")
    begin_stream(transport, first.start, slot="s")
    end = Lsn(first.start + len(whole))
    assert receive_wal(transport, first.start, end) == whole
    transport.send(standby_status(end, end, Lsn(0), reply=True))
    event = client.expect_event(transport, 30)
    assert isinstance(event, memoryview)
    answer = parse_stream_message(event)
    assert isinstance(answer, Keepalive)
    assert (answer.server_end, answer.reply_requested) == (end, False)
    with running.connected() as other:
        assert "is active for PID" in refused(other, "START_REPLICATION SLOT s 0/200000").message
    transport.send(CopyEnd())
    done, *tags, _ = the_end(transport)
    assert isinstance(done, CopyDone)
    assert tags == [CommandComplete("START_STREAMING"), CommandComplete("START_REPLICATION")]
    slot = client.read_slot(transport, "s")
    assert slot is not None
    assert slot.restart is not None
    assert slot.restart.lsn == end


def test_who_waits_within_a_copy_can_be_woken(transport: LibpqTransport, made: Sample) -> None:
    *_, last = made.segments
    begin_stream(transport, last.start)
    receive_wal(transport, last.start, last.end)
    wake = os.eventfd(1)
    assert transport.receive(None, wake) is None
    os.eventfd_read(wake)
    transport.send(standby_status(last.end, last.end, Lsn(0), reply=True))
    assert isinstance(transport.receive(None, wake), memoryview)
    os.close(wake)


def test_nobody_is_given_up_who_was_not_asked(
    transport: LibpqTransport, made: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pg_receivewal with --status-interval=0, when it has caught up after more than a minute."""
    monkeypatch.setattr(walsender, "TIMEOUT", 0.0)
    begin_stream(transport, next(iter(made.segments)).start)
    asked: list[bool] = []
    with pytest.raises(ConnectionFailed):
        listen_to_questions(transport, asked)
    assert any(asked)


def listen_to_questions(transport: LibpqTransport, asked: list[bool]) -> None:
    while isinstance(event := client.expect_event(transport, 30), memoryview):
        message = parse_stream_message(event)
        asked.append(isinstance(message, Keepalive) and message.reply_requested)


def with_second_timeline(made: Sample) -> tuple[Sample, Lsn]:
    """The last segment goes on, on timeline 2, from its middle."""
    made.histories["00000002.history"] = HISTORY
    first, last = made.segments
    data = made.segments[last]
    switch = Lsn(0x350000)
    assert first.start < switch < last.end
    made.segments = {first: made.segments[first], last: data}
    return made, switch


def test_the_stream_of_a_timeline_that_was_left_says_where_it_goes_on() -> None:
    made, switch = with_second_timeline(sample())
    cluster = stored(made)
    first, last = made.segments
    next_one = type(last)(Timeline(2), last.number, last.size)
    with cluster.archive.segment_writer(next_one, None) as writer:
        writer.write(made.segments[last])
        writer.commit()
    with Running(cluster) as running, running.connected() as transport:
        assert client.timeline_history(transport, Timeline(2)) == HISTORY
        assert client.identify_system(transport).flushed.timeline == 2
        begin_stream(transport, first.start)
        found = receive_wal(transport, first.start, switch)
        assert found == b"".join(made.segments.values())[: switch - first.start]
        assert isinstance(client.expect_event(transport, 30), CopyDone)
        transport.send(CopyEnd())
        next_row, tag, _ = the_end(transport)
        assert isinstance(next_row, ResultSet)
        assert next_row.rows == ((b"2", b"0/350000"),)
        assert tag == CommandComplete("START_REPLICATION")
        row = client.query(transport, StartPhysicalReplication(switch, Timeline(1)), 2)
        assert row == (b"2", b"0/350000")


def test_a_stream_ends_with_the_server_when_all_is_acknowledged(
    running: Running, transport: LibpqTransport, made: Sample
) -> None:
    first, last = made.segments
    begin_stream(transport, first.start)
    receive_wal(transport, first.start, last.end)
    running.begin_stop()
    event = client.expect_event(transport, 30)
    assert isinstance(event, memoryview)
    goodbye = parse_stream_message(event)
    assert isinstance(goodbye, Keepalive)
    assert goodbye.reply_requested
    transport.send(standby_status(last.end, last.end, Lsn(0)))
    assert client.expect_event(transport, 30) == CommandComplete("COPY 0")
    with pytest.raises(ConnectionFailed):
        client.expect_event(transport, 30)
    running.stop()


def test_a_client_that_is_idle_is_told_that_the_server_ends(
    running: Running, transport: LibpqTransport
) -> None:
    client.identify_system(transport)
    running.stop()
    with pytest.raises(PgbackupError, match="terminating connection due to administrator command"):
        client.identify_system(transport)


def test_rules_say_who_may_do_what(made: Sample) -> None:
    rules = User(user_name(), rights=frozenset({Right.WAL}))
    with Running(stored(made), rules) as running, running.connected() as transport:
        assert client.show(transport, "wal_segment_size") == "1MB"
        for text in ("BASE_BACKUP", "CREATE_REPLICATION_SLOT s PHYSICAL"):
            assert refused(transport, text).sqlstate == "42501"


@pytest.mark.parametrize(
    ("rules", "is_told"),
    [
        (User(user_name(), rights=frozenset({Right.WAL})), True),
        (User(user_name(), rights=frozenset({Right.SLOTS})), True),
        (User(user_name(), rights=frozenset({Right.BASE_BACKUP})), False),
        (User(user_name(), clusters=frozenset({SYSTEM + 1})), False),
    ],
    ids=["wal", "slots", "base-backup", "elsewhere"],
)
def test_what_a_slot_holds_is_told_to_those_who_may_use_it(
    made: Sample, rules: User, is_told: bool
) -> None:
    with Running(stored(made), rules) as running, running.connected() as transport:
        if is_told:
            assert client.query(transport, ReadSlot("none"), 3) == (None, None, None)
        else:
            assert refused(transport, ReadSlot("none").text(15)).sqlstate == "42501"


def test_nobody_else_is_let_in_on_a_unix_socket(running: Running) -> None:
    with pytest.raises(AuthenticationFailed, match="Peer authentication failed"):
        running.connected("somebody_else").__enter__()


def test_the_directory_is_ours_alone_and_so_is_the_socket(running: Running) -> None:
    assert stat.S_IMODE(running.directory.stat().st_mode) == 0o700
    with pytest.raises(Locked, match="somebody else does"):
        UnixListener(str(running.directory), PORT)


def test_a_socket_that_was_left_is_taken_over(running: Running, made: Sample) -> None:
    left = running.directory / "left"
    UnixListener(str(left), PORT)._socket.close()
    listener = UnixListener(str(left), PORT)
    listener.close()
    assert list(left.iterdir()) == []


def test_a_socket_of_somebody_else_is_left_alone(running: Running) -> None:
    """As where a cleaner of /tmp removed ours, and the next server came before we ended."""
    directory = running.directory / "tidy"
    ours = UnixListener(str(directory), PORT)
    (directory / f".s.PGSQL.{PORT}").unlink()
    theirs = UnixListener(str(directory), PORT)
    ours.close()
    with pytest.raises(Locked):
        UnixListener(str(directory), PORT)
    theirs.close()
    assert list(directory.iterdir()) == []


def test_a_cluster_of_which_nothing_is_there_is_not_served() -> None:
    cluster = stored(sample())
    other = type(cluster)(cluster.storage, SYSTEM + 1)
    with pytest.raises(NotFound, match="nothing of it is in the repository"):
        Offer(other)
