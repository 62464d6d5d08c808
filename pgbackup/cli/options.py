"""Options that several verbs share: the same letters with the same meaning everywhere."""

from pathlib import Path
from typing import Annotated

import typer

from pgbackup.errors import UsageError
from pgbackup.repo import layout
from pgbackup.repo.repository import Repository
from pgbackup.repo.retention.policy import MAX_COUNT
from pgbackup.storage.registry import open_storage

MAX_JOBS = 64

Repo = Annotated[
    str,
    typer.Option(
        "--repo", "-B", envvar="PGBACKUP_REPO", metavar="REPO", help="Repository: a path or URL."
    ),
]
System = Annotated[
    str | None,
    typer.Option(
        "--system", metavar="ID", help="System identifier, where a repository holds several."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON document.")]
ProgressWanted = Annotated[
    bool, typer.Option("--progress", "-P", help="Show progress even without a terminal.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no messages but errors.")]
MaxRate = Annotated[
    str | None,
    typer.Option(
        "--max-rate", "-r", metavar="RATE", help="Most kilobytes per second; 32k to 1024M."
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", metavar="N", min=1, max=MAX_JOBS, help="Threads; default: the cores."
    ),
]
KeepFull = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Keep the newest N full backups.")
]
KeepDays = Annotated[
    int | None,
    typer.Option(min=1, max=MAX_COUNT, metavar="N", help="Keep the backups of the last N days."),
]
Keep = Annotated[
    str | None,
    typer.Option(
        metavar="7d,4w,12m,2y",
        help="Keep the last backup of each of so many days, weeks, months, years (UTC).",
    ),
]
PitrDays = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MAX_COUNT,
        metavar="N",
        help="Keep what leads to every moment of the last N days.",
    ),
]

MAX_SECONDS = 1_000_000
"""Of every option that is a time to wait: eleven days, which all timers can count."""

DEFAULT_REPO = "./pgbackup-repo"


def open_repository(repo: str) -> Repository:
    """The repository of -B, which must exist."""
    return Repository.open(open_storage(repo), create=False)


def parse_system(system: str | None) -> int | None:
    """The number of --system. Raises: UsageError."""
    if system is None:
        return None
    identifier = layout.parse_system(system)
    if identifier is None:
        raise UsageError(
            f'"{system}" is not a system identifier: it has to be a number of 64 bits',
            hint='Run "pgbackup list --json" to see the identifiers.',
        )
    return identifier


def checked_slot(name: str | None) -> str | None:
    """The name of a replication slot, for typer to ask. Raises: UsageError."""
    if name is not None:
        layout.check_slot_name(name)
    return name


def wants_progress(progress: bool, quiet: bool) -> bool | None:
    """What a ProgressBar needs to know."""
    if quiet:
        return False
    return True if progress else None


def absolute(path: str) -> Path:
    """A path of the command line, made absolute without following links. Raises: UsageError."""
    if not path:
        raise UsageError('could not use path "": it is empty')
    return Path.cwd() / path
