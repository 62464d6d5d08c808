"""Base backups received from servers of every major, and from servers not to be trusted."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from pgbackup.backup.receive import BackupOutcome, receive_backup
from pgbackup.errors import (
    ConnectionFailed,
    PgbackupError,
    ProtocolViolation,
    Refused,
    ServerError,
    StorageError,
)
from pgbackup.pg.lsn import Lsn, Timeline, WalPosition
from pgbackup.replication.client import identify_system
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.replication.transport import (
    CommandComplete,
    CopyBegin,
    CopyDone,
    CopyKind,
    Ready,
    Transport,
)
from pgbackup.stream.sink import Sink, Tablespace
from pgbackup.stream.untar import TarWalker
from pgbackup.wire.basebackup import BaseBackup
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.replication.transcript import Line, TranscriptTransport, position_row, row, rows
from tests.stream.checked_sink import CheckedSink
from tests.stream.tars import archive

COMMAND = BaseBackup("test", fast_checkpoint=True, manifest_checksums="SHA256")


@pytest.fixture(scope="module")
def server(module_cluster_factory: ClusterFactory, major: int) -> Cluster:
    """A running server of each major with a tablespace."""
    cluster = module_cluster_factory(major)
    location = cluster.account.make_directory(cluster.pgdata.parent / "table space")
    cluster.sql(f"CREATE TABLESPACE apart LOCATION '{location}'")
    cluster.sql("CREATE TABLE far TABLESPACE apart AS SELECT generate_series(1, 1000) AS number")
    return cluster


@contextmanager
def connected(server: Cluster) -> Iterator[LibpqTransport]:
    transport = LibpqTransport()
    transport.connect(server.conninfo(), "pgbackup test")
    try:
        yield transport
    finally:
        transport.disconnect()


def receive(transport: Transport, sink: Sink, command: BaseBackup = COMMAND) -> BackupOutcome:
    try:
        return receive_backup(transport, command, sink)
    finally:
        sink.cleanup()


def test_a_backup_arrives_whole(server: Cluster) -> None:
    sink = CheckedSink([65536, 8192, 1000])
    with connected(server) as transport:
        before = identify_system(transport).flushed
        outcome = receive(transport, sink)
        after = identify_system(transport).flushed
    assert sink.is_complete
    assert before.lsn <= outcome.start.lsn < outcome.stop.lsn <= after.lsn
    assert outcome.stop == sink.stop
    assert not outcome.is_damaged
    assert_tablespaces(server, outcome.tablespaces)
    assert list(sink.archives) == [space.archive_name for space in outcome.tablespaces]
    assert_estimates(sink)
    assert_manifest_matches(sink)


def assert_tablespaces(server: Cluster, tablespaces: tuple[Tablespace, ...]) -> None:
    ((oid, location),) = server.sql(
        "SELECT oid::int, pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'apart'"
    )
    assert [(space.oid, space.location) for space in tablespaces] == [(oid, location), (None, "")]


def assert_estimates(sink: CheckedSink) -> None:
    assert sink.state is not None
    assert sink.state.bytes_total is not None
    received = sum(map(len, sink.archives.values()))
    assert 0.8 * received < sink.state.bytes_total < 1.2 * received


def assert_manifest_matches(sink: CheckedSink) -> None:
    """Every file of the manifest is in its archive, with its checksum; nothing else is."""
    assert sink.manifest is not None
    manifest = json.loads(sink.manifest)
    expected = {file["Path"]: file["Checksum"] for file in manifest["Files"]}
    found = {
        path: hashlib.sha256(content).hexdigest()
        for name, archive in sink.archives.items()
        for path, content in files_of(name, archive)
    }
    assert found == expected
    assert {"PG_VERSION", "backup_label", "tablespace_map", "global/pg_control"} <= found.keys()


def files_of(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """Files of an archive, under their paths in the data directory, as Python's tarfile sees it."""
    assert content.endswith(bytes(1024))
    assert len(content) % 512 == 0
    prefix = "" if name == "base.tar" else f"pg_tblspc/{name.removesuffix('.tar')}/"
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            if file is not None:
                yield prefix + member.name, file.read()


def test_the_archives_can_be_walked(server: Cluster) -> None:
    sink = CheckedSink([100_000])
    with connected(server) as transport:
        receive(transport, sink)
    for content in sink.archives.values():
        walker = TarWalker(Ignore())
        walker.feed(memoryview(content))
        walker.finish()
        assert walker.end_offset is not None


