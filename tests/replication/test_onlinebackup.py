"""Online backups by SQL on servers of each major, and what no server should answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgbackup.errors import ConnectionFailed, ProtocolViolation, Refused, ServerError, UsageError
from pgbackup.pg.label import BackupLabel, encode_tablespace_map
from pgbackup.pg.lsn import Lsn, WalPosition
from pgbackup.replication import client
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.replication.onlinebackup import (
    OnlineBackup,
    begin_online_backup,
    read_control_view,
)
from pgbackup.replication.slotstate import closing
from pgbackup.replication.transport import Ready
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.replication.transcript import TranscriptTransport, row

MIB = 1 << 20


@contextmanager
def connected(server: Cluster, **extra: str) -> Iterator[LibpqTransport]:
    transport = LibpqTransport()
    conninfo = server.conninfo("postgres", **extra)
    transport.connect(conninfo, "pgbackup test", replicates=False)
    with closing(transport):
        yield transport


@pytest.fixture
def session(server: Cluster) -> Iterator[LibpqTransport]:
    """An ordinary session."""
    with connected(server) as transport:
        yield transport


def begin(transport: LibpqTransport, label: str = "a test") -> OnlineBackup:
    return begin_online_backup(transport, label, fast=True, segment_size=MIB)


def test_an_ordinary_session_takes_no_walsender(server: Cluster, session: LibpqTransport) -> None:
    backends = server.sql(
        "SELECT backend_type FROM pg_stat_activity WHERE application_name = 'pgbackup test'"
    )
    assert backends == [("client backend",)]


def test_the_label_at_the_start_is_the_servers_at_the_end(
    server: Cluster, session: LibpqTransport
) -> None:
    backup = begin(session, "it's a 'label' with \\ and \u00fcmlaut")
    assert not backup.is_standby
    checkpoint = server.sql("SELECT checkpoint_lsn, redo_lsn FROM pg_control_checkpoint()")[0]
    assert (str(backup.label.checkpoint), str(backup.start.lsn)) == checkpoint
    backup.check()
    server.sql("CREATE TABLE IF NOT EXISTS made (i int); INSERT INTO made VALUES (1); CHECKPOINT")
    end = backup.end()
    theirs = BackupLabel.parse(end.label)
    assert theirs.encode() == end.label
    assert len(end.label) == len(backup.label.encode())
    assert theirs.start_time[-4:] == backup.label.start_time[-4:] == " UTC"
    assert end.stop.lsn > backup.start.lsn
    assert end.tablespace_map == b""


def test_two_backups_in_one_session_are_two(session: LibpqTransport) -> None:
    first = begin(session)
    stop = first.end().stop
    second = begin(session)
    assert second.start.lsn >= stop.lsn
    second.end()


def test_the_map_names_tablespaces_of_any_bytes(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    server = cluster_factory(major)
    place = str(server.account.make_directory(tmp_path / "back\\slash caf\u00e9"))
    server.sql(f"CREATE TABLESPACE odd LOCATION E'{place}'".replace("\\s", "\\\\s"))
    oid = server.sql("SELECT oid FROM pg_tablespace WHERE spcname = 'odd'")[0][0]
    with connected(server) as transport:
        begun = begin(transport)
        assert begun.end().tablespace_map == encode_tablespace_map({oid: place}, major)


def test_a_lost_session_ends_the_backup(server: Cluster, session: LibpqTransport) -> None:
    backup = begin(session)
    server.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'pgbackup test'"
    )
    with pytest.raises(ConnectionFailed):
        backup.check()
    with pytest.raises(ConnectionFailed):
        backup.end()


def test_timeouts_of_the_role_do_not_end_a_backup(server: Cluster) -> None:
    names = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"]
    names += ["idle_session_timeout"] if server.major >= 14 else []
    names += ["transaction_timeout"] if server.major >= 17 else []
    with connected(server, options=" ".join(f"-c {name}=1h" for name in names)) as transport:
        assert {client.show(transport, name) for name in names} == {"1h"}
        begin(transport).end()
        assert {client.show(transport, name) for name in names} == {"0"}


def test_a_role_without_the_right_is_told_how_to_get_it(server: Cluster) -> None:
    server.sql("CREATE ROLE modest LOGIN")
    with connected(server, user="modest") as transport:
        with pytest.raises(ServerError) as info:
            begin(transport)
        hint = str(info.value.hint)
        assert hint.startswith("Run in this database: GRANT EXECUTE ON FUNCTION pg_")
        server.sql(hint.partition(": ")[2].replace("ROLE", "modest"))
        begin(transport).end()
    server.sql("DROP OWNED BY modest; DROP ROLE modest")


def test_a_server_that_writes_too_little_wal_says_so(
    cluster_factory: ClusterFactory, major: int
) -> None:
    server = cluster_factory(major, settings={"wal_level": "minimal", "max_wal_senders": 0})
    with connected(server) as transport:
        with pytest.raises(ServerError, match="WAL level not sufficient") as info:
            begin(transport)
        assert "wal_level" in str(info.value.hint)


def test_a_standby_is_told_and_its_promotion_spoils_the_backup(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    primary = cluster_factory(major)
    with primary.standby(tmp_path / "standby") as standby:
        standby.start()
        position = primary.sql("SELECT pg_current_wal_lsn()")[0][0]
        standby.poll_until(f"SELECT pg_last_wal_replay_lsn() >= '{position}'")
        with connected(standby) as transport:
            backup = begin(transport)
            assert backup.is_standby
            assert backup.label.source == "standby"
            end = backup.end()
            assert end.stop.timeline == 1
            recovered = standby.sql("SELECT min_recovery_end_lsn FROM pg_control_recovery()")[0][0]
            assert backup.start.lsn < end.stop.lsn <= Lsn.parse(recovered)
            backup = begin(transport)
            backup.check()
            standby.sql("SELECT pg_promote()")
            with pytest.raises(Refused, match="the standby was promoted meanwhile") as refused:
                backup.check()
            assert refused.value.hint == "Take the backup again."
            with pytest.raises(ServerError, match="the standby was promoted during online backup"):
                backup.end()


def test_a_label_that_would_break_its_line_is_refused_before_the_start() -> None:
    transport = TranscriptTransport()
    with pytest.raises(UsageError):
        begin_online_backup(transport, "two\nlines", fast=True, segment_size=MIB)
    assert transport.sent == []


LABEL = """START WAL LOCATION: 0/2000028 (file {file})
CHECKPOINT LOCATION: 0/2000060
BACKUP METHOD: streamed
BACKUP FROM: {source}
START TIME: 2026-11-22 16:25:34 UTC
LABEL: {label}
START TIMELINE: 1
"""


def transcript(
    label: str, recovered: tuple[str, str] = ("0/0", "0"), source: str = "primary"
) -> TranscriptTransport:
    """A server that checkpoints once more right after the first start."""
    in_recovery = "t" if source == "standby" else "f"
    return TranscriptTransport(
        [
            row(*["x"] * 8), Ready(),
            row("0/1000028"), row("0/2000060", "0/2000028", "1", "f", "now"), Ready(),
            row("0/1000100", "", ""), row("0/0", "0"), Ready(),
            row("0/2000028"), row("0/2000060", "0/2000028", "1", in_recovery, "now"), Ready(),
            row("0/3000100", label, ""), row(*recovered), Ready(),
        ]
    )  # fmt: skip


def test_a_start_that_another_checkpoint_follows_is_done_again() -> None:
    label = LABEL.format(file="000000010000000000000020", source="primary", label="a test")
    transport = transcript(label)
    backup = begin_online_backup(transport, "a test", fast=True, segment_size=MIB)
    assert backup.start == WalPosition(backup.start.timeline, Lsn.parse("0/2000028"))
    assert backup.end().stop.lsn == Lsn.parse("0/3000100")
    assert transport.is_over
    assert [command.split("(")[0] for command in transport.commands] == [
        "SELECT pg_catalog.set_config", "SELECT pg_catalog.pg_backup_start",
        "SELECT lsn, labelfile, spcmapfile FROM pg_catalog.pg_backup_stop",
        "SELECT pg_catalog.pg_backup_start",
        "SELECT lsn, labelfile, spcmapfile FROM pg_catalog.pg_backup_stop",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "label",
    [
        LABEL.format(file="000000010000000000000020", source="primary", label="another"),
        LABEL.format(file="000000010000000000000020", source="standby", label="a test"),
        LABEL.format(file="000000010000000000000021", source="primary", label="a test"),
        "",
        None,
    ],
    ids=["label", "source", "file", "empty", "NULL"],
)
def test_the_end_of_another_backup_is_no_end(label: str) -> None:
    backup = begin_online_backup(transcript(label), "a test", fast=True, segment_size=MIB)
    with pytest.raises(ProtocolViolation):
        backup.end()


def test_a_standby_that_changes_its_timeline_at_the_very_end_is_refused() -> None:
    label = LABEL.format(file="000000010000000000000020", source="standby", label="a test")
    led_on = transcript(label, ("0/3000100", "2"), "standby")
    backup = begin_online_backup(led_on, "a test", fast=True, segment_size=MIB)
    assert backup.end().stop.timeline == 2
    too_late = transcript(label, ("0/4000000", "2"), "standby")
    backup = begin_online_backup(too_late, "a test", fast=True, segment_size=MIB)
    with pytest.raises(Refused, match="went over to timeline 2"):
        backup.end()


def test_the_control_file_is_read_by_sql(server: Cluster, session: LibpqTransport) -> None:
    view = read_control_view(session)
    identifier = server.sql("SELECT system_identifier FROM pg_control_system()")[0][0]
    assert view.system_identifier == identifier
    assert not view.is_in_recovery
