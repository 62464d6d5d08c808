"""A client's socket: all bytes in order, messages with a time limit, and how it ends."""

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from pgbackup.errors import ClientError, ConnectionFailed
from pgbackup.serve.entry.connection import Connection
from pgbackup.wire.frontend import Message

Pair = tuple[Connection, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    connection = Connection(ours, send_timeout=60)
    with theirs:
        yield connection, theirs
    connection.close()


def query(text: bytes) -> bytes:
    return b"Q" + struct.pack("!I", len(text) + 5) + text + b"\0"


def test_many_buffers_arrive_in_order_though_the_socket_is_small(pair: Pair) -> None:
    connection, theirs = pair
    parts = [bytes([number % 251]) * (number * 37 % 9000) for number in range(3000)]
    received = bytearray()
    expected = b"".join(parts)

    def read() -> None:
        while len(received) < len(expected):
            data = theirs.recv(100_000)
            assert data
            received.extend(data)

    thread = threading.Thread(target=read)
    thread.start()
    connection.send(*parts)
    thread.join()
    assert received == expected


def test_a_client_that_takes_nothing_is_given_up(pair: Pair) -> None:
    ours = Connection(pair[1].dup(), send_timeout=0.05)
    with pytest.raises(ConnectionFailed, match=r"took nothing for 0\.05 s"):
        ours.send(bytes(50_000_000))
    ours.close()


def test_a_client_that_has_gone_is_an_error_of_the_connection(pair: Pair) -> None:
    connection, theirs = pair
    theirs.close()
    with pytest.raises(ConnectionFailed, match="it closed the connection"):
        connection.message()
    with pytest.raises(ConnectionFailed, match="could not talk to the client"):
        connection.send(bytes(10))


def test_a_message_is_waited_for_until_it_is_whole(pair: Pair) -> None:
    connection, theirs = pair
    data = query(b"IDENTIFY_SYSTEM")
    assert connection.message(0) is None
    theirs.sendall(data[:9])
    assert connection.message(0.01) is None
    theirs.sendall(data[9:] + query(b"SHOW x"))
    assert connection.message() == Message(ord("Q"), b"IDENTIFY_SYSTEM\0")
    assert connection.message(0) == Message(ord("Q"), b"SHOW x\0")
    assert connection.message(0) is None


def test_what_is_no_message_is_an_error_of_the_client(pair: Pair) -> None:
    pair[1].sendall(b"\x16\x03\x01")
    with pytest.raises(ClientError, match="invalid frontend message type 22"):
        pair[0].message()
