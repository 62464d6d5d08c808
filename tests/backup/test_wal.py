"""The WAL of a backup: into the archive by segments, a standby's rest beside the backup."""

import struct
import threading
from collections.abc import Iterable

import pytest
from crc32c import crc32c

from pgbackup.backup.archivedwal import ArchivedWal, PartialWal
from pgbackup.backup.wal import StopRule, WalAlongside
from pgbackup.errors import (
    Conflict,
    ConnectionFailed,
    CorruptData,
    ProtocolViolation,
    WrongSystem,
)
from pgbackup.pg.lsn import Lsn, Segment, Timeline, WalPosition
from pgbackup.replication.transport import (
    CommandComplete,
    CopyBegin,
    CopyDone,
    CopyEnd,
    CopyKind,
    Event,
    Ready,
)
from pgbackup.repo.archive import WalArchive
from pgbackup.storage.memory import MemoryStorage
from tests.backup.wal import MIB, sample_wal
from tests.replication.transcript import Line, TranscriptTransport, row
from tests.stream.checked_sink import CheckedSink, backup_state
from tests.waiting import PATIENCE

SYSTEM = 7412345678901234567
FOLDER = f"{SYSTEM}/backups/20261122T120000F/"
SEGMENTS, START, STOP = sample_wal(SYSTEM)
FIRST, SECOND = SEGMENTS
WAL = b"".join(SEGMENTS.values())


def archived_wal(
    storage: MemoryStorage, start: Lsn = START, system: int = SYSTEM, level: int | None = 1
) -> ArchivedWal:
    archive = WalArchive(storage, SYSTEM)
    return ArchivedWal(archive, WalPosition(Timeline(1), start), MIB, system, level)


def pour(wal: ArchivedWal | PartialWal, content: bytes, lengths: Iterable[int]) -> None:
    """Write content in pieces of these lengths, then the rest."""
    done = 0
    for length in (*lengths, len(content)):
        piece = content[done : done + length]
        wal.write(wal.write_lsn, memoryview(piece))
        done += len(piece)


# -- segments --------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [None, 1], ids=["plain", "zstd"])
@pytest.mark.parametrize(
    "lengths", [(), (1, 7, 31, 1), (MIB - 1, 2), (MIB, MIB), (MIB + 1,), (8192,) * 250], ids=len
)
def test_segments_are_archived_byte_for_byte(level: int | None, lengths: tuple[int, ...]) -> None:
    storage = MemoryStorage()
    wal = archived_wal(storage, level=level)
    assert wal.write_lsn == wal.flush_lsn == FIRST.start < START
    pour(wal, WAL, lengths)
    assert wal.segments == [FIRST, SECOND]
    assert wal.write_lsn == wal.flush_lsn == SECOND.end == wal.segment.start
    archive = WalArchive(storage, SYSTEM)
    assert {each: archive.read(each.name) for each in SEGMENTS} == SEGMENTS
    assert {each.is_compressed for each in archive.segments()} == {level is not None}


def test_only_whole_segments_count_as_flushed() -> None:
    storage = MemoryStorage()
    wal = archived_wal(storage)
    pour(wal, WAL[: MIB + 5000], ())
    wal.flush()
    assert (wal.write_lsn, wal.flush_lsn) == (SECOND.start + 5000, SECOND.start)
    wal.abort()
    wal.abort()
    assert [each.name.text for each in WalArchive(storage, SYSTEM).segments()] == [FIRST.name]


def test_a_segment_that_is_archived_already_is_compared() -> None:
    storage = MemoryStorage()
    pour(archived_wal(storage), WAL, ())
    pour(archived_wal(storage, level=None), WAL, (77,))
    assert len(list(storage.list())) == 2
    other = WAL[:-1] + bytes([WAL[-1] ^ 1])
    with pytest.raises(Conflict):
        pour(archived_wal(storage), other, ())
    assert WalArchive(storage, SYSTEM).read(SECOND.name) == SEGMENTS[SECOND]


@pytest.mark.parametrize("lengths", [(), (39, 1), (1,) * 40], ids=["whole", "two", "bytes"])
def test_wal_of_another_system_is_never_archived(lengths: tuple[int, ...]) -> None:
    storage = MemoryStorage()
    wal = archived_wal(storage, system=SYSTEM + 1)
    with pytest.raises(WrongSystem, match=FIRST.name):
        pour(wal, WAL, lengths)
    wal.abort()
    assert not list(storage.list())


def test_wal_of_another_place_is_never_archived() -> None:
    storage = MemoryStorage()
    wal = archived_wal(storage)
    with pytest.raises(CorruptData):
        pour(wal, SEGMENTS[SECOND], ())
    wal.abort()
    assert not list(storage.list())


