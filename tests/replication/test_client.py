"""Replication commands: on every major, and with answers that no server should give."""

from pathlib import Path

import pytest

from pgbackup.errors import Conflict, Locked, NotFound, ProtocolViolation, ServerError
from pgbackup.pg.lsn import Lsn, Timeline, WalPosition
from pgbackup.replication.client import (
    SlotPosition,
    create_slot,
    create_temporary_slot,
    drop_slot,
    identify_system,
    read_slot,
    show,
    timeline_history,
    wal_segment_size,
)
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.replication.transport import CommandComplete, CopyBegin, CopyDone, CopyKind, Ready
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.replication.transcript import Line, TranscriptTransport, row, rows

END: list[Line] = [CommandComplete("X"), Ready()]


def test_the_system_is_identified(server: Cluster, transport: LibpqTransport) -> None:
    identity = identify_system(transport)
    assert server.sql("SELECT system_identifier FROM pg_control_system()") == [
        (identity.system_identifier - (1 << 64 if identity.system_identifier >= 1 << 63 else 0),)
    ]
    assert identity.flushed.timeline == 1
    now = Lsn.parse(server.sql("SELECT pg_current_wal_flush_lsn()::text")[0][0])
    assert Lsn(1 << 20) < identity.flushed.lsn <= now


def test_the_segment_size_is_shown(server: Cluster, transport: LibpqTransport) -> None:
    assert wal_segment_size(transport) == 1 << 20
    assert show(transport, "wal_segment_size") == "1MB"


def test_a_history_that_is_not_there_is_none(transport: LibpqTransport) -> None:
    assert timeline_history(transport, Timeline(1)) is None
    assert timeline_history(transport, Timeline(77)) is None
    assert wal_segment_size(transport) == 1 << 20


def test_a_history_is_the_file_byte_for_byte(server: Cluster, transport: LibpqTransport) -> None:
    content = b"1\t0/3000000\tmit Umlaut \xc3\xa4, \xff und \\ \n"
    path = server.pgdata / "pg_wal" / "00000042.history"
    path.write_bytes(content)
    path.chmod(0o644)
    assert timeline_history(transport, Timeline(0x42)) == content


def test_a_temporary_slot_holds_wal_and_ends_with_its_connection(server: Cluster) -> None:
    transport = LibpqTransport()
    transport.connect(server.conninfo(), "")
    create_temporary_slot(transport, "test_slot")
    query = "SELECT temporary, restart_lsn IS NOT NULL FROM pg_replication_slots"
    assert server.sql(query) == [(True, True)]
    with pytest.raises(ServerError) as caught:
        create_temporary_slot(transport, "test_slot")
    assert caught.value.sqlstate == "42710"
    transport.disconnect()
    server.poll_until("SELECT count(*)::int FROM pg_replication_slots", 0)


def test_a_slot_is_created_read_and_dropped(server: Cluster, transport: LibpqTransport) -> None:
    query = "SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_type = 'physical'"
    assert create_slot(transport, "own")
    assert server.sql(query) == [(None,)]
    if server.major >= 15:
        assert read_slot(transport, "own") == SlotPosition("physical", None)
    assert not create_slot(transport, "own", if_not_exists=True)
    with pytest.raises(Conflict, match='"own": it already exists'):
        create_slot(transport, "own")
    drop_slot(transport, "own")
    assert server.sql(query) == []
    with pytest.raises(NotFound, match="none of that name"):
        drop_slot(transport, "own")


def test_a_slot_that_holds_wal_tells_from_where(server: Cluster, transport: LibpqTransport) -> None:
    create_slot(transport, "holding", reserve_wal=True)
    (restart,) = server.sql("SELECT restart_lsn::text FROM pg_replication_slots")[0]
    state = read_slot(transport, "holding")
    if server.major < 15:
        assert state is None
    else:
        assert state == SlotPosition("physical", WalPosition(Timeline(1), Lsn.parse(restart)))
        with pytest.raises(NotFound, match="none of that name"):
            read_slot(transport, "missing")
    drop_slot(transport, "holding")


