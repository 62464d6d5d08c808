"""Throwaway PostgreSQL servers.

A Cluster is made (create), or found (open_existing, attach), then started and stopped at will, and
closed once: close, or the end of a with block, ends every process and removes what lies outside
the directory given. For tests and measurements only.
"""

import os
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg.conninfo import make_conninfo

from tests import datadir
from tests.account import Account, ClusterError, program_environment
from tests.binaries import (
    MissingProgram,
    client_bin,
    nearest_client,
    server_bin,
    server_majors,
)
from tests.postmaster import Postmaster, Setting, Settings, make_run_directory
from tests.waiting import PATIENCE

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

Row = tuple[Any, ...]

DEFAULT_SETTINGS: Settings = {
    "shared_buffers": "16MB",
    "max_wal_senders": 10,
    "wal_level": "replica",
    "hot_standby": True,
    "timezone": "UTC",
    "log_replication_commands": True,
}
POLL_INTERVAL = 0.05
A_DAY = 86400


class Cluster(Postmaster):
    """A server with a way to talk to it."""

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
        pgdata, run_directory = directory.absolute() / "data", (directory / "run").resolve()
        major = int((pgdata / "PG_VERSION").read_text())
        account = Account.for_servers(as_caller=pgdata.stat().st_uid == os.geteuid())
        return cls(pgdata, major, run_directory, account)

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
        self, sql: str, expected: object = True, timeout: float = PATIENCE, dbname: str = "postgres"
    ) -> None:
        """Run a query until its first value is the expected one; a server not ready is asked on.

        timeout: seconds.
        Raises:
            ClusterError: the time is over, or the server has ended; with the last value and the
                tail of the log.
        """
        began = time.monotonic()
        while True:
            last: object
            try:
                with self.connect(dbname) as session:
                    last = ask_until(session, sql, expected, began + timeout)
            except psycopg.OperationalError as error:
                last = error
            if last == expected:
                return
            waited = time.monotonic() - began
            if waited > timeout or not self.running:
                raise ClusterError(
                    f"{sql!r} gave {last!r} instead of {expected!r} for {waited:.0f} s\n"
                    + self.log_tail()
                )
            time.sleep(POLL_INTERVAL)

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
        seconds: int = A_DAY,
        transactions: int | None = None,
        options: tuple[str, ...] = (),
        dbname: str = "postgres",
    ) -> subprocess.Popen[str]:
        """Start pgbench; close ends it if the test has not."""
        length = ["-T", str(seconds)] if transactions is None else ["-t", str(transactions)]
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
            "-X", "fetch", "-c", "fast", "--no-sync",
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


def ask_until(session: psycopg.Connection, sql: str, expected: object, deadline: float) -> object:
    """Run a query until its first value is the expected one, or the time is over; the last."""
    while True:
        row = session.execute(sql).fetchone()
        value: object = row[0] if row else None
        if value == expected or time.monotonic() > deadline:
            return value
        time.sleep(POLL_INTERVAL)


def server_account(as_caller: bool, tcp: bool) -> Account:
    """Account for a server; never root's own files behind a port that trusts everyone."""
    account = Account.for_servers(as_caller)
    if tcp and account.prefix:
        raise ClusterError("tcp and as_caller exclude each other when root")
    return account
