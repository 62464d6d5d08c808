"""Throwaway PostgreSQL servers.

A Cluster is made (create), or found (open_existing, attach), then started and stopped at will, and
closed once: close, or the end of a with block, ends every process and removes what lies outside
the directory given. It listens on a Unix socket in a private directory, trusts whoever gets there,
and never syncs: for tests and measurements only.
"""

import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import psycopg
from psycopg.conninfo import make_conninfo

from tests import datadir, processes
from tests.account import Account, ClusterError, program_environment
from tests.binaries import (
    MissingProgram,
    client_bin,
    nearest_client,
    server_bin,
    server_majors,
)

__all__ = [
    "Cluster",
    "ClusterError",
    "MissingProgram",
    "Settings",
    "client_bin",
    "nearest_client",
    "server_bin",
    "server_majors",
]

Setting = str | int | bool
Settings = Mapping[str, Setting]
Row = tuple[Any, ...]

DEFAULT_SETTINGS: Settings = {
    "shared_buffers": "16MB",
    "max_wal_senders": 10,
    "wal_level": "replica",
    "hot_standby": True,
    "timezone": "UTC",
    "log_replication_commands": True,
}
SOCKET_PORT = 5432
MAX_SOCKET_DIRECTORY = 107 - len("/.s.PGSQL.65535.lock")
POLL_INTERVAL = 0.05