def test_a_slot_in_use_is_not_dropped(server: Cluster, transport: LibpqTransport) -> None:
    other = LibpqTransport()
    other.connect(server.conninfo(), "")
    create_temporary_slot(other, "in_use")
    with pytest.raises(Locked, match="in_use"):
        drop_slot(transport, "in_use")
    other.disconnect()
    server.poll_until("SELECT count(*)::int FROM pg_replication_slots", 0)


@pytest.mark.parametrize("major", [13, 18])
def test_after_a_promotion_the_history_is_sent(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    primary = cluster_factory(major)
    with primary.standby(primary.pgdata.parent / "standby") as standby:
        standby.start()
        standby.promote()
        transport = LibpqTransport()
        transport.connect(standby.conninfo(), "")
        assert identify_system(transport).flushed.timeline == 2
        history = timeline_history(transport, Timeline(2))
        transport.disconnect()
        assert history == (standby.pgdata / "pg_wal" / "00000002.history").read_bytes()


# -- answers that no server should give ----------------------------------------------------------


def test_answers_are_read_as_text() -> None:
    transport = TranscriptTransport([row("18446744073709551615", "3", "A/1", None), *END])
    identity = identify_system(transport)
    assert identity.system_identifier == 2**64 - 1
    assert identity.flushed == WalPosition(Timeline(3), Lsn.parse("A/1"))
    assert transport.commands == ["IDENTIFY_SYSTEM"]
    assert transport.is_over


@pytest.mark.parametrize(
    ("text", "size"),
    [("16MB", 16 << 20), ("1GB", 1 << 30), ("1024kB", 1 << 20), ("1048576B", 1 << 20)],
)
def test_segment_sizes_come_in_units(text: str, size: int) -> None:
    assert wal_segment_size(TranscriptTransport([row(text), *END])) == size


@pytest.mark.parametrize("text", ["", "MB", "16", "16 MB", "16TB", "-16MB", "16MBMB", "1.5MB"])
def test_a_segment_size_in_other_words_is_refused(text: str) -> None:
    with pytest.raises(ProtocolViolation, match="wal_segment_size"):
        wal_segment_size(TranscriptTransport([row(text), *END]))


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([*END], id="no-result"),
        pytest.param([rows()], id="no-row"),
        pytest.param([row("1", "1")], id="too-few-columns"),
        pytest.param([b"data"], id="copy-data"),
        pytest.param([CopyBegin(CopyKind.BOTH)], id="a-copy"),
        pytest.param([row("1", "1", "0/1"), CopyDone()], id="end-of-a-copy"),
        pytest.param([row("1", "1", "0/1"), row("1", "1", "0/1")], id="two-results"),
        pytest.param([row(None, "1", "0/1"), *END], id="null-identifier"),
        pytest.param([row("1", None, "0/1"), *END], id="null-timeline"),
        pytest.param([row("1", "1", None), *END], id="null-position"),
        pytest.param([row("x", "1", "0/1"), *END], id="identifier-is-no-number"),
        pytest.param([row("-1", "1", "0/1"), *END], id="identifier-is-negative"),
        pytest.param([row("9" * 5000, "1", "0/1"), *END], id="identifier-of-5000-digits"),
        pytest.param([row("1", "x", "0/1"), *END], id="timeline-is-no-number"),
        pytest.param([row("1", "0", "0/1"), *END], id="timeline-zero"),
        pytest.param([row("1", "1", "0"), *END], id="position-is-no-position"),
    ],
)
def test_an_answer_of_another_shape_is_a_violation(lines: list[Line]) -> None:
    with pytest.raises(ProtocolViolation):
        identify_system(TranscriptTransport(lines))


def test_an_error_other_than_a_missing_file_is_raised() -> None:
    error = ServerError("the server reported: no", sqlstate="57014")
    with pytest.raises(ServerError, match="no"):
        timeline_history(TranscriptTransport([error]), Timeline(2))
