"""`pgbackup wal-push`, as --help shows it. PostgreSQL takes the shorter way of __main__."""

from typing import Annotated

import typer

from pgbackup.archiving.command import archive
from pgbackup.archiving.options import MAX_JOBS, Options, default_jobs, missing, set_level
from pgbackup.cli.options import Repo

EXIT_STATUS = """
\b
Exit status:
  0        the file is in the archive, durably
  1 - 125  it is not; the server tries again
"""


def wal_push(
    path: Annotated[str, typer.Argument(metavar="%p", help="The file, as the server gives it.")],
    *,
    repo: Repo,
    compress: Annotated[
        str,
        typer.Option(
            "--compress",
            "-Z",
            metavar="METHOD",
            help="Of segments: none or zstd[:LEVEL]; zstd alone is level 1.",
        ),
    ] = "zstd:1",
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            "-j",
            metavar="N",
            min=1,
            max=MAX_JOBS,
            help="Files pushed at once.",
            show_default=False,
        ),
    ] = default_jobs(),
    spool: Annotated[
        str | None,
        typer.Option(
            "--spool",
            metavar="DIR",
            help="Where it is noted which files were pushed ahead of their turn; the default is "
            'in pg_wal, "" is none.',
        ),
    ] = None,
) -> int:
    """Archive a WAL file: archive_command.

    In postgresql.conf: archive_command = 'pgbackup wal-push -B REPO %p'

    A file that is there already is compared: the same content is success, other content an error,
    and the newcomer is kept aside. Other files that wait are pushed along.
    """
    options = Options("wal-push")
    options.repo, options.paths, options.jobs, options.spool = repo, [path], jobs, spool
    options.fault = set_level(options, compress) or missing(options)
    return archive(options)
