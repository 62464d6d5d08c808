"""The same commands and messages to a server and to our walsender over its data directory: the same
answers.

What a command's text alone decides is in tests/wire; here it is what depends on slots, timelines,
settings and WAL. The connection is usable after each.
"""

import re
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from pgbackup.errors import ServerError
from pgbackup.replication import client
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.replication.transport import CommandComplete, CopyBegin, Ready, ResultSet
from pgbackup.repo.repository import Repository
from pgbackup.serve.entry.listener import user_name
from pgbackup.serve.pgdata.liveoffer import LiveOffer
from pgbackup.serve.pgdata.liveserver import LiveServer
from pgbackup.storage.memory import MemoryStorage
from tests.backup.sample import sample
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.serve.entry.test_session import hello, packet
from tests.serve.running import PORT, Running
from tests.serve.test_server import Raw

COMMANDS = [
    "IDENTIFY_SYSTEM",
    *(
        f"SHOW {name}"
        for name in (
            "wal_segment_size", "data_directory_mode", "server_version_num", "block_size",
            "wal_block_size", "integer_datetimes", "server_encoding", "WAL_Segment_Size", "none",
        )
    ),
    "TIMELINE_HISTORY 7",
    "READ_REPLICATION_SLOT none",
    "CREATE_REPLICATION_SLOT a PHYSICAL",
    "CREATE_REPLICATION_SLOT a PHYSICAL",
    "CREATE_REPLICATION_SLOT a TEMPORARY PHYSICAL",
    "CREATE_REPLICATION_SLOT \"A\" PHYSICAL",
    "CREATE_REPLICATION_SLOT \"\" PHYSICAL",
    f"CREATE_REPLICATION_SLOT {'a' * 64} PHYSICAL",
    "READ_REPLICATION_SLOT a",
    "ALTER_REPLICATION_SLOT a (FAILOVER true)",
    "START_REPLICATION SLOT none 0/1000000",
    "START_REPLICATION SLOT a FF/0",
    "START_REPLICATION FF/0",
    "START_REPLICATION 0/1000000 TIMELINE 9",
    "CREATE_REPLICATION_SLOT l LOGICAL test_decoding",
    "START_REPLICATION SLOT l LOGICAL 0/0",
    "DROP_REPLICATION_SLOT a WAIT",
    "DROP_REPLICATION_SLOT a",
    "DROP_REPLICATION_SLOT none WAIT",
    "CREATE_REPLICATION_SLOT t TEMPORARY PHYSICAL RESERVE_WAL",
    "DROP_REPLICATION_SLOT t",
    "SELECT 1",
]  # fmt: skip
LSN = re.compile(r"\b[0-9A-F]{1,8}/[0-9A-F]{1,8}\b")


def answer(transport: LibpqTransport, text: str) -> list[object]:
    """What comes back, with positions made equal, which move; then the connection is usable."""
    found: list[object] = []
    transport.send(Raw(text))
    try:
        while not isinstance(event := client.expect_event(transport, 30), Ready):
            if isinstance(event, ResultSet):
                found += [[same(value) for value in row] for row in event.rows]
            elif isinstance(event, CommandComplete):
                found.append(event)
            elif isinstance(event, CopyBegin):
                found.append("copy")
    except ServerError as error:
        found.append((error.sqlstate, LSN.sub("X/X", error.message), error.hint))
    client.identify_system(transport)
    return found


def same(value: bytes | None) -> str | None:
    return None if value is None else LSN.sub("X/X", value.decode())


@pytest.fixture
def running(cluster_factory: ClusterFactory, major: int) -> Iterator[tuple[Cluster, Running]]:
    server = cluster_factory(major, as_caller=True, settings={"wal_level": "logical"})

    def connect() -> LibpqTransport:
        transport = LibpqTransport()
        transport.connect(server.conninfo("postgres"), "test", replicates=False)
        return transport

    live = LiveServer(str(server.pgdata), connect)
    cluster = Repository.open(MemoryStorage(), create=True).cluster(live.system())
    offer = LiveOffer(cluster, live)
    with Running(cluster, offer=offer) as made:
        yield server, made
    live.close()


@pytest.mark.parametrize("major", [15, 18])
def test_a_walsender_of_ours_answers_as_the_server_does(running: tuple[Cluster, Running]) -> None:
    """BB-50, RC-01, RC-19, RC-22, RW-02."""
    server, ours = running
    theirs = LibpqTransport()
    theirs.connect(server.conninfo(), "test")
    differences = []
    try:
        with ours.connected() as transport:
            for text in COMMANDS:
                expected, found = answer(theirs, text), answer(transport, text)
                if expected != found:
                    differences.append((text, expected, found))
    finally:
        theirs.disconnect()
    assert differences == []


