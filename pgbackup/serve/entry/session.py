"""How a connection begins: from its first byte to a user whom we know.

A state machine without a socket: it is told what has arrived and says what to do. Once somebody is
admitted it has done its work, and its reader goes on to whoever takes commands. It knows no time:
deadlines, limits on connections and delays after a failure are the listener's.

Source: backend_startup.c, ProcessStartupPacket; auth.c, ClientAuthentication (PostgreSQL 18).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pgbackup.errors import ClientError, PgbackupError, ProtocolViolation
from pgbackup.serve.entry.scram import ScramServer
from pgbackup.serve.entry.users import User
from pgbackup.wire import backend
from pgbackup.wire.frontend import MAX_AUTHENTICATION_MESSAGE, PASSWORD, FrontendReader
from pgbackup.wire.startup import (
    CancelRequest,
    GssEncRequest,
    Replication,
    SslRequest,
    StartupMessage,
    parse_startup_packet,
)

TLS_HANDSHAKE = b"\x16"
"""The first byte of a client that begins TLS without asking."""


@dataclass(frozen=True, slots=True)
class Client:
    """What a connection is known by, before it says anything.

    address:           for messages.
    system_user:       of the operating system, at the other end of a Unix socket; else None.
    is_encrypted:      with TLS.
    certificate_names: in the certificate that it proved to have.
    binding:           tls-server-end-point of our certificate, if there is one.
    is_exposed:        it comes from another machine, and has to encrypt.
    port:              at its end, of TCP.
    """

    address: str
    system_user: str | None = None
    is_encrypted: bool = False
    certificate_names: frozenset[str] = frozenset()
    binding: bytes | None = None
    is_exposed: bool = False
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """Who is let in, and how.

    owner:  the user of the operating system who runs the server.
    secret: for what unknown users see, see serve.verifier.mock_verifier.
    """

    users: Mapping[str, User]
    owner: str
    secret: bytes
    offers_tls: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """Send this."""

    data: bytes


@dataclass(frozen=True, slots=True)
class BeginTls:
    """Do a TLS handshake, then call `tls_has_begun`.

    received:   what has arrived of it.
    needs_alpn: the client did not ask whether we want, so it has to say there whom it wants.
    """

    received: bytes = b""
    needs_alpn: bool = False


@dataclass(frozen=True, slots=True)
class Cancel:
    """Look for the connection and end what it does. This one has ended."""

    request: CancelRequest


@dataclass(frozen=True, slots=True)
class Admitted:
    """Send a `greeting`, then take commands."""

    startup: StartupMessage
    user: User


@dataclass(frozen=True, slots=True)
class Ended:
    """Close the connection. The client has been told all that it shall know."""

    error: PgbackupError


Event = Reply | BeginTls | Cancel | Admitted | Ended


class Session:
    """The beginning of one connection.

    reader: what has arrived behind it when somebody was admitted is still in there.
    """

    def __init__(self, gate: Gate, client: Client) -> None:
        self.reader = FrontendReader()
        self._gate = gate
        self._client = client
        self._step: Callable[[], bool] | None = self._read_packet
        self._events: list[Event] = []
        self._asked: set[type] = set()
        self._has_startup = False

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes, and return what to do, in order."""
        self.reader.feed(data)
        self._events = []
        try:
            while self._step is not None and self._step():
                pass
        except ClientError as error:
            self._reply(backend.error_response(error, fatal=True))
            self._end(error)
        except ProtocolViolation as error:
            self._end(error)
        return self._events

    def give_up(self) -> list[Event]:
        """Time is over. Who has not yet said what it wants is told nothing, as by PostgreSQL.

        Source: postgres.c, ProcessInterrupts; backend_startup.c, StartupPacketTimeoutHandler
        """
        self._events = []
        error = ClientError("canceling authentication due to timeout", sqlstate="57014")
        if self._has_startup:
            self._reply(backend.error_response(error, fatal=True))
        self._end(error)
        return self._events

    def tls_has_begun(self, client: Client) -> None:
        """Go on after a handshake, with what is known now."""
        self._client = client
        self._step = self._read_packet

    def _reply(self, data: bytes) -> None:
        self._events.append(Reply(data))

    def _end(self, error: PgbackupError) -> None:
        self._events.append(Ended(error))
        self._step = None

    def _read_packet(self) -> bool:
        if self._is_direct_tls():
            self._events.append(BeginTls(bytes(self.reader.unread), needs_alpn=True))
            self.reader.unread.clear()
            self._step = None
            return False
        body = self.reader.startup_packet()
        if body is None:
            return False
        packet = parse_startup_packet(body)
        match packet:
            case SslRequest() | GssEncRequest():
                self._answer_encryption(packet)
            case CancelRequest():
                self._events.append(Cancel(packet))
                self._step = None
            case StartupMessage():
                self._startup, self._has_startup = packet, True
                self._begin_authentication()
        return True

    def _is_direct_tls(self) -> bool:
        """Whether the very first byte is of a handshake, and we take part in that.

        Source: backend_startup.c, ProcessSSLStartup (PostgreSQL 18)
        """
        may_begin = self._gate.offers_tls and self._client.system_user is None
        is_first = not self._asked and not self._client.is_encrypted
        return may_begin and is_first and self.reader.unread[:1] == TLS_HANDSHAKE

    def _answer_encryption(self, request: SslRequest | GssEncRequest) -> None:
        """Agree to TLS or decline; each may be asked for once."""
        if type(request) in self._asked or self._client.is_encrypted:
            code = 5679 if isinstance(request, SslRequest) else 5680
            raise ClientError(
                f"unsupported frontend protocol 1234.{code}: server supports 3.0 to 3.0",
                sqlstate="0A000",
            )
        self._asked.add(type(request))
        is_local = self._client.system_user is not None
        if isinstance(request, GssEncRequest) or is_local or not self._gate.offers_tls:
            self._reply(backend.NO_ENCRYPTION)
            return
        if self.reader.unread:  # or somebody between us could put words in front of the client's
            raise ProtocolViolation("received unencrypted data after SSL request")
        self._reply(backend.SSL_YES)
        self._events.append(BeginTls())
        self._step = None

    def _begin_authentication(self) -> None:
        startup, client, gate = self._startup, self._client, self._gate
        if startup.needs_negotiation:
            self._reply(backend.negotiate_protocol_version(startup.extensions))
        user = gate.users.get(startup.user)
        if client.system_user is not None:
            self._check_peer(client.system_user, user)
        elif client.is_exposed and not client.is_encrypted:
            raise ClientError(
                f'connection from "{client.address}" is not encrypted',
                sqlstate="28000",
                hint="Connect with sslmode=require or more.",
            )
        elif user is not None and user.certificate_names & client.certificate_names:
            self._admit(user)
        else:
            verifier = None if user is None else user.verifier
            self._scram = ScramServer(
                startup.user, verifier, binding=client.binding, secret=gate.secret
            )
            self._reply(backend.sasl_mechanisms(self._scram.mechanisms))
            self._step = self._read_first_response

    def _check_peer(self, system_user: str, user: User | None) -> None:
        """Admit a user of the operating system by name; without rules, only our own."""
        name = self._startup.user
        if user is None:
            is_known = system_user == name == self._gate.owner
        else:
            is_known = system_user in (user.system_users or {name})
        if not is_known:
            raise ClientError(f'Peer authentication failed for user "{name}"', sqlstate="28000")
        self._admit(user or User(name))

    def _read_first_response(self) -> bool:
        response = self._read_response()
        if response is None:
            return False
        name, nul, rest = response.partition(b"\0")
        if not nul or int.from_bytes(rest[:4]) != len(rest) - 4:
            raise ClientError("malformed SCRAM message", sqlstate="08P01")
        challenge = self._scram.challenge(name.decode("ascii", "replace"), rest[4:])
        self._reply(backend.authentication(backend.Authentication.SASL_CONTINUE, challenge))
        self._step = self._read_final_response
        return True

    def _read_final_response(self) -> bool:
        response = self._read_response()
        if response is None:
            return False
        final = self._scram.finish(response)
        self._reply(backend.authentication(backend.Authentication.SASL_FINAL, final))
        self._admit(self._gate.users[self._startup.user])
        return True

    def _read_response(self) -> bytes | None:
        message = self.reader.message(MAX_AUTHENTICATION_MESSAGE)
        if message is not None and message.kind != PASSWORD:
            raise ClientError(
                f"expected SASL response, got message type {message.kind}", sqlstate="08P01"
            )
        return None if message is None else message.body

    def _admit(self, user: User) -> None:
        """Say that we know who it is; a database it cannot have."""
        self._reply(backend.authentication(backend.Authentication.OK))
        if self._startup.replication is not Replication.PHYSICAL:
            raise ClientError(
                f'database "{self._startup.database}" does not exist',
                sqlstate="3D000",
                detail="This server has base backups and WAL, and no databases.",
                hint="Connect with replication=true.",
            )
        self._events.append(Admitted(self._startup, user))
        self._step = None


def greeting(
    startup: StartupMessage, server_version: str, major: int, pid: int, key: bytes
) -> bytes:
    """What follows when somebody is admitted, up to the first ReadyForQuery.

    server_version: of the cluster, as 15.18.
    pid, key:       what a CancelRequest for this connection has to say.
    """
    parameters = {
        "application_name": startup.settings.get("application_name", ""),
        "client_encoding": "UTF8",
        "DateStyle": "ISO, MDY",
        "integer_datetimes": "on",
        "IntervalStyle": "postgres",
        "is_superuser": "off",
        "server_encoding": "SQL_ASCII",
        "server_version": server_version,
        "session_authorization": startup.user,
        "standard_conforming_strings": "on",
        "TimeZone": "UTC",
    }
    if major >= 14:  # a server that nobody can write to, for target_session_attrs
        parameters |= {"default_transaction_read_only": "on", "in_hot_standby": "on"}
    return b"".join(
        [
            *(backend.parameter_status(*parameter) for parameter in parameters.items()),
            backend.backend_key_data(pid, key),
            backend.ready_for_query(),
        ]
    )
