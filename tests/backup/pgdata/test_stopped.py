"""What can be copied of a stopped server: its state, its positions and its WAL."""

from pathlib import Path

import pytest

from pgbackup.backup.pgdata.datadir import DataDirectory
from pgbackup.backup.pgdata.stopped import StoppedSession, StoppedWal, consistent_position
from pgbackup.backup.walrecords import WalRecord, WalRecords
from pgbackup.errors import CorruptData, Refused, WalGap
from pgbackup.pg.control import ClusterState
from pgbackup.pg.lsn import Lsn, Segment, Timeline, WalPosition
from pgbackup.repo.archive import WalArchive
from pgbackup.storage.memory import MemoryStorage
from pgbackup.stream.sink import BackupState, End
from tests.backup.pgdata.pgdata import make_pgdata
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory

MIB = 1 << 20
SYSTEM = 7711075393097902746


def open_data(cluster: Cluster) -> DataDirectory:
    return DataDirectory.open(str(cluster.pgdata))


def last_record(data: DataDirectory) -> WalRecord:
    """The record of the last checkpoint, found by walking all records of its segment."""
    segment = Segment.containing(data.control.redo.timeline, data.control.checkpoint, MIB)
    content = (Path(data.path) / "pg_wal" / segment.name).read_bytes()
    found: list[WalRecord] = []
    with pytest.raises(CorruptData):  # the rest of the segment is no WAL
        WalRecords(found.append).add(content, segment)
    return found[-1]


def test_after_a_clean_shutdown_the_backup_is_the_checkpoint(cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)")
    cluster.stop()
    data = open_data(cluster)
    session = StoppedSession(data)
    session.begin()
    assert session.label is None
    record = last_record(data)
    assert session.start == WalPosition(Timeline(1), record.start)
    stop = session.end()
    assert stop.lsn == -(-record.end // 8) * 8
    cluster.start()
    with pytest.raises(Refused, match="its server was started meanwhile"):
        session.end()
    cluster.stop()
    with pytest.raises(Refused, match="its server was started meanwhile"):
        session.end()


def test_a_server_that_runs_or_crashed_is_refused(newest_cluster: Cluster) -> None:
    with pytest.raises(Refused, match="was not shut down cleanly") as info:
        StoppedSession(open_data(newest_cluster)).begin()
    assert "Start the server" in str(info.value.hint)
    newest_cluster.stop("immediate")
    with pytest.raises(Refused, match="was not shut down cleanly"):
        StoppedSession(open_data(newest_cluster)).begin()


def test_a_server_that_is_just_starting_is_refused(newest_cluster: Cluster) -> None:
    """It has its lock file, and has not written to pg_control yet."""
    control = newest_cluster.pgdata / "global" / "pg_control"
    newest_cluster.stop()
    shut_down = control.read_bytes()
    newest_cluster.start()
    running = control.read_bytes()
    control.write_bytes(shut_down)
    try:
        with pytest.raises(Refused, match=r"a server with process id \d+ is running there, though"):
            StoppedSession(open_data(newest_cluster)).begin()
    finally:
        control.write_bytes(running)


def test_a_stopped_standby_needs_wal_up_to_what_it_has_replayed(
    cluster: Cluster, tmp_path: Path
) -> None:
    with cluster.standby(tmp_path / "standby") as standby:
        standby.start()
        cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 30000)")
        position = cluster.sql("SELECT pg_current_wal_lsn()")[0][0]
        standby.poll_until(f"SELECT pg_last_wal_replay_lsn() >= '{position}'")
        standby.stop()
        data = open_data(standby)
        session = StoppedSession(data)
        session.begin()
        stop = session.end()
        assert data.control.state is ClusterState.SHUTDOWNED_IN_RECOVERY
        assert session.start == data.control.redo
        assert stop == data.control.min_recovery_point
        assert stop.lsn >= Lsn.parse(position)


