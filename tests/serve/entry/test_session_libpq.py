"""Real libpq at the other end of the beginning of a connection: it believes us, or says why not."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from pgbackup.errors import ClientError
from pgbackup.serve.entry.certificate import end_point_binding
from pgbackup.serve.entry.session import (
    Admitted,
    BeginTls,
    Client,
    Event,
    Gate,
    Reply,
    Session,
    greeting,
)
from pgbackup.serve.entry.users import User
from pgbackup.serve.entry.verifier import make_verifier
from pgbackup.wire import backend
from pgbackup.wire.commands import IdentifySystem
from pgbackup.wire.frontend import TERMINATE, FrontendReader, query_text
from pgbackup.wire.grammar import parse_command

PASSWORD = "größe \u2168"
USERS = {
    "standby": User("standby", make_verifier(PASSWORD)),
    "machine": User("machine", certificate_names=frozenset({"standby.example.com"})),
}
GATE = Gate(USERS, owner="backup", secret=b"only for this test")
HANDSHAKE_SECONDS = 60

Secure = Callable[[socket.socket, Client], tuple[socket.socket, Client]]


class Connection:
    """A connection that is served in a thread, until it ends."""

    def __init__(self, stream: socket.socket, gate: Gate, client: Client) -> None:
        self.stream = stream
        self.session = Session(gate, client)
        self.client = client

    def serve(self, secure: Secure) -> None:
        try:
            while data := self.stream.recv(7):  # pieces smaller than anything a client sends
                for event in self.session.receive(data):
                    if not self.go_on(event, secure):
                        return
        finally:
            self.stream.close()

    def go_on(self, event: Event, secure: Secure) -> bool:
        """Do what the session says; False at its end."""
        match event:
            case Reply(data):
                self.stream.sendall(data)
            case BeginTls():
                self.stream, self.client = secure(self.stream, self.client)
                self.session.tls_has_begun(self.client)
            case Admitted():
                self.stream.sendall(greeting(event.startup, "15.18", 15, 1356, b"key!"))
                self.answer(self.session.reader)
                return False
            case _:
                return False
        return True

    def answer(self, reader: FrontendReader) -> None:
        """Say who we are, and refuse everything else."""
        while True:
            while (message := reader.message()) is None:
                data = self.stream.recv(65536)
                if not data:
                    return
                reader.feed(data)
            if message.kind == TERMINATE:
                return
            try:
                assert parse_command(query_text(message.body), 15) == IdentifySystem()
                columns = [("systemid", backend.TEXT), ("timeline", backend.INT4)]
                self.stream.sendall(backend.warning("are you sure"))
                self.stream.sendall(backend.row_description(columns))
                self.stream.sendall(backend.data_row(["7711032448206929256", 1]))
                self.stream.sendall(backend.command_complete("IDENTIFY_SYSTEM"))
            except ClientError as error:
                self.stream.sendall(backend.error_response(error))
            self.stream.sendall(backend.ready_for_query())


@contextmanager
def listening(
    family: socket.AddressFamily,
    address: object,
    gate: Gate,
    client: Client,
    context: ssl.SSLContext | None = None,
    binding: bytes | None = None,
) -> Iterator[str]:
    """A server for as many connections as come; yields its port."""

    def secure(stream: socket.socket, client: Client) -> tuple[socket.socket, Client]:
        assert context is not None
        wrapped = context.wrap_socket(stream, server_side=True)
        certificate = wrapped.getpeercert() or {}
        subject = dict(pair for part in certificate.get("subject", ()) for pair in part)
        names = {subject["commonName"]} if "commonName" in subject else set()
        known = replace(
            client, is_encrypted=True, binding=binding, certificate_names=frozenset(names)
        )
        return wrapped, known

    def accept() -> None:
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:
                return
            stream.settimeout(HANDSHAKE_SECONDS)
            thread = threading.Thread(target=Connection(stream, gate, client).serve, args=(secure,))
            thread.start()
            threads.append(thread)

    listener = socket.socket(family)
    listener.bind(address)
    listener.listen()
    threads = [threading.Thread(target=accept)]
    threads[0].start()
    name = listener.getsockname()
    try:
        yield "5432" if isinstance(name, str) else str(name[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join()


@pytest.fixture
def network() -> Iterator[str]:
    """A port without TLS."""
    with listening(socket.AF_INET, ("127.0.0.1", 0), GATE, Client("127.0.0.1")) as port:
        yield f"host=127.0.0.1 port={port}"


def connect(where: str, user: str, password: str = "", **extra: str) -> psycopg.Connection:
    words = {"replication": "true", "dbname": "replication", "connect_timeout": "20", **extra}
    return psycopg.connect(where, user=user, password=password, autocommit=True, **words)


def test_libpq_knows_its_server_after_a_password(network: str) -> None:
    with connect(network, "standby", PASSWORD, application_name="s1") as connection:
        info = connection.info
        assert info.server_version == 150018
        assert info.backend_pid == 1356
        assert info.parameter_status("application_name") == "s1"
        assert info.parameter_status("integer_datetimes") == "on"
        notices: list[str | None] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        [row] = connection.execute("IDENTIFY_SYSTEM").fetchall()
        assert row == ("7711032448206929256", 1)
        assert notices == ["are you sure"]
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="cannot execute SQL commands"):
            connection.execute("SELECT 1")
        assert connection.execute("IDENTIFY_SYSTEM").fetchall() == [row]


@pytest.mark.parametrize("user", ["standby", "nobody"])
def test_libpq_is_told_of_a_wrong_password(network: str, user: str) -> None:
    with pytest.raises(
        psycopg.OperationalError, match=f'password authentication failed for user "{user}"'
    ):
        connect(network, user, "wrong")


def test_libpq_is_told_that_there_is_no_database(network: str) -> None:
    with pytest.raises(psycopg.OperationalError, match='database "postgres" does not exist'):
        connect(network, "standby", PASSWORD, replication="", dbname="postgres")


def test_a_read_only_server_is_seen_as_one(network: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="session is read-only"):
        connect(network, "standby", PASSWORD, target_session_attrs="read-write")
    connect(network, "standby", PASSWORD, target_session_attrs="standby").close()


def test_a_user_of_the_operating_system_comes_in_by_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / ".s.PGSQL.5432")
    client = Client("[local]", "backup")
    with listening(socket.AF_UNIX, path, GATE, client):
        where = f"host={tmp_path} port=5432"
        connect(where, "backup").close()
        with pytest.raises(psycopg.OperationalError, match="Peer authentication failed"):
            connect(where, "standby")


@pytest.fixture(scope="module", params=["rsa:2048", "ec:P-384"])
def certificate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a certificate that signs itself, for both ends."""
    directory = tmp_path_factory.mktemp("tls")
    kind, _, size = str(request.param).partition(":")
    key = ["rsa:" + size] if kind == "rsa" else ["ec", "-pkeyopt", f"ec_paramgen_curve:{size}"]
    digest = "-sha256" if kind == "rsa" else "-sha384"
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", *key, digest,
         "-subj", "/CN=standby.example.com", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=directory, check=True, capture_output=True,
    )  # fmt: skip
    (directory / "key.pem").chmod(0o600)
    return directory


