"""The receive loop: with real servers of every major, and with streams no server should send."""

import struct
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from pgbackup.errors import (
    ConnectionFailed,
    PgbackupError,
    ProtocolViolation,
    ServerError,
    WalGap,
)
from pgbackup.pg.lsn import Lsn, Segment, Timeline, WalPosition, segments_between
from pgbackup.replication import walreceiver
from pgbackup.replication.client import create_temporary_slot, identify_system
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.replication.transport import (
    CommandComplete,
    CopyBegin,
    CopyDone,
    CopyEnd,
    CopyKind,
    Ready,
)
from pgbackup.replication.walreceiver import Confirmed, WalStream
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.replication.memory_wal import MemoryWal
from tests.replication.transcript import Line, TranscriptTransport, row, rows
from tests.waiting import PATIENCE

SEGMENT_SIZE = 1 << 20
START = WalPosition(Timeline(1), Lsn(0x300000))


def segment_start(transport: LibpqTransport) -> WalPosition:
    """Where the segment that is being written begins."""
    now = identify_system(transport).flushed
    return WalPosition(now.timeline, Segment.containing(now.timeline, now.lsn, SEGMENT_SIZE).start)


def write_wal(server: Cluster, megabytes: int = 3) -> Lsn:
    """Make the server write some segments; the position behind them, which is flushed."""
    server.sql(
        f"SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000))"
        f" FROM generate_series(1, {megabytes})"
    )
    return Lsn.parse(server.sql("SELECT pg_switch_wal()::text")[0][0])


def test_generated_wal_arrives_byte_for_byte(server: Cluster, transport: LibpqTransport) -> None:
    start = segment_start(transport)
    wal = MemoryWal(start.lsn)
    end = write_wal(server)
    stream = WalStream(transport, wal, lambda: wal.write_lsn >= end)
    assert stream.run(start) is None
    assert stream.server_end >= end
    assert wal.flush_lsn == wal.write_lsn >= end
    assert bytes(wal.content[: end - start.lsn]) == pg_wal(server, start.lsn, end)
    assert identify_system(transport).flushed.lsn >= end, "the connection can be used again"


def pg_wal(server: Cluster, start: Lsn, end: Lsn) -> bytes:
    """The same WAL from the server's own files; `start` begins a segment."""
    files = [
        server.pgdata / "pg_wal" / segment.name
        for segment in segments_between(Timeline(1), start, end, SEGMENT_SIZE)
    ]
    return b"".join(file.read_bytes() for file in files)[: end - start]


def test_the_server_learns_what_is_flushed(server: Cluster) -> None:
    transport = LibpqTransport()
    transport.connect(server.conninfo(application_name="reporter"), "")
    create_temporary_slot(transport, "reporter")
    start = segment_start(transport)
    wal = MemoryWal(start.lsn)
    end = write_wal(server, 1)
    WalStream(transport, wal, lambda: wal.write_lsn >= end, slot="reporter").run(start)
    (restart,) = server.sql(
        "SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = 'reporter'"
    )[0]
    assert Lsn.parse(restart) == wal.flush_lsn
    transport.disconnect()


def test_a_stream_can_be_stopped_while_nothing_comes(transport: LibpqTransport) -> None:
    start = segment_start(transport)
    wal = MemoryWal(start.lsn)
    looks = iter(range(3))
    WalStream(transport, wal, lambda: next(looks, None) is None).run(start)
    assert wal.flush_lsn == wal.write_lsn


def test_wal_that_was_removed_is_a_gap(server: Cluster, transport: LibpqTransport) -> None:
    start = WalPosition(Timeline(1), Lsn(SEGMENT_SIZE))
    for _ in range(2):
        write_wal(server, 1)
        server.sql("CHECKPOINT")
    oldest = min(path.name for path in (server.pgdata / "pg_wal").glob("00000001*"))
    assert oldest > Segment.containing(Timeline(1), start.lsn, SEGMENT_SIZE).name
    with pytest.raises(
        WalGap, match=r"could not stream WAL from 0/100000 on timeline 1: "
    ) as caught:
        WalStream(transport, MemoryWal(start.lsn), lambda: False).run(start)
    assert "already been removed" in caught.value.message
    assert "Take a new backup" in str(caught.value.hint)
    identify_system(transport)


def test_wal_that_is_not_written_yet_is_an_error_of_the_server(transport: LibpqTransport) -> None:
    ahead = WalPosition(Timeline(1), Lsn(1 << 40))
    with pytest.raises(ServerError, match="ahead of the WAL flush position"):
        WalStream(transport, MemoryWal(ahead.lsn), lambda: False).run(ahead)
    identify_system(transport)