@pytest.mark.parametrize("length", [114, 120, 300, 8000])
@pytest.mark.parametrize("room", [8, 16, 112, 120, 128, 8000])
@pytest.mark.parametrize("page", [3, MIB // 8192 - 1], ids=["page", "segment"])
def test_a_record_that_crosses_pages_ends_behind_their_headers(
    tmp_path: Path, length: int, room: int, page: int
) -> None:
    data, begin = with_checkpoint(tmp_path, (page + 1) * 8192 - room, length)
    headers = {MIB: 40}
    expected, left = begin, -(-length // 8) * 8
    while left:  # byte by byte, as it is written
        if expected % 8192 == 0:
            expected += headers.get(expected % (2 * MIB), 24)
        expected, left = expected + 1, left - 1
    assert consistent_position(data).lsn == expected


def with_checkpoint(tmp_path: Path, offset: int, length: int) -> tuple[DataDirectory, int]:
    """A data directory whose last checkpoint is in its segment 2, and where it begins."""
    begin = 2 * MIB + offset
    wal = bytearray(MIB)
    wal[offset : offset + 4] = length.to_bytes(4, "little")
    pgdata = make_pgdata(tmp_path / "data", 15, {"pg_wal/000000010000000000000002": wal})
    data = DataDirectory.open(str(pgdata))
    control = data.control._replace(
        wal_segment_size=MIB,
        checkpoint=Lsn(begin),
        redo=WalPosition(Timeline(1), Lsn(begin)),
        min_recovery_point=None,
    )
    return DataDirectory(data.path, data.major, data.mode, control), begin


@pytest.mark.parametrize("length", [0, 23, 8192, 2**32 - 1])
def test_what_is_no_checkpoint_is_damage(tmp_path: Path, length: int) -> None:
    data, _ = with_checkpoint(tmp_path, 8192 + 24, length)
    with pytest.raises(CorruptData, match="it has no checkpoint at 0/202018"):
        consistent_position(data)


def test_a_missing_segment_is_a_gap(tmp_path: Path) -> None:
    data, _ = with_checkpoint(tmp_path, 8192 + 24, 114)
    (tmp_path / "data/pg_wal/000000010000000000000002").unlink()
    with pytest.raises(WalGap, match='WAL segment "000000010000000000000002" is not whole') as info:
        consistent_position(data)
    assert "back it up while it runs" in str(info.value.hint)


def put_wal(data: DataDirectory, start: Lsn, stop: Lsn) -> tuple[StoppedWal, MemoryStorage]:
    storage = MemoryStorage()
    archive = WalArchive(storage, SYSTEM)
    link = StoppedWal(End(), data, archive, storage, "folder/", level=None)
    link.reserve()
    timeline = data.control.redo.timeline
    link.begin_backup(BackupState(WalPosition(timeline, start), ()))
    link.end_backup(WalPosition(timeline, stop))
    link.cleanup()
    return link, storage


def test_whole_segments_are_archived_and_the_last_one_is_kept_apart(
    cluster_factory: ClusterFactory, major: int
) -> None:
    cluster = cluster_factory(major, settings={"wal_keep_size": "64MB"})
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 60000)")
    cluster.stop()
    data = open_data(cluster)
    stop = consistent_position(data).lsn
    first = Segment.containing(Timeline(1), Lsn(stop - 2 * MIB), MIB)
    link, storage = put_wal(data, first.start, stop)
    assert link.segments == [first, first.next()]
    folder = Path(data.path) / "pg_wal"
    for segment in link.segments:
        stored = b"".join(WalArchive(storage, SYSTEM).chunks(segment.name))
        assert stored == (folder / segment.name).read_bytes()
    last = Segment.containing(Timeline(1), stop, MIB)
    assert link.tail is not None
    assert (link.tail.name, link.tail.size) == (f"{last.name}.partial", stop - last.start)
    with storage.reader(f"folder/{link.tail.name}") as reader:
        assert reader.read(MIB) == (folder / last.name).read_bytes()[: link.tail.size]


def test_a_stop_at_the_end_of_a_segment_leaves_no_rest(cluster_factory: ClusterFactory) -> None:
    cluster = cluster_factory(18, settings={"wal_keep_size": "64MB"})
    cluster.sql("SELECT pg_switch_wal()")
    cluster.stop()
    data = open_data(cluster)
    end = Segment.containing(Timeline(1), data.control.checkpoint, MIB).start
    link, _ = put_wal(data, Lsn(end - MIB), end)
    assert [segment.end for segment in link.segments] == [end]
    assert link.tail is None


def test_wal_that_is_nowhere_is_a_gap_and_nothing_is_kept_of_it(newest_cluster: Cluster) -> None:
    newest_cluster.stop()
    data = open_data(newest_cluster)
    begin = data.control.checkpoint
    segment = Segment.containing(Timeline(1), begin, MIB)
    with pytest.raises(WalGap, match="is not whole in pg_wal"):
        put_wal(data, Lsn(MIB), begin)
    wal = Path(data.path) / "pg_wal" / segment.name
    wal.write_bytes(wal.read_bytes()[:8192])
    with pytest.raises(WalGap, match=f'"{segment.name}" is not whole in pg_wal'):
        put_wal(data, segment.start, segment.end)
