"""A client that asks for a moment sees the cluster as of there, and nothing that came after."""

import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pgbackup.backup.receive import receive_backup
from pgbackup.errors import ClientError, ConnectionFailed, ServerError
from pgbackup.pg.lsn import Lsn, Segment, Timeline
from pgbackup.replication import client
from pgbackup.repo.repository import ClusterRepository
from pgbackup.serve.asked import parse_settings
from pgbackup.serve.clonepoint import find_clone_point
from pgbackup.serve.offer import LATEST, Offer
from pgbackup.storage.memory import MemoryStorage
from pgbackup.wire.basebackup import BaseBackup
from pgbackup.wire.commands import CreatePhysicalSlot
from tests.backup.sample import LABEL, MIB, Sample, sample
from tests.backup.wal import WalWriter
from tests.repo.samples import SYSTEM
from tests.serve.running import Running
from tests.serve.test_server import begin_stream, receive_wal
from tests.stream.checked_sink import CheckedSink

FIRST = Segment(Timeline(1), 2, MIB)
LATER = "20261123T120000F"


def made_long() -> tuple[Sample, bytes]:
    """A backup, and two more segments of WAL behind it."""
    made = sample()
    writer = WalWriter(FIRST, SYSTEM)
    while writer.position < Lsn(0x580000):
        writer.add(b"anything" * 100)
    writer.switch()
    whole = b"".join(writer.segments().values())
    return made, whole


@pytest.fixture(scope="module")
def stored() -> ClusterRepository:
    """Two backups in four segments, the last two of which belong to neither."""
    made, whole = made_long()
    made.segments = {FIRST: whole[:MIB], segment(3): whole[MIB : 2 * MIB]}
    storage = MemoryStorage()
    cluster = made.put(storage)
    for number in (4, 5):
        at = (number - 2) * MIB
        with cluster.archive.segment_writer(segment(number), 1) as writer:
            writer.write(whole[at : at + MIB])
            writer.commit()
    record = cluster.catalog.get(LABEL)
    later = replace(record, label=LATER, start_lsn=Lsn(0x400028), stop_lsn=Lsn(0x480000))
    cluster.catalog.put(replace(later, wal=()))
    return cluster


def segment(number: int) -> Segment:
    return Segment(Timeline(1), number, MIB)


@pytest.fixture(scope="module")
def running(stored: ClusterRepository) -> Iterator[Running]:
    with Running(stored) as server:
        yield server


TARGET = Lsn(0x412345)
SETTINGS = f"-c pgbackup.target_lsn={TARGET}"


def test_the_cluster_ends_at_the_target(running: Running) -> None:
    with running.connected(settings=SETTINGS) as transport:
        found = client.identify_system(transport).flushed
        assert (found.timeline, found.lsn) == (1, TARGET)
        assert client.show(transport, "pgbackup.target_lsn") == str(TARGET)
        assert client.show(transport, "pgbackup.label") == LABEL
        client.query(transport, CreatePhysicalSlot("s", temporary=True, reserve_wal=True), 4)
        slot = client.read_slot(transport, "s")
        assert slot is not None
        assert slot.restart is not None
        assert slot.restart.lsn == running.server._offer.cluster.catalog.get(LABEL).start_lsn


def test_wal_is_streamed_up_to_the_target(running: Running) -> None:
    _, whole = made_long()
    with running.connected(settings=SETTINGS) as transport:
        begin_stream(transport, FIRST.start)
        found = receive_wal(transport, FIRST.start, TARGET)
        assert found == whole[: TARGET - FIRST.start]
    with running.connected(settings=SETTINGS) as transport:
        begin_stream(transport, Lsn(TARGET + 1))
        with pytest.raises(ServerError, match="is ahead of the WAL flush position"):
            client.expect_event(transport, 30)


@pytest.mark.parametrize("label", ["latest", LABEL])
def test_who_clones_gets_no_wal_behind_the_backup(stored: ClusterRepository, label: str) -> None:
    offer = Offer(stored, label)
    assert offer.asked_for({"application_name": "walreceiver"}).position().lsn == 6 * MIB
    clone = offer.asked_for({"application_name": "pg_basebackup"})
    assert clone.position().lsn == stored.catalog.get(label).stop_lsn
    asked = {"application_name": "pg_basebackup", "pgbackup.target_lsn": str(TARGET)}
    assert offer.asked_for(asked).position().lsn == TARGET


