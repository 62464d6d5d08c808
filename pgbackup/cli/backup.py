"""`pgbackup backup`."""

import shlex
import sys
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer

from pgbackup.backup.request import BackupRequest
from pgbackup.backup.take import stream_backup, take_backup
from pgbackup.cli import connection, options
from pgbackup.cli.amounts import parse_compression, parse_rate
from pgbackup.cli.document import backup_document
from pgbackup.cli.output import format_size, print_json, progress_bar, say, say_warning
from pgbackup.errors import ExitCode, UsageError
from pgbackup.repo.catalog import BackupRecord
from pgbackup.repo.repository import Repository
from pgbackup.storage.registry import open_storage
from pgbackup.wire.basebackup import MAX_LABEL


class Checkpoint(StrEnum):
    """Values of -c."""

    FAST = "fast"
    SPREAD = "spread"


class ManifestChecksums(StrEnum):
    """Values of --manifest-checksums."""

    NONE = "NONE"
    CRC32C = "CRC32C"
    SHA224 = "SHA224"
    SHA256 = "SHA256"
    SHA384 = "SHA384"
    SHA512 = "SHA512"


def backup(
    *,
    host: connection.Host = None,
    port: connection.Port = None,
    username: connection.User = None,
    dbname: connection.Dbname = None,
    no_password: connection.NoPassword = False,
    password: connection.AskPassword = False,
    repo: options.Repo = options.DEFAULT_REPO,
    target: Annotated[
        str | None,
        typer.Option("-D", metavar="-", help="- writes one tar to standard output, no repository."),
    ] = None,
    checkpoint: Annotated[
        Checkpoint, typer.Option("--checkpoint", "-c", help="How the backup's checkpoint is done.")
    ] = Checkpoint.SPREAD,
    label: Annotated[
        str, typer.Option("--label", "-l", help="A text kept with the backup.")
    ] = "pgbackup base backup",
    max_rate: Annotated[
        str | None,
        typer.Option("--max-rate", "-r", help="Most kilobytes per second; 32k to 1024M."),
    ] = None,
    compress: Annotated[
        str | None,
        typer.Option(
            "--compress", "-Z", help="none or zstd[:level=N][,workers=N]; zstd by default."
        ),
    ] = None,
    manifest_checksums: Annotated[
        ManifestChecksums,
        typer.Option(case_sensitive=False, help="Checksum of each file in the manifest."),
    ] = ManifestChecksums.CRC32C,
    no_verify_checksums: Annotated[
        bool, typer.Option("--no-verify-checksums", help="The server does not check its pages.")
    ] = False,
    progress: options.ProgressWanted = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> int:
    """Back up a running server, with the WAL that makes the backup usable."""
    if target not in (None, "-"):
        raise UsageError(
            f'could not write the backup to "{target}": -D takes only "-" here',
            hint="Name the repository with -B, or restore a backup with: pgbackup restore -D DIR",
        )
    if len(label.encode()) > MAX_LABEL or "\n" in label:
        raise UsageError(f"the label has to be one line of at most {MAX_LABEL} bytes")
    default_compression = "zstd" if target is None else "none"
    request = BackupRequest(
        comment=label,
        fast_checkpoint=checkpoint is Checkpoint.FAST,
        max_rate=None if max_rate is None else parse_rate(max_rate),
        checksums=manifest_checksums.value,
        verify_checksums=not no_verify_checksums,
        compression=parse_compression(compress or default_compression),
    )
    connector = connection.Connector(
        host, port, username, dbname, never_ask=no_password, ask=password
    )
    if target == "-":
        return _to_stdout(connector, request, options.wants_progress(progress, quiet))
    open_repository = partial(Repository.open, open_storage(repo), create=True)
    with progress_bar("backup", options.wants_progress(progress, quiet)) as bar:
        record = take_backup(connector.connect, open_repository, request, bar)
    for warning in record.checksum_failures.warnings:
        say_warning(warning)
    if json:
        print_json({"backup": backup_document(record)})
    elif not quiet:
        _tell(record, repo)
    is_clean = not record.checksum_failures.is_damaged
    return ExitCode.OK if is_clean else ExitCode.WARNINGS


def _to_stdout(
    connector: connection.Connector, request: BackupRequest, wants_progress: bool | None
) -> int:
    if sys.stdout.isatty():
        raise UsageError(
            "could not write a backup to a terminal",
            hint="Redirect standard output, or leave -D out to back up into a repository.",
        )
    with progress_bar("backup", wants_progress) as bar:
        outcome = stream_backup(connector.connect, sys.stdout.fileno(), request, bar)
    for warning in outcome.warnings:
        say_warning(warning)
    return ExitCode.WARNINGS if outcome.is_damaged else ExitCode.OK


def _tell(record: BackupRecord, repo: str) -> None:
    say(
        f"backup {record.label} of PostgreSQL {record.server_version_text} finished:"
        f" {format_size(record.size)}, stored in {format_size(record.stored_size)},"
        f" {record.duration_seconds:.1f} s"
    )
    prefix = "" if repo == options.DEFAULT_REPO else f" -B {shlex.quote(repo)}"
    say(f"to check it, type: pgbackup verify{prefix} {record.label}")
    if record.checksum_failures.is_damaged:
        say_warning("the server found damaged pages; this backup holds them as they are")
