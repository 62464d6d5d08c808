"""The beginning of a connection, byte by byte, without one."""

from random import Random

import pytest

from pgbackup.errors import ClientError, ProtocolViolation
from pgbackup.serve.entry.session import (
    Admitted,
    BeginTls,
    Cancel,
    Client,
    Ended,
    Event,
    Gate,
    Reply,
    Session,
)
from pgbackup.serve.entry.users import User
from pgbackup.serve.entry.verifier import make_verifier
from pgbackup.wire import backend
from pgbackup.wire.startup import CancelRequest
from tests.wire.mutations import CASES, SEED, mutations
from tests.wire.startup_packets import startup

USERS = {
    user.name: user
    for user in (
        User("standby", make_verifier("secret"), certificate_names=frozenset({"s.example.com"})),
        User("mapped", system_users=frozenset({"postgres"})),
        User("local"),
    )
}
GATE = Gate(USERS, owner="backup", secret=b"only for this test", offers_tls=True)
REMOTE = Client("192.0.2.1")
EXPOSED = Client("192.0.2.1", is_exposed=True)
ENCRYPTED = Client("192.0.2.1", is_encrypted=True, is_exposed=True)
OK = backend.authentication(backend.Authentication.OK)


def packet(body: bytes) -> bytes:
    return (len(body) + 4).to_bytes(4) + body


def hello(user: str, *words: str, replication: str = "true") -> bytes:
    return packet(startup("user", user, "replication", replication, *words))


SSL_REQUEST = packet(bytes.fromhex("04d2162f"))
GSSENC_REQUEST = packet(bytes.fromhex("04d21630"))


def local(system_user: str) -> Client:
    return Client("[local]", system_user)


def begin(client: Client, data: bytes, gate: Gate = GATE) -> list[Event]:
    return Session(gate, client).receive(data)


def ended(events: list[Event]) -> ClientError:
    """The error that the client was told before the end."""
    *_, reply, end = events
    assert isinstance(end, Ended)
    assert isinstance(end.error, ClientError)
    assert reply == Reply(backend.error_response(end.error, fatal=True))
    return end.error


@pytest.mark.parametrize(
    ("system_user", "user"),
    [("backup", "backup"), ("local", "local"), ("postgres", "mapped"), ("standby", "standby")],
    ids=["owner", "listed", "mapped", "listed-with-password"],
)
def test_on_a_unix_socket_the_operating_system_says_who_it_is(system_user: str, user: str) -> None:
    reply, admitted = begin(local(system_user), hello(user))
    assert reply == Reply(OK)
    assert isinstance(admitted, Admitted)
    assert admitted.user == USERS.get(user, User(user))


@pytest.mark.parametrize(
    ("system_user", "user"),
    [("postgres", "backup"), ("backup", "standby"), ("mapped", "mapped"), ("who", "who"),
     ("backup", "who"), ("who", "local")],
)  # fmt: skip
def test_who_is_somebody_else_gets_the_same_answer_whether_there_is_one(
    system_user: str, user: str
) -> None:
    error = ended(begin(local(system_user), hello(user)))
    assert error.message == f'Peer authentication failed for user "{user}"'
    assert error.sqlstate == "28000"


def test_over_the_network_a_password_is_asked_for_whoever_it_is() -> None:
    for user in ("standby", "backup", "local", "who"):
        assert begin(REMOTE, hello(user)) == [Reply(backend.sasl_mechanisms(["SCRAM-SHA-256"]))]
    bound = Client("192.0.2.1", is_encrypted=True, binding=b"x")
    offered = backend.sasl_mechanisms(["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"])
    assert begin(bound, hello("standby")) == [Reply(offered)]


def test_a_certificate_on_the_list_of_its_user_needs_no_password() -> None:
    client = Client("a", is_encrypted=True, certificate_names=frozenset({"x", "s.example.com"}))
    reply, admitted = begin(client, hello("standby"))
    assert reply == Reply(OK)
    assert isinstance(admitted, Admitted)
    assert begin(client, hello("local")) == [Reply(backend.sasl_mechanisms(["SCRAM-SHA-256"]))]


def test_from_another_machine_nothing_goes_on_without_tls() -> None:
    error = ended(begin(EXPOSED, hello("standby")))
    assert error.sqlstate == "28000"
    assert error.message == 'connection from "192.0.2.1" is not encrypted'
    assert begin(ENCRYPTED, hello("standby"))[0] == Reply(
        backend.sasl_mechanisms(["SCRAM-SHA-256"])
    )


def test_encryption_is_asked_for_and_begun_before_the_rest() -> None:
    session = Session(GATE, EXPOSED)
    assert session.receive(GSSENC_REQUEST) == [Reply(b"N")]
    assert session.receive(SSL_REQUEST) == [Reply(b"S"), BeginTls()]
    session.tls_has_begun(ENCRYPTED)
    assert isinstance(session.receive(hello("standby"))[0], Reply)