@pytest.mark.parametrize("target", [TARGET, Lsn(0x400000), Lsn(0x3FFFF8)], ids=str)
def test_a_backup_with_wal_has_it_up_to_the_target(running: Running, target: Lsn) -> None:
    _, whole = made_long()
    sink = CheckedSink((8192,))
    with running.connected(settings=f"-c pgbackup.target_lsn={target}") as transport:
        outcome = receive_backup(transport, BaseBackup("x", wal=True), sink)
    sink.cleanup()
    assert (outcome.stop.timeline, outcome.stop.lsn) == (1, target)
    found = b""
    with tarfile.open(fileobj=io.BytesIO(sink.archives["base.tar"])) as tar:
        names = sorted(name for name in tar.getnames() if name.startswith("pg_wal/0"))
        for name in names:
            file = tar.extractfile(name)
            assert file is not None
            found += file.read()
    length = target - FIRST.start
    assert len(names) == -(-length // MIB)
    assert found == whole[:length].ljust(len(names) * MIB, b"\0")


@pytest.mark.parametrize(
    ("setting", "value", "sqlstate", "words"),
    [
        ("label", "none", "42704", 'backup "none" does not exist'),
        ("label", "20200101T000000F", "42704", 'backup "20200101T000000F" does not exist'),
        ("target_lsn", "0/200000", "22023", "it is before the end of backup"),
        ("target_lsn", "0/600001", "22023", "ends with the record at"),
        ("target_time", "2001-01-01", "22023", "could not reach time 2001-01-01 00:00:00+00"),
    ],
)
def test_what_cannot_be_had_is_said_with_what_to_do(
    running: Running, stored: ClusterRepository, setting: str, value: str, sqlstate: str, words: str
) -> None:
    asked = parse_settings({f"pgbackup.{setting}": value})
    with pytest.raises(ClientError) as caught:
        find_clone_point(stored, asked, LATEST)
    assert caught.value.sqlstate == sqlstate
    assert words in caught.value.message
    assert "pgbackup list" in (caught.value.hint or "")
    with (
        pytest.raises(ConnectionFailed, match=re.escape(words)),
        running.connected(settings=f"-c pgbackup.{setting}={value}"),
    ):
        pass


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({}, LATEST),
        ({"pgbackup.label": "oldest"}, LABEL),
        ({"pgbackup.label": LATER}, LATER),
        ({"pgbackup.target_lsn": "0/47FFFF"}, LABEL),
        ({"pgbackup.target_lsn": "0/480000"}, LATER),
        ({"pgbackup.target_lsn": "0/480000", "pgbackup.label": "oldest"}, LABEL),
    ],
)
def test_the_newest_backup_that_ended_before_is_sent(
    stored: ClusterRepository, settings: dict[str, str], label: str
) -> None:
    assert find_clone_point(stored, parse_settings(settings), LATEST).label == label


def test_a_target_behind_the_backups_timeline_is_for_restore(stored: ClusterRepository) -> None:
    made, whole = made_long()
    made.segments = {FIRST: whole[:MIB], segment(3): whole[MIB : 2 * MIB]}
    cluster = made.put(MemoryStorage())
    cluster.archive.put_history(Timeline(2), b"1\t0/400000\tno reason\n")
    with cluster.archive.segment_writer(Segment(Timeline(2), 4, MIB), 1) as writer:
        writer.write(whole[2 * MIB : 3 * MIB])
        writer.commit()
    on_first = find_clone_point(cluster, parse_settings({"pgbackup.target_lsn": "0/400000"}), "")
    assert on_first.end is not None
    assert on_first.end.timeline == 1
    with pytest.raises(ClientError, match="it is on timeline 2, and the newest backup") as caught:
        find_clone_point(cluster, parse_settings({"pgbackup.target_lsn": "0/400001"}), "")
    assert caught.value.sqlstate == "55000"
    assert "pgbackup restore" in (caught.value.hint or "")