def say(kind: bytes, body: bytes = b"") -> bytes:
    return kind + packet(body)


PARSE, SYNC, IDENTIFY = say(b"P", b"\0SELECT 1\0\0\0"), say(b"S"), say(b"Q", b"IDENTIFY_SYSTEM\0")
SLOT = say(b"Q", b"CREATE_REPLICATION_SLOT t TEMPORARY PHYSICAL\0")
DROP = say(b"Q", b"DROP_REPLICATION_SLOT t\0")
REPORT = b"r" + bytes(32)
MESSAGES = {
    "function-call": say(b"F", bytes(10)) + IDENTIFY,
    "extended-query": PARSE + IDENTIFY + SYNC + IDENTIFY,
    "extended-query-ends": PARSE + say(b"X") + SYNC,
    "extended-query-ends-slots": SLOT + PARSE + SYNC + DROP,
    "flush": say(b"H") + IDENTIFY,
    "copy-outside": say(b"d", b"x") + say(b"c") + say(b"f", b"x\0") + IDENTIFY,
    "password": say(b"p", b"x\0") + IDENTIFY,
    "unknown": say(b"z") + IDENTIFY,
    "query-without-end": say(b"Q", b"IDENTIFY_SYSTEM") + IDENTIFY,
    "query-with-more": say(b"Q", b"IDENTIFY_SYSTEM\0x") + IDENTIFY,
    "two-queries": say(b"Q", b"IDENTIFY_SYSTEM;IDENTIFY_SYSTEM\0") + IDENTIFY,
    "comment": say(b"Q", b"IDENTIFY_SYSTEM -- x\0") + IDENTIFY,
    "quoted": say(b"Q", b'SHOW "WAL_Segment_Size"\0') + IDENTIFY,
}
STREAMED = {
    "end": say(b"c") + IDENTIFY,
    "end-twice": say(b"c") + say(b"c") + IDENTIFY,
    "empty": say(b"d") + IDENTIFY,
    "short": say(b"d", REPORT[:20]) + IDENTIFY,
    "long": say(b"d", REPORT + b"\0xx") + say(b"c") + IDENTIFY,
    "fail": say(b"f", b"x\0"),
    "query": IDENTIFY,
    "sync": SYNC,
    "ends": say(b"X"),
}
"""What is said within a stream of WAL."""


def heard(path: str, said: bytes) -> list[tuple[str, bytes | None]]:
    """Types of the messages that come until the server closes, and what errors say."""
    data = b""
    with socket.socket(socket.AF_UNIX) as stream, suppress(ConnectionResetError):
        stream.settimeout(60)
        stream.connect(path)
        stream.sendall(hello(user_name()) + said)
        stream.shutdown(socket.SHUT_WR)
        while more := stream.recv(1 << 16):
            data += more
    found: list[tuple[str, bytes | None]] = []
    _, _, data = data.partition(b"Z\0\0\0\5I")
    while data:
        kind, end = data[:1].decode(), 1 + int.from_bytes(data[1:5])
        body, data = data[5:end], data[end:]
        if kind == "E":
            told = {field[:1]: field[1:] for field in body.split(b"\0")}
            found.append((kind, b" ".join(told[name] for name in (b"V", b"C", b"M"))))
        elif kind != "d":  # WAL may come or not
            found.append((kind, None))
    return found


@pytest.mark.parametrize("major", [18])
def test_messages_that_are_out_of_place_are_answered_as_by_the_server(
    running: tuple[Cluster, Running],
) -> None:
    server, ours = running
    server.sql(f'CREATE ROLE "{user_name()}" LOGIN REPLICATION')
    ((position,),) = server.sql("SELECT pg_current_wal_flush_lsn()::text")
    begin = say(b"Q", f"START_REPLICATION {position}\0".encode())
    said = MESSAGES | {f"stream-{name}": begin + text for name, text in STREAMED.items()}
    differences = []
    for name, text in said.items():
        expected = heard(f"{server.run_directory}/.s.PGSQL.{server.port}", text)
        found = heard(f"{ours.directory}/.s.PGSQL.{PORT}", text)
        if expected != found:
            differences.append((name, expected, found))
    assert differences == []


def test_a_client_that_speaks_another_language_within_a_stream_is_sent_away() -> None:
    with Running(sample().put(MemoryStorage())) as running:
        begin = say(b"Q", b"START_REPLICATION 0/300000\0")
        told = heard(f"{running.directory}/.s.PGSQL.{PORT}", begin + say(b"d", b"xyz") + IDENTIFY)
    assert told == [("W", None), ("E", b'FATAL 08P01 unexpected message type "x"')]