class Running(NamedTuple):
    """A stream on a thread of its own."""

    wal: MemoryWal
    errors: list[PgbackupError]
    thread: threading.Thread


@pytest.fixture
def stream_from() -> Iterator[Callable[[Cluster], Running]]:
    """Starts streams that never stop by themselves, and waits until they have begun."""
    running: list[Running] = []

    def start(cluster: Cluster) -> Running:
        transport = LibpqTransport()
        transport.connect(cluster.conninfo(application_name="streamer"), "")
        position = segment_start(transport)
        wal, errors = MemoryWal(position.lsn), list[PgbackupError]()

        def run() -> None:
            try:
                WalStream(transport, wal, lambda: False).run(position)
            except PgbackupError as error:
                errors.append(error)
            finally:
                transport.disconnect()

        thread = threading.Thread(target=run)
        thread.start()
        running.append(Running(wal, errors, thread))
        cluster.poll_until(
            "SELECT state FROM pg_stat_replication WHERE application_name = 'streamer'", "streaming"
        )
        return running[-1]

    yield start
    for each in running:
        each.thread.join(PATIENCE)
        assert not each.thread.is_alive()


def test_a_fast_shutdown_does_not_wait_for_a_report(
    cluster_factory: ClusterFactory, major: int, stream_from: Callable[[Cluster], Running]
) -> None:
    cluster = cluster_factory(major, settings={"wal_sender_timeout": 0})
    running = stream_from(cluster)
    cluster.sql("SELECT pg_logical_emit_message(true, 'test', repeat('x', 300000))")
    cluster.stop("fast")  # which waits for a receiver for ever
    running.thread.join(PATIENCE)
    (error,) = running.errors
    assert isinstance(error, ConnectionFailed)
    assert "shutting down" in error.message
    assert running.wal.flush_lsn == running.wal.write_lsn
    written = pg_wal(cluster, running.wal.start, running.wal.flush_lsn)
    assert bytes(running.wal.content) == written, "the shutdown checkpoint is the last that comes"


def test_a_killed_server_is_a_lost_connection(
    cluster: Cluster, stream_from: Callable[[Cluster], Running]
) -> None:
    running = stream_from(cluster)
    cluster.kill9()
    running.thread.join(PATIENCE)
    (error,) = running.errors
    assert isinstance(error, ConnectionFailed)
    assert error.retryable
    assert "lost" in error.message


@pytest.mark.parametrize("major", [13, 18])
def test_a_timeline_that_ended_leads_to_the_next(
    cluster_factory: ClusterFactory, major: int
) -> None:
    primary = cluster_factory(major)
    with primary.standby(primary.pgdata.parent / "standby") as standby:
        standby.start()
        write_wal(primary, 1)
        primary.sql("CREATE TABLE t ()")
        standby.poll_until("SELECT to_regclass('t') IS NOT NULL")
        standby.promote()
        history = (standby.pgdata / "pg_wal" / "00000002.history").read_text()
        switch = Lsn.parse(history.split("\t")[1])
        transport = LibpqTransport()
        transport.connect(standby.conninfo(), "")
        identify_system(transport)
        segment = Segment.containing(Timeline(1), switch, SEGMENT_SIZE)
        assert switch > segment.start, "there is something to copy"
        wal = MemoryWal(segment.start)
        stream = WalStream(transport, wal, lambda: False)
        expected = WalPosition(Timeline(2), switch)
        assert stream.run(WalPosition(Timeline(1), segment.start)) == expected
        assert wal.write_lsn == switch
        again = WalStream(transport, MemoryWal(switch), lambda: False)
        assert again.run(WalPosition(Timeline(1), switch)) in (expected, None)
        transport.disconnect()


# -- streams that no server should send ----------------------------------------------------------


def data(start: int, content: bytes = b"wal") -> bytes:
    return struct.pack("!cQQq", b"w", start, start + len(content), 0) + content


def keepalive(end: int = 0, *, reply: bool = False) -> bytes:
    return struct.pack("!cQq?", b"k", end, 0, reply)


def play(lines: list[Line], messages: int = 1 << 30) -> tuple[TranscriptTransport, MemoryWal]:
    """Stream a transcript; stop after so many looks at the stop rule."""
    transport = TranscriptTransport([CopyBegin(CopyKind.BOTH), *lines])
    wal = MemoryWal(START.lsn)
    looks = iter(range(messages))
    WalStream(transport, wal, lambda: next(looks, None) is None).run(START)
    assert transport.is_over
    return transport, wal


