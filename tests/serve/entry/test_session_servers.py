"""The same wrong passwords and broken messages to servers and to us: the same errors."""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from pgbackup.serve.entry.session import Client, Gate, Reply, Session
from pgbackup.serve.entry.users import User
from pgbackup.serve.entry.verifier import make_verifier
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.serve.entry.test_scram import final_message
from tests.waiting import PATIENCE
from tests.wire.startup_packets import startup

Send = Callable[[bytes], bytes]
"""Sends what a client says, and returns the answer."""

Begin = Callable[[], AbstractContextManager[Send]]
"""Begins a connection."""

FIRST = b"n,,n=,r=rOprNGfwEbeRWgbNEkqO"
INITIAL_RESPONSES = {
    "another-mechanism": b"SCRAM-SHA-1\0" + len(FIRST).to_bytes(4) + FIRST,
    "plus-without-tls": b"SCRAM-SHA-256-PLUS\0" + len(FIRST).to_bytes(4) + FIRST,
    **{
        name: b"SCRAM-SHA-256\0" + len(first).to_bytes(4) + first
        for name, first in {
            "empty": b"",
            "nonsense": b"nonsense",
            "binding": b"p=tls-server-end-point,,n=,r=abc",
            "authzid": b"n,a=root,n=,r=abc",
            "extension": b"n,,m=x,n=,r=abc",
            "no-nonce": b"n,,n=",
            "nonce-not-printable": b"n,,n=,r=a\x01b",
        }.items()
    },
}
CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "wrong-password": lambda final: final,
    "another-binding": lambda final: final.replace(b"c=biws", b"c=eSws"),
    "another-nonce": lambda final: final.replace(b",r=", b",r=x"),
    "short-proof": lambda final: final[:-4],
    "no-proof": lambda final: final.partition(b",p=")[0],
    "empty": lambda final: b"",
}


VERIFIER = make_verifier("right")
GATE = Gate({"known": User("known", VERIFIER)}, owner="backup", secret=b"only for this test")


def message(body: bytes, kind: bytes = b"p") -> bytes:
    return kind + (len(body) + 4).to_bytes(4) + body


def hello(user: str) -> bytes:
    body = startup("user", user, "replication", "true")
    return (len(body) + 4).to_bytes(4) + body


def errors(begin: Begin, user: str) -> dict[str, tuple[str, str]]:
    """Of each wrong exchange the SQLSTATE and the message."""
    found = {}
    for name, response in INITIAL_RESPONSES.items():
        with begin() as send:
            send(hello(user))
            found[name] = error_of(send(message(response)))
    for name, change in CHANGES.items():
        with begin() as send:
            send(hello(user))
            first = b"SCRAM-SHA-256\0" + len(FIRST).to_bytes(4) + FIRST
            challenge = send(message(first))[9:]
            final = final_message(FIRST, challenge, b"n,,", "wrong")
            found[f"final-{name}"] = error_of(send(message(change(final))))
    for kind in b"QX":
        with begin() as send:
            send(hello(user))
            found[f"message-{chr(kind)}"] = error_of(send(message(b"x\0", bytes([kind]))))
    return found


def error_of(answer: bytes) -> tuple[str, str]:
    match = re.search(rb"VFATAL\0C([^\0]+)\0M([^\0]+)\0", answer)
    assert match is not None, answer
    return match[1].decode(), match[2].decode()


@contextmanager
def ours() -> Iterator[Send]:
    session = Session(GATE, Client("192.0.2.1"))
    yield lambda data: b"".join(e.data for e in session.receive(data) if isinstance(e, Reply))


def theirs(server: Cluster) -> Begin:
    """Connections to the Unix socket of a server."""

    @contextmanager
    def begin() -> Iterator[Send]:
        def send(data: bytes) -> bytes:
            connection.sendall(data)
            return connection.recv(65536)

        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(f"{server.run_directory}/.s.PGSQL.{server.port}")
            yield send

    return begin


def test_servers_say_the_same(cluster_factory: ClusterFactory, major: int) -> None:
    server = cluster_factory(major, start=False)
    with open(server.pgdata / "pg_hba.conf", "w") as rules:
        rules.write("local all postgres trust\nlocal replication all scram-sha-256\n")
    server.start()
    server.sql(f"CREATE ROLE known REPLICATION LOGIN PASSWORD '{VERIFIER}'")
    for user in ("known", "unknown"):
        assert errors(ours, user) == errors(theirs(server), user)
