"""How many connections there may be, which gives way, and how one is cancelled."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import psycopg
import pytest

from pgbackup.errors import ClientError, ConnectionFailed, ServerError
from pgbackup.pg.lsn import Lsn
from pgbackup.replication import client
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.serve import connections
from pgbackup.serve.cancellation import Cancellable, Cancellation
from pgbackup.serve.connections import STRANGERS, Connections, Guest, Limits
from pgbackup.serve.entry.connection import MAX_UNREAD, Connection
from pgbackup.serve.entry.listener import user_name
from pgbackup.serve.entry.session import Client
from pgbackup.storage.memory import MemoryStorage
from pgbackup.wire.basebackup import BaseBackup
from pgbackup.wire.startup import CancelRequest
from tests.backup.sample import Sample, sample
from tests.serve.basebackup.test_storedbackup import with_map
from tests.serve.entry.test_session import SSL_REQUEST, hello, packet
from tests.serve.running import PORT, Running
from tests.serve.test_server import begin_stream
from tests.waiting import wait_for

SECONDS = 60
TOO_MANY = b"sorry, too many clients already"


class Crowd:
    """Connections that are served until their other end goes."""

    def __init__(self, limits: Limits) -> None:
        self.connections = Connections(limits)
        self.others: list[socket.socket] = []

    def come(self, address: str = "a") -> Guest:
        ours, theirs = socket.socketpair()
        theirs.settimeout(SECONDS)
        self.others.append(theirs)
        guest = Guest(Connection(ours), Client(address))
        self.connections.begin(guest, self.serve)
        return guest

    def serve(self, guest: Guest) -> None:
        with contextlib.suppress(ConnectionFailed):
            guest.connection.message(SECONDS)


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    monkeypatch.setattr(connections, "LAST_WORDS", 0.0)  # nobody here would say them
    made = Crowd(Limits(clients=2))
    yield made
    made.connections.finish(0)
    for other in made.others:
        other.close()


def test_of_those_who_are_not_known_the_oldest_gives_way(crowd: Crowd) -> None:
    known = crowd.come()
    crowd.connections.admit(known, 7)
    first, second, *_ = [crowd.come() for _ in range(STRANGERS)]
    assert not first.is_turned_away
    crowd.come()
    assert first.is_turned_away
    assert TOO_MANY in crowd.others[1].recv(1000)
    assert crowd.others[1].recv(1000) == b""
    assert not known.is_turned_away
    crowd.come()
    assert second.is_turned_away


def test_it_is_one_of_the_address_that_has_most(crowd: Crowd) -> None:
    alone = crowd.come("b")
    many = [crowd.come("a") for _ in range(STRANGERS + 20)]
    assert not alone.is_turned_away
    assert [each.is_turned_away for each in many] == [True] * 21 + [False] * (STRANGERS - 1)


def test_those_who_are_known_are_limited(crowd: Crowd) -> None:
    first, second, third = (crowd.come() for _ in range(3))
    crowd.connections.admit(first, 1)
    crowd.connections.admit(second, 2)
    with pytest.raises(ClientError, match=TOO_MANY.decode()) as caught:
        crowd.connections.admit(third, 3)
    assert caught.value.sqlstate == "53300"
    crowd.others[0].close()
    assert first.thread is not None
    first.thread.join(SECONDS)
    crowd.connections.admit(third, 3)


def test_only_the_right_key_cancels(crowd: Crowd) -> None:
    guest, other = crowd.come(), crowd.come()
    crowd.connections.admit(guest, 1)
    crowd.connections.admit(other, 2)
    key = guest.cancellation.key
    for request in (
        CancelRequest(1, other.cancellation.key),
        CancelRequest(2, key),
        CancelRequest(3, key),
        CancelRequest(1, key + b"x"),
        CancelRequest(1, key[:3]),
        CancelRequest(1, b""),
    ):
        crowd.connections.cancel(request)
    guest.cancellation.check()
    other.cancellation.check()
    crowd.connections.cancel(CancelRequest(1, key))
    other.cancellation.check()
    with pytest.raises(ClientError, match="canceling statement due to user request"):
        guest.cancellation.check()
    guest.cancellation.check()


def test_a_connection_that_has_to_end_does_so_whatever_it_does() -> None:
    cancellation = Cancellation()
    cancellation.check_termination()
    cancellation.terminate()
    cancellation.forget()
    for check in (cancellation.check, cancellation.check_termination):
        with pytest.raises(ClientError, match="terminating connection") as caught:
            check()
        assert caught.value.sqlstate == "57P01"


def test_nothing_is_sent_of_a_command_that_was_cancelled() -> None:
    cancellation, sent = Cancellation(), []

    class Sent:
        def send(self, *parts: object) -> None:
            sent.extend(parts)

    client_ = Cancellable(Sent(), cancellation)
    cancellation.ask(cancellation.key)
    cancellation.forget()
    client_.send(b"a", b"b")
    cancellation.ask(cancellation.key)
    with pytest.raises(ClientError):
        client_.send(b"c")
    assert sent == [b"a", b"b"]


def test_who_does_not_wait_for_answers_is_not_listened_to_for_ever() -> None:
    ours, theirs = socket.socketpair()
    connection = Connection(ours)

    def talk() -> None:
        with contextlib.suppress(OSError):
            theirs.sendall(bytes(3 * MAX_UNREAD))

    thread = threading.Thread(target=talk)
    thread.start()

    def listen() -> None:
        while connection.receive(SECONDS):
            assert len(connection.reader.unread) < MAX_UNREAD + (1 << 17)

    with pytest.raises(ConnectionFailed, match="does not wait for answers"):
        listen()
    connection.close()
    thread.join()
    theirs.close()


@pytest.fixture
def made() -> Sample:
    return with_map()


@pytest.fixture
def running(made: Sample) -> Iterator[Running]:
    with Running(made.put(MemoryStorage())) as server:
        yield server


def cancel(transport: LibpqTransport) -> None:
    """As libpq does it, by a connection of its own; the old way would hold the interpreter."""
    assert transport._connection is not None
    transport._connection.cancel_safe(timeout=SECONDS)


def listen_on(transport: LibpqTransport) -> None:
    while True:
        assert client.expect_event(transport, SECONDS) is not None


def test_a_stream_of_wal_is_cancelled_and_its_connection_stays(
    running: Running, made: Sample
) -> None:
    with running.connected() as transport:
        begin_stream(transport, next(iter(made.segments)).start)
        cancel(transport)
        with pytest.raises(ServerError, match="canceling statement due to user request") as caught:
            listen_on(transport)
        assert caught.value.sqlstate == "57014"
        assert client.identify_system(transport).flushed.lsn > Lsn(0)
        cancel(transport)  # of nothing
        assert client.identify_system(transport).flushed.lsn > Lsn(0)


def test_a_backup_is_cancelled_while_it_waits_for_its_rate(running: Running) -> None:
    with running.connected() as transport:
        transport.send(BaseBackup("slow", wal=True, max_rate=32))  # for a minute
        cancelled = threading.Event()
        canceller = threading.Thread(target=cancel_until, args=(transport, cancelled))
        canceller.start()
        with pytest.raises(ServerError) as caught:
            listen_on(transport)
        cancelled.set()
        canceller.join()
        assert caught.value.sqlstate == "57014"
        assert client.identify_system(transport).flushed.lsn > Lsn(0)


def cancel_until(transport: LibpqTransport, is_done: threading.Event) -> None:
    """Again and again: what comes before the command is not about it."""
    while not is_done.wait(0.2):
        cancel(transport)


def test_a_wait_for_a_slot_is_cancelled(running: Running) -> None:
    with running.connected() as holder, running.connected() as transport:
        client.create_slot(holder, "s")
        begin_stream(holder, Lsn(0x200000), slot="s")
        conninfo = running.conninfo() + " dbname=replication replication=true"
        with psycopg.connect(conninfo, autocommit=True) as waiting:
            errors: list[Exception] = []

            def drop() -> None:
                try:
                    waiting.execute("DROP_REPLICATION_SLOT s WAIT")
                except psycopg.Error as error:
                    errors.append(error)

            thread = threading.Thread(target=drop)
            thread.start()

            def is_cancelled() -> bool:
                waiting.cancel_safe(timeout=SECONDS)
                return bool(errors)

            wait_for(is_cancelled)
            thread.join()
        assert isinstance(errors[0], psycopg.errors.QueryCanceled)
        assert client.read_slot(transport, "s") is not None


def connect(running: Running) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(SECONDS)
    stream.connect(f"{running.directory}/.s.PGSQL.{PORT}")
    return stream


def everything(stream: socket.socket) -> bytes:
    """What comes until the server closes."""
    found = b""
    while data := stream.recv(1 << 16):
        found += data
    return found


def test_the_beginning_has_to_end_in_time() -> None:
    with Running(sample().put(MemoryStorage()), limits=Limits(authentication=1.0)) as running:
        tcp = socket.create_connection(("127.0.0.1", running.tcp_port), SECONDS)
        with connect(running) as silent, connect(running) as slow, tcp:
            slow.sendall(SSL_REQUEST[:5])
            tcp.sendall(hello("standby"))
            assert everything(silent) == everything(slow) == b""
            assert b"canceling authentication due to timeout" in everything(tcp)

        def others_are_served() -> bool:
            try:
                with running.connected() as transport:
                    return client.identify_system(transport).flushed.lsn > Lsn(0)
            except ConnectionFailed:
                return False

        wait_for(others_are_served)


def test_who_comes_when_all_places_are_taken_is_told_so() -> None:
    with Running(sample().put(MemoryStorage()), limits=Limits(clients=1)) as running:
        with running.connected(), connect(running) as second:
            second.sendall(hello(user_name()))
            told = everything(second)
            assert b"C53300\0" in told
            assert TOO_MANY in told
        wait_for(lambda: any(TOO_MANY.decode() in each for each in running.reports))


def test_nothing_is_looked_for_that_a_client_asks_for_while_all_places_are_taken() -> None:
    """What finds a moment reads WAL: it is for as many at a time as are served."""
    with Running(sample().put(MemoryStorage()), limits=Limits(clients=1)) as running:
        with running.connected(), connect(running) as second:
            second.sendall(hello(user_name(), "options", "-c pgbackup.label=none"))
            assert TOO_MANY in everything(second)
        with connect(running) as second:
            second.sendall(hello(user_name(), "options", "-c pgbackup.label=none"))
            assert b'backup "none" does not exist' in everything(second)


def test_a_client_writes_no_lines_into_the_log(running: Running) -> None:
    for name in ("a\nb: \x1b[31m", "x" * 9000, "\x85\u202e"):
        with connect(running) as stream:
            stream.sendall(hello(name))
            assert b"C28000\0" in everything(stream)
    wait_for(lambda: len(running.reports) == 3)
    assert all(each.isprintable() and len(each) < 400 for each in running.reports)
    assert running.reports[0].endswith('authentication failed for user "a?b: ?[31m"')


def test_a_cancel_request_gets_no_answer(running: Running) -> None:
    for body in (b"\x04\xd2\x16\x2e" + bytes(8), b"\x04\xd2\x16\x2e" + bytes(260)):
        with connect(running) as stream:
            stream.sendall(packet(body))
            assert everything(stream) == b""
    assert running.reports == []