class Ignore:
    def begin_member(self, header: object, offset: int) -> None:
        pass

    def member_contents(self, data: memoryview) -> None:
        pass

    def end_member(self) -> None:
        pass


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(
            BaseBackup("it's; \\ ä", True, progress=False, manifest_checksums=None), id="plain"
        ),
        pytest.param(
            BaseBackup("x", True, wal=True, max_rate=1048576, verify_checksums=False), id="wal"
        ),
    ],
)
def test_other_options_are_understood(server: Cluster, command: BaseBackup) -> None:
    sink = CheckedSink([1 << 20])
    with connected(server) as transport:
        outcome = receive(transport, sink, command)
    files = dict(files_of("base.tar", sink.archives["base.tar"]))
    assert f"LABEL: {command.label}\n" in files["backup_label"].decode()
    assert f"START WAL LOCATION: {outcome.start.lsn} " in files["backup_label"].decode()
    assert (sink.manifest is None) == (command.manifest_checksums is None)
    assert sink.state is not None
    assert (sink.state.bytes_total is None) == (not command.progress)
    has_wal = any(name.startswith("pg_wal/0000000100") for name in files)
    assert has_wal == command.wal


def test_pages_with_a_wrong_checksum_are_reported(server: Cluster) -> None:
    server.sql("CREATE TABLE hurt AS SELECT generate_series(1, 1000) AS number; CHECKPOINT")
    path = server.pgdata / server.sql("SELECT pg_relation_filepath('hurt')")[0][0]
    with path.open("r+b") as file:
        file.seek(8192 + 5000)
        file.write(b"damage")
    sink = CheckedSink([1 << 20])
    try:
        with connected(server) as transport:
            outcome = receive(transport, sink)
            identify_system(transport)
    finally:
        server.sql("DROP TABLE hurt")
    assert outcome.is_damaged
    assert sink.is_complete
    assert any("checksum verification failed" in text for text in outcome.warnings)
    assert all(text.startswith("WARNING: ") for text in outcome.warnings)


class Interrupter(Sink):
    """Runs an action when so many archive bytes have passed."""

    def __init__(self, successor: Sink, action: object, after: int = 1) -> None:
        super().__init__(successor)
        self._action = action
        self._left = after

    def archive_contents(self, length: int) -> None:
        self._left -= length
        if self._left <= 0 < self._left + length:
            assert callable(self._action)
            self._action()
        self.successor.archive_contents(length)


SLOW = BaseBackup("slow", True, max_rate=1024)
"""Slow enough that the server is still sending when something happens."""


def test_a_server_killed_in_the_middle_is_a_lost_connection(cluster: Cluster) -> None:
    end = CheckedSink([65536])
    with connected(cluster) as transport, pytest.raises(ConnectionFailed, match="lost") as caught:
        receive(transport, Interrupter(end, cluster.kill9), SLOW)
    assert caught.value.retryable
    assert "end_archive" not in end.calls
    assert end.is_clean


def test_a_backup_cancelled_by_the_server_ends_no_archive(server: Cluster) -> None:
    def cancel() -> None:
        server.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_replication WHERE state = 'backup'")

    end = CheckedSink([65536])
    with connected(server) as transport:
        with pytest.raises(ServerError, match="canceling statement") as caught:
            receive(transport, Interrupter(end, cancel, after=500_000), SLOW)
        identify_system(transport)
    assert caught.value.sqlstate == "57014"
    assert "base.tar" not in end.archives
    assert end.is_clean


def test_a_full_repository_leaves_the_server_in_peace(server: Cluster) -> None:
    end = CheckedSink([65536], fail_at=10)
    with connected(server) as transport, pytest.raises(StorageError):
        receive(transport, end, SLOW)
    server.poll_until("SELECT count(*)::int FROM pg_stat_replication", 0)
    assert end.is_clean


def test_a_command_that_is_refused_begins_nothing(server: Cluster) -> None:
    sink = CheckedSink()
    with connected(server) as transport, pytest.raises(ServerError) as caught:
        receive(transport, sink, BaseBackup("x" * 1025, True))
    assert "label" in caught.value.message
    assert sink.calls == []
    assert sink.is_clean


# -- backups that no server should send ----------------------------------------------------------

