"""The transport over libpq, against real servers: what it says when it cannot connect, and after
errors."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgbackup.errors import AuthenticationFailed, ConnectionFailed, Refused, ServerError, UsageError
from pgbackup.pg.lsn import Lsn, Timeline
from pgbackup.replication.client import identify_system, show
from pgbackup.replication.libpq import LibpqTransport, build_conninfo, parse_conninfo
from pgbackup.replication.transport import (
    CommandComplete,
    CopyBegin,
    CopyDone,
    CopyEnd,
    CopyKind,
    Ready,
    ResultSet,
)
from pgbackup.wire.commands import Show, StartPhysicalReplication
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.waiting import PATIENCE


class Garbled:
    """A command with a word too many."""

    def text(self, major: int) -> str:
        return "IDENTIFY_SYSTEM IDENTIFY_SYSTEM"


def failure(conninfo: str) -> ConnectionFailed:
    """The error of a connection that cannot be made."""
    with pytest.raises(ConnectionFailed, match=r"^could not connect to the server: ") as caught:
        LibpqTransport().connect(conninfo, "pgbackup test")
    assert "\n" not in caught.value.message
    return caught.value


def test_the_version_of_the_server_is_known(server: Cluster, transport: LibpqTransport) -> None:
    assert transport.server_major == server.major
    assert transport.server_version // 10000 == server.major
    assert transport.server_version_text.startswith(f"{server.major}.")


@pytest.mark.parametrize("text", ["host=\udcff", "postgresql://\udcff/"])
def test_settings_have_to_be_utf8(text: str) -> None:
    with pytest.raises(UsageError, match="one of them is not UTF-8"):
        parse_conninfo(text)
    with pytest.raises(UsageError, match="one of them is not UTF-8"):
        build_conninfo({"host": text})


def test_events_come_in_order(transport: LibpqTransport) -> None:
    transport.send(Show("wal_level"))
    result = transport.receive(None)
    assert result == ResultSet(("wal_level",), ((b"replica",),))
    assert transport.receive(None) == Ready()


def test_the_connection_replicates_under_the_name_given(
    server: Cluster, transport: LibpqTransport
) -> None:
    rows = server.sql(
        "SELECT backend_type FROM pg_stat_activity WHERE application_name = 'pgbackup test'"
    )
    assert rows == [("walsender",)]


def test_a_name_in_the_connection_string_wins(server: Cluster) -> None:
    transport = LibpqTransport()
    transport.connect(server.conninfo(application_name="mine"), "pgbackup test")
    assert show(transport, "application_name") == "mine"
    transport.disconnect()


def test_receive_gives_up_after_its_time(transport: LibpqTransport) -> None:
    start_streaming(transport)
    while (event := transport.receive(0.02)) is not None:
        assert isinstance(event, memoryview)


@pytest.mark.parametrize(
    ("command", "sqlstate"),
    [
        pytest.param(Show("no_such_setting"), "42704", id="unknown-setting"),
        pytest.param(Garbled(), "42601", id="syntax"),
    ],
)
def test_after_an_error_the_connection_can_be_used(
    transport: LibpqTransport, command: Show, sqlstate: str
) -> None:
    before = identify_system(transport)
    for _ in range(3):
        transport.send(command)
        with pytest.raises(ServerError, match="the server reported: ") as caught:
            transport.receive(None)
        assert caught.value.sqlstate == sqlstate
    assert identify_system(transport).system_identifier == before.system_identifier


def start_streaming(transport: LibpqTransport) -> None:
    position = identify_system(transport).flushed
    transport.send(StartPhysicalReplication(position.lsn, position.timeline))
    assert transport.receive(None) == CopyBegin(CopyKind.BOTH)


def test_a_stream_that_we_end_is_ended_by_the_server_too(transport: LibpqTransport) -> None:
    start_streaming(transport)
    transport.send(CopyEnd())
    events = []
    while (event := transport.receive(None)) != Ready():
        if not isinstance(event, memoryview):
            events.append(event)
    assert events[0] == CopyDone()
    assert {type(event) for event in events[1:]} == {CommandComplete}
    assert show(transport, "wal_level") == "replica"


def test_a_transport_left_inside_a_copy_can_be_connected_again(server: Cluster) -> None:
    transport = LibpqTransport()
    transport.connect(server.conninfo(), "")
    start_streaming(transport)
    transport.disconnect()
    transport.connect(server.conninfo(), "")
    assert show(transport, "wal_level") == "replica"
    transport.disconnect()


def test_an_error_inside_a_wal_stream_keeps_its_words(transport: LibpqTransport) -> None:
    """The server starts to copy, and only then sees that it has no such WAL yet."""
    system = identify_system(transport)
    ahead = Lsn(system.flushed.lsn + (1 << 32))
    transport.send(StartPhysicalReplication(ahead, system.flushed.timeline))
    assert transport.receive(None) == CopyBegin(CopyKind.BOTH)
    with pytest.raises(ServerError, match="ahead of the WAL flush position"):
        transport.receive(None)
    assert show(transport, "wal_level") == "replica"


def test_an_unknown_timeline_is_an_error_of_the_server(transport: LibpqTransport) -> None:
    identify_system(transport)
    transport.send(StartPhysicalReplication(Lsn(1 << 24), Timeline(99)))
    with pytest.raises(ServerError, match="requested timeline 99"):
        transport.receive(None)
    assert show(transport, "wal_level") == "replica"


def test_a_terminated_connection_is_a_lost_connection(server: Cluster) -> None:
    transport = LibpqTransport()
    transport.connect(server.conninfo(application_name="victim"), "")
    server.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'victim'"
    )
    with pytest.raises(ConnectionFailed, match="connection to the server was lost"):
        identify_system(transport)
    transport.disconnect()
    transport.disconnect()


def receive_all(transport: LibpqTransport) -> None:
    while transport.receive(10) is not None:
        pass


def test_a_transport_can_be_connected_again_after_a_loss_inside_a_copy(server: Cluster) -> None:
    transport = LibpqTransport()
    transport.connect(server.conninfo(application_name="victim"), "")
    start_streaming(transport)
    server.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'victim'"
    )
    with pytest.raises(ConnectionFailed, match="terminating connection"):
        receive_all(transport)
    transport.disconnect()
    transport.connect(server.conninfo(), "")
    assert show(transport, "wal_level") == "replica"
    transport.disconnect()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_connections_leave_no_open_file_behind(server: Cluster, tmp_path: Path) -> None:
    before = open_files()
    for _ in range(30):
        with pytest.raises(ConnectionFailed):
            LibpqTransport().connect(f"host={tmp_path}", "")
        with pytest.raises(ConnectionFailed):
            LibpqTransport().connect(server.conninfo(user="not_there"), "")
        transport = LibpqTransport()
        transport.connect(server.conninfo(), "")
        transport.disconnect()
    assert open_files() <= before


# -- connections that cannot be made -------------------------------------------------------------


@pytest.fixture(scope="module")
def strict_server(server: Cluster) -> Cluster:
    """The same server, with a role that needs a password and one without any right."""
    server.sql(
        "SET password_encryption = 'scram-sha-256';"
        "CREATE ROLE secretive LOGIN REPLICATION PASSWORD 'right';"
        "CREATE ROLE powerless LOGIN;"
        "CREATE ROLE rejected LOGIN REPLICATION"
    )
    rules = server.pgdata / "pg_hba.conf"
    rules.write_text(
        "local all,replication secretive scram-sha-256\n"
        "local all,replication postgres,powerless,nobody trust\n"
    )
    server.reload()
    server.poll_until("SELECT count(*)::int FROM pg_hba_file_rules", 2)
    return server


def test_a_wrong_password_is_named_as_such(strict_server: Cluster) -> None:
    error = failure(strict_server.conninfo(user="secretive", password="wrong"))
    assert isinstance(error, AuthenticationFailed)
    assert "password authentication failed" in error.message
    assert "wrong" not in error.message
    assert "Check the password" in str(error.hint)
    assert not error.retryable


def test_a_missing_password_is_named_as_such(strict_server: Cluster) -> None:
    error = failure(strict_server.conninfo(user="secretive", passfile="/dev/null"))
    assert isinstance(error, AuthenticationFailed)
    assert "no password supplied" in error.message
    assert "PGPASSFILE" in str(error.hint)


def test_the_right_password_is_taken_from_a_password_file(
    strict_server: Cluster, tmp_path: Path
) -> None:
    passfile = tmp_path / "pgpass"
    passfile.write_text("*:*:*:secretive:right\n")
    passfile.chmod(0o600)
    transport = LibpqTransport()
    transport.connect(strict_server.conninfo(user="secretive", passfile=str(passfile)), "")
    identify_system(transport)
    transport.disconnect()


def test_a_role_without_the_right_is_told_how_to_get_it(strict_server: Cluster) -> None:
    error = failure(strict_server.conninfo(user="powerless"))
    assert isinstance(error, AuthenticationFailed)
    assert error.hint == "Run: ALTER ROLE powerless REPLICATION;"


def test_a_role_that_pg_hba_does_not_name_is_told_so(strict_server: Cluster) -> None:
    error = failure(strict_server.conninfo(user="rejected"))
    assert isinstance(error, AuthenticationFailed)
    assert "no pg_hba.conf entry" in error.message
    assert "'host replication USER ADDRESS scram-sha-256'" in str(error.hint)
    conninfo = strict_server.conninfo("postgres", user="rejected")
    with pytest.raises(AuthenticationFailed, match=r"no pg_hba\.conf entry") as info:
        LibpqTransport().connect(conninfo, "", replicates=False)
    assert "'host DATABASE USER ADDRESS scram-sha-256'" in str(info.value.hint)


def test_an_ordinary_session_needs_no_right_to_replicate(strict_server: Cluster) -> None:
    transport = LibpqTransport()
    conninfo = strict_server.conninfo("postgres", user="powerless", replication="true")
    transport.connect(conninfo, "", replicates=False)
    assert show(transport, "max_wal_senders") == "10"
    transport.disconnect()


def test_an_unknown_role_is_named_as_such(strict_server: Cluster) -> None:
    error = failure(strict_server.conninfo(user="nobody"))
    assert isinstance(error, AuthenticationFailed)
    assert 'role "nobody" does not exist' in error.message
    assert "-U" in str(error.hint)


def test_a_server_without_walsenders_is_named_as_such(
    cluster_factory: ClusterFactory, major: int
) -> None:
    cluster = cluster_factory(major, settings={"max_wal_senders": 0})
    error = failure(cluster.conninfo())
    assert not isinstance(error, AuthenticationFailed)
    assert "max_wal_senders" in str(error.hint)


def test_an_unknown_host_is_named_as_such() -> None:
    error = failure("host=nosuchhost.invalid port=5432 connect_timeout=5")
    assert not isinstance(error, AuthenticationFailed)
    assert error.hint == "Check the host name (-h or PGHOST)."


@pytest.mark.parametrize("name", ["a" * 300, "a..b", "a" * 64 + ".invalid"])
def test_a_host_that_no_resolver_knows_how_to_ask_for(name: str) -> None:
    assert failure(f"host={name}").hint == "Check the host name (-h or PGHOST)."


def test_of_several_hosts_each_is_named_with_its_reason(tmp_path: Path) -> None:
    error = failure(f"host={tmp_path}/a,{tmp_path}/b port=1,2")
    assert error.message == "could not connect to the server: " + "; ".join(
        f'connection to server on socket "{tmp_path}/{name}" failed: No such file or directory'
        for name in ("a/.s.PGSQL.1", "b/.s.PGSQL.2")
    )


def test_an_unknown_database_is_no_unknown_role(server: Cluster) -> None:
    with pytest.raises(ConnectionFailed, match='database "nothing" does not exist') as caught:
        LibpqTransport().connect(server.conninfo(dbname="nothing"), "", replicates=False)
    assert caught.value.hint == "Check the database name (-d or PGDATABASE)."


def test_a_port_nobody_listens_on_is_named_as_such() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        error = failure(f"host=127.0.0.1 port={taken.getsockname()[1]}")
    assert "Check that the server runs and listens there" in str(error.hint)
    assert error.retryable


def test_a_socket_that_is_not_there_is_named_as_such(tmp_path: Path) -> None:
    error = failure(f"host={tmp_path} port=5432")
    socket_file = f"{tmp_path}/.s.PGSQL.5432"
    assert error.message == (
        "could not connect to the server:"
        f' connection to server on socket "{socket_file}" failed: No such file or directory'
    )
    assert "with -h and its port with -p" in str(error.hint)


def test_a_missing_certificate_is_no_missing_role(tmp_path: Path) -> None:
    with peer_on_port(agree_to_tls) as port:
        error = failure(
            f"host=127.0.0.1 port={port} user=me connect_timeout=10 gssencmode=disable"
            f" sslmode=verify-ca sslrootcert={tmp_path}/absent.pem"
        )
    assert 'absent.pem" does not exist' in error.message
    assert "sslrootcert" in str(error.hint)


def test_a_connection_string_that_makes_no_sense_is_a_usage_error() -> None:
    for text in ("host", "no_such_option=1", "postgresql://[::1/x"):
        with pytest.raises(UsageError, match="could not read the connection string"):
            LibpqTransport().connect(text, "")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"host": "a b", "user": "it's"},
        {"host": "/run/postgresql", "port": "5433", "dbname": "x\\y"},
    ],
)
def test_settings_survive_a_connection_string(settings: dict[str, str]) -> None:
    assert parse_conninfo(build_conninfo(settings)) == settings


def test_a_uri_is_a_connection_string_too() -> None:
    assert parse_conninfo("postgresql://me@there:5433/db?sslmode=require") == {
        "user": "me", "host": "there", "port": "5433", "dbname": "db", "sslmode": "require",
    }  # fmt: skip


# -- servers that are not there to be had --------------------------------------------------------


@contextmanager
def peer_on_port(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """Somebody who talks to one client and waits for its end; gives the port."""

    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            talk(peer)
            while peer.recv(1000):
                pass

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the connection was not closed"


def agree_to_tls(peer: socket.socket) -> None:
    peer.recv(8, socket.MSG_WAITALL)
    peer.sendall(b"S")


def greet(peer: socket.socket, version: str) -> None:
    """Let anybody in, as a server of that version."""

    def message(kind: bytes, payload: bytes) -> bytes:
        return kind + struct.pack("!i", len(payload) + 4) + payload

    length = struct.unpack("!i", peer.recv(4, socket.MSG_WAITALL))[0]
    peer.recv(length - 4, socket.MSG_WAITALL)
    peer.sendall(
        message(b"R", bytes(4))
        + message(b"S", b"server_version\0" + version.encode() + b"\0")
        + message(b"S", b"client_encoding\0UTF8\0")
        + message(b"Z", b"I")
    )


PLAIN = "host=127.0.0.1 user=me sslmode=disable gssencmode=disable"


def test_a_server_older_than_13_is_refused() -> None:
    with (
        peer_on_port(lambda peer: greet(peer, "12.22 (Debian 12.22-1)")) as port,
        pytest.raises(Refused, match=r"PostgreSQL 12\.22; the oldest supported major is 13"),
    ):
        LibpqTransport().connect(f"{PLAIN} port={port}", "")


def test_a_server_newer_than_known_is_tried() -> None:
    with peer_on_port(lambda peer: greet(peer, "19beta1")) as port:
        transport = LibpqTransport()
        transport.connect(f"{PLAIN} port={port}", "")
        assert transport.server_major == 19
        assert transport.server_version_text == "19beta1"
        transport.disconnect()
