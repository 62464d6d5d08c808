"""Options of the verbs that speak to a server, and the connections that come of them.

Apart from the other options, because the verbs that only know the repository start a tenth of a
second sooner without libpq.
"""

import copy
import getpass
import os
import sys
import warnings
from collections.abc import Mapping
from typing import Annotated

import typer

from pgbackup.errors import AuthenticationFailed, UsageError
from pgbackup.replication.libpq import LibpqTransport, build_conninfo, parse_conninfo
from pgbackup.replication.transport import ServerAddress

APPLICATION_NAME = "pgbackup"

DEFAULT_DATABASE = "postgres"
"""Where SQL is run unless a database is named; what we ask for is the same in all of them."""

DATABASE_VARIABLES = {"PGDATABASE", "PGSERVICE"}

SHORT_TIMEOUT = 5
"""Seconds until a connection that only looks at something counts as failed."""

Host = Annotated[
    str | None,
    typer.Option("--host", "-h", metavar="HOST", help="Server host or socket directory (PGHOST)."),
]
Port = Annotated[
    str | None, typer.Option("--port", "-p", metavar="PORT", help="Server port (PGPORT).")
]
User = Annotated[
    str | None, typer.Option("--username", "-U", metavar="USER", help="User name (PGUSER).")
]
Dbname = Annotated[
    str | None,
    typer.Option("--dbname", "-d", metavar="CONNINFO", help="Connection string or URI of libpq."),
]
NoPassword = Annotated[bool, typer.Option("--no-password", "-w", help="Never ask for a password.")]
AskPassword = Annotated[
    bool, typer.Option("--password", "-W", help="Ask for a password before connecting.")
]


class Connector:
    """Opens connections from the options of the command line; asks for a password once."""

    def __init__(
        self,
        host: str | None,
        port: str | None,
        user: str | None,
        dbname: str | None,
        *,
        never_ask: bool,
        ask: bool,
    ) -> None:
        if never_ask and ask:
            raise UsageError("-w (never ask) and -W (ask) exclude each other")
        is_string = dbname is not None and ("=" in dbname or "://" in dbname)
        self._settings = parse_conninfo(dbname or "") if is_string else {}
        if dbname is not None and not is_string:
            self._settings["dbname"] = dbname
        self._secret: dict[str, str] = {}
        given = {"host": host, "port": port, "user": user}
        self._settings |= {name: value for name, value in given.items() if value is not None}
        self._may_ask = not never_ask and sys.stdin.isatty()
        if ask:
            self._ask()

    def connect(self) -> LibpqTransport:
        """Open a replication connection. Raises: ConnectionFailed, AuthenticationFailed."""
        return self._connect_or_ask(self._settings, replicates=True)

    def connect_for_sql(self) -> LibpqTransport:
        """Open an ordinary session, to the database "postgres" unless another one is named.

        Raises: ConnectionFailed, AuthenticationFailed.
        """
        return self._connect_or_ask(self._with_database(self._settings), replicates=False)

    def connect_quietly(
        self, at: ServerAddress | None = None, *, runs_sql: bool = True
    ) -> LibpqTransport:
        """Open a short-lived connection, without asking for a password.

        at:       the server to connect to, of several.
        runs_sql: to a database, not for replication alone.

        Raises: ConnectionFailed, AuthenticationFailed.
        """
        settings = {"connect_timeout": str(SHORT_TIMEOUT)} | self._settings | self._secret
        settings = self._with_database(settings)
        if at is not None:
            settings |= {**at._asdict(), "target_session_attrs": "any"}
        transport = LibpqTransport()
        transport.connect(build_conninfo(settings), APPLICATION_NAME, runs_sql=runs_sql)
        return transport

    def each_host(self) -> "list[tuple[str, Connector]]":
        """A connector for each host of a multi-host string, whatever its role, with its name.

        A password that one of them has asked for serves all.

        Raises: UsageError.
        """
        found = []
        for name, settings in split_hosts(self._settings):
            connector = copy.copy(self)
            connector._settings = settings
            found.append((name, connector))
        return found

    def _connect_or_ask(self, settings: dict[str, str], *, replicates: bool) -> LibpqTransport:
        try:
            return self._connect(settings, replicates)
        except AuthenticationFailed as error:
            if "no password supplied" not in error.message or not self._may_ask:
                raise
        self._ask()
        return self._connect(settings, replicates)

    def _connect(self, settings: dict[str, str], replicates: bool) -> LibpqTransport:
        transport = LibpqTransport()
        conninfo = build_conninfo(settings | self._secret)
        transport.connect(conninfo, APPLICATION_NAME, replicates=replicates)
        return transport

    @staticmethod
    def _with_database(settings: dict[str, str]) -> dict[str, str]:
        if {"dbname", "service"} & set(settings) or DATABASE_VARIABLES & set(os.environ):
            return settings
        return {**settings, "dbname": DEFAULT_DATABASE}

    def _ask(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            try:
                self._secret["password"] = getpass.getpass("Password: ", sys.stderr)
            except getpass.GetPassWarning as warning:
                raise UsageError(
                    "there is no terminal to ask for a password on",
                    hint="Put the password into ~/.pgpass or PGPASSFILE.",
                ) from warning


def split_hosts(settings: Mapping[str, str]) -> list[tuple[str, dict[str, str]]]:
    """Settings for each host alone, with its name. Raises: UsageError."""
    lists = {
        key: settings.get(key, os.environ.get(f"PG{key.upper()}", "")).split(",")
        for key in ("host", "hostaddr", "port")
    }
    count = max(len(lists["host"]), len(lists["hostaddr"]))
    for key, values in lists.items():
        if len(values) == 1:
            lists[key] = values * count
        elif len(values) != count:
            raise UsageError(f"{len(values)} values of {key} do not match {count} hosts")
    found = []
    for number in range(count):
        given = {key: values[number] for key, values in lists.items() if values[number]}
        name = given.get("host") or given.get("hostaddr") or "local host"
        if "port" in given:
            name += f":{given['port']}"
        found.append((name, {**settings, **given, "target_session_attrs": "any"}))
    return found
