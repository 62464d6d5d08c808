"""The answers of real servers to short commands are ours: columns, types, values and tags."""

import re
import socket
import struct
from collections.abc import Callable

from pgbackup.pg.lsn import Lsn, Timeline, WalPosition
from pgbackup.wire import results
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.waiting import PATIENCE
from tests.wire.startup_packets import REPLICATION, startup

Ask = Callable[[str], bytes]


class Walsender:
    """A replication connection by hand, to see the bytes."""

    def __init__(self, server: Cluster) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(f"{server.run_directory}/.s.PGSQL.{server.port}")
        body = startup(*REPLICATION)
        self._socket.sendall((len(body) + 4).to_bytes(4) + body)
        self._answer()

    def __enter__(self) -> Ask:
        return self.ask

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, text: str) -> bytes:
        """The answer to a command without the ReadyForQuery behind it."""
        data = text.encode() + b"\0"
        self._socket.sendall(b"Q" + (len(data) + 4).to_bytes(4) + data)
        return self._answer()

    def _answer(self) -> bytes:
        got = b""
        while not got.endswith(b"Z\0\0\0\x05I"):
            data = self._socket.recv(65536)
            assert data, got
            got += data
        return got[:-6]


def parts(data: bytes) -> list[tuple[bytes, object]]:
    """Messages as values; of a column the name and the type, since nobody looks at the rest."""
    found: list[tuple[bytes, object]] = []
    while data:
        kind, length = data[:1], int.from_bytes(data[1:5])
        body, data = data[5 : length + 1], data[length + 1 :]
        found.append((kind, columns(body) if kind == b"T" else body))
    return found


def columns(body: bytes) -> list[tuple[bytes, int]]:
    found, rest = [], body[2:]
    while rest:
        name, _, rest = rest.partition(b"\0")
        found.append((name, struct.unpack_from("!IhI", rest)[2]))
        rest = rest[18:]
    return found


def promoted(server: Cluster) -> None:
    """Let the server begin timeline 2."""
    server.stop()
    (server.pgdata / "standby.signal").touch()
    server.account.give(server.pgdata / "standby.signal")
    server.start()
    server.promote()


def test_answers_are_those_of_servers(cluster_factory: ClusterFactory, major: int) -> None:
    server = cluster_factory(major)
    promoted(server)
    history = (server.pgdata / "pg_wal" / "00000002.history").read_bytes()
    switch = Lsn.parse(history.decode().split()[1])
    [[system]] = server.sql("SELECT system_identifier FROM pg_control_system()")
    with Walsender(server) as ask:

        def check(command: str, ours: bytes, *, more: bytes = b"") -> None:
            assert parts(ask(command)) == parts(ours + more)

        answer = ask("IDENTIFY_SYSTEM")
        [position] = re.findall(rb"[0-9A-F]+/[0-9A-F]+", answer)
        here = WalPosition(Timeline(2), Lsn.parse(position.decode()))
        assert parts(answer) == parts(results.identify_system(system, here, major))
        check("SHOW WAL_segment_size", results.show("wal_segment_size", "1MB"))
        check("SHOW timezone", results.show("TimeZone", "UTC"))
        check("TIMELINE_HISTORY 2", results.timeline_history(Timeline(2), history, major))
        check("CREATE_REPLICATION_SLOT a PHYSICAL", results.new_slot("a"))
        if major >= 15:
            check("READ_REPLICATION_SLOT a", results.slot_state(None, exists=True))
            check("READ_REPLICATION_SLOT b", results.slot_state(None, exists=False))
            ask("CREATE_REPLICATION_SLOT c PHYSICAL RESERVE_WAL")
            text = "SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = 'c'"
            held = WalPosition(Timeline(2), Lsn.parse(server.sql(text)[0][0]))
            check("READ_REPLICATION_SLOT c", results.slot_state(held, exists=True))
        check(
            f"START_REPLICATION {switch} TIMELINE 1",
            results.next_timeline(Timeline(2), switch),
            more=b"C\0\0\0\x16START_REPLICATION\0",
        )