def test_a_handshake_may_begin_at_the_first_byte_alone() -> None:
    session = Session(GATE, REMOTE)
    assert session.receive(b"\x16\x03\x01") == [BeginTls(b"\x16\x03\x01", needs_alpn=True)]
    session.tls_has_begun(ENCRYPTED)
    assert isinstance(session.receive(hello("standby"))[0], Reply)
    for gate, client, before in [
        (Gate(USERS, "backup", GATE.secret), REMOTE, b""),
        (GATE, local("backup"), b""),
        (GATE, ENCRYPTED, b""),
        (GATE, REMOTE, GSSENC_REQUEST),
    ]:
        *_, end = begin(client, before + b"\x16\x03\x01\0", gate)
        assert isinstance(end, Ended)


def test_without_tls_a_client_is_told_no_and_goes_on() -> None:
    gate = Gate(USERS, "backup", GATE.secret)
    session = Session(gate, REMOTE)
    assert session.receive(SSL_REQUEST) == [Reply(b"N")]
    assert session.receive(hello("standby")) == [Reply(backend.sasl_mechanisms(["SCRAM-SHA-256"]))]
    assert begin(local("backup"), SSL_REQUEST) == [Reply(b"N")]


def test_words_before_the_handshake_end_the_connection() -> None:
    [end] = begin(REMOTE, SSL_REQUEST + hello("standby"))
    assert isinstance(end, Ended)
    assert isinstance(end.error, ProtocolViolation)


@pytest.mark.parametrize("request_", [SSL_REQUEST, GSSENC_REQUEST], ids=["ssl", "gssenc"])
def test_encryption_is_asked_for_once(request_: bytes) -> None:
    gate = Gate(USERS, "backup", GATE.secret)
    error = ended(begin(REMOTE, request_ + request_, gate))
    assert error.message.startswith("unsupported frontend protocol 1234.56")
    ended(begin(ENCRYPTED, request_))


def test_a_cancel_request_has_no_answer() -> None:
    body = bytes.fromhex("04d2162e 0000054c de2ce09b")
    assert begin(REMOTE, packet(body)) == [Cancel(CancelRequest(1356, b"\xde\x2c\xe0\x9b"))]


def test_a_newer_protocol_is_negotiated_first() -> None:
    body = startup("user", "backup", "replication", "on", "_pq_.x", "1", version=b"\0\3\0\2")
    negotiation, ok, admitted = begin(local("backup"), packet(body))
    assert negotiation == Reply(backend.negotiate_protocol_version(["_pq_.x"]))
    assert ok == Reply(OK)
    assert isinstance(admitted, Admitted)


@pytest.mark.parametrize("replication", ["database", "off"])
def test_a_database_is_refused_to_those_who_are_known(replication: str) -> None:
    data = hello("backup", "database", "d", replication=replication)
    ok, *rest = begin(local("backup"), data)
    assert ok == Reply(OK)
    error = ended(rest)
    assert (error.sqlstate, error.message) == ("3D000", 'database "d" does not exist')
    assert ended(begin(local("who"), data)).sqlstate == "28000"


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (b"Q\0\0\0\x0aSHOW x\0", "expected SASL response, got message type 81"),
        (b"p\0\0\0\x04", "malformed SCRAM message"),
        (b"p\0\0\0\x0bSCRAM\0\0", "malformed SCRAM message"),
        (b"p\0\0\0\x0ex\0\0\0\0\x04abcd", "client selected an invalid SASL"),
        (b"p\0\0\0\x0ax\0\xff\xff\xff\xff", "malformed SCRAM message"),
        (b"z", "invalid frontend message type 122"),
    ],
)
def test_what_is_no_sasl_response_ends_the_connection(response: bytes, text: str) -> None:
    session = Session(GATE, REMOTE)
    session.receive(hello("standby"))
    error = ended(session.receive(response))
    assert error.sqlstate == "08P01"
    assert error.message.startswith(text)
    assert session.receive(response) == []


def test_what_follows_the_beginning_is_left_for_who_takes_commands() -> None:
    session = Session(GATE, local("backup"))
    session.receive(hello("backup") + b"X\0\0\0\x04")
    assert bytes(session.reader.unread) == b"X\0\0\0\x04"


def test_strangers_are_admitted_only_by_what_they_are() -> None:
    random, admitted = Random(SEED), 0
    seeds = [
        SSL_REQUEST, GSSENC_REQUEST, hello("standby"), hello("backup"), b"X\0\0\0\4",
        b"p\0\0\0\x21SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc", b"p\0\0\0\x14c=biws,r=abc,p=AA",
    ]  # fmt: skip
    for sent in mutations(seeds, random):
        client = random.choice((REMOTE, EXPOSED, ENCRYPTED, local("backup"), local("who")))
        session, length = Session(GATE, client), random.randrange(1, 99)
        pieces = [sent[place : place + length] for place in range(0, len(sent), length)]
        events = [event for piece in pieces for event in session.receive(piece)]
        assert sum(isinstance(event, Ended | Admitted | Cancel) for event in events) <= 1
        if any(isinstance(event, Admitted) for event in events):
            assert client == local("backup")
            admitted += 1
    assert admitted > CASES // 200