STOPPED: list[Line] = [CopyDone(), CommandComplete("START_STREAMING"), Ready()]


def reported(message: bytes) -> tuple[Lsn, Lsn, Lsn, bool]:
    kind, write, flush, apply, _, reply = struct.unpack("!cQQQq?", message)
    assert kind == b"r"
    return Lsn(write), Lsn(flush), Lsn(apply), reply


def test_what_comes_is_written_and_reported() -> None:
    transport, wal = play([data(0x300000), data(0x300003, b"more"), *STOPPED], 2)
    assert wal.content == b"walmore"
    assert transport.commands == ["START_REPLICATION PHYSICAL 0/300000 TIMELINE 1"]
    first, last = map(reported, transport.reports)
    assert first == (START.lsn, START.lsn, 0, False), "nothing is applied here, and never will be"
    assert last == (Lsn(0x300007), Lsn(0x300007), 0, False)
    assert transport.sent[-1] == CopyEnd()


def test_wal_that_was_on_its_way_when_we_stopped_is_passed_over() -> None:
    _, wal = play([data(0x300000), data(0x300003), keepalive(reply=True), *STOPPED], 1)
    assert wal.content == b"wal"


def test_a_server_that_asks_is_told_what_is_flushed_by_now() -> None:
    transport, wal = play([data(0x300000), keepalive(reply=True), *STOPPED], 2)
    assert wal.flushes == 2
    assert reported(transport.reports[1])[:2] == (Lsn(0x300003), Lsn(0x300003))


def test_a_server_that_does_not_ask_is_told_nothing() -> None:
    transport, _ = play([keepalive(), None, keepalive(), *STOPPED], 3)
    assert len(transport.reports) == 2


def test_reports_are_sent_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walreceiver, "STATUS_INTERVAL", 0.0)
    transport, wal = play([data(0x300000), None, *STOPPED], 2)
    assert len(transport.reports) == 4
    write, flush, _, _ = reported(transport.reports[1])
    assert (write, flush) == (Lsn(0x300003), START.lsn), "written but not flushed yet"
    assert wal.flushes == 1


class Others:
    """A quorum that has the next position each time it is asked, and has applied all but a byte."""

    def __init__(self, *positions: int) -> None:
        self._positions = list(map(Lsn, positions))

    def fileno(self) -> int:
        return -1

    def limit(self, timeline: Timeline) -> Confirmed:
        assert timeline == START.timeline
        flush = self._positions.pop(0) if len(self._positions) > 1 else self._positions[0]
        return Confirmed(flush, Lsn(max(0, flush - 1)))


def test_what_others_lack_is_not_reported_as_flushed_or_applied() -> None:
    lines = [data(0x300000), keepalive(reply=True), None, *STOPPED]
    transport = TranscriptTransport([CopyBegin(CopyKind.BOTH), *lines])
    looks = iter(range(3))
    others = Others(0, 0, 0x300001, 0x300001, 0x300002, 0x300002, 0x300009)
    WalStream(
        transport, MemoryWal(START.lsn), lambda: next(looks, None) is None, quorum=others
    ).run(START)
    end = 0x300003
    assert [reported(each)[:3] for each in transport.reports] == [
        (START.lsn, 0, 0), (end, 0x300001, START.lsn), (end, 0x300002, 0x300001), (end, end, end),
    ]  # fmt: skip


@pytest.mark.parametrize(("tick", "answers"), [(1e9, 0), (0.0, 5)])
def test_a_server_that_asks_and_asks_while_others_lack_wal_is_told_now_and_then(
    monkeypatch: pytest.MonkeyPatch, tick: float, answers: int
) -> None:
    monkeypatch.setattr(walreceiver, "TICK", tick)
    lines = [keepalive(reply=True)] * 5
    transport = TranscriptTransport([CopyBegin(CopyKind.BOTH), *lines, *STOPPED])
    looks = iter(range(5))
    WalStream(
        transport, MemoryWal(START.lsn), lambda: next(looks, None) is None, quorum=Others(0x2FFFFF)
    ).run(START)
    assert len(transport.reports) == 1 + answers + 1


