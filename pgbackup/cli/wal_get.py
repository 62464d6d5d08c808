"""`pgbackup wal-get`, as --help shows it. PostgreSQL takes the shorter way of __main__."""

from typing import Annotated

import typer

from pgbackup.archiving.command import restore
from pgbackup.archiving.options import DEFAULT_TIMEOUT, MAX_TIMEOUT, Options, missing
from pgbackup.cli.options import Repo

EXIT_STATUS = """
\b
Exit status:
  0    delivered
  1    the archive does not have it; in standby mode also: could not find out
  255  could not find out, or damaged: recovery stops
"""


def wal_get(
    name: Annotated[str, typer.Argument(metavar="%f", help="The name of the file.")],
    target: Annotated[str, typer.Argument(metavar="%p", help="Where the server wants it.")],
    *,
    repo: Repo,
    partial: Annotated[
        bool,
        typer.Option(help="Deliver what was received of a segment that was never finished."),
    ] = False,
    prefetch: Annotated[
        bool, typer.Option(help="Fetch the following segments in the background.")
    ] = True,
    spool: Annotated[
        str | None,
        typer.Option(
            "--spool",
            metavar="DIR",
            help='Where segments wait that were fetched ahead; the default is in pg_wal, "" is '
            "none.",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            max=MAX_TIMEOUT,
            help="Seconds to go on trying until it can be found out.",
        ),
    ] = DEFAULT_TIMEOUT,
) -> int:
    """Deliver a WAL file to a server in recovery: restore_command.

    In postgresql.conf: restore_command = 'pgbackup wal-get -B REPO %f %p'
    """
    options = Options("wal-get")
    options.repo, options.paths, options.spool = repo, [name, target], spool
    options.partial, options.prefetch, options.timeout = partial, prefetch, timeout
    options.fault = missing(options)
    return restore(options)