def test_a_new_timeline_goes_on_in_the_segment_of_its_first_byte() -> None:
    storage = MemoryStorage()
    wal = archived_wal(storage)
    pour(wal, WAL[: MIB + 3000], ())
    wal.switch_timeline(WalPosition(Timeline(2), Lsn(SECOND.start + 3000)))
    assert wal.segment == Segment(Timeline(2), SECOND.number, MIB)
    assert wal.write_lsn == wal.flush_lsn == SECOND.start
    pour(wal, SEGMENTS[SECOND], (5,))
    assert wal.segments == [FIRST, Segment(Timeline(2), SECOND.number, MIB)]


def test_wal_of_a_timeline_that_was_left_does_not_reach_a_stop_on_the_next() -> None:
    """A standby may have received more of a timeline than it replays before it leaves that."""
    rule = StopRule(is_primary=True)
    rule.stop = WalPosition(Timeline(2), Lsn(SECOND.start + 5000))
    wal = archived_wal(MemoryStorage())
    pour(wal, WAL, ())
    assert wal.flush_lsn > rule.stop.lsn
    assert not rule.is_met(wal)
    wal.switch_timeline(WalPosition(Timeline(2), Lsn(SECOND.start + 3000)))
    assert not rule.is_met(wal)
    pour(wal, SEGMENTS[SECOND], ())
    assert rule.is_met(wal)


@pytest.mark.parametrize("is_primary", [False, True], ids=["standby", "primary"])
def test_only_a_standby_may_leave_its_last_segment_unfinished(
    monkeypatch: pytest.MonkeyPatch, is_primary: bool
) -> None:
    monkeypatch.setattr("pgbackup.backup.wal.TAIL_SILENCE", -1)
    monkeypatch.setattr("pgbackup.backup.wal.TAIL_PATIENCE", -1)
    rule = StopRule(is_primary)
    rule.stop = WalPosition(Timeline(1), Lsn(SECOND.start + 5000))
    wal = archived_wal(MemoryStorage())
    pour(wal, WAL[: MIB + 7000], ())
    assert rule.is_met(wal) is not is_primary
    pour(wal, WAL[MIB + 7000 :], ())
    assert rule.is_met(wal)


# -- the rest of a standby -------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(), (1, 4999), (5000,), (3000, 3000)], ids=str)
def test_a_tail_ends_exactly_at_the_stop_position(lengths: tuple[int, ...]) -> None:
    storage = MemoryStorage()
    name = FOLDER + SECOND.name + ".partial"
    tail = PartialWal(storage, name, SECOND, Lsn(SECOND.start + 5000))
    pour(tail, SEGMENTS[SECOND][:9000], lengths)
    assert tail.write_lsn == SECOND.start + 9000
    assert tail.flush_lsn == 0, "nothing is promised to the server"
    record = tail.commit()
    content = SEGMENTS[SECOND][:5000]
    assert storage.read(name) == content
    assert (record.name, record.size) == (SECOND.name + ".partial", 5000)
    assert record.crc32c == f"{crc32c(content):08x}"


def test_a_tail_that_is_given_up_leaves_nothing() -> None:
    storage = MemoryStorage()
    tail = PartialWal(storage, FOLDER + "x", SECOND, STOP)
    pour(tail, SEGMENTS[SECOND][:100], ())
    tail.abort()
    assert not list(storage.list())


# -- alongside -------------------------------------------------------------------------------------


class LiveTranscript(TranscriptTransport):
    """Is quiet once its lines are played, until the stream is ended; then goes on.

    endings: what follows each CopyEnd of ours.
    """

    def __init__(self, lines: Iterable[Line], *endings: Iterable[Line]) -> None:
        super().__init__(lines)
        self._endings = list(endings)
        self._ended = 0
        self.is_quiet = threading.Event()

    def receive(self, timeout: float | None = None, wake: int | None = None) -> Event | None:
        if self.is_over:
            if self.sent.count(CopyEnd()) == self._ended:
                self.is_quiet.set()
                threading.Event().wait(0.01)
                return None
            self._lines = list(self._endings[self._ended])
            self._ended += 1
        return super().receive(timeout, wake)


def data(start: int, content: bytes) -> bytes:
    return struct.pack("!cQQq", b"w", start, start + len(content), 0) + content


def identity(system: int = SYSTEM) -> list[Line]:
    return [row(str(system), "1", "0/300000", None), CommandComplete("IDENTIFY_SYSTEM"), Ready()]


SLOT: list[Line] = [
    row("slot", "0/0", None, None), CommandComplete("CREATE_REPLICATION_SLOT"), Ready(),
]  # fmt: skip
STREAM: list[Line] = [CopyBegin(CopyKind.BOTH)]
ENDING: list[Line] = [CopyDone(), CommandComplete("START_STREAMING"), Ready()]


def alongside(
    transport: TranscriptTransport, storage: MemoryStorage, end: CheckedSink
) -> WalAlongside:
    return WalAlongside(
        end, transport, WalArchive(storage, SYSTEM), storage, FOLDER,
        system_identifier=SYSTEM, segment_size=MIB, is_primary=False, level=None,
    )  # fmt: skip


