"""`pgbackup serve` on a TCP port with TLS: stock clients get backups and WAL, rules are kept."""

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbackup.errors import ExitCode
from pgbackup.pg.lsn import Lsn, Segment
from tests.account import program_environment
from tests.binaries import client_bin
from tests.cli.program import begin, run, run_with_input, succeed
from tests.fix_cluster import ClusterFactory
from tests.serve.entry.certificates import Authority
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.interop
SEGMENT_SIZE = 1 << 20
PASSWORDS = {"everything": "first secret", "copies": "second secret"}


class Served:
    """A backup of a server, served at 127.0.0.1 until the end of the module."""

    def __init__(self, directory: Path, conninfo: str) -> None:
        self.directory = directory
        self.repo = directory / "repo"
        succeed(directory, "backup", "-B", self.repo, "-d", conninfo, "-c", "fast", "-q")
        self.authority = Authority(directory / "authority")
        self.authority.issue("server", "localhost", "DNS:localhost")
        self.authority.issue("client", "m1.example.com")
        self.add("everything")
        self.add("copies", "--right", "wal")
        self.running = begin(
            directory, "serve", "-B", self.repo, "--listen", "127.0.0.1:0", *self.tls()
        )
        wait_for(lambda: "serving PostgreSQL" in self.running.told)
        found = re.search(r"to: -h 127\.0\.0\.1 -p (\d+)$", self.running.told, re.M)
        assert found is not None
        self.port = found[1]

    def tls(self) -> list[object]:
        files = {"cert": "server.pem", "key": "server.key", "ca": "ca.pem"}
        return [
            word
            for name, file in files.items()
            for word in (f"--tls-{name}", self.authority.directory / file)
        ]

    def add(self, user: str, *words: str) -> None:
        """Add a user, or change it."""
        done = run_with_input(
            self.directory, PASSWORDS[user].encode(),
            "serve-user", "add", "-B", self.repo, user, "--password-fd", 0, "--replace", *words,
        )  # fmt: skip
        assert done.status == ExitCode.OK, done.err

    def client(
        self, name: str, *words: object, user: str = "everything", major: int = 17, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a stock client against it, with libpq's settings."""
        given = {
            "host": "localhost", "hostaddr": "127.0.0.1", "port": self.port, "user": user,
            "sslmode": "verify-full", "sslrootcert": str(self.authority.certificate), **settings,
        }  # fmt: skip
        conninfo = " ".join(f"{name}='{value}'" for name, value in given.items())
        environment = program_environment() | {"PGPASSWORD": PASSWORDS.get(user, "")}
        return subprocess.run(
            [client_bin(name, major), "-w", "-d", conninfo, *map(str, words)],
            env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip

    def certificate(self) -> dict[str, str]:
        path = self.authority.directory / "client"
        return {"sslcert": f"{path}.pem", "sslkey": f"{path}.key"}


@pytest.fixture(scope="module")
def served(
    module_cluster_factory: ClusterFactory, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    primary = module_cluster_factory(15)
    made = Served(tmp_path_factory.mktemp("served"), primary.conninfo())
    try:
        yield made
    finally:
        made.running.send(signal.SIGTERM)
        answer = made.running.wait()
    assert answer.status == 0, answer.err


@pytest.mark.parametrize(
    ("major", "settings"),
    [
        (15, {"channel_binding": "require"}),
        (17, {"sslnegotiation": "direct", "channel_binding": "require"}),
        (18, {"sslmode": "disable"}),  # the programs that tests can get have no TLS
    ],
    ids=["15", "17-direct", "18-plain"],
)
def test_a_backup_comes_over_the_network(
    served: Served, tmp_path: Path, major: int, settings: dict[str, str]
) -> None:
    target = tmp_path / "data"
    done = served.client("pg_basebackup", "-D", target, "-X", "stream", major=major, **settings)
    assert done.returncode == 0, done.stderr
    checked = subprocess.run(
        [client_bin("pg_verifybackup", 15), target], env=program_environment(),
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("major", [15, 17])
def test_wal_comes_over_the_network(served: Served, tmp_path: Path, major: int) -> None:
    listed = succeed(tmp_path, "wal", "list", "-B", served.repo, "--json").document
    first = Segment.parse(listed["timelines"][0]["stretches"][0]["first"], SEGMENT_SIZE)
    target = tmp_path / "wal"
    target.mkdir()
    (target / f"{first.name}.partial").write_bytes(bytes(SEGMENT_SIZE))
    words = ("-D", target, "-n", "--endpos", Lsn(first.end - 1))
    done = served.client("pg_receivewal", *words, user="copies", major=major)
    assert done.returncode == 0, done.stderr
    succeed(tmp_path, "wal-get", "-B", served.repo, first.name, tmp_path / "archived")
    assert (target / first.name).read_bytes() == (tmp_path / "archived").read_bytes()


def test_rules_say_which_commands_a_user_may_give(served: Served, tmp_path: Path) -> None:
    done = served.client("pg_basebackup", "-D", tmp_path / "data", "-X", "none", user="copies")
    assert 'permission denied for user "copies"' in done.stderr
    done = served.client("pg_receivewal", "--create-slot", "-S", "s", user="copies")
    assert 'permission denied for user "copies"' in done.stderr


def psql(served: Served, user: str = "everything", **settings: str) -> str:
    """What IDENTIFY_SYSTEM gives, or the error."""
    done = served.client("psql", "-XAtc", "IDENTIFY_SYSTEM", user=user, replication="1", **settings)
    return done.stdout or done.stderr


def test_users_and_certificates_are_read_again_at_sighup(served: Served) -> None:
    unknown = psql(served, "machine", **served.certificate())
    assert "no password supplied" in unknown
    words = ("serve-user", "add", "-B", served.repo, "machine", "--no-password")
    succeed(served.directory, *words, "--certificate-name", "m1.example.com")
    assert psql(served, "machine", **served.certificate()) == unknown
    hang_up(served, "users and certificates were read again")
    assert "|1|" in psql(served, "machine", **served.certificate())
    certificate = served.authority.directory / "server.pem"
    old = certificate.read_bytes()
    certificate.write_text("nothing")
    hang_up(served, "users and certificates stay as they were: could not load certificate")
    assert "|1|" in psql(served)
    certificate.write_bytes(old)
    served.authority.issue("server", "elsewhere")
    hang_up(served, "users and certificates were read again")
    assert 'server certificate for "elsewhere"' in psql(served)
    served.authority.issue("server", "localhost")
    hang_up(served, "users and certificates were read again")
    assert "|1|" in psql(served)


def hang_up(served: Served, answer: str) -> None:
    before = served.running.told.count(answer)
    served.running.send(signal.SIGHUP)
    wait_for(lambda: served.running.told.count(answer) > before)


def test_other_machines_are_served_with_tls_and_users_only(served: Served, tmp_path: Path) -> None:
    serve = ("serve", "-B", served.repo, "--listen", "0.0.0.0:0")
    refused = run(tmp_path, *serve)
    assert refused.status == ExitCode.REFUSED
    assert refused.error()[0].endswith("there is no certificate for TLS")
    users = served.repo / "serve-users.json"
    kept = users.rename(tmp_path / "users")
    try:
        refused = run(tmp_path, *serve, *served.tls())
    finally:
        kept.rename(users)
    assert refused.status == ExitCode.REFUSED
    assert refused.error()[0].endswith("no user has a password or a certificate")


@pytest.mark.parametrize(
    "words",
    [
        ["--tls-cert", "x"],
        ["--tls-key", "x"],
        ["--tls-ca", "x"],
        ["--tls-cert", "x", "--tls-key", "x", "--tls-crl", "x"],
    ],
    ids=" ".join,
)
def test_files_of_tls_go_together(served: Served, tmp_path: Path, words: list[str]) -> None:
    refused = run(tmp_path, "serve", "-B", served.repo, *words)
    assert refused.status == ExitCode.USAGE
