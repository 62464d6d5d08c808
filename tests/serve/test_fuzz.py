"""Nearly right commands and messages of clients that were let in: an answer to each, or an end.

Nothing may come out but the errors that are meant for it. Of PGBACKUP_FUZZ_CASES every tenth is a
connection here, with a few commands each; PGBACKUP_FUZZ_SEED is their seed.
"""

import contextlib
import socket
from collections import Counter
from random import Random

from pgbackup.serve.entry.listener import user_name
from pgbackup.storage.memory import MemoryStorage
from tests.backup.sample import sample
from tests.serve.entry.test_session import OK, hello, packet
from tests.serve.running import PORT, Running
from tests.wire.command_table import COMMANDS
from tests.wire.mutations import CASES, SEED, change

SECONDS = 60
KINDS = [
    b"C42601\0",
    b"C0A000\0",
    b"C08P01\0",
    b"C42704\0",
    b"VFATAL\0",
    b"systemid\0",
    b"spcoid\0",
]
"""What answers have in them: errors of several kinds, and results of several commands."""

OTHERS = [b"X\0\0\0\4", b"S\0\0\0\4", b"c\0\0\0\4", b"d\0\0\0\5r", b"f\0\0\0\5\0", b"P\0\0\0\4"]
REPORT = b"d" + packet(b"r" + bytes(33))


def said_by_a_client(random: Random) -> bytes:
    """A few messages; changed in the text, or after that in the bytes, or not at all."""
    found = bytearray()
    for _ in range(random.randrange(1, 8)):
        if random.randrange(4) == 0:
            found += random.choice((*OTHERS, REPORT))
            continue
        text = bytearray(random.choice(COMMANDS).encode("utf-8", "surrogateescape"))
        for _ in range(random.randrange(3)):
            change(text, random)
        found += b"Q" + packet(bytes(text).replace(b"\0", b"") + b"\0")
    for _ in range(random.choice((0, 0, 0, 1, 2))):
        change(found, random)
    return bytes(found)


def answers(running: Running, said: bytes) -> bytes:
    """What comes of it, until the server closes."""
    found = b""
    with socket.socket(socket.AF_UNIX) as stream, contextlib.suppress(ConnectionResetError):
        stream.settimeout(SECONDS)
        stream.connect(f"{running.directory}/.s.PGSQL.{PORT}")
        stream.sendall(hello(user_name()) + said)
        stream.shutdown(socket.SHUT_WR)
        while data := stream.recv(1 << 18):
            found += data
    return found


def test_whatever_a_client_says_is_answered_or_ends_it() -> None:
    """What is raised in a thread of the server fails this, too."""
    random, kinds = Random(SEED), Counter[bytes]()
    with Running(sample().put(MemoryStorage())) as running:
        for _ in range(CASES // 10):
            told = answers(running, said_by_a_client(random))
            assert told.startswith(OK)
            kinds.update(kind for kind in KINDS if kind in told)
    assert all(kinds[kind] > CASES // 2000 for kind in KINDS), kinds