@pytest.mark.parametrize("stop", [STOP, SECOND.end], ids=["within", "at-the-end-of"])
def test_wal_is_archived_while_the_backup_flows_past(stop: Lsn) -> None:
    pieces = [data(FIRST.start + at, WAL[at : at + 65536]) for at in range(0, len(WAL), 65536)]
    transport = LiveTranscript([*identity(), *SLOT, *STREAM, *pieces], ENDING)
    storage, end = MemoryStorage(), CheckedSink()
    link = alongside(transport, storage, end)
    link.reserve()
    state = backup_state()
    state.start = WalPosition(Timeline(1), START)
    link.begin_backup(state)
    link.begin_archive("base.tar")
    link.archive_contents(10)
    link.end_archive()
    link.end_backup(WalPosition(Timeline(1), stop))
    link.cleanup()
    assert end.is_complete
    assert link.segments == [FIRST, SECOND]
    assert (link.histories, link.tail) == ([], None)
    assert WalArchive(storage, SYSTEM).read(SECOND.name) == SEGMENTS[SECOND]
    slot, start = transport.commands[1:]
    assert "TEMPORARY PHYSICAL" in slot
    assert "RESERVE_WAL" in slot
    assert slot.split('"')[1] in start
    assert f"{FIRST.start} TIMELINE 1" in start, "from the beginning of the segment"


def test_a_segment_that_stays_unfinished_is_kept_beside_the_backup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pgbackup.backup.wal.TAIL_SILENCE", 0.05)
    stop = Lsn(SECOND.start + 5000)
    pieces = [data(FIRST.start, WAL[:MIB]), data(SECOND.start, WAL[MIB : MIB + 7000])]
    again = [*ENDING, CopyBegin(CopyKind.BOTH), data(SECOND.start, WAL[MIB : MIB + 7000])]
    transport = LiveTranscript([*identity(), *SLOT, *STREAM, *pieces], again, ENDING)
    storage = MemoryStorage()
    link = alongside(transport, storage, CheckedSink())
    link.reserve()
    state = backup_state()
    state.start = WalPosition(Timeline(1), START)
    link.begin_backup(state)
    transport.is_quiet.wait(PATIENCE)
    link.end_backup(WalPosition(Timeline(1), stop))
    link.cleanup()
    assert link.segments == [FIRST]
    assert link.tail is not None
    assert storage.read(FOLDER + link.tail.name) == SEGMENTS[SECOND][:5000]
    assert [each.name.text for each in WalArchive(storage, SYSTEM).segments()] == [FIRST.name]


def test_a_second_connection_to_another_system_is_refused() -> None:
    transport = TranscriptTransport(identity(SYSTEM + 1))
    link = alongside(transport, MemoryStorage(), CheckedSink())
    with pytest.raises(WrongSystem, match=str(SYSTEM + 1)):
        link.reserve()
    assert transport.is_over


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        pytest.param([ConnectionFailed("lost")], ConnectionFailed, id="lost"),
        pytest.param([data(FIRST.start + 8, b"wal")], ProtocolViolation, id="gap"),
        pytest.param([data(FIRST.start, bytes(100))], CorruptData, id="no-wal"),
    ],
)
def test_an_error_of_the_stream_ends_the_backup_at_its_next_bytes(
    lines: list[Line], error: type[Exception]
) -> None:
    transport = LiveTranscript([*STREAM, *lines])
    storage, end = MemoryStorage(), CheckedSink()
    link = alongside(transport, storage, end)
    state = backup_state()
    state.start = WalPosition(Timeline(1), START)
    link.begin_backup(state)
    link.begin_archive("base.tar")
    with pytest.raises(error):
        send_for_ever(link)
    link.cleanup()
    assert end.is_clean
    assert not list(storage.list())


def send_for_ever(link: WalAlongside) -> None:
    while True:
        link.archive_contents(1)


def test_an_error_of_the_stream_is_not_lost_at_the_end() -> None:
    transport = LiveTranscript([*STREAM, ConnectionFailed("lost")])
    end = CheckedSink()
    link = alongside(transport, MemoryStorage(), end)
    state = backup_state()
    state.start = WalPosition(Timeline(1), START)
    link.begin_backup(state)
    with pytest.raises(ConnectionFailed):
        link.end_backup(WalPosition(Timeline(1), STOP))
    link.cleanup()
    assert not end.is_complete


def test_a_backup_that_is_given_up_does_not_wait_for_the_server() -> None:
    transport = LiveTranscript([*STREAM, data(FIRST.start, WAL[:5000])])
    storage = MemoryStorage()
    link = alongside(transport, storage, CheckedSink())
    state = backup_state()
    state.start = WalPosition(Timeline(1), START)
    link.begin_backup(state)
    transport.is_quiet.wait(PATIENCE)
    link.cleanup()
    assert CopyEnd() not in transport.sent
    assert not list(storage.list())