@pytest.fixture
def secure_network(certificate: Path) -> Iterator[str]:
    """A port where TLS is required, and bound to the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    context.load_verify_locations(certificate / "cert.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    binding = end_point_binding(ssl.PEM_cert_to_DER_cert((certificate / "cert.pem").read_text()))
    gate = replace(GATE, offers_tls=True)
    client = Client("127.0.0.1", is_exposed=True)
    address = ("127.0.0.1", 0)
    with listening(socket.AF_INET, address, gate, client, context, binding) as port:
        yield f"host=127.0.0.1 port={port}"


def test_libpq_binds_its_password_to_our_certificate(secure_network: str) -> None:
    connection = connect(
        secure_network, "standby", PASSWORD, sslmode="require", channel_binding="require"
    )
    assert connection.execute("IDENTIFY_SYSTEM").fetchall()
    connection.close()
    connect(secure_network, "standby", PASSWORD, channel_binding="disable").close()


def test_libpq_is_told_that_it_has_to_encrypt(secure_network: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="is not encrypted"):
        connect(secure_network, "standby", PASSWORD, sslmode="disable")


def test_libpq_comes_in_with_a_certificate(secure_network: str, certificate: Path) -> None:
    files = {"sslcert": str(certificate / "cert.pem"), "sslkey": str(certificate / "key.pem")}
    connect(secure_network, "machine", sslmode="require", **files).close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(secure_network, "machine", "x", sslmode="require")


def test_libpq_gives_in_when_it_wants_a_newer_protocol(network: str) -> None:
    connect(network, "standby", PASSWORD, max_protocol_version="latest").close()
