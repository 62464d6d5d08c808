"""Stock clients of several majors at a walsender on a TCP port: with and without TLS."""

import socket
import ssl
import struct
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pgbackup.serve.entry.tls import Tls, TlsFiles
from pgbackup.serve.entry.users import User
from pgbackup.serve.entry.verifier import make_verifier
from pgbackup.storage.memory import MemoryStorage
from tests.account import program_environment
from tests.backup.sample import sample
from tests.binaries import CLIENT_MAJORS, client_bin
from tests.repo.samples import SYSTEM
from tests.serve.entry.certificates import Authority
from tests.serve.running import Running

pytestmark = pytest.mark.interop

LIBPQ = "libpq"
CLIENTS = ("psql-15", "psql-17", LIBPQ)
"""Of 18 there may be no programs with TLS; psycopg brings a libpq that is as new, and has it."""

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
PASSWORD = "größe \u2168"
USERS = (
    User("standby", make_verifier(PASSWORD)),
    User("machine", certificate_names=frozenset({"m1.example.com"})),
)
TIMEOUT = 60


class Network:
    """A walsender at 127.0.0.1 and somebody who asks it who it is."""

    def __init__(self, server: Running, authority: Authority) -> None:
        self.server = server
        self.authority = authority

    def ask(
        self, client: str, user: str = "standby", password: str = PASSWORD, **settings: str
    ) -> tuple[str, str]:
        """Ask with libpq's settings; the answer, or the error."""
        words = {
            "host": "localhost", "hostaddr": "127.0.0.1", "port": str(self.server.tcp_port),
            "user": user, "replication": "true", "sslrootcert": str(self.authority.certificate),
            "gssencmode": "disable", "connect_timeout": str(TIMEOUT), **settings,
        }  # fmt: skip
        conninfo = " ".join(f"{name}='{value}'" for name, value in words.items())
        if client == LIBPQ:
            return ask_by_libpq(conninfo, password)
        environment = program_environment() | {"PGPASSWORD": password}
        program = client_bin("psql", int(client.removeprefix("psql-")))
        done = subprocess.run(
            [program, "-XAtw", "-d", conninfo, "-c", "IDENTIFY_SYSTEM"],
            env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False,
        )  # fmt: skip
        return done.stdout, done.stderr

    def refused(self, client: str, **settings: str) -> str:
        """What is said about not getting in."""
        answer, error = self.ask(client, **settings)
        assert answer == ""
        return error

    def answers(self, client: str, **settings: str) -> bool:
        """Tell whether it says who it is, and no error."""
        answer, error = self.ask(client, **settings)
        assert answer.startswith(f"{SYSTEM}|1|"), error
        return True


def ask_by_libpq(conninfo: str, password: str) -> tuple[str, str]:
    """Do the same as psql -w."""
    try:
        with psycopg.connect(conninfo, password=password or None, autocommit=True) as connection:
            row = connection.execute("IDENTIFY_SYSTEM").fetchone()
    except psycopg.OperationalError as error:
        return "", str(error)
    assert row is not None
    return "|".join(map(str, row)), ""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("tls") / "authority")
    made.issue("server", "backup server", "DNS:localhost,IP:127.0.0.1")
    made.issue("client", "m1.example.com")
    made.issue("alternative", "anything", "DNS:m1.example.com")
    made.issue("other", "m2.example.com")
    made.issue_expired("expired", "m1.example.com")
    made.issue("revoked", "m1.example.com")
    made.revoke(made.directory / "revoked.pem")
    return made


@pytest.fixture(scope="module")
def network(authority: Authority) -> Iterator[Network]:
    directory = authority.directory
    files = TlsFiles(
        directory / "server.pem", directory / "server.key", authority.certificate,
        directory / "crl.pem",
    )  # fmt: skip
    with Running(sample().put(MemoryStorage()), *USERS, tls=Tls(files)) as server:
        yield Network(server, authority)


@pytest.fixture(scope="module")
def plain_network(authority: Authority) -> Iterator[Network]:
    with Running(sample().put(MemoryStorage()), *USERS) as server:
        yield Network(server, authority)


@pytest.mark.parametrize("client", CLIENTS)
def test_every_mode_of_tls_works(network: Network, client: str) -> None:
    for mode in ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"):
        assert network.answers(client, sslmode=mode), mode