START = WalPosition(Timeline(1), Lsn(0x2000028))
STOP = WalPosition(Timeline(1), Lsn(0x2000100))
SPACES = rows(("16384", "/ts/one", "2"), (None, None, "3"))
OUT = CopyBegin(CopyKind.FROM_SERVER)
BEGIN: list[Line] = [position_row(START.lsn, START.timeline), SPACES, OUT]
STOPPED: list[Line] = [position_row(STOP.lsn, STOP.timeline)]
END: list[Line] = [CopyDone(), *STOPPED, CommandComplete("BASE_BACKUP"), Ready()]

TAR = archive()
ONE: list[Line] = [b"n16384.tar\0/ts/one\0", b"d" + TAR]
BASE: list[Line] = [b"nbase.tar\0\0", b"d" + TAR[:700], b"p" + bytes(8), b"d" + TAR[700:]]
MANIFEST: list[Line] = [b"m", b"d{}", b"d\n"]


def play(
    lines: Iterable[Line], *, major: int = 18, sizes: Iterable[int] = (1000,)
) -> tuple[CheckedSink, BackupOutcome]:
    sink = CheckedSink(sizes)
    transport = TranscriptTransport(lines, major=major)
    outcome = receive(transport, sink, COMMAND)
    assert transport.is_over
    assert sink.is_complete
    return sink, outcome


def refused(*lines: Line, major: int = 18) -> CheckedSink:
    """The sink of a backup that is refused before it is complete."""
    sink = CheckedSink([1000])
    with pytest.raises(ProtocolViolation):
        receive(TranscriptTransport(lines, major=major), sink)
    assert not sink.is_complete
    assert sink.is_clean
    return sink


def test_the_typed_copy_of_15_and_later_is_taken_apart() -> None:
    sink, outcome = play([*BEGIN, *ONE, *BASE, *MANIFEST, *END])
    assert sink.archives == {"16384.tar": TAR, "base.tar": TAR}
    assert sink.manifest == b"{}\n"
    spaces = (Tablespace(16384, "/ts/one", 2048), Tablespace(None, "", 3072))
    assert outcome == BackupOutcome(START, STOP, spaces, (), False)
    assert sink.state is not None
    assert sink.state.bytes_total == 5120


@pytest.mark.parametrize("sizes", [[1], [7, 512], [100_000]], ids=["1", "7-512", "100000"])
def test_messages_and_buffers_of_any_size_go_together(sizes: list[int]) -> None:
    content = bytes(range(256)) * 150
    lines: list[Line] = [b"nbase.tar\0\0", b"d" + content, b"d", b"d" + content[:1], b"d"]
    sink, _ = play([*BEGIN, *ONE, *lines, *MANIFEST, *END], sizes=sizes)
    assert sink.archives["base.tar"] == content + content[:1]


def test_small_messages_are_gathered_into_full_buffers() -> None:
    lines: list[Line] = [b"nbase.tar\0\0", *[b"d" + bytes([n % 256]) * 100 for n in range(100)]]
    sink, _ = play([*BEGIN, *ONE, *lines, *MANIFEST, *END], sizes=[3000])
    last = len(sink.calls) - sink.calls[::-1].index("end_archive")
    assert sink.calls[last - 6 : last] == [
        "begin_archive",
        *["archive_contents"] * 4,
        "end_archive",
    ]


