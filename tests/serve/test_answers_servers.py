"""The same commands to a server and to our walsender over its data directory: the same answers.

What a command's text alone decides is in tests/wire; here it is what depends on slots, timelines,
settings and WAL. The connection is usable after each.
"""

import re
from collections.abc import Iterator

import pytest

from pgbackup.errors import ServerError
from pgbackup.replication import client
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.replication.transport import CommandComplete, CopyBegin, Ready, ResultSet
from pgbackup.repo.repository import Repository
from pgbackup.serve.pgdata.liveoffer import LiveOffer
from pgbackup.serve.pgdata.liveserver import LiveServer
from pgbackup.storage.memory import MemoryStorage
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.serve.running import Running
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