class Cluster:
    """One server and its data directory."""

    def __init__(
        self,
        pgdata: Path,
        major: int,
        run_directory: Path,
        account: Account,
        *,
        tcp: bool = False,
        settings: Settings | None = None,
        own_run_directory: bool = False,
    ) -> None:
        self.pgdata = pgdata
        self.major = major
        self.run_directory = run_directory
        self.account = account
        self.tcp = tcp
        self.port = free_port() if tcp else SOCKET_PORT
        self.settings = dict(settings or {})
        self._own_run_directory = own_run_directory
        self._clients: list[subprocess.Popen[str]] = []

    @classmethod
    def create(
        cls,
        directory: Path,
        major: int,
        *,
        wal_segsize_mb: int = 1,
        checksums: bool = True,
        settings: Settings | None = None,
        tcp: bool = False,
        allow_group_access: bool = False,
        as_caller: bool = False,
        templates: Path | None = None,
    ) -> Self:
        """Make a new cluster in directory/data; it is not started.

        settings: added to postgresql.conf after DEFAULT_SETTINGS.
        tcp: listen on a free port of the loopback address too.
        as_caller: see Account.for_servers.
        templates: directory that keeps what initdb made for the next call.
        """
        account = server_account(as_caller, tcp)
        directory.mkdir(parents=True, exist_ok=True)
        account.give(directory)
        options = datadir.InitOptions(major, wal_segsize_mb, checksums, allow_group_access)
        datadir.create(directory / "data", options, account, templates)
        run_directory, own = make_run_directory(directory / "run", account)
        self = cls(
            directory / "data", major, run_directory, account, tcp=tcp, own_run_directory=own
        )
        self.configure({**DEFAULT_SETTINGS, **(settings or {})})
        return self

    @classmethod
    def open_existing(
        cls,
        directory: Path,
        major: int,
        *,
        settings: Settings | None = None,
        tcp: bool = False,
        as_caller: bool = False,
    ) -> Self:
        """Take over a data directory, such as a restored backup; it is not started.

        When root, its files are given to the account that servers run as.
        settings: for the command line of the server, so that they beat every file.
        """
        account = server_account(as_caller, tcp)
        account.give(directory)
        datadir.restrict(directory)
        run_directory, own = make_run_directory(None, account)
        return cls(
            directory, major, run_directory, account,
            tcp=tcp, settings=settings, own_run_directory=own,
        )  # fmt: skip

    @classmethod
    def attach(cls, directory: Path) -> Self:
        """Find again what create made in a directory, running or not."""
        pgdata, run_directory = directory.absolute() / "data", directory.absolute() / "run"
        major = int((pgdata / "PG_VERSION").read_text())
        account = Account.for_servers()
        if not run_directory.exists():
            raise ClusterError(f"{directory} is too long a path for a socket: choose a shorter one")
        return cls(pgdata, major, run_directory, account)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the server and its clients at once, whatever state they are in."""
        for client in self._clients:
            client.kill()
            client.wait()
            if client.stdout is not None:
                client.stdout.close()
        try:
            self.stop("immediate")
        except ClusterError:
            self.kill9()
        processes.remove_shared_memory(self.pgdata)
        if self._own_run_directory:
            shutil.rmtree(self.run_directory, ignore_errors=True)

    # -- life ----------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """Process number of the running postmaster, or None."""
        return processes.postmaster(self.pgdata)

    @property
    def running(self) -> bool:
        return self.pid is not None

    def start(self, timeout: int = 60) -> None:
        """Start the server and wait until it takes connections.

        timeout: seconds.
        Raises:
            ClusterError: it ended, or was not ready in time; with the tail of its log.
        """
        address = "127.0.0.1" if self.tcp else ""
        settings = {
            "unix_socket_directories": str(self.run_directory),
            "listen_addresses": address,
            "port": self.port,
            "fsync": False,
            "dynamic_shared_memory_type": "mmap",
            "logging_collector": False,
            **self.settings,
        }
        words = " ".join(
            f"-c {shlex.quote(f'{name}={setting_text(value)}')}" for name, value in settings.items()
        )
        self._pg_ctl("start", "-l", self.log_file, "-o", words, timeout=timeout)

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast", timeout: int = 60) -> None:
        """Stop the server and wait for its end; a stopped one stays stopped."""
        if self.running:
            self._pg_ctl("stop", "-m", mode, timeout=timeout)

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop and start."""
        self.stop(mode)
        self.start()

    def kill9(self) -> None:
        """Kill all processes of the server at once, as a crash of the machine would."""
        pid = self.pid
        if pid is not None:
            processes.kill_tree(pid)

    def promote(self) -> None:
        """Promote a standby and wait until it is a primary."""
        self._pg_ctl("promote")

    def reload(self) -> None:
        """Let the server read its configuration again."""
        self._pg_ctl("reload")

    def configure(self, settings: Settings) -> None:
        """Add settings to postgresql.conf; restart or reload makes them count."""
        with open(self.pgdata / "postgresql.conf", "a") as file:
            for name, value in settings.items():
                quoted = setting_text(value).replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")

    def _pg_ctl(self, action: str, *arguments: str | Path, timeout: int = 60) -> None:
        wait = () if action == "reload" else ("-w", "-t", str(timeout))
        try:
            self.account.run(
                self.bin("pg_ctl"), "-D", self.pgdata, "-s", *wait, *arguments, action,
                timeout=timeout + 30,
            )  # fmt: skip
        except ClusterError as error:
            raise ClusterError(f"{error}\n{self.log_tail()}") from error

    # -- talking to it -------------------------------------------------------------------------

    def conninfo(self, dbname: str | None = None, **extra: Setting) -> str:
        """Connection string for libpq; host="127.0.0.1" where tcp was asked for."""
        words: dict[str, Any] = {
            "host": str(self.run_directory), "port": self.port, "user": "postgres", **extra,
        }  # fmt: skip
        if dbname is not None:
            words["dbname"] = dbname
        return make_conninfo("", **words)

    def connect(self, dbname: str = "postgres", **extra: Setting) -> psycopg.Connection:
        """New psycopg connection, autocommit; replication=True makes it a walsender's."""
        return psycopg.connect(self.conninfo(dbname, **extra), autocommit=True)

    def sql(self, text: str, dbname: str = "postgres") -> list[Row]:
        """Run statements on a connection of their own; the rows of the last one."""
        with self.connect(dbname) as connection:
            cursor = connection.execute(text)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def poll_until(
        self, sql: str, expected: object = True, timeout: float = 30, dbname: str = "postgres"
    ) -> None:
        """Run a query until its first value is the expected one; a server not ready is asked on.

        timeout: seconds.
        Raises:
            ClusterError: the time is over; with the last value and the tail of the log.
        """
        deadline = time.monotonic() + timeout
        while True:
            last: object
            try:
                rows = self.sql(sql, dbname)
                last = rows[0][0] if rows else None
                if last == expected:
                    return
            except psycopg.OperationalError as error:
                last = error
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"{sql!r} gave {last!r} instead of {expected!r} for {timeout} s\n"
                    + self.log_tail()
                )
            time.sleep(POLL_INTERVAL)

    @property
    def log_file(self) -> Path:
        return self.run_directory / "server.log"

    @property
    def log(self) -> str:
        """The server's log since the cluster was made or opened."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def log_tail(self, lines: int = 40) -> str:
        """Last lines of the log."""
        return "\n".join(self.log.splitlines()[-lines:])

    # -- programs ------------------------------------------------------------------------------

    def bin(self, name: str) -> Path:
        """Path of a program of this server's own major."""
        try:
            return server_bin(name, self.major)
        except MissingProgram:
            return client_bin(name, self.major)

    def pgbench_init(self, scale: int = 1, dbname: str = "postgres") -> None:
        """Fill a database with pgbench's tables: 100,000 rows, about 15 MB, per scale."""
        program = nearest_client("pgbench", self.major)
        done = subprocess.run(
            [program, "-i", "-q", "-s", str(scale), self.conninfo(dbname)],
            env=program_environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise ClusterError(f"pgbench -i failed: {done.stderr}\n{self.log_tail()}")

    def pgbench(
        self,
        clients: int = 1,
        *,
        seconds: int | None = None,
        transactions: int | None = None,
        options: tuple[str, ...] = (),
        dbname: str = "postgres",
    ) -> subprocess.Popen[str]:
        """Start pgbench; close ends it if the test has not."""
        length = ["-t", str(transactions)] if transactions is not None else ["-T", str(seconds)]
        words = ["-n", "-c", str(clients), *length, *options, self.conninfo(dbname)]
        process = subprocess.Popen(
            [nearest_client("pgbench", self.major), *words],
            env=program_environment(), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._clients.append(process)
        return process

    def standby(self, directory: Path, *, settings: Settings | None = None) -> "Cluster":
        """Make a streaming standby of this running server in a directory; it is not started.

        Its primary_conninfo is written here: pg_basebackup -R of a newer major writes connection
        options that an older server does not know.
        """
        self.account.make_directory(directory)
        pgdata = directory / "data"
        self.account.run(
            nearest_client("pg_basebackup", self.major), "-d", self.conninfo(), "-D", pgdata,
            "-X", "stream", "-c", "fast", "--no-sync",
        )  # fmt: skip
        run_directory, own = make_run_directory(directory / "run", self.account)
        standby = Cluster(
            pgdata, self.major, run_directory, self.account, tcp=self.tcp, own_run_directory=own
        )
        (pgdata / "standby.signal").touch()
        self.account.give(pgdata / "standby.signal")
        primary = self.conninfo(application_name=directory.name)
        standby.configure({"primary_conninfo": primary, **(settings or {})})
        return standby


def server_account(as_caller: bool, tcp: bool) -> Account:
    """Account for a server; never root's own files behind a port that trusts everyone."""
    account = Account.for_servers(as_caller)
    if tcp and account.prefix:
        raise ClusterError("tcp and as_caller exclude each other when root")
    return account


def make_run_directory(wanted: Path | None, account: Account) -> tuple[Path, bool]:
    """Private directory for socket and log, and whether it lies outside the cluster's own."""
    if wanted is not None and len(os.fsencode(wanted.absolute())) <= MAX_SOCKET_DIRECTORY:
        return account.make_directory(wanted.absolute()), False
    directory = Path(tempfile.mkdtemp(prefix="pgb-run-"))
    account.give(directory)
    return directory, True


def setting_text(value: Setting) -> str:
    """A setting as PostgreSQL writes it, unquoted."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