def test_the_plain_copies_before_15_get_their_end_of_archive() -> None:
    cut = TAR[:-1024]
    copies: list[Line] = [cut, CopyDone(), OUT, cut[:512], cut[512:], CopyDone(), OUT, b"{}\n"]
    sink, outcome = play([*BEGIN, *copies, *END], major=14)
    assert sink.archives == {"16384.tar": TAR, "base.tar": TAR}
    assert sink.manifest == b"{}\n"
    assert outcome.stop == STOP


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([b"d" + TAR], id="bytes-of-no-archive"),
        pytest.param([*MANIFEST, *BASE], id="manifest-before-archives"),
        pytest.param([*ONE, *MANIFEST, *BASE], id="archive-after-manifest"),
        pytest.param([*ONE, *BASE, *MANIFEST, *MANIFEST], id="two-manifests"),
        pytest.param([b"n../base.tar\0\0"], id="name-with-slash"),
        pytest.param([b"n..\0\0"], id="name-of-dots"),
        pytest.param([b"nbase.tar\0"], id="half-a-name"),
        pytest.param([*ONE, *BASE, b"p" + bytes(7)], id="short-progress"),
        pytest.param([*ONE, *BASE, b"p" + bytes(9)], id="long-progress"),
        pytest.param([*ONE, *BASE, b"mx"], id="long-manifest-begin"),
        pytest.param([*ONE, *BASE, b"x"], id="unknown-message"),
        pytest.param([*ONE, *BASE, b""], id="empty-message"),
        pytest.param([b""], id="empty-message-first"),
        pytest.param([CopyDone()], id="no-archive"),
        pytest.param([*ONE, CopyDone()], id="main-archive-missing"),
        pytest.param([*BASE, *ONE, *MANIFEST], id="archives-in-other-order"),
        pytest.param([*ONE, *ONE, *BASE, *MANIFEST], id="archive-twice"),
        pytest.param([b"n99.tar\0\0", b"d" + TAR, *BASE, *MANIFEST], id="archive-not-announced"),
        pytest.param([*ONE, *BASE, CopyDone()], id="manifest-missing"),
        pytest.param([*ONE, *BASE, CommandComplete("BASE_BACKUP")], id="complete-in-copy"),
        pytest.param([*ONE, *BASE, Ready()], id="ready-in-copy"),
        pytest.param([*ONE, *BASE, OUT], id="copy-in-copy"),
        pytest.param([*ONE, *BASE, *STOPPED], id="result-in-copy"),
    ],
)
def test_a_copy_out_of_order_is_refused(lines: list[Line]) -> None:
    refused(*BEGIN, *lines)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([TAR, CommandComplete("BASE_BACKUP")], id="complete-in-copy"),
        pytest.param([TAR, CopyDone(), *STOPPED], id="one-copy-too-few"),
        pytest.param([TAR, CopyDone(), OUT, TAR, CopyDone(), *STOPPED], id="no-manifest"),
        pytest.param([CopyDone(), OUT, CopyDone(), OUT, CopyDone(), OUT], id="a-copy-too-many"),
    ],
)
def test_plain_copies_out_of_order_are_refused(lines: list[Line]) -> None:
    refused(*BEGIN, *lines, major=13)


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param([OUT], id="no-start"),
        pytest.param([row("0/2000028")], id="start-without-timeline"),
        pytest.param([row("x", "1"), SPACES], id="start-is-no-position"),
        pytest.param([row(None, "1"), SPACES], id="start-is-null"),
        pytest.param([*BEGIN[:1], OUT], id="no-tablespaces"),
        pytest.param([*BEGIN[:1], rows()], id="empty-tablespaces"),
        pytest.param([*BEGIN[:1], rows((None, None, "1"), ("1", "/x", "1"))], id="base-not-last"),
        pytest.param([*BEGIN[:1], rows(("1", "/x", "1"))], id="no-base"),
        pytest.param([*BEGIN[:1], rows((None, None, "1"), (None, None, "1"))], id="two-bases"),
        pytest.param([*BEGIN[:1], rows(("-1", "/x", "1"), (None, None, "1"))], id="negative-oid"),
        pytest.param([*BEGIN[:1], rows(("../x", "/x", "1"), (None, None, "1"))], id="oid-no-oid"),
        pytest.param([*BEGIN[:1], rows((None, None, "many"))], id="size-is-no-number"),
        pytest.param([*BEGIN[:2], *STOPPED], id="no-copy"),
    ],
)
@pytest.mark.parametrize("major", [14, 18])
def test_a_beginning_of_another_shape_is_refused(begin: list[Line], major: int) -> None:
    sink = refused(*begin, major=major)
    assert set(sink.calls) <= {"begin_backup", "begin_archive"}


@pytest.mark.parametrize(
    "end",
    [
        pytest.param([CommandComplete("BASE_BACKUP")], id="no-stop"),
        pytest.param([row(None, "1")], id="stop-is-null"),
        pytest.param([row("0/2000100", "0")], id="stop-on-timeline-zero"),
        pytest.param([*STOPPED, *STOPPED], id="two-stops"),
        pytest.param([*STOPPED, OUT], id="another-copy"),
    ],
)
def test_an_end_of_another_shape_is_refused(end: list[Line]) -> None:
    refused(*BEGIN, *ONE, *BASE, *MANIFEST, CopyDone(), *end)


