"""TLS on a connection: all bytes both ways, and how a handshake fails."""

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgbackup.errors import ConnectionFailed, PgbackupError, Refused
from pgbackup.serve.entry.connection import Connection
from pgbackup.serve.entry.tls import PIECE_SIZE, RECORD_SIZE, Tls, TlsFiles
from tests.serve.entry.certificates import Authority

SECONDS = 60


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="module")
def files(authority: Authority) -> TlsFiles:
    return TlsFiles(*authority.issue("server", "localhost"))


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(SECONDS)
    connection = Connection(ours)
    with theirs:
        yield connection, theirs
    connection.close()


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def deadline() -> float:
    return time.monotonic() + SECONDS


def client(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.certificate)
    context.check_hostname = False
    return context


def test_all_bytes_arrive_both_ways(
    pair: tuple[Connection, socket.socket], files: TlsFiles, authority: Authority
) -> None:
    connection, theirs = pair
    parts = [bytes([number % 251]) * (number * 37 % 9000) for number in range(3000)]
    parts.append(memoryview(bytes(700_000)))  # type: ignore[arg-type] # as a page is sent
    received = bytearray()

    def talk() -> None:
        with client(authority).wrap_socket(theirs) as stream:
            stream.sendall(b"H" + bytes(300_000))
            while data := stream.recv(100_000):
                received.extend(data)

    thread = in_thread(talk)
    heard = connection.begin_tls(Tls(files).begin(), b"", deadline())
    while len(heard) < 300_001:
        data = connection.read(SECONDS)
        assert data
        heard += data
    assert heard == b"H" + bytes(300_000)
    assert connection.read(0) == b""
    connection.send(*parts)
    connection.close()
    thread.join()
    assert received == b"".join(parts)


def records(encrypted: bytes) -> list[int]:
    """The lengths of some whole records, as sent."""
    lengths, position = [], 0
    while position < len(encrypted):
        lengths.append(int.from_bytes(encrypted[position + 3 : position + 5]))
        position += 5 + lengths[-1]
    assert position == len(encrypted)
    return lengths


@pytest.mark.parametrize(
    "size", [64 << 10, 32 << 10, 128 << 10, 1000, RECORD_SIZE, RECORD_SIZE - 6]
)
def test_headers_cost_no_records_of_their_own(
    files: TlsFiles, authority: Authority, size: int
) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = client(authority).wrap_bio(incoming, outgoing)
    ours = Tls(files).begin()
    with pytest.raises(ssl.SSLWantReadError):
        theirs.do_handshake()
    ours.shake_hands(outgoing.read())
    incoming.write(ours.pending())
    theirs.do_handshake()
    ours.shake_hands(outgoing.read())
    parts: list[bytes] = []
    for number in range(40):
        parts += (b"header", bytes([number]) * size)
    pieces = list(ours.encrypt(parts))
    lengths = records(b"".join(pieces))
    assert len(lengths) == -(-40 * (size + 6) // RECORD_SIZE)
    assert len(set(lengths[:-1])) <= 1
    assert max(map(len, pieces)) < 2 * PIECE_SIZE + RECORD_SIZE
    incoming.write(b"".join(pieces))
    expected = b"".join(parts)
    received = bytearray()
    while len(received) < len(expected):
        received += theirs.read(len(expected))
    assert received == expected


def test_the_beginning_may_have_been_read_already(
    pair: tuple[Connection, socket.socket], files: TlsFiles, authority: Authority
) -> None:
    connection, theirs = pair

    def talk() -> None:
        with client(authority).wrap_socket(theirs) as stream:
            stream.sendall(b"hello")

    thread = in_thread(talk)
    received = connection.read(SECONDS)
    assert received[:1] == b"\x16"
    heard = connection.begin_tls(Tls(files).begin(), received, deadline())
    assert (heard or connection.read(SECONDS)) == b"hello"
    thread.join()


def test_a_client_that_does_not_believe_us_ends_the_handshake(
    pair: tuple[Connection, socket.socket], files: TlsFiles
) -> None:
    connection, theirs = pair
    refusals: list[ssl.SSLError] = []

    def talk() -> None:
        try:
            ssl.create_default_context().wrap_socket(theirs, server_hostname="localhost").close()
        except ssl.SSLError as error:
            refusals.append(error)

    thread = in_thread(talk)
    with pytest.raises(ConnectionFailed, match="could not begin TLS: tlsv1 alert unknown ca"):
        connection.begin_tls(Tls(files).begin(), b"", deadline())
    thread.join()
    assert len(refusals) == 1


@pytest.mark.parametrize("said", [b"\x16\x03\x01\xff\xff", b"GET / HTTP/1.1\r\n\r\n", bytes(99)])
def test_what_is_no_handshake_ends_the_connection(
    pair: tuple[Connection, socket.socket], files: TlsFiles, said: bytes
) -> None:
    connection, theirs = pair
    theirs.sendall(said)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionFailed):
        connection.begin_tls(Tls(files).begin(), b"", deadline())


def test_a_handshake_has_to_end_in_time(
    pair: tuple[Connection, socket.socket], files: TlsFiles
) -> None:
    with pytest.raises(ConnectionFailed, match="the client took too long"):
        pair[0].begin_tls(Tls(files).begin(), b"\x16", time.monotonic() + 0.01)


def test_a_key_that_others_may_read_is_refused(files: TlsFiles, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(files.key.read_bytes())
    key.chmod(0o644)
    with pytest.raises(Refused, match="has group or world access"):
        Tls(files._replace(key=key))
    key.chmod(0o600)
    Tls(files._replace(key=key))


def test_a_key_with_a_passphrase_asks_nobody(files: TlsFiles, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "pkey", "-in", files.key, "-out", key, "-aes128", "-passout", "pass:x"],
        check=True, capture_output=True,
    )  # fmt: skip
    key.chmod(0o600)
    with pytest.raises(Refused, match="it has a passphrase"):
        Tls(files._replace(key=key))


def test_files_that_are_none_are_errors(
    files: TlsFiles, authority: Authority, tmp_path: Path
) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("nothing")
    junk.chmod(0o600)
    _, other = authority.issue("other", "other")
    for broken in (
        files._replace(key=other),
        files._replace(key=junk),
        files._replace(certificate=junk),
        files._replace(certificate=tmp_path / "missing"),
        files._replace(key=tmp_path / "missing"),
        files._replace(authorities=junk),
    ):
        with pytest.raises(PgbackupError, match=r"could not (load|read)"):
            Tls(broken)
