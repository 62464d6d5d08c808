"""What `serve --pgdata` needs: the data directory, the session to its server, and a repository."""

from typing import Annotated

import typer

from pgbackup.cli import connection, options
from pgbackup.errors import UsageError
from pgbackup.repo.repository import Repository
from pgbackup.serve.offer import LATEST
from pgbackup.serve.pgdata.liveserver import LiveServer
from pgbackup.storage.memory import MemoryStorage
from pgbackup.storage.registry import open_storage

Pgdata = Annotated[
    str | None,
    typer.Option(
        "--pgdata",
        metavar="DIR",
        help="Answer with base backups of this data directory and WAL of its pg_wal. The"
        " repository is needed for users, and for WAL that the server has removed.",
    ),
]
Dbname = Annotated[
    str | None,
    typer.Option(
        "--dbname",
        "-d",
        metavar="CONNINFO",
        help="With --pgdata: how its server is reached by SQL, a connection string of libpq.",
    ),
]


def live_server(
    pgdata: str | None, dbname: str | None, label: str, *, receives: bool
) -> LiveServer | None:
    """The server of --pgdata, if that is given. Raises: UsageError, PgbackupError."""
    if pgdata is None:
        if dbname is not None:
            raise UsageError("--dbname goes with --pgdata: a repository needs no server")
        return None
    if receives or label != LATEST:
        raise UsageError(
            "could not use --pgdata with --receive or --label: these are for a repository",
            hint="Run another serve for that.",
        )
    connector = connection.Connector(None, None, None, dbname, never_ask=True, ask=False)
    server = LiveServer(str(options.absolute(pgdata)), connector.connect_for_sql)
    server.directory()
    return server


def repository_of(server: LiveServer | None, repo: str, *, create: bool) -> Repository:
    """The repository of -B; beside a data directory, one in memory where none is named."""
    if server is not None and repo == options.DEFAULT_REPO:
        return Repository.open(MemoryStorage(), create=True)
    return Repository.open(open_storage(repo), create=create or server is not None)