@pytest.mark.parametrize("place", ["../../space", "space", ""], ids=["up", "inside", "empty"])
def test_a_tablespace_at_a_relative_place_is_refused(place: str) -> None:
    """The server sends nothing of it."""
    sink = CheckedSink()
    spaces = rows(("16384", place, "2"), (None, None, "3"))
    with pytest.raises(Refused, match="16384"):
        receive(TranscriptTransport([BEGIN[0], spaces]), sink)
    assert sink.calls == []


def test_a_tablespace_in_place_is_none_at_a_relative_place() -> None:
    spaces = rows(("16384", "pg_tblspc/16384", "2"), (None, None, "3"))
    one = [b"n16384.tar\0pg_tblspc/16384\0", b"d" + TAR]
    _, outcome = play([BEGIN[0], spaces, OUT, *one, *BASE, *MANIFEST, *END])
    assert outcome.tablespaces[0].location == "pg_tblspc/16384"


def test_sizes_that_the_server_does_not_tell_are_unknown() -> None:
    begin: list[Line] = [BEGIN[0], rows((None, None, None)), OUT]
    sink, _ = play([*begin, *BASE, *MANIFEST, *END])
    assert sink.state is not None
    assert sink.state.bytes_total is None


# -- the verdict ---------------------------------------------------------------------------------


def verdict(error: PgbackupError) -> tuple[CheckedSink, TranscriptTransport]:
    """A whole backup, and then an error in the place of its completion."""
    lines = [*BEGIN, *ONE, *BASE, *MANIFEST, CopyDone(), *STOPPED, error]
    return CheckedSink(), TranscriptTransport(lines)


def test_damaged_pages_are_an_outcome_not_a_failure() -> None:
    error = ServerError("the server reported: checksum verification failure", sqlstate="XX001")
    sink, transport = verdict(error)
    outcome = receive(transport, sink)
    assert outcome.is_damaged
    assert sink.is_complete


@pytest.mark.parametrize(
    "error",
    [
        ServerError("the server reported: WAL segment has been removed", sqlstate="58P01"),
        ConnectionFailed("the connection to the server was lost"),
    ],
    ids=["server", "connection"],
)
def test_every_other_error_after_the_last_byte_fails_the_backup(error: PgbackupError) -> None:
    sink, transport = verdict(error)
    with pytest.raises(type(error)) as caught:
        receive(transport, sink)
    assert caught.value is error
    assert not sink.is_complete, "the end of the backup was told before the server's verdict"
    assert sink.is_clean


def test_warnings_of_an_earlier_command_are_not_of_this_backup() -> None:
    transport = TranscriptTransport([*BEGIN, *ONE, *BASE, *MANIFEST, *END])
    transport.notices.append("WARNING: old")
    assert receive(transport, CheckedSink()).warnings == ()


@pytest.mark.parametrize(
    ("sqlstate", "hint"),
    [("55000", "wal_level"), ("53300", "max_wal_senders"), ("42501", "REPLICATION")],
)
def test_errors_at_the_start_get_a_hint(sqlstate: str, hint: str) -> None:
    error = ServerError("the server reported: no", sqlstate=sqlstate, detail="why")
    with pytest.raises(ServerError, match="the server reported: no") as caught:
        receive(TranscriptTransport([error]), CheckedSink())
    assert hint in str(caught.value.hint)
    assert (caught.value.sqlstate, caught.value.detail) == (sqlstate, "why")


def test_the_hint_of_the_server_is_kept() -> None:
    error = ServerError("the server reported: no", sqlstate="XX000", hint="Try again.")
    with pytest.raises(ServerError) as caught:
        receive(TranscriptTransport([error]), CheckedSink())
    assert caught.value.hint == "Try again."


@pytest.mark.parametrize("major", [14, 18])
def test_a_failure_of_the_sink_at_any_call_comes_through(major: int) -> None:
    copies: list[Line] = [TAR, CopyDone(), OUT, TAR, CopyDone(), OUT, b"{}"]
    lines: list[Line] = [*BEGIN, *(copies if major < 15 else [*ONE, *BASE, *MANIFEST]), *END]
    whole, _ = play(lines, major=major)
    for number in range(len(whole.calls)):
        sink = CheckedSink([1000], fail_at=number)
        with pytest.raises(StorageError):
            receive(TranscriptTransport(lines, major=major), sink)
        assert sink.calls == whole.calls[: number + 1]
        assert sink.is_clean