@pytest.mark.parametrize("client", CLIENTS)
def test_a_password_is_bound_to_the_certificate(network: Network, client: str) -> None:
    for binding in ("require", "prefer", "disable"):
        assert network.answers(client, sslmode="verify-full", channel_binding=binding), binding
    told = network.refused(client, sslmode="disable", channel_binding="require")
    assert "channel binding" in told


@pytest.mark.parametrize("client", [each for each in CLIENTS if each != "psql-15"])
def test_tls_may_begin_at_once(network: Network, plain_network: Network, client: str) -> None:
    wishes = {"sslmode": "verify-full", "sslnegotiation": "direct"}
    assert network.answers(client, **wishes)
    assert network.answers(client, **wishes, channel_binding="require")
    assert "SSL" in plain_network.refused(client, **wishes)


@pytest.mark.parametrize("client", CLIENTS)
def test_without_a_certificate_of_ours_clients_that_insist_are_turned_away(
    plain_network: Network, client: str
) -> None:
    assert plain_network.answers(client, sslmode="prefer")
    assert plain_network.answers(client, sslmode="disable")
    told = plain_network.refused(client, sslmode="require")
    assert "server does not support SSL, but SSL was required" in told


@pytest.mark.parametrize("client", CLIENTS)
def test_a_wrong_password_and_an_unknown_user_are_told_the_same(
    network: Network, client: str
) -> None:
    for mode in ("disable", "verify-full"):
        known = network.refused(client, password="wrong", sslmode=mode)
        unknown = network.refused(client, user="nobody", sslmode=mode)
        certified = network.refused(client, user="machine", sslmode=mode)
        assert 'FATAL:  password authentication failed for user "standby"' in known
        assert known.replace("standby", "") == unknown.replace("nobody", "")
        assert known.replace("standby", "") == certified.replace("machine", "")


@pytest.mark.parametrize("client", CLIENTS)
def test_a_server_that_is_not_the_one_is_not_believed(network: Network, client: str) -> None:
    other = network.refused(client, sslmode="verify-full", host="elsewhere.example")
    assert 'does not match host name "elsewhere.example"' in other
    stranger = str(network.authority.directory / "missing.pem")
    assert "does not exist" in network.refused(client, sslmode="verify-ca", sslrootcert=stranger)


def certificate(network: Network, name: str) -> dict[str, str]:
    """The settings with which a client shows a certificate."""
    path = network.authority.directory / name
    return {"sslcert": f"{path}.pem", "sslkey": f"{path}.key", "sslmode": "verify-full"}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_certificate_stands_for_the_user_that_it_names(network: Network, client: str) -> None:
    for name in ("client", "alternative"):
        assert network.answers(client, user="machine", password="", **certificate(network, name))
    for user in ("machine", "standby"):
        told = network.refused(client, user=user, password="", **certificate(network, "other"))
        assert "no password supplied" in told
    assert network.answers(client, **certificate(network, "other"))


@pytest.mark.parametrize("client", CLIENTS)
def test_a_certificate_that_is_not_believed_ends_the_handshake(
    network: Network, tmp_path: Path, client: str
) -> None:
    told = network.refused(client, user="machine", **certificate(network, "revoked"))
    assert "revoked" in told
    told = network.refused(client, user="machine", **certificate(network, "expired"))
    assert "expired" in told
    foreign = Authority(tmp_path / "foreign")
    path, key = foreign.issue("client", "m1.example.com")
    told = network.refused(
        client, user="machine", sslcert=str(path), sslkey=str(key), sslmode="verify-full"
    )
    assert "unknown ca" in told


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_each_version_of_tls_that_servers_allow_works(
    network: Network, client: str, version: str
) -> None:
    assert network.answers(
        client,
        sslmode="verify-full",
        ssl_min_protocol_version=version,
        ssl_max_protocol_version=version,
    )


def test_an_older_version_of_tls_is_refused(network: Network) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(network.authority.certificate)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", network.server.tcp_port), TIMEOUT) as stream:
        stream.sendall(SSL_REQUEST)
        assert stream.recv(1) == b"S"
        with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
            context.wrap_socket(stream, server_hostname="localhost")


@pytest.mark.parametrize("major", CLIENT_MAJORS)
def test_every_psql_comes_in_with_a_password(plain_network: Network, major: int) -> None:
    assert plain_network.answers(f"psql-{major}", sslmode="disable")
    told = plain_network.refused(f"psql-{major}", sslmode="disable", password="wrong")
    assert 'FATAL:  password authentication failed for user "standby"' in told