def test_a_silent_server_is_asked_once_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100_000, 5))
    monkeypatch.setattr(walreceiver, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(walreceiver, "STATUS_INTERVAL", 1e9)
    transport = TranscriptTransport([CopyBegin(CopyKind.BOTH), *[None] * 50])
    with pytest.raises(ConnectionFailed, match=r"silent for \d+ seconds"):
        WalStream(transport, MemoryWal(START.lsn), lambda: False).run(START)
    assert [reported(report)[3] for report in transport.reports] == [False, True]


def test_the_end_of_a_timeline_names_the_next() -> None:
    end: list[Line] = [CopyDone(), row("2", "0/300003"), CommandComplete("START_STREAMING")]
    transport = TranscriptTransport([CopyBegin(CopyKind.BOTH), data(0x300000), *end, Ready()])
    stream = WalStream(transport, MemoryWal(START.lsn), lambda: False)
    assert stream.run(START) == WalPosition(Timeline(2), Lsn(0x300003))
    assert transport.sent[-1] == CopyEnd()
    assert transport.is_over


def test_a_start_at_the_end_of_a_timeline_needs_no_copy() -> None:
    lines: list[Line] = [row("2", "0/300000"), CommandComplete("START_STREAMING"), Ready()]
    transport = TranscriptTransport(lines)
    stream = WalStream(transport, MemoryWal(START.lsn), lambda: False)
    assert stream.run(START) == WalPosition(Timeline(2), START.lsn)
    assert transport.is_over


def refused(*lines: Line) -> None:
    with pytest.raises(ProtocolViolation):
        WalStream(TranscriptTransport(lines), MemoryWal(START.lsn), lambda: False).run(START)


@pytest.mark.parametrize("start", [0x2FFFFF, 0x300001, 0, 2**64 - 1])
def test_wal_that_does_not_follow_is_refused(start: int) -> None:
    refused(CopyBegin(CopyKind.BOTH), data(start, b""))


def test_wal_that_comes_twice_is_refused() -> None:
    refused(CopyBegin(CopyKind.BOTH), data(0x300000), data(0x300000))


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"w" + bytes(23), id="short-data"),
        pytest.param(b"k" + bytes(16), id="short-keepalive"),
        pytest.param(b"d" + bytes(40), id="unknown-type"),
    ],
)
def test_a_message_of_another_form_is_refused(line: bytes) -> None:
    refused(CopyBegin(CopyKind.BOTH), line)


@pytest.mark.parametrize(
    "first",
    [CopyBegin(CopyKind.FROM_SERVER), CommandComplete("START_REPLICATION"), Ready(), CopyDone()],
    ids=["copy-out", "complete", "ready", "copy-done"],
)
def test_a_stream_that_begins_otherwise_is_refused(first: Line) -> None:
    refused(first)


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(rows(), id="no-row"),
        pytest.param(row("2"), id="one-column"),
        pytest.param(row("2", None), id="null"),
        pytest.param(row("two", "0/300000"), id="no-number"),
        pytest.param(row("2", "x"), id="no-position"),
    ],
)
@pytest.mark.parametrize("copied", [True, False], ids=["after-a-copy", "at-once"])
def test_an_end_that_does_not_name_the_next_timeline_is_refused(result: Line, copied: bool) -> None:
    begin: list[Line] = [CopyBegin(CopyKind.BOTH), CopyDone()] if copied else []
    refused(*begin, result, Ready())


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([CommandComplete("COPY 0")], id="without-end-of-copy"),
        pytest.param([CopyDone(), CommandComplete("COPY 0")], id="after-end-of-copy"),
        pytest.param([CopyDone(), Ready()], id="ready"),
    ],
)
def test_an_end_without_reason_is_a_lost_connection(lines: list[Line]) -> None:
    transport = TranscriptTransport([CopyBegin(CopyKind.BOTH), *lines])
    with pytest.raises(ConnectionFailed, match="shutting down"):
        WalStream(transport, MemoryWal(START.lsn), lambda: False).run(START)


@pytest.mark.parametrize("is_copying", [True, False])
def test_missing_wal_is_a_gap_whenever_it_is_found(is_copying: bool) -> None:
    begin: list[Line] = [CopyBegin(CopyKind.BOTH)] if is_copying else []
    error = ServerError("the server reported: requested WAL segment is gone", sqlstate="58P01")
    with pytest.raises(WalGap, match="gone"):
        WalStream(TranscriptTransport([*begin, error]), MemoryWal(START.lsn), lambda: False).run(
            START
        )


def test_other_errors_of_the_server_keep_their_class() -> None:
    error = ServerError("the server reported: out of memory", sqlstate="53200")
    with pytest.raises(ServerError, match="out of memory"):
        WalStream(TranscriptTransport([error]), MemoryWal(START.lsn), lambda: False).run(START)
