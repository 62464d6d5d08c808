"""Holes in the archive are filled from servers that still have the WAL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbackup.cli.connection import split_hosts
from pgbackup.errors import UsageError
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.storage.local import LocalStorage
from tests.cli.program import Answer, run, succeed
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory

MIB = 1 << 20
ONE_MAJOR = pytest.mark.parametrize("major", [17])


def repository(tmp_path: Path) -> ClusterRepository:
    return Repository.open(LocalStorage(tmp_path / "pgbackup-repo")).only_cluster()


def archived(tmp_path: Path) -> list[str]:
    return [file.name.text for file in repository(tmp_path).archive.segments()]


def receive(tmp_path: Path, server: Cluster) -> None:
    succeed(tmp_path, "receive-wal", "--once", "-q", "-d", server.conninfo())


def write_segments(server: Cluster, count: int) -> None:
    for _ in range(count):
        server.sql("SELECT pg_logical_emit_message(false, 'test', repeat(md5('x'), 9000))")
        server.sql("SELECT pg_switch_wal()")


def begin(cluster_factory: ClusterFactory, major: int, tmp_path: Path, count: int = 8) -> Cluster:
    """A server whose WAL is archived so far: so many segments, and a beginning."""
    server = cluster_factory(major, settings={"wal_keep_size": "1GB"})
    receive(tmp_path, server)
    write_segments(server, count)
    server.sql("SELECT pg_logical_emit_message(true, 'test', 'the beginning of a segment')")
    receive(tmp_path, server)
    assert len(archived(tmp_path)) >= count
    return server


def lose(tmp_path: Path, *names: str) -> None:
    for name in names:
        repository(tmp_path).archive.delete(name)


def gaps(tmp_path: Path) -> list[str]:
    """Lost segments, each stretch by its first and last."""
    answer = run(tmp_path, "wal", "gaps", "--json")
    holes = answer.document["holes"]
    assert answer.status == (9 if holes else 0), answer.err
    assert answer.document["missing_histories"] == []
    return [f"{hole['first']} {hole['last']}" for hole in holes]


def fill(tmp_path: Path, server: Cluster | str, *arguments: object) -> Answer:
    conninfo = server if isinstance(server, str) else server.conninfo()
    return run(tmp_path, "wal", "fill", "-d", conninfo, *arguments)


def expect_whole(tmp_path: Path, server: Cluster) -> None:
    """Nothing is missing or damaged, and all is as the server has it."""
    assert gaps(tmp_path) == []
    succeed(tmp_path, "wal", "verify", "--all")
    archive = repository(tmp_path).archive
    compared = 0
    for name in archived(tmp_path):
        own = server.pgdata / "pg_wal" / name
        if own.exists():
            assert b"".join(archive.chunks(name, MIB)) == own.read_bytes(), name
            compared += 1
    assert compared > 5


def test_holes_are_filled_from_the_primary(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    server = begin(cluster_factory, major, tmp_path)
    names = archived(tmp_path)
    lose(tmp_path, names[2], names[4], names[5])
    assert gaps(tmp_path) == [f"{names[2]} {names[2]}", f"{names[4]} {names[5]}"]
    answer = run(tmp_path, "wal", "list", "--json")
    (timeline,) = answer.document["timelines"]
    assert timeline["segments"] == len(names) - 3
    assert [hole["segments"] for hole in timeline["holes"]] == [1, 2]
    assert [partial["valid_size"] for partial in timeline["partial"]] == [None]
    answer = fill(tmp_path, server)
    assert answer.status == 0, answer.err
    assert f"timeline 1: {names[2]} (1 segment, ".encode() in answer.out
    assert f"timeline 1: {names[4]} to {names[5]} (2 segments, ".encode() in answer.out
    assert archived(tmp_path) == names
    expect_whole(tmp_path, server)
    answer = fill(tmp_path, "host=/nonexistent")
    assert (answer.status, answer.out) == (0, b"")  # nobody needs to be asked


@pytest.fixture
def failed_over(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> Iterator[tuple[Cluster, Cluster]]:
    """A promoted standby, and another standby that follows it; both timelines are archived."""
    primary = begin(cluster_factory, major, tmp_path, 1)
    directory = primary.pgdata.parent.parent
    with (
        primary.standby(directory / "heir") as heir,
        primary.standby(directory / "other") as other,
    ):
        heir.start()
        other.start()
        write_segments(primary, 5)
        receive(tmp_path, primary)
        now = primary.sql("SELECT pg_current_wal_flush_lsn()::text")[0][0]
        for each in (heir, other):
            each.poll_until(f"SELECT pg_last_wal_receive_lsn() >= '{now}'")
        primary.stop("immediate")
        heir.sql("SELECT pg_promote()")
        heir.poll_until("SELECT pg_is_in_recovery()", False)
        other.configure({"primary_conninfo": heir.conninfo()})
        other.stop()
        other.start()
        write_segments(heir, 5)
        receive(tmp_path, heir)
        now = heir.sql("SELECT pg_current_wal_flush_lsn()::text")[0][0]
        other.poll_until(f"SELECT pg_last_wal_receive_lsn() >= '{now}'")
        yield heir, other


def test_holes_on_an_old_and_on_the_current_timeline_are_filled(
    failed_over: tuple[Cluster, Cluster], tmp_path: Path
) -> None:
    names = archived(tmp_path)
    old = [name for name in names if name.startswith("00000001")]
    new = [name for name in names if name.startswith("00000002")]
    assert gaps(tmp_path) == []
    lost = [old[-3], old[-1], new[0], new[2]]
    for server in failed_over:  # the primary, and a standby
        lose(tmp_path, *lost)
        assert gaps(tmp_path) == [f"{name} {name}" for name in lost]
        answer = fill(tmp_path, server)
        assert answer.status == 0, answer.err
        assert archived(tmp_path) == names
        expect_whole(tmp_path, server)


@ONE_MAJOR
def test_a_lost_history_is_filled_and_shows_what_else_is_missing(
    failed_over: tuple[Cluster, Cluster], tmp_path: Path
) -> None:
    names = archived(tmp_path)
    lost = [name for name in names if name.startswith("00000001")][-1]
    lose(tmp_path, lost, "00000002.history")
    answer = run(tmp_path, "wal", "gaps")
    assert answer.status == 9
    assert b"timeline 2: 00000002.history missing" in answer.out
    answer = fill(tmp_path, failed_over[0])
    assert answer.status == 0, answer.err
    assert b"00000002.history filled" in answer.out
    assert archived(tmp_path) == names
    expect_whole(tmp_path, failed_over[0])


@ONE_MAJOR
def test_what_no_host_has_remains(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    server = begin(cluster_factory, major, tmp_path)
    names = archived(tmp_path)
    lose(tmp_path, *names[1:6])
    for name in names[:4]:
        (server.pgdata / "pg_wal" / name).unlink()
    answer = fill(tmp_path, server, "--json")
    assert answer.status == 9, answer.err
    (filled,) = answer.document["filled"]
    assert [(each["first"], each["last"]) for each in filled["stretches"]] == [(names[4], names[5])]
    assert gaps(tmp_path) == [f"{names[1]} {names[3]}"]


@pytest.mark.parametrize(
    ("major", "side"),
    [(13, -1), (14, 1), (15, -1), (16, 1), (17, -1), (18, 1)],
    ids=lambda value: {-1: "before", 1: "behind"}.get(value, f"pg{value}"),
)
def test_an_overlap_that_differs_is_refused(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path, side: int
) -> None:
    server = begin(cluster_factory, major, tmp_path)
    names = archived(tmp_path)
    archive = repository(tmp_path).archive
    neighbour = names[3 + side]
    content = bytearray(b"".join(archive.chunks(neighbour)))
    content[5000] ^= 1
    lose(tmp_path, names[3], neighbour)
    with archive.file_writer(neighbour, MIB, 3) as writer:
        writer.write(content)
        writer.commit()
    answer = fill(tmp_path, server)
    message, _ = answer.error()
    assert answer.status == 6
    assert neighbour in message
    assert gaps(tmp_path) == [f"{names[3]} {names[3]}"]
    assert b"".join(archive.chunks(neighbour)) == content


@ONE_MAJOR
def test_each_host_is_asked_in_turn_and_another_system_is_refused(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    server = begin(cluster_factory, major, tmp_path)
    names = archived(tmp_path)
    lose(tmp_path, names[3])
    stranger = cluster_factory(major)
    answer = fill(tmp_path, stranger)
    assert answer.status == 8
    assert "not" in answer.error()[0]
    assert fill(tmp_path, "host=/nonexistent user=postgres").status == 3
    assert gaps(tmp_path) == [f"{names[3]} {names[3]}"]
    hosts = f"/nonexistent,{server.run_directory}"
    answer = fill(
        tmp_path, f"host={hosts} port={server.port} user=postgres target_session_attrs=standby"
    )
    assert answer.status == 0, answer.err
    assert "warning: /nonexistent" in answer.err
    assert archived(tmp_path) == names


def test_a_string_of_several_hosts_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGPORT"):
        monkeypatch.delenv(name, raising=False)
    found = split_hosts({"host": "a,b", "port": "1,2", "user": "u"})
    expected = {"user": "u", "target_session_attrs": "any"}
    assert found == [
        ("a:1", {**expected, "host": "a", "port": "1"}),
        ("b:2", {**expected, "host": "b", "port": "2"}),
    ]
    assert [name for name, _ in split_hosts({"host": "a,b", "port": "7"})] == ["a:7", "b:7"]
    assert [name for name, _ in split_hosts({"hostaddr": "::1,127.0.0.1"})] == ["::1", "127.0.0.1"]
    assert [name for name, _ in split_hosts({})] == ["local host"]
    with pytest.raises(UsageError, match="3 values of port do not match 2 hosts"):
        split_hosts({"host": "a,b", "port": "1,2,3"})
    monkeypatch.setenv("PGHOST", "x,y")
    assert [name for name, _ in split_hosts({})] == ["x", "y"]


@ONE_MAJOR
def test_the_wal_of_the_oldest_backup_is_needed_and_what_is_before_it_is_not(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    server = begin(cluster_factory, major, tmp_path, 3)
    before = archived(tmp_path)
    succeed(tmp_path, "backup", "-c", "fast", "-q", "-d", server.conninfo())
    write_segments(server, 3)
    receive(tmp_path, server)
    lose(tmp_path, before[1])
    assert gaps(tmp_path) == []
    (backup,) = succeed(tmp_path, "list", "--json").document["backups"]
    first, last = backup["wal"][0]["first"], archived(tmp_path)[-1]
    lose(tmp_path, first)
    assert gaps(tmp_path) == [f"{first} {first}"]
    assert fill(tmp_path, server).status == 0
    assert first in archived(tmp_path)
    assert before[1] not in archived(tmp_path)
    assert archived(tmp_path)[-1] == last
    (record,) = (tmp_path / "pgbackup-repo").glob("*/backups/*/backup.json")
    record.chmod(0o600)
    record.write_text("{}")
    answer = run(tmp_path, "wal", "gaps")
    assert f"warning: backup {backup['label']}" in answer.err
    assert answer.status == 9  # without a backup, all that is there counts
